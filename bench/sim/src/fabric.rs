use jlb_role::Nanos;

use crate::random::Random;
use crate::seen::{PACKET_KINDS, PacketKind};

/// What a network does to packets. Probabilities in parts per million.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Time that every packet takes at least.
    pub(crate) delay: Nanos,
    /// Time added at random to each packet.
    pub(crate) jitter: Nanos,
    /// Whether jitter may let a packet overtake another on the same link.
    pub(crate) overtaking: bool,
    pub(crate) loss: u32,
    pub(crate) duplicate: u32,
    /// Packets that come late, by up to [`Self::late`].
    pub(crate) reorder: u32,
    pub(crate) late: Nanos,
    /// Further loss of one kind of packet.
    pub(crate) loss_of: [u32; PACKET_KINDS],
    /// Further late packets of one kind.
    pub(crate) late_of: [u32; PACKET_KINDS],
    /// Packets under way on one link at most.
    pub(crate) queue: u32,
}

impl Faults {
    /// A network as it should be.
    pub(crate) const fn none() -> Self {
        Self {
            delay: Nanos(50_000),
            jitter: Nanos(20_000),
            overtaking: false,
            loss: 0,
            duplicate: 0,
            reorder: 0,
            late: Nanos::ZERO,
            loss_of: [0; PACKET_KINDS],
            late_of: [0; PACKET_KINDS],
            queue: 4096,
        }
    }

    /// Whether every packet arrives once, and within a few milliseconds.
    pub(crate) fn harmless(&self) -> bool {
        let Self { loss, duplicate, reorder, loss_of, late_of, delay, jitter, queue, .. } = self;
        (loss, duplicate, reorder) == (&0, &0, &0)
            && loss_of.iter().chain(late_of).all(|&p| p == 0)
            && *delay + *jitter <= Nanos::from_millis(2)
            && *queue >= 1024
    }
}

#[derive(Clone, Debug, Default)]
struct Link {
    under_way: u32,
    last_arrival: Nanos,
}

/// Arrival times of a packet's copies: none when it is lost.
pub(crate) type Copies = [Option<Nanos>; 2];

/// All links between all places.
#[derive(Debug)]
pub(crate) struct Fabric {
    /// From each place to each, row by row. The last place is the clients'.
    links: Vec<Link>,
    places: usize,
    random: Random,
}

impl Fabric {
    /// Between so many members, and the clients.
    pub(crate) fn new(random: Random, members: usize) -> Self {
        let places = members + 1;
        Self { links: vec![Link::default(); places * places], places, random }
    }

    fn place(&self, (from, to): (u16, u16)) -> usize {
        let place = |place: u16| usize::from(place).min(self.places - 1);
        place(from) * self.places + place(to)
    }

    /// `bad` is further loss on this link alone.
    pub(crate) fn send(
        &mut self,
        now: Nanos,
        link: (u16, u16),
        (kind, bad): (PacketKind, u32),
        faults: &Faults,
    ) -> Copies {
        let place = self.place(link);
        let r = &mut self.random;
        let k = kind as usize;
        if r.ppm(faults.loss) || r.ppm(faults.loss_of[k]) || r.ppm(bad) {
            return [None; 2];
        }
        let copies = if r.ppm(faults.duplicate) { 2 } else { 1 };
        let link = &mut self.links[place];
        let mut arrivals = [None; 2];
        for arrival in arrivals.iter_mut().take(copies) {
            if link.under_way >= faults.queue {
                break;
            }
            let mut at = now + faults.delay + r.time(Nanos::ZERO, faults.jitter);
            if r.ppm(faults.reorder) || r.ppm(faults.late_of[k]) {
                at = at + r.time(Nanos::ZERO, faults.late);
            } else if !faults.overtaking {
                at = at.max(link.last_arrival);
                link.last_arrival = at;
            }
            link.under_way += 1;
            *arrival = Some(at);
        }
        arrivals
    }

    pub(crate) fn arrived(&mut self, link: (u16, u16)) {
        let place = self.place(link);
        self.links[place].under_way -= 1;
    }
}
