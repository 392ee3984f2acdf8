//! Message authentication: SipHash-2-4, 64 bit (Aumasson and Bernstein, 2012).
//! The result goes on the wire in network byte order.

use core::fmt;

use jlb_siphash::Sip24;

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

    pub(crate) fn sign(&self, message: &[u8]) -> u64 {
        mac(&self.current, message)
    }

    pub(crate) fn verify(&self, message: &[u8], tag: u64) -> bool {
        // One comparison of 64 bits takes the same time whatever they are.
        mac(&self.current, message) == tag
            || self.other.is_some_and(|key| mac(&key, message) == tag)
    }
}

fn mac(key: &MacKey, message: &[u8]) -> u64 {
    Sip24::new(&key.0).hash_bytes(message)
}
