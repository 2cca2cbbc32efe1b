//! The appliance as a process: its command line, its configuration and the list of all tasks that run.
//!
//! Read `parts` first (what the appliance consists of), then [`run`] (which tasks it runs), then the modules of the
//! tasks.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

pub mod activation;
pub mod card;
mod changes;
pub mod cli;
pub mod clock;
mod commands;
pub mod config;
pub mod doctor;
pub mod health;
pub mod heap;
pub mod image;
pub mod interface;
mod lan;
pub mod leases;
pub mod memory;
pub mod neighbours;
pub mod notify;
pub mod opener;
mod parts;
pub mod run;
mod wanted;
