use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jlb_lab::topology::NodeKind;
use jlb_lab::{Jlb, Lab, LabConfig, Service, binary};

use crate::figures::{Figures, Outcome};
use crate::load::{Request, drive, requests};
use crate::quota::Quota;
use crate::{Error, server};

const BACKENDS: u8 = 4;
/// What comes before this does not count.
const WARM: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each policy is run.
    pub times: u32,
    /// How long requests are counted, in s, each time.
    pub seconds: f64,
    /// Load over what all servers can do while none is slowed.
    pub rho: f64,
    /// Part of its quota that the first backend keeps; 1: all are alike.
    pub slow: f64,
    /// CPUs that one backend has.
    pub share: f64,
    /// CPU time of a request on the average, in ms.
    pub job_ms: f64,
    /// The lab's name.
    pub lab: String,
}

impl Options {
    fn check(&self) -> Result<(), Error> {
        let bounds = [
            ("--times", f64::from(self.times), 1.0, 100.0),
            ("--seconds", self.seconds, 1.0, 3600.0),
            ("--rho", self.rho, 0.05, 2.0),
            ("--slow", self.slow, 0.05, 1.0),
            ("--share", self.share, 0.02, 4.0),
            ("--job-ms", self.job_ms, 0.1, 1000.0),
        ];
        for (what, value, min, max) in bounds {
            if !(min..=max).contains(&value) {
                return Err(Error::OutOfBounds { what, value, min, max });
            }
        }
        Ok(())
    }

    fn requests(&self, seed: u64) -> Vec<Request> {
        let rate = self.rho * f64::from(BACKENDS) * self.share / (self.job_ms / 1000.0);
        let job = Duration::from_secs_f64(self.job_ms / 1000.0);
        requests(seed, rate, job, (WARM, Duration::from_secs_f64(self.seconds)))
    }
}

/// Runs both policies in turn, as often as asked.
///
/// # Errors
/// [`Error`].
pub fn run(
    options: &Options,
    say: &mut dyn FnMut(&str),
    interrupted: &AtomicBool,
) -> Result<Outcome, Error> {
    options.check()?;
    let (mut random, mut default) = (Vec::new(), Vec::new());
    for time in 1..=options.times {
        let requests = options.requests(time.into());
        for (policy, figures) in [("random", &mut random), ("least-connections", &mut default)] {
            let of_this = once(policy, &requests, options, interrupted)?;
            say(&format!("time {time} of {}, {policy}: {of_this}", options.times));
            figures.push(of_this);
        }
    }
    // There was one time at least.
    Outcome::of(random, default).ok_or(Error::Interrupted)
}

fn once(
    policy: &str,
    requests: &[Request],
    options: &Options,
    interrupted: &AtomicBool,
) -> Result<Figures, Error> {
    let more = format!("policy = \"{policy}\"\n");
    let service = Service { more, ..Service::new("work", "tcp", server::PORT) };
    let jlb = Jlb { services: vec![service], ..Jlb::default() };
    let config =
        LabConfig { backends: BACKENDS, servers: false, jlb: Some(jlb), ..LabConfig::default() };
    let lab = Lab::up(&options.lab, &config)?;
    let quotas = serve(&lab, options)?;
    let answers =
        lab.node("client")?.within(|| drive(requests, interrupted))?.map_err(Error::Load)?;
    // First the processes, then their groups.
    drop(lab);
    drop(quotas);
    if interrupted.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    Figures::of(&answers).ok_or_else(|| Error::NoAnswers(policy.to_owned()))
}

/// Starts the servers, each within its quota. The groups outlive the lab also where this fails: an empty one is taken over by
/// the next run.
fn serve(lab: &Lab, options: &Options) -> Result<Vec<Quota>, Error> {
    let program = binary("jlb-bench")?;
    let mut quotas = Vec::new();
    for (number, node) in lab.nodes_of(NodeKind::Backend).into_iter().enumerate() {
        let quota = Quota::new(&format!("jlb-{}-{}", options.lab, node.name()))?;
        quota.limit(if number == 0 { options.share * options.slow } else { options.share })?;
        let arguments =
            ["work-server", "--port", &server::PORT.to_string(), "--name", &node.name()];
        let running = node.start("work", &program.to_string_lossy(), &arguments)?;
        let listens = || {
            matches!(node.within(|| TcpStream::connect(("::1", server::PORT)).is_ok()), Ok(true))
        };
        node.wait_ready(&running, listens)?;
        quota.take(running.pid)?;
        quotas.push(quota);
    }
    Ok(quotas)
}
