//! The shipped programs against programs that others wrote, on networks of their own. Needs root; says what it skips.

#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod access;
mod attacks;
mod dhcp;
mod dhcp_harm;
mod dhcp_judged;
mod dhcp_modes;
mod dhcp_routers;
mod dhcp_wire;
mod disk;
mod firewall;
mod fleet;
mod hq;
mod image;
mod lan;
mod lan_host;
mod net;
mod process;
mod router;
mod site;
mod swapped;
mod system;
mod tftp;
mod trust;
mod two_machines;
mod unplugged;
mod upkeep;
mod wire;
