//! Whether this host wants new flows: what its checks find, what the application says, and how busy the host is. The daemon
//! measures; what follows from it is decided here.

mod application;
mod health;
mod overload;

use jlb_wire::RejectReason;

pub use application::{Application, MAX_WORDS};
pub use health::Health;
pub use overload::{Overload, REFUSE_AT_LEAST};

/// Why new flows of a service are refused, if they are. Of several reasons it is the one that least can override: nothing a drain,
/// only force an overload, and a panic those of health. Else a panic would flood a host that is drained or over its limit, because
/// it is unwell too.
#[must_use]
pub fn refusal(
    healthy: bool,
    application: Option<RejectReason>,
    overloaded: bool,
) -> Option<RejectReason> {
    let (unwell, drains) = match application {
        Some(reason) if reason.is_of_health() => (Some(reason), None),
        other => (None, other),
    };
    drains
        .or(overloaded.then_some(RejectReason::Overloaded))
        .or((!healthy).then_some(RejectReason::Unhealthy))
        .or(unwell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_reasons_the_one_is_said_that_least_can_override() {
        use RejectReason::{Down, Drain, Overloaded, Unhealthy};

        let cases = [
            (true, None, false, None),
            (false, Some(Drain), true, Some(Drain)),
            (true, Some(Drain), true, Some(Drain)),
            (false, Some(Drain), false, Some(Drain)),
            (false, Some(Down), true, Some(Overloaded)),
            (true, Some(Down), true, Some(Overloaded)),
            (false, None, true, Some(Overloaded)),
            (false, Some(Down), false, Some(Unhealthy)),
            (false, None, false, Some(Unhealthy)),
            (true, Some(Down), false, Some(Down)),
        ];
        for (healthy, application, overloaded, said) in cases {
            let case = (healthy, application, overloaded);
            assert_eq!(refusal(healthy, application, overloaded), said, "{case:?}");
        }
    }
}
