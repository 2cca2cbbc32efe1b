//! What every program does the same way: how it logs, and how it tells errors (`hint`).
//!
//! Logs go to standard error, one line each, without a time where the journal adds its own. The filter comes
//! from `LINESIDE_LOG` (syntax of `tracing_subscriber::EnvFilter`), else from the caller.
//!
//! Rooms are crates, and a crate's own log targets begin with its name (`tftp::service`). People filter and read them
//! below one name, `lineside::tftp::service`: `targets` translates both ways.

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

/// Starts logging with `default_filter` unless [`FILTER_VARIABLE`] says otherwise.
///
/// A second call in one process changes nothing, so that tests and the demo may both call it.
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
