//! What happened here: counters, phones seen, transfers, alerts; for `lineside status` and for check-in.
//!
//! Every service holds a [`Stats`] and tells it; [`report`] makes one picture of it; [`service`] answers on a
//! local socket.

mod kept;
pub mod memory;
pub mod report;
pub mod service;
pub mod stats;

pub use memory::{FileSeen, Memory};
pub use report::Report;
pub use stats::{Outcome, PollState, Stats, TransferRecord};
