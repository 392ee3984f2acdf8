/// A version of the protocol that this build speaks. A cluster speaks one at a time, which its member list names
/// (`protocol`): every member sends that one, and understands each from [`Self::OLDEST`] to [`Self::NEWEST`]. So the
/// hosts of a cluster may run two builds, and may read a new list at different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u8);

impl Version {
    /// The oldest that is understood; what a list means that names none.
    pub const OLDEST: Self = Self(1);
    /// The newest. The feature `next-version` makes a build that also speaks one more, of the same layout: to try what
    /// the next release must survive.
    pub const NEWEST: Self = Self(if cfg!(feature = "next-version") { 2 } else { 1 });

    /// `None` for one that this build does not speak.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if Self::OLDEST.0 <= number && number <= Self::NEWEST.0 { Some(Self(number)) } else { None }
    }

    /// As on the wire.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_speaks_its_own_version_and_at_most_the_one_before() {
        let spoken: Vec<u8> = (0..=u8::MAX).filter(|&n| Version::new(n).is_some()).collect();
        let wanted: &[u8] = if cfg!(feature = "next-version") { &[1, 2] } else { &[1] };
        assert_eq!(spoken, wanted);
    }
}
