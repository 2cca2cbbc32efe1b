//! What happened here: counters, phones seen, transfers, alerts; for `lineside status` and for check-in.
//!
//! Every service holds a [`Stats`] and tells it; [`report`] makes one picture of it; [`service`] answers on a
//! local socket.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

mod carried_over;
pub mod memory;
pub mod report;
pub mod service;
pub mod stats;

pub use memory::{FileSeen, StatsMemory};
pub use report::StatusReport;
pub use stats::{PollState, Stats, TransferRecord};
