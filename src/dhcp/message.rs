//! A client's request from octets, and our reply to octets. Pure.

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::Message as Header;
use dhcproto::v4::{Flags, HType, Message, MessageType, Opcode};
use dhcproto::{Encodable as _, Encoder};

use super::options::{self, OptionCode, Options};
use ids::MacAddr;

/// The largest message that is read, in octets. Clients keep to 576 unless told otherwise, and relays add some.
pub const MAX_REQUEST_BYTES: usize = 1500;

/// The length of header and magic cookie, in octets.
pub(super) const HEADER_BYTES: usize = 240;

/// The smallest reply, in octets. RFC 951 has messages of 300, and BOOTP relays and some boot loaders insist on that.
pub const MIN_REPLY_BYTES: usize = 300;

/// The IP datagram that every client accepts (RFC 2131 §2), unless its option 57 says more, in octets.
const DEFAULT_DATAGRAM_BYTES: u16 = 576;

/// The largest IP datagram that goes over Ethernet in one piece, in octets.
const MAX_DATAGRAM_BYTES: u16 = 1500;

/// The length of IP and UDP header, in octets.
const DATAGRAM_HEADER_BYTES: u16 = 28;

/// The longest client identifier that is read, in octets. It is echoed, and kept with the lease.
const MAX_IDENTIFIER_BYTES: usize = 255;
/// The most octets that client identifier and relay agent information may take in a reply, so that it still has what the
/// protocol needs.
const MAX_ECHO_BYTES: usize = 1200;
/// What an option takes that has as long a value as it can, in octets.
const FULL_OPTION_BYTES: usize = 257;

/// The type of a client's message (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// DHCPDISCOVER: the client looks for servers.
    Discover,
    /// DHCPREQUEST: the client wants an address, or wants to keep it.
    Request,
    /// DHCPDECLINE: the client found that somebody else uses the address.
    Decline,
    /// DHCPRELEASE: the client gives the address back.
    Release,
    /// DHCPINFORM: the client has an address and wants the other parameters.
    Inform,
}

/// Why octets are no request that we could answer. The sender hears nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than a header.
    #[error("{0} octets are too few for a DHCP message")]
    TooShort(usize),
    /// Longer than [`MAX_REQUEST_BYTES`].
    #[error("{0} octets are more than {MAX_REQUEST_BYTES}")]
    TooLong(usize),
    /// Not a BOOTREQUEST.
    #[error("not a request")]
    NotRequest,
    /// The magic cookie is missing: plain BOOTP, or no DHCP at all.
    #[error("no magic cookie")]
    NoCookie,
    /// Not Ethernet, or an address of another length.
    #[error("hardware type {0} with {1} octets of address is not Ethernet")]
    NotEthernet(u8, u8),
    /// All zeros or a group address.
    #[error("{0} is no device's address")]
    NotUnicast(MacAddr),
    /// Option 53 is missing, or names a type that clients do not send.
    #[error("no message type that a client sends to a server")]
    NoMessageType,
    /// An option that must be echoed is too long for that.
    #[error("option {0} has {1} octets")]
    OptionTooLong(u8, usize),
}

/// A client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The type of the message.
    pub kind: MessageKind,
    /// Hardware type: 1 for Ethernet, 6 for IEEE 802. Echoed.
    pub htype: u8,
    /// The client's hardware address.
    pub chaddr: MacAddr,
    /// The client's transaction. Echoed.
    pub xid: u32,
    /// The first bit asks for broadcasts ([`BROADCAST`]). Echoed.
    pub flags: u16,
    /// The address under which the client can already receive, or 0.0.0.0.
    pub ciaddr: Ipv4Addr,
    /// The relay that the request came through, or 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// The options that the client sent.
    pub options: Options,
}

impl Request {
    /// Reads a client's message of any length from the bare header on. RFC 2131 lets clients send less than the 300 octets
    /// of BOOTP.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(ParseError::TooLong(bytes.len()));
        }
        // `Header` reads no field past these 240 octets except chaddr for a wrong hlen, so hlen is checked before.
        if bytes.len() < HEADER_BYTES {
            return Err(ParseError::TooShort(bytes.len()));
        }
        let header = Header::new(bytes).map_err(|_| ParseError::TooShort(bytes.len()))?;
        if header.opcode() != Opcode::BootRequest {
            return Err(ParseError::NotRequest);
        }
        let options = read_options(bytes).ok_or(ParseError::NoCookie)?;
        let htype = u8::from(header.htype());
        let wrong_link = ParseError::NotEthernet(htype, header.hlen());
        if !matches!(htype, 1 | 6) || header.hlen() != 6 {
            return Err(wrong_link);
        }
        let chaddr = MacAddr::new(<[u8; 6]>::try_from(header.chaddr()).map_err(|_| wrong_link)?);
        if !chaddr.is_unicast() {
            return Err(ParseError::NotUnicast(chaddr));
        }
        let kind = match options.byte(OptionCode::MessageType).map(MessageType::from) {
            Some(MessageType::Discover) => MessageKind::Discover,
            Some(MessageType::Request) => MessageKind::Request,
            Some(MessageType::Decline) => MessageKind::Decline,
            Some(MessageType::Release) => MessageKind::Release,
            Some(MessageType::Inform) => MessageKind::Inform,
            _ => return Err(ParseError::NoMessageType),
        };
        let request = Self {
            kind,
            htype,
            chaddr,
            xid: header.xid(),
            flags: header.flags().into(),
            ciaddr: header.ciaddr(),
            giaddr: header.giaddr(),
            options,
        };
        let (identifier, relay) = (OptionCode::ClientIdentifier, OptionCode::RelayAgentInformation);
        let length = |code: OptionCode| request.options.get(code).map_or(0, <[u8]>::len);
        if length(identifier) > MAX_IDENTIFIER_BYTES {
            return Err(ParseError::OptionTooLong(identifier.into(), length(identifier)));
        }
        if request.echo().emitted_len() > MAX_ECHO_BYTES {
            return Err(ParseError::OptionTooLong(relay.into(), length(relay)));
        }
        Ok(request)
    }

    /// Whether the client cannot receive unicasts before it has an address.
    pub fn wants_broadcast(&self) -> bool {
        self.flags & BROADCAST != 0
    }

    /// Whether the client named the option in its parameter request list (55).
    pub fn asks_for(&self, code: OptionCode) -> bool {
        self.options.get(OptionCode::ParameterRequestList).is_some_and(|list| list.contains(&code.into()))
    }

    /// The largest message that the client takes, in octets without IP and UDP header (RFC 2132 §9.10).
    ///
    /// Some take option 57 for the size of the datagram, some for that of the message. We take it for the datagram, which
    /// leaves less room.
    ///
    /// Relay agent information counts, although the agent takes it out again before the client sees it (RFC 3046 §2.2):
    /// some switches leave it in. What of it goes on in a second option (RFC 3396) does not count, or nothing else would fit.
    pub fn max_reply_bytes(&self) -> usize {
        let datagram = self.options.number(OptionCode::MaxMessageSize).unwrap_or(DEFAULT_DATAGRAM_BYTES);
        let datagram = datagram.clamp(DEFAULT_DATAGRAM_BYTES, MAX_DATAGRAM_BYTES);
        let relay = self.options.get(OptionCode::RelayAgentInformation).map_or(0, options::emitted_len);
        let longest = usize::from(MAX_DATAGRAM_BYTES - DATAGRAM_HEADER_BYTES);
        (usize::from(datagram - DATAGRAM_HEADER_BYTES) + relay.saturating_sub(FULL_OPTION_BYTES)).min(longest)
    }
}

/// What every reply takes over from the request that it answers, whoever makes the reply (RFC 2131 table 3).
#[derive(Debug, Clone, Copy)]
pub struct Echo<'a> {
    /// The hardware type that the client named.
    pub htype: u8,
    /// The client's hardware address.
    pub chaddr: MacAddr,
    /// The client's transaction.
    pub xid: u32,
    /// The flags that the client sent.
    pub flags: u16,
    /// The identifier comes back as it was; a client that sent none gets none (RFC 6842 §3).
    pub identifier: Option<&'a [u8]>,
    /// Relay agent information comes back as it was, as the last option before the end (RFC 3046 §2.2).
    pub relay_information: Option<&'a [u8]>,
}

impl Request {
    /// What every reply takes over.
    pub fn echo(&self) -> Echo<'_> {
        Echo {
            htype: self.htype,
            chaddr: self.chaddr,
            xid: self.xid,
            flags: self.flags,
            identifier: self.options.get(OptionCode::ClientIdentifier),
            relay_information: self.options.get(OptionCode::RelayAgentInformation),
        }
    }
}

impl Echo<'_> {
    /// Fills in the fixed fields of a reply that has the others.
    pub fn fill(&self, header: &mut [u8]) {
        let mut put = |place: usize, value: &[u8]| {
            if let Some(to) = header.get_mut(place..place + value.len()) {
                to.copy_from_slice(value);
            }
        };
        put(1, &[self.htype, 6]);
        put(4, &self.xid.to_be_bytes());
        put(10, &self.flags.to_be_bytes());
        put(28, &self.chaddr.octets());
    }

    /// Writes the client's identifier, if it sent one.
    pub fn emit_identifier(&self, to: &mut Vec<u8>) {
        if let Some(value) = self.identifier {
            options::emit(OptionCode::ClientIdentifier, value, to);
        }
    }

    /// Writes relay agent information, if it came with any.
    pub fn emit_relay_information(&self, to: &mut Vec<u8>) {
        if let Some(value) = self.relay_information {
            options::emit(OptionCode::RelayAgentInformation, value, to);
        }
    }

    /// How many octets its options take.
    pub fn emitted_len(&self) -> usize {
        [self.identifier, self.relay_information].into_iter().flatten().map(options::emitted_len).sum()
    }
}

/// The broadcast bit of the flags (RFC 2131 figure 2).
pub const BROADCAST: u16 = 0x8000;

pub(super) fn read_options(bytes: &[u8]) -> Option<Options> {
    let options = bytes.get(236..)?.strip_prefix(&dhcproto::v4::MAGIC)?;
    Some(Options::parse(options, bytes.get(108..236)?, bytes.get(44..108)?))
}

/// Our answer to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// DHCPOFFER, DHCPACK or DHCPNAK.
    pub kind: MessageType,
    /// The hardware type that the client named.
    pub htype: u8,
    /// The client's hardware address.
    pub chaddr: MacAddr,
    /// The client's transaction.
    pub xid: u32,
    /// The flags that the client sent.
    pub flags: u16,
    /// The address that the client already had, or 0.0.0.0.
    pub ciaddr: Ipv4Addr,
    /// The address that the client gets.
    pub yiaddr: Ipv4Addr,
    /// The server for the next step of the boot: the first TFTP server.
    pub siaddr: Ipv4Addr,
    /// The relay that the reply goes through, or 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// The options in the order in which they are written. The type (53) comes before them, relay agent information after
    /// them.
    pub options: Vec<(OptionCode, Vec<u8>)>,
    /// Relay agent information, which is echoed as it came (RFC 3046 §2.2).
    pub relay_information: Option<Vec<u8>>,
}

impl Reply {
    /// The octets of the message, at least [`MIN_REPLY_BYTES`].
    pub fn emit(&self) -> Vec<u8> {
        let mut header = Message::default();
        header
            .set_opcode(Opcode::BootReply)
            .set_htype(HType::from(self.htype))
            .set_chaddr(&self.chaddr.octets())
            .set_xid(self.xid)
            .set_flags(Flags::from(self.flags))
            .set_ciaddr(self.ciaddr)
            .set_yiaddr(self.yiaddr)
            .set_siaddr(self.siaddr)
            .set_giaddr(self.giaddr);
        let mut bytes = Vec::with_capacity(576);
        // Encoding cannot fail: it writes into a Vec, and the header has no field of variable length.
        let written = header.encode(&mut Encoder::new(&mut bytes));
        debug_assert!(written.is_ok() && bytes.len() == HEADER_BYTES);
        options::emit(OptionCode::MessageType, &[self.kind.into()], &mut bytes);
        for (code, value) in &self.options {
            options::emit(*code, value, &mut bytes);
        }
        if let Some(value) = &self.relay_information {
            options::emit(OptionCode::RelayAgentInformation, value, &mut bytes);
        }
        bytes.push(OptionCode::End.into());
        if bytes.len() < MIN_REPLY_BYTES {
            bytes.resize(MIN_REPLY_BYTES, 0);
        }
        bytes
    }

    /// Whether the reply gives an address or parameters, and no TFTP server with them: nothing of it fitted.
    pub fn lacks_tftp(&self) -> bool {
        let named = |code: OptionCode| matches!(code, options::TFTP_SERVERS | options::TFTP_SERVER_NAME);
        self.kind != MessageType::Nak && !self.options.iter().any(|(code, _)| named(*code))
    }

    /// How many octets [`Self::emit`] writes before it pads the message.
    pub fn emitted_len(&self) -> usize {
        let options = self.options.iter().map(|(_, value)| options::emitted_len(value)).sum::<usize>();
        let relay = self.relay_information.as_deref().map_or(0, options::emitted_len);
        HEADER_BYTES + 3 + options + relay + 1
    }
}
