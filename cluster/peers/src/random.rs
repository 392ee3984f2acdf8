/// A generator with a seed: SplitMix64 (Steele, Lea, Flood, 2014). For nonces, which only must not repeat (an answer is
/// under a MAC), and for choices; not for keys.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed: for a daemon, random bits; for the simulator, the run's seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, 0 when that is 0. The bias is below `bound` / 2⁶⁴.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_and_repeat_with_the_seed() {
        let mut random = Random::new(7);
        let mut counts = [0u32; 5];
        for _ in 0..50_000 {
            counts[random.below(5) as usize] += 1;
        }
        // Mean 10,000, standard deviation 89.
        assert!(counts.iter().all(|&n| n.abs_diff(10_000) < 600), "{counts:?}");
        assert_eq!(Random::new(7).next(), Random::new(7).next());
        assert_ne!(Random::new(7).next(), Random::new(8).next());
        assert_eq!(Random::new(7).below(0), 0);
    }
}
