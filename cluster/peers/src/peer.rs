use jlb_role::{Nanos, Reason};
use jlb_wire::{BootId, MemberId};

use crate::window::Windows;

/// What is known of one other member.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: MemberId,
    /// How often it is asked.
    pub(crate) interval: Nanos,
    /// What it answered to our latest nonce.
    pub(crate) boot: Option<BootId>,
    pub(crate) windows: Windows,
    /// Of the question that is not yet answered, and since when it is asked.
    pub(crate) nonce: Option<(u64, Nanos)>,
    /// Of the last question, regular or not.
    pub(crate) asked_at: Option<Nanos>,
    /// Of the last regular question: what was missed is judged by these.
    pub(crate) turn_at: Option<Nanos>,
    /// `None`: never.
    pub(crate) heard_at: Option<Nanos>,
    /// Since when silence counts: when it was heard last, or became known.
    pub(crate) silent_since: Nanos,
    pub(crate) missed: u32,
    pub(crate) up: bool,
    /// What was last reported.
    pub(crate) told_up: bool,
    pub(crate) heartbeat_age_ms: u32,
    pub(crate) leaving: bool,
    pub(crate) mismatch_told: bool,
    /// Waits in the queue of those to be asked out of turn.
    pub(crate) wanted: bool,
}

impl Peer {
    pub(crate) const fn new(id: MemberId, interval: Nanos, now: Nanos) -> Self {
        Self {
            id,
            interval,
            boot: None,
            windows: Windows::EMPTY,
            nonce: None,
            asked_at: None,
            turn_at: None,
            heard_at: None,
            silent_since: now,
            missed: 0,
            up: false,
            told_up: false,
            heartbeat_age_ms: 0,
            leaving: false,
            mismatch_told: false,
            wanted: false,
        }
    }

    /// It said something that can be believed.
    pub(crate) const fn heard(&mut self, now: Nanos) {
        self.heard_at = Some(now);
        self.silent_since = now;
        self.missed = 0;
        self.up = self.boot.is_some();
    }

    /// A message that claims this boot and number.
    pub(crate) fn accept(&mut self, now: Nanos, boot: BootId, sequence: u64) -> Result<(), Reason> {
        if self.boot != Some(boot) {
            return Err(Reason::UnknownBoot);
        }
        self.windows.accept(sequence)?;
        self.heard(now);
        Ok(())
    }

    /// Its turn to be asked has come: was the last regular question in vain? `late`: we were not running, so it may
    /// have answered without our seeing it, and this round does not count.
    pub(crate) fn judge(&mut self, late: bool, limit: u32) {
        let answered = self.turn_at.is_none_or(|asked| self.heard_at.is_some_and(|h| h >= asked));
        if answered {
            self.missed = 0;
        } else if !late {
            self.missed = self.missed.saturating_add(1);
            if self.missed >= limit {
                self.up = false;
            }
        }
    }
}
