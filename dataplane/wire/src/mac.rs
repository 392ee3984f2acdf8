//! Message authentication: SipHash-2-4, 64 bit (Aumasson and Bernstein, 2012).
//! The result goes on the wire in network byte order.

use core::fmt;
use core::hash::Hasher;

use siphasher::sip::SipHasher24;

/// A 128-bit key that the cluster's members share. Never shown, logged or sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MacKey(pub [u8; 16]);

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(…)")
    }
}

/// The keys in force: messages are signed with the first and verified with both, so that keys can be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacKeys {
    /// Signs and verifies.
    pub current: MacKey,
    /// Verifies only: the key before, or the one to come.
    pub other: Option<MacKey>,
}

impl MacKeys {
    /// One key only.
    #[must_use]
    pub const fn single(current: MacKey) -> Self {
        Self { current, other: None }
    }

    pub(crate) fn sign(&self, parts: &[&[u8]]) -> u64 {
        mac(&self.current, parts)
    }

    pub(crate) fn verify(&self, parts: &[&[u8]], tag: u64) -> bool {
        // One comparison of 64 bits takes the same time whatever they are.
        mac(&self.current, parts) == tag || self.other.is_some_and(|key| mac(&key, parts) == tag)
    }
}

fn mac(key: &MacKey, parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&key.0);
    for part in parts {
        hasher.write(part);
    }
    hasher.finish()
}
