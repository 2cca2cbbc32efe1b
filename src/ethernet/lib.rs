//! Frames and packet sockets: what the services for phones send and hear beside the kernel's own IP.
//!
//! [`filter`] names the words of filters. [`frame`] writes and reads one UDP datagram in an Ethernet frame (RFC 894, RFC 791,
//! RFC 768), [`arp`] asks who has an address and reads the answer (RFC 826). [`PacketSockets`] are `packet(7)` sockets that
//! another process may have opened, because opening one takes `CAP_NET_RAW`. They hear what the interface's own IP hears: frames
//! of another VLAN (IEEE 802.1Q) are left out, but for [`tagged`], which only finds out which VLANs ask.

pub mod arp;
pub mod filter;
pub mod frame;
mod packet_sockets;

pub use packet_sockets::{MAX_DHCP_SOCKETS, PacketSockets, Purpose, answers_to, open, tagged};
