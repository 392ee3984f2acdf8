use jlb_peers::Random;
use jlb_role::Nanos;
use jlb_wire::{Bar, Tried};
use jlb_yann_core::admission::{Busy, Limits};

use crate::law::exponential;
use crate::outcome::{Gathered, Outcome, jain};
use crate::run::{Event, Queue};
use crate::server::{Job, Server};
use crate::trackers::{Trackers, Trio, member, server};
use crate::{Balancer, Scenario};

/// Between two looks at how evenly the jobs are spread.
const SAMPLE_EVERY: Nanos = Nanos::from_millis(100);

/// Everybody who is there.
pub(crate) struct Site<'a> {
    scenario: &'a Scenario,
    random: Random,
    servers: Vec<Server>,
    trackers: Option<Trackers>,
    jobs: Vec<Flow>,
    free: Vec<Job>,
    gathered: Gathered,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    arrived: Nanos,
    work: f64,
    hash: u64,
    trio: Trio,
    server: usize,
    bar: Bar,
    reject_ttl: u8,
    tried: Tried,
}

/// What a tracker hears of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) tracker: usize,
    pub(crate) server: usize,
    pub(crate) live: u32,
    pub(crate) answers: bool,
    pub(crate) ended: bool,
}

impl<'a> Site<'a> {
    pub(crate) fn new(scenario: &'a Scenario, queue: &mut Queue) -> Self {
        let servers = (0..scenario.servers)
            .map(|n| Server::new(scenario.cores.of(n), scenario.workers))
            .collect();
        let trackers = match scenario.balancer {
            Balancer::Jlb(policy) => Trackers::new(scenario, policy),
            Balancer::Random
            | Balancer::Hunt2(_)
            | Balancer::Hunt4(_)
            | Balancer::PowerOfTwoOracle
            | Balancer::ShortestOracle => None,
        };
        let mut random = Random::new(scenario.seed);
        queue.push(Nanos::ZERO, Event::Arrive);
        queue.push(Nanos::ZERO, Event::Sample);
        if let Some(slow) = scenario.slow {
            queue.push(Nanos((slow.at * 1e9) as u64), Event::SlowDown);
        }
        if let (Some(every), true) = (scenario.report, trackers.is_some()) {
            for server in 0..scenario.servers {
                queue.push(Nanos(random.below(every.0)), Event::Report { server });
            }
        }
        let gathered = Gathered::default();
        Self { scenario, random, servers, trackers, jobs: vec![], free: vec![], gathered }
    }

    pub(crate) fn happens(&mut self, now: Nanos, event: Event, queue: &mut Queue) {
        match event {
            Event::Arrive => self.arrive(now, queue),
            Event::AtHead { job } => self.pick(now, job, queue),
            Event::AtSecond { job, second } => {
                let backend = member(self.jobs[job as usize].server);
                if let (Some(trackers), Some(backend)) = (&mut self.trackers, backend) {
                    trackers.second(second, backend);
                }
            }
            Event::AtServer { job } => self.decide(now, job, queue),
            Event::Start { job } => {
                let Flow { server, work, .. } = self.jobs[job as usize];
                self.servers[server].start(now, job, work);
                self.schedule_end(server, queue);
            }
            Event::End { server, version } => self.end(now, server, version, queue),
            Event::Hears(word) => self.hears(now, word),
            Event::Report { server } => self.report(now, server, queue),
            Event::Reported { server, live } => {
                if let (Some(trackers), Some(backend)) = (&mut self.trackers, member(server)) {
                    trackers.all_heard(now, (backend, live));
                }
            }
            Event::SlowDown => {
                if let (Some(slow), Some(server)) = (self.scenario.slow, self.servers.first_mut()) {
                    server.set_speed(now, slow.speed);
                    self.schedule_end(0, queue);
                }
            }
            Event::Sample => self.sample(now, queue),
        }
    }

    fn arrive(&mut self, now: Nanos, queue: &mut Queue) {
        let gap = exponential(&mut self.random) / self.scenario.rate();
        queue.push(now + Nanos((gap * 1e9) as u64), Event::Arrive);
        let work = self.scenario.law.draw(&mut self.random) * self.scenario.job;
        let hash = self.random.next();
        let flow = Flow {
            arrived: now,
            work,
            hash,
            trio: self.trackers.as_ref().map(|t| t.trio(hash)).unwrap_or_default(),
            server: 0,
            bar: Bar::LAST,
            reject_ttl: self.scenario.reject_ttl,
            tried: Tried::default(),
        };
        let job = match self.free.pop() {
            Some(job) => {
                self.jobs[job as usize] = flow;
                job
            }
            None => {
                self.jobs.push(flow);
                self.jobs.len() as Job - 1
            }
        };
        self.gathered.flows += u64::from(self.counts(now));
        if self.trackers.is_some() {
            queue.push(now + self.scenario.hop, Event::AtHead { job });
            return;
        }
        let server = self.place();
        self.jobs[job as usize].server = server;
        if self.servers[server].queue > self.scenario.backlog {
            self.spill(now, job);
        } else {
            self.servers[server].live += 1;
            queue.push(now + self.scenario.hop, Event::Start { job });
        }
    }

    /// Where one of the other balancers puts a job.
    fn place(&mut self) -> usize {
        let Self { random, servers, scenario, .. } = self;
        let n = servers.len();
        let mut drawn: Vec<usize> = vec![];
        let mut draw = |random: &mut Random| loop {
            let server = random.below(n as u64) as usize;
            if !drawn.contains(&server) || drawn.len() >= n {
                drawn.push(server);
                return server;
            }
        };
        let mut hunt = |tries: usize, threshold: u32| {
            let mut last = draw(random);
            for _ in 1..tries {
                if servers[last].live < threshold {
                    break;
                }
                last = draw(random);
            }
            last
        };
        match scenario.balancer {
            Balancer::Hunt2(threshold) => hunt(2, threshold),
            Balancer::Hunt4(threshold) => hunt(4, threshold),
            Balancer::PowerOfTwoOracle => {
                let (one, other) = (draw(random), draw(random));
                if servers[other].live < servers[one].live { other } else { one }
            }
            Balancer::ShortestOracle => {
                let least = servers.iter().map(|s| s.live).min().unwrap_or(0);
                let several = servers.iter().filter(|s| s.live == least).count() as u64;
                let which = random.below(several) as usize;
                (0..n).filter(|&s| servers[s].live == least).nth(which).unwrap_or(0)
            }
            Balancer::Random | Balancer::Jlb(_) => draw(random),
        }
    }

    /// The head chooses, and the Open goes by the second to the server.
    fn pick(&mut self, now: Nanos, job: Job, queue: &mut Queue) {
        let flow = &mut self.jobs[job as usize];
        let (Some(trackers), Some(head)) = (&mut self.trackers, flow.trio[0]) else { return };
        // Each try draws anew, as with the hash of a flow.
        let picked = trackers.pick(now, head, flow.hash, &flow.tried, flow.reject_ttl);
        let Some(picked) = picked else { return self.spill(now, job) };
        (flow.server, flow.bar) = (server(picked.backend), picked.bar);
        let mut at = now + self.scenario.hop;
        if let Some(second) = flow.trio[1] {
            queue.push(at, Event::AtSecond { job, second });
            at = at + self.scenario.hop;
        }
        queue.push(at, Event::AtServer { job });
    }

    /// The server decides.
    fn decide(&mut self, now: Nanos, job: Job, queue: &mut Queue) {
        let flow = self.jobs[job as usize];
        let server = &mut self.servers[flow.server];
        let busy = Busy { live: server.live, all: server.live, queue: server.queue };
        let limits = Limits { live: 0, all: 0, queue: self.scenario.backlog };
        let refused = busy.refusal(&limits, flow.bar).is_some();
        if !refused {
            server.live += 1;
        }
        let live = server.live;
        // Back along the chain.
        let mut at = now;
        for tracker in [flow.trio[1], flow.trio[0]].into_iter().flatten() {
            at = at + self.scenario.hop;
            let word = Word { tracker, server: flow.server, live, answers: true, ended: false };
            queue.push(at, Event::Hears(word));
        }
        if !refused {
            // Accept goes on to the ingress, and from there the request to the server.
            return queue.push(at + self.scenario.hop + self.scenario.hop, Event::Start { job });
        }
        self.gathered.rejects += u64::from(self.counts(flow.arrived));
        let flow = &mut self.jobs[job as usize];
        if let Some(member) = member(flow.server) {
            flow.tried.push(member);
        }
        if flow.reject_ttl == 0 {
            return self.spill(now, job);
        }
        flow.reject_ttl -= 1;
        queue.push(at, Event::AtHead { job });
    }

    fn end(&mut self, now: Nanos, server: usize, version: u32, queue: &mut Queue) {
        if self.servers[server].version != version {
            return;
        }
        let Some(job) = self.servers[server].end(now) else { return };
        self.schedule_end(server, queue);
        let flow = self.jobs[job as usize];
        if self.counts(now) {
            self.gathered.work += flow.work;
        }
        if self.counts(flow.arrived) {
            // The reply's way to the edge.
            self.gathered.took(flow.arrived, now + self.scenario.hop);
        }
        let live = self.servers[server].live;
        for tracker in flow.trio.into_iter().flatten() {
            let word = Word { tracker, server, live, answers: false, ended: true };
            queue.push(now + self.scenario.hop, Event::Hears(word));
        }
        self.free.push(job);
    }

    fn schedule_end(&mut self, server: usize, queue: &mut Queue) {
        if let Some(at) = self.servers[server].next() {
            queue.push(at, Event::End { server, version: self.servers[server].version });
        }
    }

    fn hears(&mut self, now: Nanos, word: Word) {
        let Word { tracker, server, live, answers, ended } = word;
        if let (Some(trackers), Some(backend)) = (&mut self.trackers, member(server)) {
            trackers.heard(now, tracker, (backend, live), (answers, ended));
        }
    }

    fn report(&mut self, now: Nanos, server: usize, queue: &mut Queue) {
        let Some(every) = self.scenario.report else { return };
        queue.push(now + every, Event::Report { server });
        let live = self.servers[server].live;
        queue.push(now + self.scenario.hop, Event::Reported { server, live });
    }

    fn sample(&mut self, now: Nanos, queue: &mut Queue) {
        queue.push(now + SAMPLE_EVERY, Event::Sample);
        if self.counts(now) {
            let share =
                |(n, s): (usize, &Server)| f64::from(s.live) / f64::from(self.scenario.cores.of(n));
            let index = jain(self.servers.iter().enumerate().map(share));
            self.gathered.fairness.push((now.as_secs_f64(), index));
        }
    }

    /// Nobody takes it.
    fn spill(&mut self, now: Nanos, job: Job) {
        self.gathered.spilled += u64::from(self.counts(now));
        self.free.push(job);
    }

    fn counts(&self, at: Nanos) -> bool {
        at.as_secs_f64() >= self.scenario.warm_up
    }

    pub(crate) fn outcome(self) -> Outcome {
        let counted = self.scenario.seconds - self.scenario.warm_up;
        let due = counted * self.scenario.all_cores() * self.scenario.load.min(1.0);
        self.gathered.outcome(due)
    }
}
