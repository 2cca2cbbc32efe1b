//! DHCP on a LAN that belongs to somebody else: phones learn where their files are.
//!
//! A mode says what we may do, from harmless to whole ([`ActiveMode`]):
//!
//! - `shadow` never answers.
//! - `inform` answers DHCPINFORM of phones with options 66 and 150.
//! - `augment` completes the router's own leases for phones ([`augment`](mod@augment)).
//! - `phones-only` leases addresses of a range to phones, if no other server objects ([`proof`]).
//! - `all` leases to every device, and is for a segment without another server.
//! - `auto` chooses from what the LAN shows ([`mode_choice`]).
//!
//! RFC 951 (BOOTP), 1542 (relay agents), 2131 (DHCP), 2132 (options), 3046 (relay agent information), 3396 (long options),
//! 3925 (vendor classes), 5227 (address conflicts), 5859 (option 150), 6842 (client identifier in replies).
//!
//! Read the files in the order in which they stand below; each uses only what stands above it. If you have little time,
//! read [`responder`], [`augment`](mod@augment), [`server`] and [`service`].
//!
//! The package `dhcproto` reads and writes the fixed header and names the options' codes. The options are read here,
//! because `dhcproto` keeps them in typed form and one for each code. That loses what must be echoed verbatim (82), takes
//! option 150 for one address and stops at a list, and knows neither overload (52) nor an option in parts that are apart
//! from each other (RFC 3396).

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have clocks and files as they like"))]

// Octets to values and back: options, a client's request and our reply, another server's message, our questions to other
// servers, ARP, frames.
pub mod options;

pub mod message;

pub mod heard;

pub mod question;

pub mod arp;

// What is known: the range, completed leases, our leases, the LAN, the settings and the mode in force.
pub mod range;

pub mod completed_lease;

pub mod leases;

pub mod lan;

pub mod scope;

pub mod mode_choice;

// What is found out before an address is leased.
pub mod arp_scan;

mod range_probe;

pub mod proof;

// What is decided: one request, the race with a router, everything on one interface.
pub mod responder;

pub mod augment;

pub mod server;

// Sockets, clocks and threads.
pub mod client;
pub mod service;

pub use lan::LanView;
pub use leases::{Lease, LeaseLog, Leases, MemoryLog};
pub use message::{ParseError, Reply, Request};
pub use responder::{Destination, SilenceReason, Verdict, View, respond, respond_to_inform};
pub use scope::{ActiveMode, DhcpScope};
pub use service::{BindError, Config, Feeds, InheritedSockets, Service};
