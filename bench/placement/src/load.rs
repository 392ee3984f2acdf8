//! Requests that come at random, each on a connection of its own, whether or not the former ones were answered.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jlb_lab::topology::VIP;
use jlb_peers::Random;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::figures::Answer;
use crate::server;

/// Who has no answer by then counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests under way at once; what comes beyond fails.
const MOST: usize = 4096;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Request {
    /// When it is due, from the beginning.
    pub(crate) at: Duration,
    /// CPU time that it costs.
    pub(crate) cost: Duration,
    /// Whether it counts: not at the beginning, when all queues are empty.
    pub(crate) counts: bool,
}

/// A Poisson process of `rate` requests per second, with exponential costs. The same for the same seed.
pub(crate) fn requests(
    seed: u64,
    rate: f64,
    cost: Duration,
    (warm, time): (Duration, Duration),
) -> Vec<Request> {
    let mut random = Random::new(seed);
    let mut exponential = |mean: f64| {
        let unit = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64(-(1.0 - unit).ln() * mean)
    };
    let mut all = Vec::new();
    let mut at = exponential(1.0 / rate);
    while at < warm + time {
        all.push(Request { at, cost: exponential(cost.as_secs_f64()), counts: at >= warm });
        at += exponential(1.0 / rate);
    }
    all
}

/// Makes the requests, from the calling thread's network namespace, and gives what became of those that count. Ends early, with
/// what there is, when it is interrupted.
pub(crate) fn drive(requests: &[Request], interrupted: &AtomicBool) -> io::Result<Vec<Answer>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let begin = Instant::now();
        let mut under_way = JoinSet::new();
        let mut answers = Vec::new();
        let mut note = |done: Result<Option<Answer>, tokio::task::JoinError>| match done {
            Ok(answer) => answers.extend(answer),
            Err(_) => answers.push(Answer::Failed),
        };
        for (number, &request) in requests.iter().enumerate() {
            sleep_until(begin + request.at).await;
            if interrupted.load(Ordering::Relaxed) {
                // Nobody wants the answers any more.
                under_way.abort_all();
                break;
            }
            while let Some(done) = under_way.try_join_next() {
                note(done);
            }
            if under_way.len() >= MOST {
                note(Ok(request.counts.then_some(Answer::Failed)));
                continue;
            }
            let vip = SocketAddr::new(VIP[number % VIP.len()], server::PORT);
            let due = begin + request.at;
            under_way.spawn(async move {
                let answer = match timeout(PATIENCE, ask(vip, request.cost)).await {
                    Ok(Ok(backend)) => Answer::Served(due.elapsed(), backend),
                    Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => Answer::Refused,
                    Ok(Err(_)) | Err(_) => Answer::Failed,
                };
                request.counts.then_some(answer)
            });
        }
        while let Some(done) = under_way.join_next().await {
            note(done);
        }
        Ok(answers)
    })
}

/// Gives the backend that answered.
async fn ask(vip: SocketAddr, cost: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect(vip).await?;
    let request = format!("GET /{} HTTP/1.0\r\n\r\n", cost.as_micros());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    // Bounded, whoever answers.
    (&mut stream).take(4096).read_to_string(&mut answer).await?;
    let body = answer.strip_prefix("HTTP/1.0 200 OK\r\n\r\n").map(str::trim_end);
    body.map(str::to_owned).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_at_their_rate_and_cost_what_they_should() {
        let cost = Duration::from_millis(5);
        let all = requests(1, 100.0, cost, (Duration::from_secs(100), Duration::from_secs(900)));
        // 100,000 on the average; five standard deviations are 1581.
        assert!((98_419..=101_581).contains(&all.len()), "{}", all.len());
        let mean = all.iter().map(|r| r.cost.as_secs_f64()).sum::<f64>() / all.len() as f64;
        assert!((mean / 0.005 - 1.0).abs() < 0.016, "{mean}");
        assert!(all.iter().all(|r| r.counts == (r.at >= Duration::from_secs(100))));
        assert_eq!(
            all,
            requests(1, 100.0, cost, (Duration::from_secs(100), Duration::from_secs(900)))
        );
    }
}
