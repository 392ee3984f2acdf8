//! Whether this host wants new flows: what its checks find, what the application says, and how busy the host is. The daemon
//! measures; what follows from it is decided here.

mod application;
mod health;
mod overload;

use jlb_wire::RejectReason;

pub use application::{Application, MAX_WORDS};
pub use health::Health;
pub use overload::{Overload, REFUSE_AT_LEAST};

/// Why new flows of a service are refused, if they are; the worst reason, if there are several.
#[must_use]
pub fn refusal(
    healthy: bool,
    application: Option<RejectReason>,
    overloaded: bool,
) -> Option<RejectReason> {
    if !healthy {
        return Some(RejectReason::Unhealthy);
    }
    application.or_else(|| overloaded.then_some(RejectReason::Overloaded))
}
