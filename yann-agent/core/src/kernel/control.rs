//! Control messages: what is checked before anybody looks at the flow.

use jlb_map::MemberRole;
use jlb_role::{Nanos, Reason, Rule, Rules};
use jlb_wire::{BootId, Control, FiveTuple, Flags, Kind, MemberId, Packet, Version};

use super::{Arrived, Kernel, Verdict, mended_class, window};
use crate::maps::{EventRecord, WindowKey};
use crate::{EventKind, Sockets};

/// A control message that may be believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Believed<'a> {
    pub(super) arrived: Arrived<'a>,
    pub(super) control: Control,
    /// The inner packet, and nothing behind it.
    pub(super) inner: &'a [u8],
    pub(super) packet: Packet,
    /// DSCP and ECN with which the inner packet goes to the stack.
    pub(super) traffic_class: u8,
}

impl Believed<'_> {
    /// Client → VIP.
    pub(super) const fn tuple(&self) -> FiveTuple {
        self.packet.tuple
    }

    pub(super) const fn has(&self, flag: Flags) -> bool {
        self.control.flags.has(flag)
    }
}

impl<R: Rules> Kernel<R> {
    pub(super) fn control(
        &mut self,
        now: Nanos,
        arrived: &Arrived<'_>,
        option: usize,
        inner: usize,
        sockets: &impl Sockets,
    ) -> Result<Verdict, Reason> {
        let (option, inner) = (&arrived.bytes[option..], &arrived.bytes[inner..]);
        if Version::new(option[1]).is_none() {
            return Err(Reason::WrongVersion);
        }
        let kind = Kind::from_wire(option[0]).ok_or(Reason::WrongKind)?;
        if !matches!(kind, Kind::Open | Kind::Cancel) {
            // The user half's, who checks it.
            return Ok(Verdict::Pass);
        }
        let packet = Packet::parse(inner).map_err(jlb_peers::packet_reason)?;
        if packet.len != inner.len() {
            return Err(Reason::Malformed);
        }
        let control =
            Control::parse(option, &packet.tuple, &self.keys).map_err(jlb_peers::control_reason)?;
        self.believe(arrived, &control)?;
        let traffic_class = mended_class(arrived.outer.traffic_class, packet.traffic_class)?;
        let message = Believed { arrived: *arrived, control, inner, packet, traffic_class };
        if kind == Kind::Cancel {
            return self.cancel(now, &message, sockets);
        }
        self.votes(&control, &packet.tuple)?;
        self.open(now, &message, sockets)
    }

    /// From the tracker that signed it, for us, of our epoch, and not heard before.
    fn believe(&mut self, arrived: &Arrived<'_>, control: &Control) -> Result<(), Reason> {
        let from = arrived.from;
        if from.id != control.sender.as_u16() || from.role != MemberRole::FlowTracker as u8 {
            return Err(Reason::NotAMember);
        }
        let candidate = control.kind == Kind::Cancel || control.backend == Some(self.me);
        if control.receiver != self.me || !candidate {
            return Err(Reason::NotAddressee);
        }
        if control.epoch.0 != self.host.epoch && self.rules.on(Rule::OneEpoch) {
            return Err(Reason::WrongEpoch);
        }
        self.know(control.sender, control.boot)?;
        if self.former_boots.contains(&(control.sender, control.boot)) {
            // Its numbers are not the current boot's.
            return Ok(());
        }
        let worker = (control.sequence >> 56) as u8;
        if worker >= window::WORKERS {
            return Err(Reason::Malformed);
        }
        let key = WindowKey { member: control.sender.as_u16(), worker, pad: 0 };
        if let Some(window) = self.windows.get_mut(&key) {
            return window::accept(window, control.sequence);
        }
        self.windows.insert(key, window::starting_at(control.sequence));
        Ok(())
    }

    /// Rule 1: two distinct trackers stored it, and they are the ones that we know. (An Open that asks about an
    /// incumbent never admits, so that one tracker is enough.)
    ///
    /// Rule 14: where a tracker decides alone, its vote counts and nobody else's; later, those of who has pulled since.
    fn votes(&mut self, control: &Control, tuple: &FiveTuple) -> Result<(), Reason> {
        if !self.rules.on(Rule::TwoVotes) || control.flags.has(Flags::INCUMBENT) {
            return Ok(());
        }
        let partition = self.hasher.id(tuple).partition();
        if let Some(owner) = MemberId::new(self.sole[partition.index()]) {
            let boot = self.boots.get(&owner).map_or(0, |boot| boot.0);
            let by_owner = control.sender == owner
                && (control.head, control.second) == (Some(owner), Some(owner))
                && (control.word_a, control.word_b) == (boot, boot);
            return if by_owner { Ok(()) } else { Err(Reason::SoleOwner) };
        }
        let (Some(head), Some(second)) = (control.head, control.second) else {
            return Err(Reason::Unexpected);
        };
        if head == second || control.sender != second {
            return Err(Reason::Unexpected);
        }
        let tracker =
            |id| self.members.get(&id).is_some_and(|m| m.role == MemberRole::FlowTracker as u8);
        if !tracker(head) {
            return Err(Reason::Unexpected);
        }
        let worker = (control.sequence >> 56) as u8;
        if self.standing(second).shut_out(worker) != 0 || self.standing(head).shut_out != 0 {
            return Err(Reason::SoleOwner);
        }
        self.know(head, BootId(control.word_a))?;
        self.know(second, BootId(control.word_b))
    }

    /// Whether that is the member's boot; if not, the user half asks it.
    fn know(&mut self, member: MemberId, boot: BootId) -> Result<(), Reason> {
        if self.boots.get(&member) == Some(&boot) || self.former_boots.contains(&(member, boot)) {
            return Ok(());
        }
        let (kind, peer) = (EventKind::Learn as u8, member.as_u16());
        self.emit(EventRecord { kind, peer, ..EventRecord::default() });
        Err(Reason::UnknownBoot)
    }
}
