use jlb_wire::{RejectReason, ServiceLoad};

/// Bytes of what an application says that are looked at.
pub const MAX_WORDS: usize = 1024;

/// What an application says of itself, in the words of HAProxy's agent-check: a line of words between spaces, tabs or commas,
/// in any case. What it does not say stays as it was.
///
/// | word | new flows |
/// |---|---|
/// | `down`, `failed`, `stopped` | refused, `down` |
/// | `up` | not refused for that any more |
/// | `drain`, `maint`, `0%` | refused, `drain` |
/// | `ready`, `N%` above 0 after `0%` | not refused for that any more |
/// | `N%` | so much of this host's weight; more than 100 counts as 100 |
///
/// What follows `#` is a comment. `maxconn:N` is understood and not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Application {
    down: bool,
    drains: bool,
    percent: u8,
}

impl Default for Application {
    /// Nothing was said.
    fn default() -> Self {
        Self { down: false, drains: false, percent: ServiceLoad::ALL }
    }
}

impl Application {
    /// Takes a line, and gives whether there was a word in it that is known.
    pub fn take(&mut self, said: &[u8]) -> bool {
        let said = &said[..said.len().min(MAX_WORDS)];
        let line = said.split(|b| matches!(b, b'\r' | b'\n' | b'#')).next().unwrap_or_default();
        let mut known = false;
        for word in line.split(|b| matches!(b, b' ' | b'\t' | b',')).filter(|w| !w.is_empty()) {
            known |= self.take_word(&word.to_ascii_lowercase());
        }
        known
    }

    fn take_word(&mut self, word: &[u8]) -> bool {
        match word {
            b"down" | b"failed" | b"stopped" => self.down = true,
            b"up" => self.down = false,
            b"drain" | b"maint" => self.drains = true,
            b"ready" => self.drains = false,
            _ => match word.strip_suffix(b"%").and_then(number) {
                Some(percent) => self.percent = percent.min(ServiceLoad::ALL.into()) as u8,
                None => return word.strip_prefix(b"maxconn:").and_then(number).is_some(),
            },
        }
        true
    }

    /// Why it wants no new flows, if it wants none. That it drains comes first: no panic overrides that.
    #[must_use]
    pub const fn refusal(&self) -> Option<RejectReason> {
        if self.drains || self.percent == 0 {
            Some(RejectReason::Drain)
        } else if self.down {
            Some(RejectReason::Down)
        } else {
            None
        }
    }

    /// Per cent of this host's weight that it wants to have, 1 to 100.
    #[must_use]
    pub const fn share(&self) -> u8 {
        if self.percent == 0 { 1 } else { self.percent }
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    // A sign is none of HAProxy's words.
    let all = digits.iter().all(u8::is_ascii_digit);
    core::str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: Option<RejectReason> = Some(RejectReason::Down);
    const DRAIN: Option<RejectReason> = Some(RejectReason::Drain);

    #[test]
    fn what_an_application_says_holds_until_it_says_otherwise() {
        let mut application = Application::default();
        assert_eq!(application.refusal(), None);
        let lines: [(&[u8], bool, Option<RejectReason>); 21] = [
            (b"75%\n", true, None),
            (b"drain\n", true, DRAIN),
            (b"100%\r\nready\n", true, DRAIN),
            (b"up", true, DRAIN),
            (b"Ready\n", true, None),
            (b"maint", true, DRAIN),
            (b"down # the disk is full\n", true, DRAIN),
            (b"ready", true, DOWN),
            (b"UP\n", true, None),
            (b"up, drain 50%", true, DRAIN),
            (b"ready\tup,100%\n", true, None),
            (b"STOPPED#ready up\n", true, DOWN),
            (b"\n", false, DOWN),
            (b"", false, DOWN),
            (b"up 0%\n", true, DRAIN),
            (b"ready", true, DRAIN),
            (b"maxconn:30", true, DRAIN),
            (b"1%", true, None),
            (b"fail", false, None),
            (b"-5% +3% 9999999999% %", false, None),
            (b"failed", true, DOWN),
        ];
        for (line, known, refusal) in lines {
            let shown = String::from_utf8_lossy(line);
            assert_eq!(application.take(line), known, "{shown}");
            assert_eq!(application.refusal(), refusal, "{shown}");
        }
    }

    #[test]
    fn a_percentage_is_a_share_of_the_weight() {
        let mut application = Application::default();
        assert_eq!(application.share(), 100);
        let lines: [(&[u8], u8); 5] =
            [(b"75%", 75), (b"up", 75), (b"250% ready", 100), (b"0%", 1), (b"drain 3%", 3)];
        for (line, share) in lines {
            assert!(application.take(line));
            assert_eq!(application.share(), share);
        }
    }

    #[test]
    fn whatever_bytes_come_nothing_breaks_and_only_so_many_are_looked_at() {
        let mut application = Application::default();
        assert!(!application.take(&[0xff, 0, b'%', b' ', 0xc3]));
        let mut long = vec![b' '; MAX_WORDS];
        long.extend(b"down");
        assert!(!application.take(&long));
        assert!(application.take(&long[4..]), "the last that is");
        assert_eq!(application.refusal(), DOWN);
    }
}
