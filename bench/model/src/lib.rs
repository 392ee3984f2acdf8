//! The protocol of the design's sections 4 and 5, small enough to be searched exhaustively.
//!
//! The network is a set of permissions: what was said once may be heard by anybody whom it concerns, at any time
//! after, any number of times, or never. That covers every loss, delay, duplication, reordering and route, all that
//! ingress hosts do (they only ask, and may crash as they like), and every wrong suspicion: any tracker may be asked
//! to head, and may take any other as its second. Timers are steps that may be taken at any time.
//!
//! There is one five-tuple. A [`Config`] says what is combined, a [`Switch`] takes a rule away; what is then found is
//! why the rule is there.
#![forbid(unsafe_code)]

mod action;
mod backend;
mod config;
mod model;
mod search;
mod sole;
mod state;
mod switch;
mod tracker;

pub use action::Action;
pub use config::{CONFIGS, Change, Config, Notices};
pub use model::Abstract;
pub use search::{Finding, Outcome, search};
pub use state::{Candidate, Offer, State, Violation, Vote};
pub use switch::{Kept, Switch};
