use jlb_role::Reason;

/// Sequence numbers that a window remembers.
const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

/// Workers that a member can have: as many as a cookie can name.
pub(crate) const WORKERS: usize = 16;

/// Which sequence numbers of one sender's worker were seen: a ring of bits behind the highest one (RFC 6479).
#[derive(Clone, Debug)]
pub(crate) struct Window {
    highest: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// Begins with a number that was just received; all before it count as seen, since nothing tells a reordered
    /// message from one recorded long ago. (What is lost by that is repeated by its sender.)
    pub(crate) const fn starting_at(sequence: u64) -> Self {
        Self { highest: sequence, seen: [u64::MAX; WORDS] }
    }

    /// Marks a number as seen.
    pub(crate) fn accept(&mut self, sequence: u64) -> Result<(), Reason> {
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            if ahead >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                clear_bits(&mut self.seen, self.highest + 1, sequence);
            }
            self.highest = sequence;
        } else if self.highest - sequence >= WINDOW || self.has(sequence) {
            return Err(Reason::Replayed);
        }
        self.seen[Self::word(sequence)] |= 1 << (sequence % 64);
        Ok(())
    }

    const fn has(&self, n: u64) -> bool {
        self.seen[Self::word(n)] & 1 << (n % 64) != 0
    }

    const fn word(n: u64) -> usize {
        (n % WINDOW / 64) as usize
    }
}

/// Clears the bits of the numbers from `first` to `last`, fewer than the ring has bits, word by word: number `n` has bit `n % 64`
/// of word `n / 64`, and round again.
pub const fn clear_bits<const WORDS: usize>(ring: &mut [u64; WORDS], first: u64, last: u64) {
    let mut n = first;
    while n <= last {
        let end = if n / 64 == last / 64 { last } else { n | 63 };
        let bits = u64::MAX << (n % 64) & u64::MAX >> (63 - end % 64);
        ring[(n / 64 % WORDS as u64) as usize] &= !bits;
        if end == u64::MAX {
            return;
        }
        n = end + 1;
    }
}

/// The windows of one member's workers, made when a worker is first heard. Most members have one worker that talks to us: its
/// window is where the member is, and takes no further look into memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Windows {
    first: Option<(u8, Window)>,
    others: Vec<(u8, Box<Window>)>,
}

impl Windows {
    /// Nobody was heard.
    pub(crate) const EMPTY: Self = Self { first: None, others: Vec::new() };

    /// Marks a number as seen; its top 8 bits name the worker.
    pub(crate) fn accept(&mut self, sequence: u64) -> Result<(), Reason> {
        let worker = (sequence >> 56) as u8;
        if usize::from(worker) >= WORKERS {
            return Err(Reason::Malformed);
        }
        let Some((first, window)) = &mut self.first else {
            self.first = Some((worker, Window::starting_at(sequence)));
            return Ok(());
        };
        if *first == worker {
            return window.accept(sequence);
        }
        if let Some((_, window)) = self.others.iter_mut().find(|(w, _)| *w == worker) {
            return window.accept(sequence);
        }
        // With the first at most WORKERS of them.
        self.others.push((worker, Box::new(Window::starting_at(sequence))));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_accepted_twice_or_from_before_the_start() {
        let mut w = Window::starting_at(5000);
        assert_eq!(w.accept(5000), Err(Reason::Replayed));
        assert_eq!(w.accept(4999), Err(Reason::Replayed));
        assert_eq!(w.accept(5003), Ok(()));
        assert_eq!(w.accept(5001), Ok(()), "reordered");
        assert_eq!(w.accept(5001), Err(Reason::Replayed));
        assert_eq!(w.accept(5002 + 1024), Ok(()));
        assert_eq!(w.accept(5002), Err(Reason::Replayed), "too old, though never seen");
        assert_eq!(w.accept(5004), Ok(()), "just young enough");
        assert_eq!(w.accept(u64::MAX), Ok(()));
    }

    #[test]
    fn each_worker_has_its_own_window() {
        let mut windows = Windows::default();
        assert_eq!(windows.accept(9), Ok(()));
        assert_eq!(windows.accept(1 << 56 | 9), Ok(()));
        assert_eq!(windows.accept(9), Err(Reason::Replayed));
        assert_eq!(windows.accept(1 << 56 | 9), Err(Reason::Replayed));
        assert_eq!(windows.accept(16 << 56 | 1), Err(Reason::Malformed));
        assert_eq!((windows.first.is_some(), windows.others.len()), (true, 1));
    }

    proptest! {
        /// Like a set of everything seen, cut to the last 1024.
        #[test]
        fn behaves_like_a_set(start in 0..3000u64, steps in prop::collection::vec((0..4u8, 0..2000u64), 1..400)) {
            let mut window = Window::starting_at(start);
            let mut seen: BTreeSet<u64> = (0..=start).collect();
            for (far, n) in steps {
                let highest = *seen.last().unwrap();
                // Mostly close to the end of the window, on either side.
                let n = if far == 0 { highest + n } else { (highest + 16).saturating_sub(n % 1050) };
                let fresh = highest < n + 1024 && !seen.contains(&n);
                prop_assert_eq!(window.accept(n).is_ok(), fresh, "{} after {}", n, highest);
                if fresh {
                    seen.insert(n);
                }
            }
        }
    }
}
