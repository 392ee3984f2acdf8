use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Args;
use jlb_model::{CONFIGS, Config, Kept, Switch, search};
use serde_json::json;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Search this configuration only.
    #[arg(long, value_parser = config)]
    config: Option<&'static Config>,
    /// Switch a rule of the protocol off; may be said more than once. What is then found is the reason for the rule.
    #[arg(long, value_parser = switch)]
    without: Vec<Switch>,
    /// Stop each configuration after so many steps, seen before or not, instead of at its own bound. Not complete then.
    #[arg(long)]
    states: Option<usize>,
    /// Say what there is, and search nothing.
    #[arg(long)]
    list: bool,
    /// Say the results as JSON, in one last line.
    #[arg(long)]
    json: bool,
}

fn config(name: &str) -> Result<&'static Config, String> {
    let names: Vec<_> = CONFIGS.iter().map(|c| c.name).collect();
    Config::named(name).ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn switch(name: &str) -> Result<Switch, String> {
    let names = Switch::ALL.map(|switch| switch.to_string());
    let place = names.iter().position(|n| n == name);
    place.map(|n| Switch::ALL[n]).ok_or_else(|| format!("one of {}", names.join(", ")))
}

pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    let done = if arguments.list { list() } else { check(arguments) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "jlb-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> io::Result<bool> {
    let mut out = io::stdout().lock();
    for config in CONFIGS {
        writeln!(out, "{:17} {}", config.name, config.about)?;
    }
    writeln!(out)?;
    for switch in Switch::ALL {
        writeln!(out, "--without {switch}")?;
    }
    Ok(true)
}

/// Whether nothing was violated.
fn check(arguments: &Arguments) -> io::Result<bool> {
    let (mut out, mut progress) = (io::stdout().lock(), io::stderr().lock());
    let kept = arguments.without.iter().fold(Kept::ALL, |kept, &switch| kept.without(switch));
    let chosen = arguments.config.map_or(CONFIGS, core::slice::from_ref);
    let (mut complete, mut violations, mut states) = (0, 0, 0);
    for config in chosen {
        writeln!(progress, "{}: {} …", config.name, config.about)?;
        let outcome = search(config, kept, arguments.states.or(config.bound));
        states += outcome.states;
        complete += usize::from(outcome.complete);
        let how = match &outcome.finding {
            Some(finding) => format!("VIOLATED: {}", finding.violation.name()),
            None if outcome.complete => "complete, nothing violated".to_owned(),
            None => "nothing violated up to its bound".to_owned(),
        };
        let (took, depth) = (outcome.took.as_secs_f64(), outcome.depth);
        writeln!(
            out,
            "{:17} {:>10} states, depth {depth:>2}, {took:>6.1} s: {how}",
            config.name, outcome.states
        )?;
        if let Some(finding) = &outcome.finding {
            violations += 1;
            for (n, step) in finding.steps.iter().enumerate() {
                writeln!(out, "  {}. {step}", n + 1)?;
            }
        }
        out.flush()?;
    }
    if arguments.json {
        let sum = json!({
            "configurations": chosen.len(),
            "complete": complete,
            "violations": violations,
            "states": states,
        });
        writeln!(out, "{sum}")?;
    }
    Ok(violations == 0)
}
