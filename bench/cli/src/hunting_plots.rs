//! The pictures of docs/load-balancing.md.

use std::fs;
use std::io;
use std::path::Path;

use jlb_hunting::{Balancer, Curve, Outcome, Plot, Scenario, SlowDown, run};

/// Who is shown, as the table names them.
const SHOWN: [&str; 6] = ["random", "sr4", "hunt4", "p2c-oracle", "jsq-oracle", "default"];
/// Seconds of each run.
const SECONDS: f64 = 400.0;

/// Writes the pictures into a folder.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let named = SHOWN.into_iter().filter_map(|name| Some((name, Balancer::named(name)?)));
    let named: Vec<_> = named.collect();
    let outcomes: Vec<_> =
        named.iter().map(|&(name, b)| (name, run(&reference(b, 0.88)))).collect();
    fs::write(folder.join("response-times.svg"), response_times(&outcomes).svg())?;
    fs::write(folder.join("load.svg"), means(&named).svg())?;
    fs::write(folder.join("fairness.svg"), fairness(&named).svg())
}

fn reference(balancer: Balancer, load: f64) -> Scenario {
    Scenario { seconds: SECONDS, ..Scenario::reference(balancer, load) }
}

fn response_times(outcomes: &[(&str, Outcome)]) -> Plot {
    let curve = |(name, outcome): &(&str, Outcome)| Curve {
        name: (*name).to_owned(),
        points: outcome.distribution(400),
    };
    Plot {
        title: "response time, \u{3c1} = 0.88".into(),
        x: "seconds",
        y: "share of jobs that took no longer",
        x_marks: vec![0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0],
        y_marks: vec![0.0, 0.25, 0.5, 0.75, 0.9, 1.0],
        x_is_logarithmic: true,
        curves: outcomes.iter().map(curve).collect(),
    }
}

fn means(named: &[(&str, Balancer)]) -> Plot {
    let loads = [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.88, 0.9, 0.92, 0.95];
    let curve = |&(name, balancer): &(&str, Balancer)| Curve {
        name: name.to_owned(),
        points: loads.iter().map(|&load| (load, run(&reference(balancer, load)).mean_s)).collect(),
    };
    Plot {
        title: "mean response time".into(),
        x: "\u{3c1}",
        y: "seconds",
        x_marks: vec![0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
        y_marks: vec![0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
        x_is_logarithmic: false,
        curves: named.iter().map(curve).collect(),
    }
}

/// One server slows down to a tenth after 20 s.
fn fairness(named: &[(&str, Balancer)]) -> Plot {
    let curve = |&(name, balancer): &(&str, Balancer)| {
        let slow = Some(SlowDown { at: 20.0, speed: 0.1 });
        let scenario =
            Scenario { seconds: 60.0, warm_up: 1.0, slow, ..Scenario::reference(balancer, 0.7) };
        let samples = run(&scenario).fairness;
        // Means of a second.
        let seconds = samples.chunks(10).map(|some| {
            let sum = some.iter().map(|(_, index)| index).sum::<f64>();
            (some[0].0, sum / some.len() as f64)
        });
        Curve { name: name.to_owned(), points: seconds.collect() }
    };
    Plot {
        title: "fairness, \u{3c1} = 0.7, one of 12 servers ten times slower from 20 s on".into(),
        x: "seconds",
        y: "Jain's index of the servers' jobs",
        x_marks: vec![0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
        y_marks: vec![0.0, 0.25, 0.5, 0.75, 1.0],
        x_is_logarithmic: false,
        curves: named.iter().map(curve).collect(),
    }
}
