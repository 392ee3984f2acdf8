//! What the agent's eBPF programs cost, without a load balancer around them.
//!
//! - [`mod@throughput`]: two hosts (network namespaces) with a cable, one of them the backend. iperf3 between them, once through
//!   the programs and once past them. The other host is its ingress and egress: nothing else here speaks Geneve in the
//!   kernel, so the same programs run there, too, in the other role.
//! - [`mod@syn`]: the programs run on Opens by `BPF_PROG_TEST_RUN`, timed by the kernel.
//!
//! The namespaces have no names, and the programs no pins: all goes with the process, however it ends; a transfer that is
//! under way ends by itself.
#![forbid(unsafe_code)]

mod error;
mod host;
mod iperf;
mod list;
pub mod syn;
pub mod throughput;

use std::sync::atomic::{AtomicBool, Ordering};

pub use error::Error;
use serde::Serialize;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How often each transfer is made, 1 to 100; the median is told.
    pub times: u32,
    /// Seconds of each, 1 to 600.
    pub seconds: u32,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Throughput.
    #[serde(flatten)]
    pub throughput: throughput::Figures,
    /// Time for each new connection.
    #[serde(flatten)]
    pub syn: syn::Figures,
}

/// Measures both.
///
/// # Errors
/// [`Error`].
pub fn run(
    options: &Options,
    say: &mut dyn FnMut(&str),
    interrupted: &AtomicBool,
) -> Result<Outcome, Error> {
    for (what, value, max) in [("--times", options.times, 100), ("--seconds", options.seconds, 600)]
    {
        if !(1..=max).contains(&value) {
            return Err(Error::OutOfBounds { what, value, max });
        }
    }
    let syn = syn::measure(syn::ROUNDS, interrupted)?;
    let throughput = throughput::measure(options, say, interrupted)?;
    Ok(Outcome { throughput, syn })
}

fn go_on(interrupted: &AtomicBool) -> Result<(), Error> {
    if interrupted.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// The middle one; 0 of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked_before_anything_is_made() {
        let interrupted = AtomicBool::new(false);
        for (times, seconds) in [(0, 1), (101, 1), (1, 0), (1, 601)] {
            let error = run(&Options { times, seconds }, &mut |_| (), &interrupted).unwrap_err();
            assert!(matches!(error, Error::OutOfBounds { .. }), "{error}");
        }
    }

    #[test]
    fn the_middle_one_is_the_median() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }
}
