//! What people see while it runs.

use crate::load::Live;

/// Where a run tells how it goes.
pub trait Progress {
    /// Something happened: a line.
    fn say(&mut self, what: &str);
    /// How the connections are, several times a second.
    fn live(&mut self, live: Live);
}
