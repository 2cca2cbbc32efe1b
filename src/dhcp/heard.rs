//! What other servers say: their messages from octets, and what is worth remembering of them. Pure.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::borrowed::Message as Header;
use dhcproto::v4::{MessageType, Opcode};

use super::message::{HEADER_BYTES, MAX_REQUEST_BYTES, read_options};
use super::options::{self, OptionCode, Options};
use ids::MacAddr;

/// The most addresses of one option that are remembered, and the most TFTP servers.
const MAX_LIST: usize = 4;
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
    /// Reads a server's message. `None` for everything else, and for a message without a server identifier.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if !(HEADER_BYTES..=MAX_REQUEST_BYTES).contains(&bytes.len()) {
            return None;
        }
        let header = Header::new(bytes).ok()?;
        if header.opcode() != Opcode::BootReply || header.hlen() != 6 {
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
            chaddr: MacAddr::new(<[u8; 6]>::try_from(header.chaddr()).ok()?),
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

    /// The TFTP servers of option 150, or else of option 66, as printable ASCII.
    pub fn tftp(&self) -> Vec<String> {
        let listed = self.options.addresses(options::TFTP_SERVERS);
        let mut tftp: Vec<String> = listed.iter().take(MAX_LIST).map(Ipv4Addr::to_string).collect();
        if tftp.is_empty() {
            tftp.extend(self.text(options::TFTP_SERVER_NAME));
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
            address: Some(self.yiaddr).filter(|address| !address.is_unspecified() && self.kind == MessageType::Offer),
            terms,
            asked,
            after,
            informed,
            relayed: !self.giaddr.is_unspecified(),
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overheard {
    /// The server identifier.
    pub server: Ipv4Addr,
    /// The client that the message is for.
    pub chaddr: MacAddr,
    /// Whether the message is a NAK.
    pub nak: bool,
    /// The TFTP servers of option 150, or else of option 66, as printable ASCII.
    pub tftp: Vec<String>,
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
}

#[cfg(test)]
impl Overheard {
    /// An answer to our own question that holds TFTP servers and nothing else.
    pub fn answer(server: Ipv4Addr, chaddr: MacAddr, tftp: &[&str]) -> Self {
        Self {
            server,
            chaddr,
            nak: false,
            tftp: tftp.iter().map(|&name| name.to_owned()).collect(),
            address: None,
            terms: None,
            asked: true,
            after: None,
            informed: false,
            relayed: false,
        }
    }
}
