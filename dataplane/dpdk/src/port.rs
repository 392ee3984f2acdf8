use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};
use std::ffi::CString;
use std::sync::Arc;

use jlb_dpdk_sys::{
    RTE_ETH_MQ_RX_RSS, RTE_MAX_ETHPORTS, rte_eth_conf, rte_eth_dev_info, rte_eth_link,
    rte_eth_stats, rte_ether_addr,
};
use jlb_neighbours::MacAddr;
use nix::errno::Errno;
use thiserror::Error;

use crate::interrupt::on_interrupt_thread;
use crate::{Device, Eal, Mempool, RxQueue, TxQueue, errno};

/// How to open a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// Receive queues; with several, the device spreads flows over them as far as it can.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Packets that a receive queue holds; the device may choose another number near it.
    pub rx_descriptors: u16,
    /// Packets that a transmit queue holds.
    pub tx_descriptors: u16,
    /// Largest IP packet in bytes; `None` leaves the device's own. The MTU of a kernel interface (a device with
    /// `iface=`) is left alone, since others use it too: it must be as large or larger.
    pub mtu: Option<u16>,
    /// Whether it receives all multicast frames. A card passes only those of groups that it was told, and neighbour
    /// discovery comes to a group for each address.
    pub all_multicast: bool,
}

impl Default for PortOptions {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            all_multicast: false,
        }
    }
}

/// A port was not opened, or does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortError {
    /// The driver refused the device; DPDK has said more on stderr.
    #[error("cannot open {device}{}", probe_hint(*.source))]
    Probe {
        /// Which.
        device: Device,
        /// Why.
        source: Errno,
    },
    /// A PCI device that was not named when DPDK started, or that is not bound to vfio-pci.
    #[error("{0} is no port of DPDK (a PCI device: is it bound to vfio-pci?)")]
    NoSuchPort(Device),
    /// One device is one port.
    #[error("{0} is open already")]
    AlreadyOpen(Device),
    /// Not enough queues.
    #[error(
        "{device} has {rx} receive and {tx} transmit queues, {wanted} are needed (net_af_packet: qpairs={wanted}; net_af_xdp: queue_count={wanted})"
    )]
    TooFewQueues {
        /// Which.
        device: Device,
        /// Receive queues that it has.
        rx: u16,
        /// Transmit queues that it has.
        tx: u16,
        /// Queues that were asked for.
        wanted: u16,
    },
    /// What the kernel puts into the queues that nobody polls would be lost.
    #[error(
        "{device} has {has} receive queues and only {wanted} are used: say so in the device (net_af_packet: qpairs={wanted}; net_af_xdp: queue_count={wanted})"
    )]
    TooManyQueues {
        /// Which.
        device: Device,
        /// Receive queues that it has.
        has: u16,
        /// Queues that were asked for.
        wanted: u16,
    },
    /// `framesz` of `net_af_packet` is too small.
    #[error("{device}: framesz must be {least} or more for packets of {mtu} bytes")]
    SmallFrames {
        /// Which.
        device: Device,
        /// Wanted packets.
        mtu: u16,
        /// What they need.
        least: u32,
    },
    /// Any other step failed.
    #[error("{device}: cannot {step}{}", step_hint(*.source))]
    Step {
        /// Which.
        device: Device,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: Errno,
    },
}

fn probe_hint(e: Errno) -> &'static str {
    if e == Errno::EPERM || e == Errno::EACCES {
        " (is the right CAP_NET_RAW missing?)"
    } else {
        ""
    }
}

fn step_hint(e: Errno) -> &'static str {
    if e == Errno::ENOMEM || e == Errno::ENOBUFS {
        " (not enough memory, or too few packet buffers to fill its receive queues)"
    } else {
        ""
    }
}

/// Counters of a port since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, from the Ethernet header.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent, from the Ethernet header.
    pub tx_bytes: u64,
    /// Packets lost because the receive queue was full.
    pub rx_missed: u64,
    /// Packets received broken.
    pub rx_errors: u64,
    /// Packets lost because the pool was empty.
    pub rx_no_buffer: u64,
    /// Packets that failed to be sent.
    pub tx_errors: u64,
}

/// An open, started port: for what is not a queue's business. Any thread may ask.
#[derive(Clone, Debug)]
pub struct Port(Arc<OpenedPort>);

/// A port with its queues.
#[derive(Debug)]
pub struct OpenPort {
    /// The port.
    pub port: Port,
    /// Its receive queues.
    pub rx: Vec<RxQueue>,
    /// Its transmit queues.
    pub tx: Vec<TxQueue>,
}

/// Stops and closes the port when the last handle to it or its queues goes. (`net_ring` forgets packets that nobody
/// read from it: they stay lost to their pool.)
#[derive(Debug)]
pub(crate) struct OpenedPort {
    id: u16,
    device: Device,
    mac: MacAddr,
    mtu: u16,
    /// Its driver holds buffers of the pool.
    pool: Mempool,
    eal: Eal,
}

impl Port {
    /// Opens and starts a device. Received packets go into buffers of `pool`.
    ///
    /// # Errors
    /// See [`PortError`]; the port is closed then.
    pub fn open(
        eal: &Eal,
        device: &Device,
        options: &PortOptions,
        pool: &Mempool,
    ) -> Result<OpenPort, PortError> {
        let guard = eal.exclusive();
        let id = probe(device)?;
        if !claim(id) {
            return Err(PortError::AlreadyOpen(device.clone()));
        }
        // From here on, Drop closes it.
        let mut port = OpenedPort {
            id,
            device: device.clone(),
            mac: MacAddr([0; 6]),
            mtu: 0,
            pool: pool.clone(),
            eal: eal.clone(),
        };
        let ready = port.configure(options).and_then(|()| port.start(options));
        drop(guard);
        ready?;

        let port = Arc::new(port);
        let rx = (0..options.rx_queues)
            .map(|queue| RxQueue { port: Arc::clone(&port), queue })
            .collect();
        let tx = (0..options.tx_queues)
            .map(|queue| TxQueue { port: Arc::clone(&port), queue })
            .collect();
        Ok(OpenPort { port: Self(port), rx, tx })
    }

    /// From what it was opened.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Its Ethernet address.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.0.mac
    }

    /// The largest IP packet in bytes when it was opened.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.0.mtu
    }

    /// Whether its cable is in. A card may need seconds after it was opened; software devices always say yes.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn has_link(&self) -> Result<bool, PortError> {
        let mut link = rte_eth_link::default();
        // SAFETY: the port is open, and `link` has the right type.
        let read = unsafe { jlb_dpdk_sys::rte_eth_link_get_nowait(self.0.id, &raw mut link) };
        // What a driver cannot tell is taken for a cable.
        if read == -(Errno::ENOTSUP as i32) {
            return Ok(true);
        }
        self.0.step("ask for its link", read)?;
        Ok(link.link_status() != 0)
    }

    /// Its counters.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        let mut stats = MaybeUninit::<rte_eth_stats>::zeroed();
        // SAFETY: the port is open, and `stats` has the right type.
        let read = unsafe { jlb_dpdk_sys::rte_eth_stats_get(self.0.id, stats.as_mut_ptr()) };
        self.0.step("read the counters", read)?;
        // SAFETY: all zeros is a valid value, and the call has filled it.
        let s = unsafe { stats.assume_init() };
        Ok(PortStats {
            rx_packets: s.ipackets,
            rx_bytes: s.ibytes,
            tx_packets: s.opackets,
            tx_bytes: s.obytes,
            rx_missed: s.imissed,
            rx_errors: s.ierrors,
            rx_no_buffer: s.rx_nombuf,
            tx_errors: s.oerrors,
        })
    }
}

/// Which ports have an [`OpenedPort`]: probing an open device again is no error in DPDK, and gives the same port.
static OPEN: [AtomicBool; RTE_MAX_ETHPORTS as usize] =
    [const { AtomicBool::new(false) }; RTE_MAX_ETHPORTS as usize];

/// Whether nobody had this port; now somebody has.
fn claim(id: u16) -> bool {
    OPEN.get(usize::from(id)).is_some_and(|open| !open.swap(true, Ordering::Acquire))
}

/// Makes the device (a PCI device was made when DPDK started) and gives the number of its port.
fn probe(device: &Device) -> Result<u16, PortError> {
    // Device::from_str refuses zeros.
    let text = |s: String| CString::new(s).unwrap_or_default();
    if !device.is_pci() {
        let argument = text(device.to_string());
        // SAFETY: a C string that is copied.
        let probed = unsafe { jlb_dpdk_sys::rte_dev_probe(argument.as_ptr()) };
        errno::check(probed)
            .map_err(|source| PortError::Probe { device: device.clone(), source })?;
    }
    let name = text(device.name().to_owned());
    let mut id = 0;
    // SAFETY: a C string that is only read, and a place for the answer.
    let found = unsafe { jlb_dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    errno::check(found).map_err(|_| PortError::NoSuchPort(device.clone()))?;
    Ok(id)
}

impl OpenedPort {
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    fn step(&self, step: &'static str, returned: i32) -> Result<(), PortError> {
        errno::check(returned).map_err(|source| PortError::Step {
            device: self.device.clone(),
            step,
            source,
        })
    }

    /// Whether the kernel and others use the same interface.
    fn is_of_the_kernel(&self) -> bool {
        self.device.argument("iface").is_some()
    }

    /// `net_af_packet` silently throws away what does not fit its `framesz`.
    fn check_frames(&self, options: &PortOptions) -> Result<(), PortError> {
        /// The kernel's and our headers in front of a packet: 66 bytes of tpacket2_hdr, sockaddr_ll and padding, and
        /// Ethernet's 14.
        const HEADERS: u32 = 80;
        let Some(mtu) = options.mtu.filter(|_| self.device.name().starts_with("net_af_packet"))
        else {
            return Ok(());
        };
        let size = self.device.argument("framesz").map_or(Some(2048), |size| size.parse().ok());
        if size.is_some_and(|size: u32| size >= u32::from(mtu) + HEADERS) {
            return Ok(());
        }
        Err(PortError::SmallFrames {
            device: self.device.clone(),
            mtu,
            least: u32::from(mtu) + HEADERS,
        })
    }

    fn configure(&self, options: &PortOptions) -> Result<(), PortError> {
        let mut info = MaybeUninit::<rte_eth_dev_info>::zeroed();
        // SAFETY: the port exists, and `info` has the right type.
        let asked = unsafe { jlb_dpdk_sys::rte_eth_dev_info_get(self.id, info.as_mut_ptr()) };
        self.step("ask for its capabilities", asked)?;
        // SAFETY: all zeros is a valid value (null pointers), and the call has filled it.
        let info = unsafe { info.assume_init() };
        if options.rx_queues > info.max_rx_queues || options.tx_queues > info.max_tx_queues {
            return Err(PortError::TooFewQueues {
                device: self.device.clone(),
                rx: info.max_rx_queues,
                tx: info.max_tx_queues,
                wanted: options.rx_queues.max(options.tx_queues),
            });
        }

        // Of a card, only the queues that are set up receive.
        if self.device.name().starts_with("net_af_") && info.max_rx_queues > options.rx_queues {
            return Err(PortError::TooManyQueues {
                device: self.device.clone(),
                has: info.max_rx_queues,
                wanted: options.rx_queues,
            });
        }
        self.check_frames(options)?;
        let mut conf = rte_eth_conf::default();
        if options.rx_queues > 1 && info.flow_type_rss_offloads != 0 {
            conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads;
        }
        if let Some(mtu) = options.mtu.filter(|_| !self.is_of_the_kernel()) {
            conf.rxmode.mtu = u32::from(mtu);
        }
        // SAFETY: the port exists and is stopped; `conf` is only read.
        let configured = unsafe {
            jlb_dpdk_sys::rte_eth_dev_configure(
                self.id,
                options.rx_queues,
                options.tx_queues,
                &raw const conf,
            )
        };
        self.step("configure it", configured)?;

        let (mut rx, mut tx) = (options.rx_descriptors, options.tx_descriptors);
        // SAFETY: the port exists; the numbers are changed in place.
        let adjusted = unsafe {
            jlb_dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.id, &raw mut rx, &raw mut tx)
        };
        self.step("choose the length of its queues", adjusted)?;
        // SAFETY: the port exists.
        let socket = unsafe { jlb_dpdk_sys::rte_eth_dev_socket_id(self.id) }.cast_unsigned();
        for queue in 0..options.rx_queues {
            // SAFETY: configured with more than `queue` queues; null asks for the device's defaults; the pool lives
            // as long as the EAL.
            let set = unsafe {
                jlb_dpdk_sys::rte_eth_rx_queue_setup(
                    self.id,
                    queue,
                    rx,
                    socket,
                    ptr::null(),
                    self.pool.as_ptr(),
                )
            };
            self.step("set up a receive queue", set)?;
        }
        for queue in 0..options.tx_queues {
            // SAFETY: as above.
            let set = unsafe {
                jlb_dpdk_sys::rte_eth_tx_queue_setup(self.id, queue, tx, socket, ptr::null())
            };
            self.step("set up a transmit queue", set)?;
        }
        Ok(())
    }

    fn start(&mut self, options: &PortOptions) -> Result<(), PortError> {
        if let Some(mtu) = options.mtu.filter(|_| !self.is_of_the_kernel()) {
            // SAFETY: the port exists.
            let set = unsafe { jlb_dpdk_sys::rte_eth_dev_set_mtu(self.id, mtu) };
            // Many software devices cannot: what they were configured with is all there is to set.
            if set != -(Errno::ENOTSUP as i32) {
                self.step("set its MTU", set)?;
            }
        }
        // SAFETY: the port exists; a place for the answer.
        let asked = unsafe { jlb_dpdk_sys::rte_eth_dev_get_mtu(self.id, &raw mut self.mtu) };
        self.step("ask for its MTU", asked)?;
        if let Some(mtu) = options.mtu.filter(|_| self.is_of_the_kernel()) {
            self.mtu = mtu;
        }
        let mut mac = rte_ether_addr::default();
        // SAFETY: the port exists; a place for the answer.
        let asked = unsafe { jlb_dpdk_sys::rte_eth_macaddr_get(self.id, &raw mut mac) };
        self.step("ask for its Ethernet address", asked)?;
        self.mac = MacAddr(mac.addr_bytes);
        // SAFETY: the port is configured and its queues are set up.
        self.step("start it", unsafe { jlb_dpdk_sys::rte_eth_dev_start(self.id) })?;
        if options.all_multicast {
            // SAFETY: the port is started.
            let set = unsafe { jlb_dpdk_sys::rte_eth_allmulticast_enable(self.id) };
            // One that cannot filter need not be told to pass all.
            if set != -(Errno::ENOTSUP as i32) {
                self.step("receive all multicast", set)?;
            }
        }
        Ok(())
    }
}

impl Drop for OpenedPort {
    fn drop(&mut self) {
        let id = self.id;
        // The number is free for the next port before `close` returns.
        let _guard = self.eal.exclusive();
        if self.device.name().starts_with("net_memif") {
            // Its control channel lives on the interrupt thread and shares memory with `close`, without a lock: a
            // peer that hangs up just then had both free the same regions.
            on_interrupt_thread(move || close(id));
        } else {
            close(id);
        }
        if let Some(open) = OPEN.get(usize::from(id)) {
            open.store(false, Ordering::Release);
        }
    }
}

/// Stops and closes a port of which no queue handle is left. Errors change nothing: it is given up either way.
fn close(id: u16) {
    // SAFETY: nobody polls it. A port that never started may be stopped.
    unsafe { jlb_dpdk_sys::rte_eth_dev_stop(id) };
    // SAFETY: stopped, and never used again.
    unsafe { jlb_dpdk_sys::rte_eth_dev_close(id) };
}
