//! The record of what happened at a site: counters, phones seen, transfers and alerts. `lineside status` shows it, and
//! each check-in tells HQ a part of it.
//!
//! Every service holds a [`Stats`] and writes to it. [`report`] makes a snapshot of it, and [`service`] answers with
//! that on a local socket.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

mod alerts;
mod carried_over;
mod growth;
pub mod memory;
mod moment;
pub mod outside;
pub mod report;
pub mod service;
pub mod stats;
pub mod vlans;
mod words;

pub use memory::{FileFetches, FileSeen, StatsMemory};
pub use moment::ClockReading;
pub use report::StatusReport;
pub use stats::{HostState, PollState, Stats, TransferRecord};
