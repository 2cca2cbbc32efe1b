//! What other servers say: their messages, and what is worth remembering of them.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::borrowed::Message as Header;
use dhcproto::v4::{MessageType, Opcode};

use super::message::{HEADER_BYTES, MAX_REQUEST_BYTES, read_options};
use super::options::{self, OptionCode, Options};
use ids::MacAddr;

/// The most addresses of one option, and TFTP servers, that are remembered.
const MAX_LIST: usize = 4;
/// The longest text of an option that is remembered, in octets.
const MAX_TEXT_BYTES: usize = 64;

/// A server's OFFER, ACK or NAK, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMessage {
    /// Offer, Ack or Nak.
    pub kind: MessageType,
    /// The transaction.
    pub xid: u32,
    /// The client that it is for.
    pub chaddr: MacAddr,
    /// The client's address.
    pub yiaddr: Ipv4Addr,
    /// The relay that it goes through, or 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// Its server identifier.
    pub server: Ipv4Addr,
    /// The options.
    pub options: Options,
    /// The fixed fields as they came: 236 octets.
    pub header: Vec<u8>,
}

impl ServerMessage {
    /// Reads a server's message; `None` for everything else, also for one without a server identifier.
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

    /// The message in octets, as it would be without overload: what [`Self::parse`] reads to the same.
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

    /// TFTP servers in it, by option 150, else by option 66, as text of printable ASCII.
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

    /// What is worth remembering of it.
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
    /// Somebody else, or nobody.
    Others,
    /// Us, so long after we asked if that is known.
    Us(Option<Duration>),
}

/// What a server hands out besides the address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Option 51.
    pub lease_seconds: Option<u32>,
    /// T1, option 58.
    pub renew_seconds: Option<u32>,
    /// T2, option 59.
    pub rebind_seconds: Option<u32>,
    /// Option 1.
    pub mask: Option<Ipv4Addr>,
    /// Option 3.
    pub routers: Vec<Ipv4Addr>,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 42.
    pub ntp: Vec<Ipv4Addr>,
    /// Option 15, printable ASCII.
    pub domain: String,
}

impl LeaseTerms {
    /// Takes over what `other` knows and this one does not, and its newer values.
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

/// What is worth knowing of a message that another server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overheard {
    /// Its server identifier.
    pub server: Ipv4Addr,
    /// The client that it is for.
    pub chaddr: MacAddr,
    /// Whether it is a NAK.
    pub nak: bool,
    /// TFTP servers in it, by option 150, else by option 66, as text of printable ASCII.
    pub tftp: Vec<String>,
    /// The address that it offers.
    pub address: Option<Ipv4Addr>,
    /// What else it hands out; `None` in a NAK.
    pub terms: Option<LeaseTerms>,
    /// Whether it answers a question of ours. Anybody can say anything to others; our transactions are known to those
    /// only who hear us ask.
    pub asked: bool,
    /// How long after our question it came, if that is known.
    pub after: Option<Duration>,
    /// Whether it answers a DHCPINFORM.
    pub informed: bool,
    /// Whether it came to us as to a relay agent.
    pub relayed: bool,
}

impl Overheard {
    /// Reads a server's message; `None` for everything else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        ServerMessage::parse(bytes).map(|message| message.overheard(Answers::Others))
    }
}

#[cfg(test)]
impl Overheard {
    /// What our own question was answered with: TFTP servers and nothing else.
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
