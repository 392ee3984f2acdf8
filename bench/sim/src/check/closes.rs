use std::collections::{BTreeMap, BTreeSet};

use jlb_wire::FiveTuple;

use crate::seen::{ACK, PacketKind, Seen};

/// Transmissions of one Close to one host: the first and eight more (rule 10).
const TRANSMISSIONS: u32 = 9;

#[derive(Debug, Default)]
struct Heard {
    sent: u32,
    arrived: bool,
    acknowledged: bool,
}

/// Which Closes were lost for good. Until Refresh exists, a host that never got any of the transmissions of a flow's
/// Close may keep the flow; so may a host whose memory was too full to take it each time, and which therefore did not
/// acknowledge it. That is the one assumption of invariant 4 here, and it is counted, not guessed.
#[derive(Debug, Default)]
pub(crate) struct Closes {
    closes: BTreeMap<(u16, FiveTuple, u32), Heard>,
}

impl Closes {
    pub(crate) fn sent(&mut self, seen: &Seen, tuple: FiveTuple) {
        let Some(word) = seen.word.filter(|_| seen.kind == PacketKind::Close) else { return };
        if word.has(ACK) {
            self.of(word.sender, tuple, word.incarnation).acknowledged = true;
        } else {
            self.of(word.receiver, tuple, word.incarnation).sent += 1;
        }
    }

    pub(crate) fn arrived(&mut self, seen: &Seen, tuple: FiveTuple) {
        if let Some(word) = seen.word.filter(|w| seen.kind == PacketKind::Close && !w.has(ACK)) {
            self.of(word.receiver, tuple, word.incarnation).arrived = true;
        }
    }

    fn of(&mut self, host: u16, tuple: FiveTuple, incarnation: u32) -> &mut Heard {
        self.closes.entry((host, tuple, incarnation)).or_default()
    }

    /// Flows whose Close never got through to this host, though it was sent as often as it ever is. `tight`: tables are
    /// so small that it may not have been taken.
    pub(crate) fn lost(&self, member: u16, tight: bool) -> usize {
        let lost = |(&(to, tuple, _), h): (&(u16, FiveTuple, u32), &Heard)| {
            let through = if tight { h.acknowledged } else { h.arrived };
            (to == member && !through && h.sent >= TRANSMISSIONS).then_some(tuple)
        };
        self.closes.iter().filter_map(lost).collect::<BTreeSet<_>>().len()
    }
}
