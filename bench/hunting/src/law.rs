use jlb_peers::Random;

/// How long jobs are, in units of their mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Law {
    /// Exponential: the law of the reference figures.
    #[default]
    Exponential,
    /// Pareto with shape 1.5, cut at 1000 times its least: most are short, and a few are most of the work.
    HeavyTailed,
    /// Nine of ten take half the mean, one takes five and a half times the mean.
    Bimodal,
}

impl Law {
    /// All of them, with their names.
    pub const ALL: [(&str, Self); 3] = [
        ("exponential", Self::Exponential),
        ("heavy-tailed", Self::HeavyTailed),
        ("bimodal", Self::Bimodal),
    ];

    pub(crate) fn draw(self, random: &mut Random) -> f64 {
        match self {
            Self::Exponential => exponential(random),
            Self::HeavyTailed => {
                let (shape, cut) = (1.5f64, 1000f64);
                let tail = 1.0 - cut.powf(-shape);
                let least = (shape - 1.0) / shape * tail / (1.0 - cut.powf(1.0 - shape));
                least * (1.0 - unit(random) * tail).powf(-1.0 / shape)
            }
            Self::Bimodal => {
                if random.below(10) == 0 {
                    5.5
                } else {
                    0.5
                }
            }
        }
    }
}

/// Mean 1.
pub(crate) fn exponential(random: &mut Random) -> f64 {
    -(1.0 - unit(random)).ln()
}

/// From 0 up to 1, which is left out.
fn unit(random: &mut Random) -> f64 {
    (random.next() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_law_has_the_mean_1() {
        for (name, law) in Law::ALL {
            let mut random = Random::new(3);
            let n = 2_000_000;
            let mean = (0..n).map(|_| law.draw(&mut random)).sum::<f64>() / f64::from(n);
            // The heavy tail's standard deviation is 5.5: 0.004 of the mean of so many.
            assert!((mean - 1.0).abs() < 0.02, "{name}: {mean}");
        }
    }
}
