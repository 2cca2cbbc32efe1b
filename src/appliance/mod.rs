//! The appliance as a process: command line, configuration, and the list of everything that runs.

pub mod activation;
mod changes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod heap;
pub mod interface;
mod lan;
pub mod leases;
pub mod memory;
pub mod neighbours;
pub mod notify;
pub mod run;
