//! Processes that want a core each.

use std::time::{Duration, Instant};

use super::not_there;
use crate::node::Node;
use crate::process::{self, Running};
use crate::topology::NodeKind;
use crate::{Error, Lab};

/// Their name in the lab's list of processes.
const NAME: &str = "hog";
/// Within this each must have had some CPU time.
const BEGIN: Duration = Duration::from_secs(5);

/// Where they run does not matter, since all hosts share the machine's cores; the client's daemons are nobody's.
fn home(lab: &Lab) -> Result<Node, Error> {
    let client = lab.nodes_of(NodeKind::Client).into_iter().next();
    client.ok_or_else(|| not_there("cpu hogs", "the lab has no client"))
}

pub(super) fn start(lab: &Lab, count: u8) -> Result<(), Error> {
    let home = home(lab)?;
    let mut started = Vec::new();
    for _ in 0..count {
        started.push(home.start(NAME, "sh", &["-c", "while :; do :; done"])?);
    }
    let deadline = Instant::now() + BEGIN;
    // One tick is 10 ms.
    while !started.iter().all(|hog| hog.cpu_ticks().is_some_and(|ticks| ticks > 0)) {
        if Instant::now() >= deadline {
            return Err(not_there("cpu hogs", "one of them gets no CPU time"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

pub(super) fn end(lab: &Lab) -> Result<(), Error> {
    let mut hogs = home(lab)?.processes()?;
    hogs.retain(|process: &Running| process.what == NAME);
    let pids: Vec<i32> = process::end(&hogs).iter().map(|process| process.pid).collect();
    if pids.is_empty() { Ok(()) } else { Err(Error::Immortal { lab: lab.name().to_owned(), pids }) }
}
