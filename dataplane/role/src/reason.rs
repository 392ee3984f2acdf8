macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal,)+) => {
        /// Why a packet was dropped: the label `reason` of `jlb_dropped_packets_total`. Declared once, here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// All reasons, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The label's value: fixed for good, dashboards depend on it.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    };
}

reasons! {
    /// Shorter than its own headers say.
    Truncated = "truncated",
    /// Longer than the port's buffers or frames carry.
    Oversized = "oversized",
    /// Not a well-formed IP, TCP or UDP header.
    Malformed = "malformed",
    /// A checksum that does not fit.
    BadChecksum = "bad_checksum",
    /// An IP fragment.
    Fragment = "fragment",
    /// An IP protocol that this path does not carry.
    UnsupportedProtocol = "unsupported_protocol",
    /// The destination is no VIP and not this host.
    NotForUs = "not_for_us",
    /// A VIP, but no service on that port and protocol.
    NoService = "no_service",
    /// A packet in the middle of a flow that is not known here.
    NoFlow = "no_flow",
    /// The flow table is full: new flows are refused.
    FlowTableFull = "flow_table_full",
    /// All pending entries are in use.
    PendingFull = "pending_full",
    /// The queue of one pending flow is full.
    PendingQueueFull = "pending_queue_full",
    /// Waited for a decision that did not come within 1 s.
    OpenTimeout = "open_timeout",
    /// A repeated SYN while its Open is under way, or a datagram that Open already carries.
    DuplicateSyn = "duplicate_syn",
    /// Refused by every candidate; the service answers with a reset.
    RefusedReset = "refused_reset",
    /// Refused by every candidate; the service drops.
    RefusedDrop = "refused_drop",
    /// Not Geneve version 0, or a length that does not fit.
    BadGeneve = "bad_geneve",
    /// A Geneve option that we do not know and that is marked critical.
    UnknownCriticalOption = "unknown_critical_option",
    /// A control message of a version that we do not speak.
    WrongVersion = "wrong_version",
    /// A control message of a kind that we do not know or that has no business here.
    WrongKind = "wrong_kind",
    /// A message authentication code that does not fit.
    BadMac = "bad_mac",
    /// A sequence number seen before, or older than the window.
    Replayed = "replayed",
    /// A boot id that did not answer our latest Probe.
    UnknownBoot = "unknown_boot",
    /// Encapsulated, but not from a member of the cluster that may send this.
    NotAMember = "not_a_member",
    /// Signed for another receiver.
    NotAddressee = "not_addressee",
    /// The inner address is no VIP of ours.
    InnerNotVip = "inner_not_vip",
    /// The inner destination lies in the underlay.
    InnerToUnderlay = "inner_to_underlay",
    /// Another epoch than ours.
    WrongEpoch = "wrong_epoch",
    /// Forwarded too often.
    HopBudget = "hop_budget",
    /// The cookie names a pending entry that is gone.
    StaleCookie = "stale_cookie",
    /// Older than what the same backend said last.
    StaleCounter = "stale_counter",
    /// An answer to nothing that is pending here.
    Unexpected = "unexpected",
    /// No backend can be offered the flow.
    NoBackend = "no_backend",
    /// No tracker to ask.
    NoTracker = "no_tracker",
    /// This tracker is not one of the partition's trio.
    NotInTrio = "not_in_trio",
    /// No route or neighbour to the destination yet.
    NoNeighbour = "no_neighbour",
    /// The mempool is empty.
    NoBuffer = "no_buffer",
    /// The transmit queue is full.
    TxFull = "tx_full",
    /// The ring to the owning worker is full.
    HandOverFull = "hand_over_full",
    /// Does not fit the path's MTU.
    TooBig = "too_big",
    /// The TTL or hop limit ran out.
    TtlExpired = "ttl_expired",
    /// Congestion was marked outside, and the inner packet cannot carry that mark on (RFC 6040).
    Congestion = "congestion",
    /// The decision on this five-tuple was being made on another CPU.
    Busy = "busy",
    /// The map of remembered answers is full.
    AnswersFull = "answers_full",
    /// A SYN-ACK of a flow that was not admitted.
    NotAdmitted = "not_admitted",
    /// Not yet configured.
    NotReady = "not_ready",
    /// In the middle of a flow that two trackers do not know; the client was told so.
    UnknownFlow = "unknown_flow",
    /// Waited for word of where its flow is, and none came.
    QueryTimeout = "query_timeout",
    /// More packets of unknown flows than may be asked about.
    QueryLimit = "query_limit",
    /// This tracker does not yet know what all backends have.
    Cold = "cold",
    /// The flow's backend is dead; the client was told so.
    BackendDead = "backend_dead",
    /// Another tracker is the partition's sole owner.
    SoleOwner = "sole_owner",
}
