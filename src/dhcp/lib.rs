//! DHCP on a LAN that belongs to somebody else: phones learn where their files are.
//!
//! What we may do is a mode ([`ActiveMode`]), from harmless to whole. `shadow` never answers. `inform` answers DHCPINFORM of
//! phones, with options 66 and 150. `augment` completes the router's own leases for phones ([`augment`](mod@augment)).
//! `phones-only` leases from a range to phones, once it was proven that no other server objects ([`proof`]). `all` leases
//! to everybody and is for a segment without another server. `auto` chooses from what the LAN shows ([`mode_choice`]).
//!
//! RFC 2131 (protocol), 2132 (options), 3046 (relay agent information), 3396 (long options), 5859 (option 150), 6842
//! (client identifier in replies).
//!
//! Read [`message`] and [`options`] (bytes to requests, replies to bytes), [`heard`] and [`question`] (the same towards other
//! servers), [`arp`] (who claims what), then [`lan`] (what others do here), [`arp_scan`] (which
//! addresses are asked for),
//! [`leases`] (whose address it is), [`scope`] (what the site wants and what is in force), [`responder`] (the decision,
//! a pure function), [`server`] (what waits and what goes out), [`service`] and [`client`] (sockets and clocks).
//!
//! `dhcproto` reads and writes the fixed header and names the codes. Options are read here: it keeps one option per code
//! in typed form, which loses what must be echoed verbatim (82), takes option 150 for one address and stops reading at a
//! list, and knows neither overload (52) nor parts of an option that do not follow each other (RFC 3396).

// Octets to values and back.
pub mod options;

pub mod message;
pub mod question;

pub mod heard;

pub mod arp;
pub mod frame;

// What is known: whose address it is, what others do here, what the site wants.
pub mod range;

pub mod completed_lease;

pub mod leases;

pub mod lan;

pub mod scope;

pub mod mode_choice;

// What is found out before addresses are leased.
pub mod arp_scan;

mod range_probe;

pub mod proof;

// Decisions.
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
pub use service::{BindError, Config, Feeds, InheritedSockets, PacketSockets, Service};
