//! `jlb-vip-watchdog`: withdraws VIPs when the daemon that serves them ends or hangs. `jlb-ingress` starts it.
#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use jlb_announce::{WatchError, clear, watch};

/// Wrong usage (sysexits.h).
const EX_USAGE: u8 = 64;

const USAGE: &str = "Withdraws virtual IPs when the daemon that serves them ends or hangs.

jlb-vip-watchdog watch TABLE    jlb-ingress starts this, with a socket as standard input
jlb-vip-watchdog clear TABLE    withdraw what is announced in a kernel routing table now
";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["watch", table] => table.parse().ok().map(from_standard_input),
        ["clear", table] => table.parse().ok().map(clear),
        _ => None,
    };
    match done {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(e)) => {
            let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
            say(&format!("jlb-vip-watchdog: {e}{cause}\n"));
            ExitCode::FAILURE
        }
        None => {
            say(USAGE);
            ExitCode::from(EX_USAGE)
        }
    }
}

fn from_standard_input(table: u32) -> Result<(), WatchError> {
    // DPDK opens sockets that its children inherit: held here, they would go on taking packets after the daemon's end.
    let inherited: Vec<i32> = fs::read_dir("/proc/self/fd")
        .map_err(WatchError::Start)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in inherited {
        // One of them was that of the listing itself.
        let _ = nix::unistd::close(fd);
    }
    let daemon = io::stdin().as_fd().try_clone_to_owned().map_err(WatchError::Start)?;
    watch(UnixStream::from(daemon), table)
}

fn say(text: &str) {
    // With stderr closed there is nobody to tell.
    let _ = io::stderr().write_all(text.as_bytes());
}
