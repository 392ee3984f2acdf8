//! The benches run to their end, and find what they say they measure. What they find is no matter here.

use std::sync::atomic::AtomicBool;

use jlb_agent_bench::{Error, Options, run, syn};

#[test]
fn each_kind_of_open_ends_as_it_should() {
    let figures = syn::measure(2, &AtomicBool::new(false)).unwrap();
    assert_eq!(figures.syns, 2000);
    assert!(figures.ns_per_syn > 0.0 && figures.ns_of_a_run > 0.0, "{figures:?}");
}

#[test]
fn transfers_go_through_the_programs_both_ways() {
    let mut said = Vec::new();
    let options = Options { times: 1, seconds: 1 };
    let mut say = |line: &str| said.push(line.to_owned());
    let outcome = run(&options, &mut say, &AtomicBool::new(false)).unwrap();
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(outcome.throughput.gbps.iter().all(|gbps| *gbps > 0.0), "{outcome:?}");
}

#[test]
fn an_interrupted_run_ends_as_such() {
    let options = Options { times: 1, seconds: 1 };
    let error = run(&options, &mut |_| (), &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
}
