use std::io::{self, IsTerminal as _};

use jlb_config::{LogFormat, LogLevel, Node};
use tracing::level_filters::LevelFilter;

/// Logs to stderr from now on: in colour on a terminal, unless `NO_COLOR` says otherwise (no-color.org).
pub(crate) fn start(node: &Node) {
    let level = match node.log {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !plain);
    // Only a second daemon in one process, as in tests, finds a logger already there; it keeps that.
    let _ = match node.log_format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
