//! Where DHCP is served, and why it may be impossible there.

use std::io;
use std::net::Ipv4Addr;

use ids::Lan;

/// The interface, the address and the ports to serve on.
#[derive(Debug, Clone)]
pub struct Config {
    /// The LAN's interface. Without one, and on loopback, we hear only what is sent to our address: relayed and unicast
    /// requests.
    pub interface: Option<String>,
    /// Our address on the LAN, the server identifier, and the LAN's prefix.
    pub lan: Lan,
    /// The port to serve on: 67, or any free one if 0.
    pub server_port: u16,
    /// The port of clients: 68.
    pub client_port: u16,
    /// The port of relays: 67.
    pub relay_port: u16,
}

impl Config {
    /// A configuration for a LAN, with the ports of RFC 2131.
    pub const fn on_lan(interface: String, lan: Lan) -> Self {
        Self { interface: Some(interface), lan, server_port: 67, client_port: 68, relay_port: 67 }
    }

    /// Whether there is a link: for broadcasts, ARP and other servers.
    pub const fn has_link(&self) -> bool {
        self.interface.is_some() && !self.lan.address().is_loopback()
    }
}

/// Why DHCP cannot be served here.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is not one of a private network.
    #[error("{0} is not an address of a private network; DHCP is for LANs only")]
    Address(Ipv4Addr),
    /// There is no such interface, or it has no Ethernet address.
    #[error("there is no interface {0} with a hardware address")]
    Interface(String),
    /// Another server has the port.
    #[error("port {0} is in use: another DHCP server runs on this machine")]
    PortInUse(u16),
    /// The kernel refused.
    #[error("cannot {what}")]
    Socket {
        /// What we tried to do.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}
