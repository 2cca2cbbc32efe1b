//! What every program does the same way: how it logs, and how it tells errors (`hint`).
//!
//! Logs go to standard error, one line each, without a time where the journal adds its own. The filter comes
//! from `LINESIDE_LOG` (syntax of `tracing_subscriber::EnvFilter`), else from the caller.

mod hint;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use hint::{Hint, Hinted, explain, hints};

/// The environment variable that overrides the filter, for example `lineside=debug,lineside::tftp=trace`.
pub const FILTER_VARIABLE: &str = "LINESIDE_LOG";

/// Starts logging with `default_filter` unless [`FILTER_VARIABLE`] says otherwise.
///
/// A second call in one process changes nothing, so that tests and the demo may both call it.
pub fn start(default_filter: &str) {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) => EnvFilter::builder().parse_lossy(text),
        Err(_) => EnvFilter::builder().parse_lossy(default_filter),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true);
    let registry = tracing_subscriber::registry().with(filter);
    // Under systemd standard error is the journal, which stamps each line itself.
    let started = if std::env::var_os("JOURNAL_STREAM").is_some() {
        registry.with(lines.without_time()).try_init()
    } else {
        registry.with(lines).try_init()
    };
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
}
