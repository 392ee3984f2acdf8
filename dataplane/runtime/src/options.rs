use jlb_dpdk::{Device, PortOptions};

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the shortest reaction, a whole core per worker.
    Spin,
    /// After 10 ms without client or flow packets it sleeps between polls, longer each time, up to 1 ms.
    #[default]
    Backoff,
}

/// How to run a role.
#[derive(Clone, Debug)]
pub struct Options {
    /// The port.
    pub device: Device,
    /// The port's way to the kernel, if it has the card for itself: what is not for the role goes out of this device, and
    /// what comes in there leaves by the port. As many queues as the port.
    pub exception: Option<Device>,
    /// Workers, one receive and transmit queue each; at least 1, at most what the EAL was started with.
    pub workers: u8,
    /// What idle workers do.
    pub idle: Idle,
    /// Queues and MTU; the numbers of queues are ignored, since workers decide them.
    pub port: PortOptions,
    /// Packet buffers in the pool; each costs about 2.4 KiB with an MTU of 1500. They must fill the port's receive
    /// queues and what the role holds back.
    pub buffers: u32,
}

impl Options {
    /// 16383 buffers (38 MiB), queues of 1024, the device's own MTU.
    #[must_use]
    pub fn new(device: Device, workers: u8) -> Self {
        Self {
            device,
            exception: None,
            workers,
            idle: Idle::Backoff,
            port: PortOptions::default(),
            buffers: 16_383,
        }
    }
}
