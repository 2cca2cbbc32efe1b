//! Asks the kernel for its network interfaces and their IPv4 addresses (`rtnetlink(7)`).
//!
//! `getifaddrs(3)` would not do: it names an interface by the label of an address (`eth0:1`), and knows neither what
//! kind of interface it is nor which address is the first of its network. Only the attributes that are needed are read,
//! so an attribute of a newer kernel changes nothing.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};

use ids::Lan;

/// The most bytes of one answer of the kernel: it writes at most 32 KB at a time.
const ANSWER_BYTES: usize = 64 * 1024;
/// The most answers to one question. A host with a thousand interfaces sends some hundred.
const MAX_ANSWERS: usize = 4_096;
/// How long the kernel may take.
const ANSWER_SECONDS: i64 = 2;
/// The most interfaces and addresses that are read.
const MAX_LINKS: usize = 4_096;

/// One network interface, as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// The kernel's index of it.
    pub(super) index: u32,
    /// Its name. No label, and no `:`.
    pub(super) name: String,
    /// `IFF_UP`, `IFF_LOOPBACK` and so on.
    pub(super) flags: u32,
    /// Its hardware type, `ARPHRD_ETHER` for Ethernet and Wi-Fi.
    pub(super) hardware: u16,
    /// Its hardware address; empty if it has none.
    pub(super) mac: Vec<u8>,
    /// The largest IP packet that it carries, in octets.
    pub(super) mtu: u32,
    /// What made it: `bridge`, `vlan`, `veth`, `tun`, …; empty for a real network card.
    pub(super) kind: String,
    /// The index of the bridge or bond that it is a port of.
    pub(super) master: Option<u32>,
    /// The index of the interface of this host that it is made on, or whose other end it is: a VLAN's card, a `veth`'s peer.
    pub(super) below: Option<u32>,
    /// Whether that interface is in another network namespace.
    pub(super) leads_elsewhere: bool,
    /// Whether it is Wi-Fi.
    pub(super) wireless: bool,
    /// `net.ipv4.conf.NAME.arp_ignore`.
    pub(super) arp_ignore: u32,
    /// `net.ipv4.conf.NAME.rp_filter`.
    pub(super) rp_filter: u32,
    /// Its IPv4 addresses, in the order in which the kernel has them.
    pub(super) addresses: Vec<LinkAddress>,
}

/// One IPv4 address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkAddress {
    /// The address, with the prefix length of its network.
    pub(super) lan: Lan,
    /// Whether the interface had another address of the same network before (`IFA_F_SECONDARY`).
    pub(super) secondary: bool,
}

impl Link {
    /// Whether all of these `IFF_` flags are set.
    pub(super) const fn has(&self, flags: i32) -> bool {
        self.flags & flags.cast_unsigned() == flags.cast_unsigned()
    }
}

/// Reads all interfaces, in the order of their indices.
pub(super) fn list() -> io::Result<Vec<Link>> {
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&kernel, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
    let mut links: Vec<Link> = Vec::new();
    dump(&kernel, libc::RTM_GETLINK, |kind, body| {
        if kind == libc::RTM_NEWLINK && links.len() < MAX_LINKS {
            links.extend(link(body));
        }
    })?;
    let mut left = MAX_LINKS;
    dump(&kernel, libc::RTM_GETADDR, |kind, body| {
        if kind == libc::RTM_NEWADDR
            && left > 0
            && let Some((index, found)) = address(body)
            && let Some(link) = links.iter_mut().find(|link| link.index == index)
        {
            left -= 1;
            link.addresses.push(found);
        }
    })?;
    for link in &mut links {
        let about = Path::new("/sys/class/net").join(&link.name);
        link.wireless = about.join("phy80211").exists() || about.join("wireless").exists();
    }
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// Asks for everything of one kind, and hands type and body of each message to `take`.
fn dump(kernel: &OwnedFd, question: u16, mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
    // nlmsghdr: length, type, flags, sequence number, port; then rtgenmsg: the address family, padded.
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(20);
    message.extend(20_u32.to_ne_bytes());
    message.extend(question.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    // Links have no family; addresses are IPv4 only.
    let family = if question == libc::RTM_GETADDR { libc::AF_INET } else { libc::AF_UNSPEC };
    message.extend([u8::try_from(family).map_err(io::Error::other)?, 0, 0, 0]);
    send(kernel.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut buffer = vec![0; ANSWER_BYTES];
    for _ in 0..MAX_ANSWERS {
        let length = recv(kernel.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, after)) = message_of(rest) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let code = body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                _ => take(kind, body),
            }
            rest = after;
        }
    }
    Err(io::Error::other("the kernel's list of interfaces does not end"))
}

/// The first message of an answer: its type, its body, and what follows.
fn message_of(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes (`rtattr`): type without its flags, and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// An interface from the body of an `RTM_NEWLINK`: `ifinfomsg`, then attributes.
fn link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        hardware: u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?),
        index: number(body.get(4..)?)?,
        flags: number(body.get(8..)?)?,
        mtu: 1500,
        ..Link::default()
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.mac = value.to_vec(),
            libc::IFLA_MTU => link.mtu = number(value).unwrap_or(link.mtu),
            libc::IFLA_MASTER => link.master = number(value),
            libc::IFLA_LINK => link.below = number(value).filter(|below| *below != 0),
            // The index is one of that namespace, and may be anybody's here.
            libc::IFLA_LINK_NETNSID => link.leads_elsewhere = true,
            libc::IFLA_LINKINFO => {
                let made_by = attributes(value).find(|(kind, _)| *kind == libc::IFLA_INFO_KIND);
                link.kind = made_by.map(|(_, value)| text(value)).unwrap_or_default();
            }
            libc::IFLA_AF_SPEC => (link.arp_ignore, link.rp_filter) = ipv4_settings(value).unwrap_or_default(),
            _ => {}
        }
    }
    link.below = link.below.filter(|_| !link.leads_elsewhere);
    (!link.name.is_empty()).then_some(link)
}

/// `arp_ignore` and `rp_filter` of an interface: `IFLA_INET_CONF` is the array of its settings, from 1 on.
fn ipv4_settings(by_family: &[u8]) -> Option<(u32, u32)> {
    const INET_CONF: u16 = 1;
    const RP_FILTER: usize = 8;
    const ARP_IGNORE: usize = 19;
    let (_, ipv4) = attributes(by_family).find(|(family, _)| i32::from(*family) == libc::AF_INET)?;
    let (_, settings) = attributes(ipv4).find(|(kind, _)| *kind == INET_CONF)?;
    let setting = |id: usize| number(settings.get((id - 1) * 4..)?);
    Some((setting(ARP_IGNORE)?, setting(RP_FILTER)?))
}

/// An IPv4 address from the body of an `RTM_NEWADDR`, with the index of its interface: `ifaddrmsg`, then attributes.
fn address(body: &[u8]) -> Option<(u32, LinkAddress)> {
    if i32::from(*body.first()?) != libc::AF_INET {
        return None;
    }
    let (prefix_len, mut flags) = (*body.get(1)?, u32::from(*body.get(2)?));
    let (mut local, mut peer) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        let address = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?));
        match kind {
            libc::IFA_LOCAL => local = address(),
            libc::IFA_ADDRESS => peer = address(),
            libc::IFA_FLAGS => flags = number(value).unwrap_or(flags),
            _ => {}
        }
    }
    // On a point-to-point link `IFA_ADDRESS` is the other end.
    let lan = Lan::new(local.or(peer)?, prefix_len);
    Some((number(body.get(4..)?)?, LinkAddress { lan, secondary: flags & libc::IFA_F_SECONDARY != 0 }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_kernel_lists_this_hosts_loopback() {
        let links = list().unwrap();
        let loopback = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(loopback.has(libc::IFF_LOOPBACK) && loopback.index > 0, "{loopback:?}");
        assert!(loopback.addresses.iter().any(|found| found.lan == "127.0.0.1/8".parse().unwrap()), "{loopback:?}");
    }

    #[test]
    fn an_attribute_that_is_cut_or_unknown_ends_nothing() {
        let mut body = vec![0; 16];
        body.extend(attribute(libc::IFLA_IFNAME, b"eth0\0"));
        body.extend(attribute(9_999, &[1; 7]));
        body.extend(attribute(libc::IFLA_MTU, &9_000_u32.to_ne_bytes()));
        let whole = link(&body).unwrap();
        assert_eq!((whole.name.as_str(), whole.mtu), ("eth0", 9_000));
        for length in 0..body.len() {
            // Nothing panics, and what came before the cut is read.
            let _ = link(body.get(..length).unwrap());
        }
        body.extend([3, 0, 1, 0]);
        assert_eq!(link(&body), Some(whole), "a length below its own header");
    }

    #[test]
    fn what_an_interface_is_made_on_is_known_if_it_is_of_this_namespace() {
        let mut body = vec![0; 16];
        body.extend(attribute(libc::IFLA_IFNAME, b"veth0\0"));
        body.extend(attribute(libc::IFLA_LINK, &7_u32.to_ne_bytes()));
        let here = link(&body).unwrap();
        assert_eq!((here.below, here.leads_elsewhere), (Some(7), false));
        body.extend(attribute(libc::IFLA_LINK_NETNSID, &0_u32.to_ne_bytes()));
        let elsewhere = link(&body).unwrap();
        assert_eq!((elsewhere.below, elsewhere.leads_elsewhere), (None, true));
    }

    #[test]
    fn an_address_has_its_own_end_of_a_link_and_its_rank() {
        let mut body = vec![2, 24, 0, 0];
        body.extend(7_u32.to_ne_bytes());
        body.extend(attribute(libc::IFA_ADDRESS, &[10, 0, 0, 9]));
        body.extend(attribute(libc::IFA_LOCAL, &[10, 0, 0, 1]));
        body.extend(attribute(libc::IFA_FLAGS, &libc::IFA_F_SECONDARY.to_ne_bytes()));
        let found = LinkAddress { lan: "10.0.0.1/24".parse().unwrap(), secondary: true };
        assert_eq!(address(&body), Some((7, found)));
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}
