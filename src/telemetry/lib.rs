//! What all programs do in the same way: write logs, and print errors with hints (`hint`).
//!
//! Logs go to standard error, one event a line. Where the journal stamps each line, the line has no time of its own.
//! The filter comes from `LINESIDE_LOG` (in the syntax of `tracing_subscriber::EnvFilter`), or else from the caller.
//!
//! Rooms are crates, and the log targets of a crate begin with its name (`tftp::service`). People filter and read them
//! below one name, as `lineside::tftp::service`. The module `targets` translates in both directions.

mod hint;
mod targets;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use hint::{Hint, Hinted, explain, hints};
use targets::EventLine;

/// The environment variable that overrides the filter, for example `lineside=debug,lineside::tftp=trace`.
pub const FILTER_VARIABLE: &str = "LINESIDE_LOG";

/// Starts logging. The filter is `default_filter` unless [`FILTER_VARIABLE`] is set.
///
/// A second call in one process changes nothing, so tests and the demo may both call it.
pub fn start(default_filter: &str) {
    let wanted = std::env::var(FILTER_VARIABLE);
    let filter = EnvFilter::builder().parse_lossy(targets::to_crates(wanted.as_deref().unwrap_or(default_filter)));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // Under systemd standard error is the journal, which stamps each line itself.
        .event_format(EventLine { time: std::env::var_os("JOURNAL_STREAM").is_none() });
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_err() {
        tracing::debug!("logging had been started before");
    }
}
