use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use jlb_role::Nanos;

/// A job's number.
pub(crate) type Job = u32;

/// A server that shares its cores equally among the jobs that it works on.
///
/// Each of them is done by the same amount in the same time, so it is enough to know how much was done for a job that is
/// there all the time (`done`), and for each job at which value of that it is ready.
#[derive(Debug)]
pub(crate) struct Server {
    cores: f64,
    speed: f64,
    workers: usize,
    done: f64,
    at: Nanos,
    running: BinaryHeap<Reverse<Ready>>,
    waiting: VecDeque<(Job, f64)>,
    /// Jobs admitted, whether their work has come yet or not.
    pub(crate) live: u32,
    /// Of those, they have no worker yet.
    pub(crate) queue: u32,
    /// Changes when the next end does.
    pub(crate) version: u32,
}

impl Server {
    pub(crate) fn new(cores: u32, workers: usize) -> Self {
        Self {
            cores: f64::from(cores),
            speed: 1.0,
            workers,
            done: 0.0,
            at: Nanos::ZERO,
            running: BinaryHeap::new(),
            waiting: VecDeque::new(),
            live: 0,
            queue: 0,
            version: 0,
        }
    }

    /// A job's work comes, in seconds of one core.
    pub(crate) fn start(&mut self, now: Nanos, job: Job, work: f64) {
        self.pass(now);
        if self.running.len() < self.workers {
            self.running.push(Reverse(Ready { at: self.done + work, job }));
        } else {
            self.waiting.push_back((job, work));
            self.queue = self.waiting.len() as u32;
        }
    }

    /// The next job that is ready, if nothing else comes: when. The version belongs to this answer.
    pub(crate) fn next(&mut self) -> Option<Nanos> {
        self.version += 1;
        let Reverse(ready) = self.running.peek()?;
        let seconds = (ready.at - self.done).max(0.0) / self.rate();
        // Up, lest it be found a bit short.
        Some(self.at + Nanos((seconds * 1e9) as u64 + 1))
    }

    /// The job that is ready now.
    pub(crate) fn end(&mut self, now: Nanos) -> Option<Job> {
        self.pass(now);
        let Reverse(Ready { at, job }) = self.running.pop()?;
        self.done = self.done.max(at);
        self.live -= 1;
        if let Some((next, work)) = self.waiting.pop_front() {
            self.running.push(Reverse(Ready { at: self.done + work, job: next }));
        }
        self.queue = self.waiting.len() as u32;
        Some(job)
    }

    pub(crate) fn set_speed(&mut self, now: Nanos, speed: f64) {
        self.pass(now);
        self.speed = speed;
    }

    fn pass(&mut self, now: Nanos) {
        if !self.running.is_empty() {
            self.done += now.since(self.at).as_secs_f64() * self.rate();
        }
        self.at = now;
    }

    /// Seconds of work that each job gets in a second.
    fn rate(&self) -> f64 {
        self.speed * (self.cores / self.running.len() as f64).min(1.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Ready {
    at: f64,
    job: Job,
}

impl Ord for Ready {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.at.total_cmp(&other.at).then(self.job.cmp(&other.job))
    }
}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ready {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ready {}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each job ends, in milliseconds.
    fn ends(server: &mut Server) -> Vec<(Job, u64)> {
        let mut ends = vec![];
        while let Some(at) = server.next() {
            let job = server.end(at).unwrap();
            ends.push((job, at.0 / 1_000_000));
        }
        ends
    }

    fn server(cores: u32, workers: usize, jobs: &[f64]) -> Server {
        let mut server = Server::new(cores, workers);
        server.live = jobs.len() as u32;
        (0..).zip(jobs).for_each(|(job, &work)| server.start(Nanos::ZERO, job, work));
        server
    }

    #[test]
    fn jobs_share_the_cores() {
        // Two of 100 ms have a core each.
        assert_eq!(ends(&mut server(2, 9, &[0.1, 0.1])), [(0, 100), (1, 100)]);
        // Three have two thirds each; when two are done, the last has a core of its own.
        assert_eq!(ends(&mut server(2, 9, &[0.1, 0.1, 0.2])), [(0, 150), (1, 150), (2, 250)]);
    }

    #[test]
    fn who_finds_no_worker_waits_its_turn() {
        let mut server = server(1, 1, &[0.1, 0.05, 0.02]);
        assert_eq!(server.queue, 2);
        assert_eq!(ends(&mut server), [(0, 100), (1, 150), (2, 170)]);
        assert_eq!((server.queue, server.live), (0, 0));
    }

    #[test]
    fn a_slower_server_takes_longer_for_what_is_left() {
        let mut server = server(1, 9, &[0.1]);
        server.set_speed(Nanos::from_millis(50), 0.1);
        assert_eq!(ends(&mut server), [(0, 550)]);
    }
}
