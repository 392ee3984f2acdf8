//! Seeds that once found something, under the name of what they found.
#![allow(clippy::unwrap_used, reason = "tests")]

use jlb_sim::run;

fn holds(seed: u64) {
    let report = run(seed, None, None).unwrap();
    assert!(report.violations.is_empty(), "{report}\nreplay: {}", report.replay(None));
}

/// Trackers that get no answer in time cancel, and head another chain for the ingress's next Open, with the full TTL:
/// the checker of tries has to know.
#[test]
fn a_vote_that_a_cancel_freed_is_followed_by_a_chain_of_its_own() {
    holds(3277);
}

/// A refusal was forgotten 4 s after it was first said, however lately it had been said again and a vote been freed by it: an
/// Open of that vote, under way for a second, was taken as the first question. Refusals stand from their last repetition on.
#[test]
fn a_refusal_stands_as_long_as_votes_that_it_freed_may_be_under_way() {
    holds(4733);
}

/// A stray packet happened to acknowledge what was near a server's sequence numbers, and its rightful reset was taken for the
/// end of that server's connection.
#[test]
fn a_reset_beyond_what_the_server_sent_ends_nothing() {
    holds(5017);
}

/// An ingress host that its new list does not name can send no Open for what it still takes: the checker of Opens has to know.
#[test]
fn an_ingress_that_is_taken_out_of_the_list_opens_nothing_more() {
    holds(4223);
}

/// An agent that stayed silent on a datagram flow which it had refused let Opens time out where nothing was wrong.
#[test]
fn a_refused_datagram_flow_gets_an_answer_each_time() {
    holds(6787);
}

/// The last candidate of a chain could not take the flow, and those before had only left it to others that were less busy:
/// the client was refused though they could.
#[test]
fn a_flow_is_not_refused_by_all_while_some_only_left_it_to_others() {
    holds(197);
}
