//! One worker on its cable, and the members that it talks to.

use jlb_dpdk::{Eal, Mbuf, Mempool, ROOM};
use jlb_role::{BURST, Burst, Nanos, PacketBuf, Role};
use jlb_runtime::{Clock, Lone, MacAddr};
use jlb_wire::MemberId;

use crate::cable::Cable;
use crate::machine::resident;
use crate::members::{Members, Read};
use crate::traffic::ETHERNET;
use crate::{SpeedError, site};

/// The bench's own address.
pub(crate) const US: [u8; 6] = [2, 0, 0, 0, 0xff, 0xfe];
/// What the members need to ask each other: agents ask once a second.
const ACQUAINTED: Nanos = Nanos::from_secs(5);

/// A worker without a thread, its cable, and all other members.
pub(crate) struct Circuit<R: Role<Mbuf>> {
    pub(crate) lone: Lone<R>,
    pub(crate) clock: Clock,
    pub(crate) mac: MacAddr,
    pub(crate) cable: Cable,
    pub(crate) members: Members,
    /// What came out since it was last taken.
    pub(crate) out: Vec<Mbuf>,
    /// What the bench itself costs, in nanoseconds per packet.
    pub(crate) harness_ns: f64,
    /// Bytes that the process had before the role was made.
    before: u64,
}

impl<R: Role<Mbuf>> Circuit<R> {
    /// Cable number `n`, with so many buffers at either end, and the role that `make` makes for that time.
    pub(crate) fn new<E>(
        eal: &Eal,
        n: u8,
        buffers: u32,
        members: Members,
        make: impl FnOnce(Nanos) -> Result<R, E>,
    ) -> Result<Self, SpeedError>
    where
        SpeedError: From<E>,
    {
        let (mut cable, mut queues) = Cable::new(eal, n, buffers)?;
        let harness_ns = cable.cost(&mut queues.0)?;
        let (clock, link) = (Clock::start(), cable.link());
        let pool = Mempool::new(eal, buffers, ROOM)?;
        let neighbours = site::neighbours(members.snapshot());
        let before = resident();
        let role = make(clock.now())?;
        let lone = Lone::new(role, queues, link, pool, &neighbours, clock);
        let (mac, out) = (link.0, Vec::new());
        Ok(Self { lone, clock, mac, cable, members, out, harness_ns, before })
    }

    /// Bytes that the process grew by since just before the role was made.
    pub(crate) fn grown(&self) -> u64 {
        resident().saturating_sub(self.before)
    }

    /// A frame for the worker with a packet from a member, from the outer IP header on.
    pub(crate) fn frame(&self, packet: &[u8]) -> Result<Mbuf, SpeedError> {
        let ether_type: [u8; 2] =
            if packet.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
        let bytes = [&self.mac.0[..], &US, &ether_type, packet].concat();
        self.cable.frame(&bytes).ok_or(SpeedError::NoBuffer)
    }

    /// One turn of the worker's loop with a burst, and what comes of it.
    #[inline]
    pub(crate) fn turn(&mut self, burst: &mut Burst<Mbuf>) {
        self.cable.put(burst);
        self.lone.turn();
        self.cable.take(&mut self.out);
    }

    /// Carries what the members have to say to the worker, and back, until nobody says anything. `hear` is told what they
    /// read, and says whether there is more to come.
    pub(crate) fn settle(
        &mut self,
        mut hear: impl FnMut(&mut Members, Read) -> Result<bool, SpeedError>,
    ) -> Result<(), SpeedError> {
        loop {
            let now = self.clock.now();
            self.members.tick(now);
            let mut quiet = true;
            let mut packets = self.members.sent(now).into_iter().peekable();
            while packets.peek().is_some() {
                quiet = false;
                let mut burst = Burst::new();
                for b in packets.by_ref().take(BURST) {
                    burst.push(self.frame(b.bytes())?);
                }
                self.turn(&mut burst);
            }
            self.turn(&mut Burst::new());
            for frame in core::mem::take(&mut self.out) {
                let ip = frame.bytes().get(ETHERNET..).unwrap_or_default();
                let read = self.members.read(now, ip);
                quiet &= !hear(&mut self.members, read)?;
            }
            if quiet {
                return Ok(());
            }
        }
    }

    /// Lets all members find each other: until those whom the role asks are `known` to it, and it to all of them.
    pub(crate) fn acquaint(
        &mut self,
        mut known: impl FnMut(&mut Lone<R>, MemberId) -> bool,
    ) -> Result<(), SpeedError> {
        loop {
            self.settle(|_, read| match read {
                Read::Refused(why) => Err(SpeedError::Refused(why)),
                Read::Message(..) | Read::Data | Read::Other => Ok(false),
            })?;
            let ids: Vec<_> = self.members.ids().collect();
            if ids.into_iter().all(|id| known(&mut self.lone, id)) && self.members.know_it() {
                return Ok(());
            }
            if self.clock.now() > ACQUAINTED {
                return Err(SpeedError::NotAcquainted);
            }
        }
    }
}
