//! Running the machine's own tools: ip, nft, ethtool, nsenter.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;
use crate::process::Running;

/// Runs a command to its end, with `input` on its standard input; its standard output, or what it complained about.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(command: &mut Command, input: &str) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let what = command_words(command).join(" ");
    let failed =
        |status: String, stderr: String| Error::Command { what: what.clone(), status, stderr };
    let spawned =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NoProgram(program));
        }
        Err(error) => return Err(failed("not started".to_owned(), error.to_string())),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that stops reading has failed, and says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed("not waited for".to_owned(), error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let mut stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        // ip names the line of the batch only: show what stood there.
        if let Some(line) = failed_line(&stderr).and_then(|number| input.lines().nth(number - 1)) {
            stderr.push_str(" («");
            stderr.push_str(line);
            stderr.push_str("»)");
        }
        Err(failed(output.status.to_string(), stderr))
    }
}

/// `ip -batch`, in a namespace or (`None`) where we are. Stops at the first line that fails.
pub(crate) fn ip_batch(namespace: Option<&str>, lines: &str) -> Result<(), Error> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    run(command.args(["-batch", "-"]), lines).map(drop)
}

/// A shell script in a namespace; stops at the first command that fails.
pub(crate) fn shell(namespace: &str, script: &str) -> Result<String, Error> {
    run(enter(namespace).args(["sh", "-eu", "-s"]), script)
}

/// A command line that goes on in the network namespace. Mounts stay the machine's, unlike with `ip netns exec`, which
/// hides /sys/fs/bpf.
pub(crate) fn enter(namespace: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={NETNS_DIR}/{namespace}")).arg("--");
    command
}

/// Where iproute2 keeps its named namespaces.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// Whether there is a network namespace of this name.
pub(crate) fn namespace_exists(namespace: &str) -> bool {
    Path::new(NETNS_DIR).join(namespace).exists()
}

/// All processes in a namespace of a lab, whoever started them: it is ours, so they are.
pub(crate) fn inside(namespace: &str) -> Result<Vec<Running>, Error> {
    if !namespace_exists(namespace) {
        return Ok(Vec::new());
    }
    let pids = run(Command::new("ip").args(["netns", "pids", namespace]), "")?;
    let known = pids
        .split_whitespace()
        .filter_map(|pid| Running::with_pid(pid.parse().ok()?, namespace, "inside"));
    Ok(known.collect())
}

fn command_words(command: &Command) -> Vec<String> {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// The number out of `Command failed -:3`.
fn failed_line(stderr: &str) -> Option<usize> {
    let (_, rest) = stderr.split_once("Command failed -:")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|&number| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_returned_and_failure_says_what_and_why() {
        assert_eq!(run(Command::new("cat").arg("-"), "hello").unwrap(), "hello");
        let error =
            run(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"]), "").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("no luck"), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("jlb-no-such-program"), "").unwrap_err();
        assert!(matches!(error, Error::NoProgram(name) if name == "jlb-no-such-program"));
    }

    #[test]
    fn the_line_that_ip_refused_is_found() {
        assert_eq!(failed_line("RTNETLINK answers: File exists\nCommand failed -:12"), Some(12));
        assert_eq!(failed_line("something else"), None);
    }
}
