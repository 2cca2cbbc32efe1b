//! What other servers say: their messages from octets, and what is worth remembering of them. Pure.

mod tftp_pointer;

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::borrowed::Message as Header;
use dhcproto::v4::{MessageType, Opcode};

pub use self::tftp_pointer::{Host, TftpPointer};
use super::message::{HEADER_BYTES, MAX_REQUEST_BYTES, read_options};
use super::options::{self, OptionCode, Options};
use ids::MacAddr;

/// The most addresses of one option that are remembered, and the most TFTP servers.
const MAX_LIST: usize = 4;
/// Where the hardware address of the client is in the header (RFC 2131 §2).
const CHADDR: std::ops::Range<usize> = 28..34;
/// The longest text of an option that is remembered, in octets.
const MAX_TEXT_BYTES: usize = 64;

/// Another server's OFFER, ACK or NAK, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMessage {
    /// DHCPOFFER, DHCPACK or DHCPNAK.
    pub kind: MessageType,
    /// The transaction of the client or relay that the message answers.
    pub xid: u32,
    /// The client that the message is for.
    pub chaddr: MacAddr,
    /// The address that the client gets.
    pub yiaddr: Ipv4Addr,
    /// The relay that the message goes through, or 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// The server identifier.
    pub server: Ipv4Addr,
    /// The options that the server sent.
    pub options: Options,
    /// The 236 octets of the fixed fields, as they came.
    pub header: Vec<u8>,
}

impl ServerMessage {
    /// Reads a server's message. `None` for everything else, and for a message without a server identifier:
    /// [`Overheard::unreadable`] then says that a server is there.
    ///
    /// What a router gets wrong elsewhere does not count: the length of the hardware address, options in equal copies, a
    /// missing end, fewer than 300 octets, junk after the end.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if !(HEADER_BYTES..=MAX_REQUEST_BYTES).contains(&bytes.len()) {
            return None;
        }
        let header = Header::new(bytes).ok()?;
        if header.opcode() != Opcode::BootReply {
            return None;
        }
        let options = read_options(bytes)?;
        let kind = MessageType::from(options.byte(OptionCode::MessageType)?);
        if !matches!(kind, MessageType::Offer | MessageType::Ack | MessageType::Nak) {
            return None;
        }
        Some(Self {
            kind,
            xid: header.xid(),
            chaddr: MacAddr::new(<[u8; 6]>::try_from(bytes.get(CHADDR)?).ok()?),
            yiaddr: header.yiaddr(),
            giaddr: header.giaddr(),
            server: options.address(OptionCode::ServerIdentifier)?,
            header: bytes.get(..236)?.to_vec(),
            options,
        })
    }

    /// The octets of the message without overload. [`Self::parse`] reads the same message from them.
    pub fn emit(&self) -> Vec<u8> {
        let overloaded = self.options.get(OptionCode::OptionOverload).is_some();
        let header = self.header.iter().enumerate();
        let mut bytes: Vec<u8> =
            header.map(|(at, byte)| if overloaded && (44..236).contains(&at) { 0 } else { *byte }).collect();
        bytes.extend(dhcproto::v4::MAGIC);
        for (code, value) in self.options.iter().filter(|(code, _)| *code != OptionCode::OptionOverload) {
            options::emit(code, value, &mut bytes);
        }
        bytes.push(OptionCode::End.into());
        bytes
    }

    /// The servers that the message points phones to, in options 150, 66 and those of vendors.
    pub fn pointers(&self) -> Vec<TftpPointer> {
        TftpPointer::of(&self.options)
    }

    /// The same as people read it, as printable ASCII: the servers of option 150, or else what option 66 or a vendor's
    /// option says.
    pub fn tftp(&self) -> Vec<String> {
        if let Some(said) = tftp_pointer::in_wrong_form(&self.options) {
            return vec![said];
        }
        let listed = self.options.addresses(options::TFTP_SERVERS);
        let mut tftp: Vec<String> = listed.iter().take(MAX_LIST).map(Ipv4Addr::to_string).collect();
        if tftp.is_empty() {
            tftp.extend(self.text(options::TFTP_SERVER_NAME));
        }
        if tftp.is_empty() {
            tftp.extend(self.pointers().iter().take(MAX_LIST).map(|pointer| pointer.server.to_string()));
        }
        tftp
    }

    fn text(&self, code: OptionCode) -> Option<String> {
        let value = self.options.get(code)?.iter().filter(|byte| byte.is_ascii_graphic()).take(MAX_TEXT_BYTES);
        Some(value.map(|&byte| char::from(byte)).collect::<String>()).filter(|text| !text.is_empty())
    }

    /// What is worth remembering of the message.
    pub fn overheard(&self, answers: Answers) -> Overheard {
        let (asked, after) = match answers {
            Answers::Others => (false, None),
            Answers::Us(after) => (true, after),
        };
        let list = |code| self.options.addresses(code).into_iter().take(MAX_LIST).collect::<Vec<_>>();
        let seconds = |code| self.options.seconds(code);
        let terms = (self.kind != MessageType::Nak).then(|| LeaseTerms {
            lease_seconds: seconds(OptionCode::AddressLeaseTime),
            renew_seconds: seconds(OptionCode::Renewal),
            rebind_seconds: seconds(OptionCode::Rebinding),
            mask: self.options.address(OptionCode::SubnetMask),
            routers: list(OptionCode::Router),
            dns: list(OptionCode::DomainNameServer),
            ntp: list(OptionCode::NtpServers),
            domain: self.text(OptionCode::DomainName).unwrap_or_default(),
        });
        let informed = self.kind == MessageType::Ack && self.yiaddr.is_unspecified();
        Overheard {
            server: self.server,
            chaddr: self.chaddr,
            nak: self.kind == MessageType::Nak,
            tftp: self.tftp(),
            pointers: self.pointers(),
            readable: true,
            address: Some(self.yiaddr).filter(|address| !address.is_unspecified() && self.kind == MessageType::Offer),
            terms,
            asked,
            after,
            informed,
            relayed: !self.giaddr.is_unspecified(),
        }
    }
}

/// What came from another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A message, and whom it answers.
    Message(Box<ServerMessage>, Answers),
    /// A BOOTREPLY that cannot be read: somebody is there.
    Unreadable(Box<Overheard>),
}

impl Heard {
    /// What is worth remembering of it.
    pub fn overheard(&self) -> Overheard {
        match self {
            Self::Message(message, answers) => message.overheard(*answers),
            Self::Unreadable(overheard) => Overheard::clone(overheard),
        }
    }
}

/// Whom a server's message answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// It answers somebody else, or nobody.
    Others,
    /// It answers us, so long after our question if that is known.
    Us(Option<Duration>),
}

/// What a server hands out besides the address and the TFTP servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The lease time, option 51.
    pub lease_seconds: Option<u32>,
    /// T1, option 58.
    pub renew_seconds: Option<u32>,
    /// T2, option 59.
    pub rebind_seconds: Option<u32>,
    /// The subnet mask, option 1.
    pub mask: Option<Ipv4Addr>,
    /// The default routers, option 3.
    pub routers: Vec<Ipv4Addr>,
    /// The name servers, option 6.
    pub dns: Vec<Ipv4Addr>,
    /// The time servers, option 42.
    pub ntp: Vec<Ipv4Addr>,
    /// The domain name, option 15, as printable ASCII.
    pub domain: String,
}

impl LeaseTerms {
    /// Takes over the values that `other` has; a value that `other` lacks stays.
    pub fn learn(&mut self, other: &Self) {
        let take = |mine: &mut Option<u32>, other: Option<u32>| *mine = other.or(*mine);
        take(&mut self.lease_seconds, other.lease_seconds);
        take(&mut self.renew_seconds, other.renew_seconds);
        take(&mut self.rebind_seconds, other.rebind_seconds);
        self.mask = other.mask.or(self.mask);
        for (mine, other) in
            [(&mut self.routers, &other.routers), (&mut self.dns, &other.dns), (&mut self.ntp, &other.ntp)]
        {
            if !other.is_empty() {
                mine.clone_from(other);
            }
        }
        if !other.domain.is_empty() {
            self.domain.clone_from(&other.domain);
        }
    }
}

/// What is worth remembering of a message that another server sent.
///
/// Any BOOTREPLY is one: a reply that cannot be read still says that somebody serves here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overheard {
    /// The server identifier.
    pub server: Ipv4Addr,
    /// The client that the message is for.
    pub chaddr: MacAddr,
    /// Whether the message is a NAK.
    pub nak: bool,
    /// Whether the message could be read. Of one that could not, `server` is the address that it came from, and nothing
    /// else is known: somebody is there.
    pub readable: bool,
    /// The TFTP servers as the options say them, as printable ASCII, for reports.
    pub tftp: Vec<String>,
    /// The servers that the options point phones to.
    pub pointers: Vec<TftpPointer>,
    /// The address that the server offers.
    pub address: Option<Ipv4Addr>,
    /// What else the server hands out; `None` in a NAK.
    pub terms: Option<LeaseTerms>,
    /// Whether the message answers a question of ours. Any device can send anything to others, but only one that hears our
    /// question knows our transaction.
    pub asked: bool,
    /// How long after our question the message came, if that is known.
    pub after: Option<Duration>,
    /// Whether the message answers a DHCPINFORM.
    pub informed: bool,
    /// Whether the message came to us as to a relay agent.
    pub relayed: bool,
}

impl Overheard {
    /// Reads another server's message, whomever it answers; `None` for everything else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        ServerMessage::parse(bytes).map(|message| message.overheard(Answers::Others))
    }

    /// A BOOTREPLY from this address that [`ServerMessage::parse`] does not read: plain BOOTP, another type of message, or
    /// one without a server identifier. `None` for what is no BOOTREPLY at all. `ours` says whether a transaction is one of
    /// our questions.
    pub fn unreadable(bytes: &[u8], source: Ipv4Addr, ours: impl Fn(u32) -> bool) -> Option<Self> {
        let (&op, xid) = bytes.first().zip(bytes.get(4..8))?;
        if op != u8::from(Opcode::BootReply) {
            return None;
        }
        let chaddr = bytes.get(CHADDR).and_then(|octets| <[u8; 6]>::try_from(octets).ok()).unwrap_or_default();
        Some(Self {
            server: source,
            chaddr: MacAddr::new(chaddr),
            nak: false,
            readable: false,
            tftp: Vec::new(),
            pointers: Vec::new(),
            address: None,
            terms: None,
            asked: ours(u32::from_be_bytes(<[u8; 4]>::try_from(xid).ok()?)),
            after: None,
            informed: false,
            relayed: false,
        })
    }
}

#[cfg(test)]
impl Overheard {
    /// An answer to our own question that holds TFTP servers and nothing else.
    pub fn answer(server: Ipv4Addr, chaddr: MacAddr, tftp: &[&str]) -> Self {
        Self {
            server,
            chaddr,
            nak: false,
            readable: true,
            tftp: tftp.iter().map(|&name| name.to_owned()).collect(),
            pointers: tftp.iter().flat_map(|name| TftpPointer::of_text(66, name)).collect(),
            address: None,
            terms: None,
            asked: true,
            after: None,
            informed: false,
            relayed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn message(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2, 1, 6, 0, 0, 0, 0, 7];
        bytes.resize(28, 0);
        bytes.extend([0, 4, 0xf2, 0, 0, 1]);
        bytes.resize(236, 0);
        bytes.extend(dhcproto::v4::MAGIC);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn a_routers_slip_does_not_make_its_message_unreadable() {
        let named = [54, 4, 192, 168, 1, 1];
        let twice = [&[53, 1, 2, 53, 1, 2][..], &named, &named, &[1, 4, 255, 255, 255, 0].repeat(2), &[255]].concat();
        let lease_twice = [&[53, 1, 5][..], &named, &[51, 4, 0, 0, 14, 16].repeat(2), &[3, 4, 192, 168, 1, 1]].concat();
        let junk = [&named[..], &[53, 1, 2, 255, 9, 9, 9]].concat();
        let cut = [&named[..], &[53, 1, 2, 15, 200, b'x']].concat();
        let empty = [&[12, 0, 53, 1, 2, 54, 0][..], &named].concat();
        for options in [&twice, &lease_twice, &junk, &cut, &empty] {
            let read = ServerMessage::parse(&message(options)).unwrap_or_else(|| panic!("{options:?}"));
            assert_eq!((read.server, read.xid, read.chaddr), (ROUTER, 7, MacAddr::new([0, 4, 0xf2, 0, 0, 1])));
        }
        let terms = ServerMessage::parse(&message(&twice)).unwrap().overheard(Answers::Others).terms.unwrap();
        assert_eq!(terms.mask, Some(Ipv4Addr::new(255, 255, 255, 0)));
        let terms = ServerMessage::parse(&message(&lease_twice)).unwrap().overheard(Answers::Others).terms.unwrap();
        assert_eq!((terms.lease_seconds, terms.renew_seconds, terms.mask), (Some(3600), None, None));
        for hlen in [0, 1, 16, 255] {
            let mut bytes = message(&junk);
            bytes[2] = hlen;
            assert_eq!(ServerMessage::parse(&bytes).unwrap().chaddr, MacAddr::new([0, 4, 0xf2, 0, 0, 1]), "{hlen}");
        }
    }

    #[test]
    fn any_bootreply_says_that_somebody_is_there() {
        let nameless = message(&[53, 1, 2, 255]);
        let bootp = message(&[255])[..236].to_vec();
        let other_kind = message(&[53, 1, 9, 54, 4, 192, 168, 1, 1, 255]);
        let long = message(&[0; 2000]);
        for bytes in [&nameless, &bootp, &other_kind, &long, &bootp[..8].to_vec()] {
            assert_eq!(ServerMessage::parse(bytes), None);
            for (xid, asked) in [(7, true), (8, false)] {
                let said = Overheard::unreadable(bytes, ROUTER, |its| its == xid).unwrap();
                assert_eq!((said.server, said.readable, said.asked, said.terms), (ROUTER, false, asked, None));
            }
        }
        let mut request = message(&[53, 1, 1, 255]);
        request[0] = 1;
        assert_eq!(Overheard::unreadable(&request, ROUTER, |_| true), None);
        assert_eq!(Overheard::unreadable(&[], ROUTER, |_| true), None);
    }

    #[test]
    fn what_is_handed_out_is_kept_as_text_and_as_servers() {
        let text = b"tftp://192.168.1.2/";
        let options = [&[53, 1, 2, 54, 4, 192, 168, 1, 1, 66, 19][..], text, &[150, 4, 10, 9, 9, 9, 255]].concat();
        let said = ServerMessage::parse(&message(&options)).unwrap().overheard(Answers::Others);
        assert_eq!(said.tftp, ["10.9.9.9"]);
        let named: Vec<(u8, String)> = said.pointers.iter().map(|it| (it.option, it.server.to_string())).collect();
        assert_eq!(named, [(150, "10.9.9.9".to_owned()), (66, "192.168.1.2".to_owned())]);
    }
}
