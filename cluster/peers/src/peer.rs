use arrayvec::ArrayVec;
use jlb_role::{Nanos, Reason};
use jlb_wire::{BootId, Epoch, MemberId};

use crate::DEAD_AFTER;
use crate::window::Windows;

/// Who was up for so long is forgiven its falls.
const CALM: Nanos = Nanos::from_secs(10);
/// So long another member's word that it does not hear a backend counts: it is repeated with every answer to Probe.
const WITNESS_FOR: Nanos = Nanos::from_secs(1);

/// So long the answer to an unanswered question still counts: a loaded host answers late, but always. Then it is given up.
const NONCE_LIFETIME: Nanos = Nanos::from_secs(1);
/// What is not answered after this is asked with another nonce. So many at a time: those of the last 300 ms at least.
const PROBABLY_LOST: Nanos = Nanos::from_millis(50);
const OPEN_NONCES: usize = 8;

/// What a backend's last answer to Probe says of us (rule 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When it was asked first: it said so then, or later.
    pub asked: Nanos,
    /// Under which boot it said so.
    pub boot: BootId,
    /// Not 0: our votes do not count there ([`jlb_wire::Probe::shut_out`]).
    pub shut_out: u8,
    /// It obeys us alone.
    pub obeys: bool,
}

/// What is known of one other member.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: MemberId,
    /// How often it is asked.
    pub(crate) interval: Nanos,
    /// What it answered to a question of ours.
    pub(crate) boot: Option<BootId>,
    pub(crate) windows: Windows,
    /// Nonces of the questions that are not yet answered, and since when each is asked: the oldest, and the latest ones.
    pub(crate) open: ArrayVec<(u64, Nanos), OPEN_NONCES>,
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
    /// How often it went down.
    pub(crate) suspicions: u64,
    /// When it last began to answer again, while it is not yet up for it.
    recovering_since: Option<Nanos>,
    /// When it last came up, and how often it fell in a row without having been up for [`CALM`].
    up_since: Nanos,
    falls: u32,
    /// What was last reported.
    pub(crate) told_up: bool,
    pub(crate) heartbeat_age_ms: u32,
    pub(crate) standing: Option<Standing>,
    pub(crate) leaving: bool,
    pub(crate) cold: bool,
    /// Of its member list, as its last Probe says.
    pub(crate) epoch: Option<Epoch>,
    /// When another member last said that it does not hear this one.
    pub(crate) missed_elsewhere: Option<Nanos>,
    /// What was last reported of its death.
    pub(crate) told_dead: bool,
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
            open: ArrayVec::new_const(),
            asked_at: None,
            turn_at: None,
            heard_at: None,
            silent_since: now,
            missed: 0,
            up: false,
            suspicions: 0,
            recovering_since: None,
            up_since: now,
            falls: 0,
            told_up: false,
            heartbeat_age_ms: 0,
            standing: None,
            leaving: false,
            cold: false,
            epoch: None,
            missed_elsewhere: None,
            told_dead: false,
            mismatch_told: false,
            wanted: false,
        }
    }

    /// It said something that can be believed.
    pub(crate) const fn heard(&mut self, now: Nanos) {
        self.heard_at = Some(now);
        self.silent_since = now;
        self.missed = 0;
        self.missed_elsewhere = None;
        if self.up || self.boot.is_none() {
            return;
        }
        let since = match self.recovering_since {
            Some(since) => since,
            None => now,
        };
        self.recovering_since = Some(since);
        if now.0.saturating_sub(since.0) >= self.penance().0 {
            (self.up, self.up_since, self.recovering_since) = (true, now, None);
        }
    }

    /// How long it must answer before it is up again: not at all after one fall, then 100, 200, 400 ms and so on up to
    /// 1.6 s, so that a link that flaps is not relied upon each time it comes up.
    const fn penance(&self) -> Nanos {
        match self.falls {
            0 | 1 => Nanos::ZERO,
            2..=5 => Nanos::from_millis(100 << (self.falls - 2)),
            _ => Nanos::from_millis(1600),
        }
    }

    /// Whether it is silent for [`crate::DEAD_AFTER`] and another member lately said the same.
    pub(crate) fn dead(&self, now: Nanos, two_witnesses: bool) -> bool {
        let elsewhere = self.missed_elsewhere.is_some_and(|at| now.since(at) <= WITNESS_FOR);
        now.since(self.silent_since) > DEAD_AFTER && (elsewhere || !two_witnesses)
    }

    /// The nonce to ask with now. An answer says how things were after its nonce was first sent, so one that is old is worth
    /// little; but a host that answers late must find its answers welcome.
    pub(crate) fn nonce_at(&mut self, now: Nanos, draw: impl FnOnce() -> u64) -> u64 {
        self.open.retain(|&mut (_, since)| now.since(since) < NONCE_LIFETIME);
        if let Some(&(nonce, since)) = self.open.last()
            && now.since(since) < PROBABLY_LOST
        {
            return nonce;
        }
        if self.open.is_full() {
            self.open.remove(1);
        }
        let nonce = draw();
        self.open.push((nonce, now));
        nonce
    }

    /// When the question was first asked that is answered with this nonce, if it is still open. It is no more, nor are those
    /// before it.
    pub(crate) fn answered(&mut self, nonce: u64) -> Option<Nanos> {
        let at = self.open.iter().position(|&(open, _)| open == nonce)?;
        self.open.drain(..=at).last().map(|(_, since)| since)
    }

    /// Whether a question with that nonce is open.
    pub(crate) fn awaits(&self, nonce: u64) -> bool {
        self.open.iter().any(|&(open, _)| open == nonce)
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
    pub(crate) fn judge(&mut self, now: Nanos, late: bool, limit: u32) {
        let answered = self.turn_at.is_none_or(|asked| self.heard_at.is_some_and(|h| h >= asked));
        if answered {
            self.missed = 0;
        } else if !late {
            self.missed = self.missed.saturating_add(1);
            if self.missed >= limit {
                self.recovering_since = None;
                if self.up {
                    let calm = now.since(self.up_since) >= CALM;
                    self.falls = if calm { 1 } else { self.falls.saturating_add(1) };
                    self.up = false;
                    self.suspicions += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_from_the_first_question_with_its_nonce() {
        let ms = Nanos::from_millis;
        let mut peer = Peer::new(MemberId::new(7).unwrap(), ms(20), Nanos::ZERO);
        let asked: Vec<u64> = (0..20).map(|n| peer.nonce_at(ms(20 * n), || 100 + n)).collect();
        // Every third question has another nonce, and of the unanswered ones the first and the latest are kept.
        assert_eq!(asked[..7], [100, 100, 100, 103, 103, 103, 106]);
        assert_eq!(asked[19], 118);
        let open: Vec<u64> = (100..120).filter(|&nonce| peer.awaits(nonce)).collect();
        assert_eq!(open, [100, 103, 106, 109, 112, 115, 118]);
        // All answers come 200 ms late: each is worth something.
        assert_eq!(peer.answered(109), Some(ms(180)));
        assert_eq!(peer.answered(106), None, "it is older");
        assert_eq!(peer.answered(112), Some(ms(240)));
        assert_eq!(peer.nonce_at(ms(390), || 1), 118);
        // Nothing is answered for long.
        for n in 0..100 {
            peer.nonce_at(ms(400 + 60 * n), || 1000 + n);
            assert!(peer.open.len() <= OPEN_NONCES);
        }
        assert!(!peer.awaits(118) && peer.awaits(1099));
        let oldest = ms(400 + 60 * 99).since(peer.open[0].1);
        assert!((ms(300)..NONCE_LIFETIME).contains(&oldest), "a host may take so long: {oldest:?}");
    }
}
