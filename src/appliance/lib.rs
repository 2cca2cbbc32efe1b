//! The appliance as a process: command line, configuration, and the list of everything that runs.
//!
//! Read `parts` (what it consists of), then [`run`] (what runs), then what `run` names.

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
