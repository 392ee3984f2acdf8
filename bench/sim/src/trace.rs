use core::fmt;

use jlb_role::Nanos;

/// Takes the lines of a trace.
pub type Sink = Box<dyn FnMut(&str)>;

/// Everything that happens passes here: into a hash that tells two runs apart, and as a line for who reads along.
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    sink: Option<Sink>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:016x})", self.hash)
    }
}

impl Trace {
    pub(crate) const fn new(sink: Option<Sink>) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, sink }
    }

    /// Something happened at this time, at this place, to these bytes.
    pub(crate) fn event(
        &mut self,
        now: Nanos,
        place: u64,
        bytes: &[u8],
        line: impl FnOnce() -> String,
    ) {
        self.events += 1;
        self.hash = mix(mix(self.hash, now.0), place);
        self.hash = mix(self.hash, hash_of(bytes));
        if let Some(sink) = &mut self.sink {
            sink(&format!("{now} {}", line()));
        }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) const fn events(&self) -> u64 {
        self.events
    }
}

pub(crate) const fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(23) ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25)
}

/// A hash of bytes, the same on every machine.
pub(crate) fn hash_of(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let mut hash = bytes.len() as u64;
    for word in words {
        hash = mix(hash, u64::from_be_bytes(*word));
    }
    mix(hash, rest.iter().fold(1, |n, &b| (n << 8) | u64::from(b)))
}
