use jlb_wire::{FiveTuple, Incarnation, MemberId};

use crate::maps::{Answer, AnswerKey, EventRecord, INGRESS_HOSTS, answer_kind, flow_flags};

/// What happened in the kernel half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// The stack answered an admitted SYN: publish Accept.
    SynAckSeen = 1,
    /// A UDP flow was admitted: publish Accept.
    UdpAdmitted = 2,
    /// An Open came again for a flow whose SYN-ACK was seen: publish Accept again.
    RepeatAccept = 3,
    /// A Cancel came for a live flow: Accept to the canceller.
    CancelledButLive = 4,
    /// A flow is over: publish Close.
    Closed = 5,
    /// Somebody still believes in a flow that is over: publish its Close again. With incarnation 0: whatever of this
    /// five-tuple was closed lately; nothing was, and the counter is not 0: as [`Self::NotMine`].
    RepeatClose = 6,
    /// A message named a boot id that is not known: ask the member.
    Learn = 7,
    /// A packet came of a flow that is not here, nor was when the counter was drawn: tell the ingress.
    NotMine = 8,
}

impl EventKind {
    /// Whether the event says how many live flows the service has.
    pub(crate) const fn has_load(self) -> bool {
        match self {
            Self::SynAckSeen
            | Self::UdpAdmitted
            | Self::RepeatAccept
            | Self::CancelledButLive
            | Self::Closed => true,
            Self::RepeatClose | Self::Learn | Self::NotMine => false,
        }
    }

    /// From the ring buffer.
    #[must_use]
    pub const fn from_number(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::SynAckSeen,
            2 => Self::UdpAdmitted,
            3 => Self::RepeatAccept,
            4 => Self::CancelledButLive,
            5 => Self::Closed,
            6 => Self::RepeatClose,
            7 => Self::Learn,
            8 => Self::NotMine,
            _ => return None,
        })
    }
}

/// An event, with all that its message needs. What a kind does not need is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelEvent {
    /// What.
    pub kind: EventKind,
    /// Which flow; `None` in [`EventKind::Learn`].
    pub tuple: Option<FiveTuple>,
    /// Which of its incarnations.
    pub incarnation: Incarnation,
    /// The backend's counter for the message.
    pub counter: u64,
    /// The ingress's cookie.
    pub cookie: u32,
    /// Head of the chain.
    pub head: Option<MemberId>,
    /// Second of the chain.
    pub second: Option<MemberId>,
    /// The ingress that asked.
    pub asker: Option<MemberId>,
    /// The canceller, the member whose boot is unknown, or who still believes in a flow that is over or not here.
    pub peer: Option<MemberId>,
    /// Ingress hosts that packets came from, newest first.
    pub ingress: [Option<MemberId>; INGRESS_HOSTS],
    /// Depth of the listener's queue.
    pub queue: u16,
    /// Admitted by an Open with FORCE.
    pub force: bool,
    /// Slot of the service. The agent knows services by their number in the list: where slots are others, whoever hands it
    /// the event translates; [`NO_SERVICE`](crate::NO_SERVICE): none that the list has.
    pub service: u16,
    /// Live flows of the service, this one as it is now; 0 in what is not about a live flow or its end.
    pub live: u32,
}

impl KernelEvent {
    /// What a daemon that has just started tells itself about each remembered answer: who was to publish it may be
    /// dead. `None` for a refusal.
    #[must_use]
    pub fn of_answer(key: &AnswerKey, answer: &Answer) -> Option<Self> {
        if answer.kind != answer_kind::CLOSED {
            return None;
        }
        Self::from_record(&EventRecord {
            kind: EventKind::RepeatClose as u8,
            incarnation: key.incarnation,
            counter: answer.counter,
            tuple: key.tuple,
            ingress: answer.ingress,
            service: answer.service,
            ..EventRecord::default()
        })
    }

    /// From the ring buffer. `None` when it is not a record of ours.
    #[must_use]
    pub fn from_record(r: &EventRecord) -> Option<Self> {
        let kind = EventKind::from_number(r.kind)?;
        let tuple =
            if kind == EventKind::Learn { None } else { Some(FiveTuple::from_padded(r.tuple)?) };
        Some(Self {
            kind,
            tuple,
            incarnation: Incarnation(r.incarnation),
            counter: r.counter,
            cookie: r.cookie,
            head: MemberId::new(r.head),
            second: MemberId::new(r.second),
            asker: MemberId::new(r.asker),
            peer: MemberId::new(r.peer),
            ingress: r.ingress.map(MemberId::new),
            queue: r.queue,
            force: r.flags & flow_flags::FORCE != 0,
            service: r.service,
            live: r.live,
        })
    }
}
