//! The six packets of RFC 1350 and RFC 2347, parsed and emitted. Parsing forgives what phones are known to send.

/// The largest request that is read. RFC 2347 allows 512 octets; Grandstream's come near it.
pub const MAX_REQUEST_BYTES: usize = 2048;

/// The most options that are read from one request; the rest is ignored.
pub const MAX_OPTIONS: usize = 32;

/// Octets before the data of a DATA packet.
pub const DATA_HEADER_BYTES: usize = 4;

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// One TFTP packet, borrowed from the datagram that it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ: the client wants a file.
    Read(TransferRequest<'a>),
    /// WRQ: the client wants to send a file.
    Write(TransferRequest<'a>),
    /// DATA: one block. Numbers start at 1 and roll over to 0.
    Data {
        /// The number of the block.
        block: u16,
        /// The bytes of the block; fewer than `blksize` end the transfer.
        bytes: &'a [u8],
    },
    /// ACK of this block; 0 acknowledges an OACK.
    Ack(u16),
    /// ERROR: ends a transfer, and is itself never answered.
    Error {
        /// One of [`ErrorCode`], or a number that no RFC defines.
        code: u16,
        /// What went wrong, for people; without its NUL.
        message: &'a [u8],
    },
    /// OACK: what the server agrees to (RFC 2347).
    Oack(Vec<RequestOption<'a>>),
}

/// The body of an RRQ or a WRQ (RFC 1350 §5, RFC 2347): both have the same fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferRequest<'a> {
    /// The name as it was sent, without its NUL. [`ids::FileName::from_wire`] checks it.
    pub name: &'a [u8],
    /// How the bytes are to be sent.
    pub mode: TransferMode,
    /// The options in the client's order, at most [`MAX_OPTIONS`].
    pub options: Vec<RequestOption<'a>>,
}

/// One option (RFC 2347), not yet judged: see [`super::options`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestOption<'a> {
    /// Its name as spelled by the client; never empty.
    pub name: &'a [u8],
    /// Its value: decimal ASCII for every option of RFC 2348, 2349 and 7440.
    pub value: &'a [u8],
}

/// The transfer mode of a request (RFC 1350 §1). It is read in any case of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferMode {
    /// Bytes as they are.
    Octet,
    /// Text with the line ends of RFC 764.
    Netascii,
    /// Obsolete since RFC 1350.
    Mail,
    /// A mode that no RFC names. It is answered with ERROR 4.
    Unknown,
}

/// The error codes of RFC 1350 and RFC 2347.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    /// No code fits. The message says what is wrong.
    Undefined = 0,
    /// There is no such file.
    FileNotFound = 1,
    /// The server does not allow it.
    AccessViolation = 2,
    /// Disk full or allocation exceeded.
    DiskFull = 3,
    /// Illegal TFTP operation.
    IllegalOperation = 4,
    /// The packet belongs to no transfer of this port.
    UnknownTransferId = 5,
    /// A WRQ names a file that exists already.
    FileExists = 6,
    /// There is no such user.
    NoSuchUser = 7,
    /// The options do not suit (RFC 2347).
    OptionNegotiation = 8,
}

/// Why a datagram is no TFTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The datagram ends before its last mandatory field.
    #[error("the packet ends too early")]
    Truncated,
    /// The first two octets are no opcode: RFC 1350 has 1 to 5, RFC 2347 adds 6.
    #[error("opcode {0} is unknown")]
    Opcode(u16),
}

/// Every ERROR that the server sends. None holds a name or a path. Each is the same for every cause of its kind, so it
/// tells nobody which files exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorReply {
    /// There is no such file, or this client may not have it.
    NotFound,
    /// The server takes no such file from this client.
    AccessViolation,
    /// The mode is `mail` or unknown, or a block is longer than agreed.
    IllegalOperation,
    /// The upload is longer than the server keeps.
    DiskFull,
    /// The file is binary and netascii would corrupt it.
    OctetOnly,
    /// The server, or this address, has as many transfers as it may have.
    Busy,
    /// The file cannot be read now.
    TemporaryFailure,
    /// The packet came from a TID that is not this transfer's (RFC 1350 §4).
    UnknownTransferId,
}

impl<'a> Packet<'a> {
    /// The packet in this datagram. What follows the last complete field is ignored: the Cisco 7940 sends further NULs
    /// after the mode, others pad an ACK to the minimum of Ethernet.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, PacketError> {
        let (opcode, rest) = take_u16(datagram)?;
        match opcode {
            RRQ => TransferRequest::parse(rest).map(Self::Read),
            WRQ => TransferRequest::parse(rest).map(Self::Write),
            DATA => take_u16(rest).map(|(block, bytes)| Self::Data { block, bytes }),
            ACK => take_u16(rest).map(|(block, _)| Self::Ack(block)),
            ERROR => take_u16(rest).map(|(code, text)| Self::Error { code, message: until_nul(text).0 }),
            OACK => Ok(Self::Oack(parse_options(rest))),
            other => Err(PacketError::Opcode(other)),
        }
    }

    /// Appends the packet to `out`. A field that holds a NUL is cut there.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::Read(request) => request.emit(RRQ, out),
            Self::Write(request) => request.emit(WRQ, out),
            Self::Data { block, bytes } => {
                out.extend_from_slice(&data_header(*block));
                out.extend_from_slice(bytes);
            }
            Self::Ack(block) => {
                out.extend_from_slice(&ACK.to_be_bytes());
                out.extend_from_slice(&block.to_be_bytes());
            }
            Self::Error { code, message } => {
                out.extend_from_slice(&ERROR.to_be_bytes());
                out.extend_from_slice(&code.to_be_bytes());
                push_text(message, out);
            }
            Self::Oack(options) => {
                out.extend_from_slice(&OACK.to_be_bytes());
                push_options(options, out);
            }
        }
    }
}

impl<'a> TransferRequest<'a> {
    fn parse(rest: &'a [u8]) -> Result<Self, PacketError> {
        let (name, rest) = until_nul(rest);
        let rest = rest.ok_or(PacketError::Truncated)?;
        // A mode without its NUL is complete enough to be answered.
        let (mode, rest) = until_nul(rest);
        if mode.is_empty() {
            return Err(PacketError::Truncated);
        }
        Ok(Self { name, mode: TransferMode::parse(mode), options: parse_options(rest.unwrap_or_default()) })
    }

    fn emit(&self, opcode: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&opcode.to_be_bytes());
        push_text(self.name, out);
        push_text(self.mode.as_bytes(), out);
        push_options(&self.options, out);
    }
}

impl TransferMode {
    fn parse(text: &[u8]) -> Self {
        let modes = [Self::Octet, Self::Netascii, Self::Mail];
        modes.into_iter().find(|mode| mode.as_bytes().eq_ignore_ascii_case(text)).unwrap_or(Self::Unknown)
    }

    const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Octet => b"octet",
            Self::Netascii => b"netascii",
            Self::Mail => b"mail",
            Self::Unknown => b"unknown",
        }
    }
}

impl ErrorReply {
    /// The ERROR packet as it is sent, from its opcode to its last NUL.
    pub const fn packet(self) -> &'static [u8] {
        match self {
            Self::NotFound => b"\0\x05\0\x01File not found\0",
            Self::AccessViolation => b"\0\x05\0\x02Access violation\0",
            Self::IllegalOperation => b"\0\x05\0\x04Illegal TFTP operation\0",
            Self::DiskFull => b"\0\x05\0\x03Disk full or allocation exceeded\0",
            Self::OctetOnly => b"\0\x05\0\0octet only\0",
            Self::Busy => b"\0\x05\0\0server busy, try again\0",
            Self::TemporaryFailure => b"\0\x05\0\0temporary failure\0",
            Self::UnknownTransferId => b"\0\x05\0\x05Unknown transfer ID\0",
        }
    }
}

/// The opcode and the number of block `block`, which stand before its bytes in a DATA packet.
pub const fn data_header(block: u16) -> [u8; DATA_HEADER_BYTES] {
    let [high, low] = block.to_be_bytes();
    [0, 3, high, low]
}

/// Appends one option with its two NULs.
pub(super) fn push_option(option: RequestOption<'_>, out: &mut Vec<u8>) {
    push_text(option.name, out);
    push_text(option.value, out);
}

/// What stands before the options of an OACK.
pub(super) const OACK_HEADER: [u8; 2] = OACK.to_be_bytes();

fn push_options(options: &[RequestOption<'_>], out: &mut Vec<u8>) {
    for option in options {
        push_option(*option, out);
    }
}

fn push_text(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(until_nul(text).0);
    out.push(0);
}

fn take_u16(bytes: &[u8]) -> Result<(u16, &[u8]), PacketError> {
    let (number, rest) = bytes.split_first_chunk::<2>().ok_or(PacketError::Truncated)?;
    Ok((u16::from_be_bytes(*number), rest))
}

/// The bytes before the first NUL, and what follows it; `None` if there is no NUL.
fn until_nul(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    (parts.next().unwrap_or_default(), parts.next())
}

/// RFC 2347: pairs of NUL-terminated texts. The first incomplete or nameless one ends the list.
fn parse_options(mut rest: &[u8]) -> Vec<RequestOption<'_>> {
    let mut options = Vec::new();
    while options.len() < MAX_OPTIONS {
        let (name, Some(after_name)) = until_nul(rest) else { break };
        let (value, Some(after_value)) = until_nul(after_name) else { break };
        if name.is_empty() {
            break;
        }
        options.push(RequestOption { name, value });
        rest = after_value;
    }
    options
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn read(datagram: &[u8]) -> TransferRequest<'_> {
        match Packet::parse(datagram) {
            Ok(Packet::Read(request)) => request,
            other => panic!("not an RRQ: {other:?}"),
        }
    }

    #[test]
    fn a_plain_request_has_no_options() {
        let request = read(b"\0\x01SEP0004F2AABBCC.cnf.xml\0octet\0");
        assert_eq!(request.name, b"SEP0004F2AABBCC.cnf.xml");
        assert_eq!((request.mode, request.options.len()), (TransferMode::Octet, 0));
    }

    #[test]
    fn the_mode_is_read_in_any_case_of_letters() {
        // RFC 1350 §5: "any combination of upper and lower case".
        assert_eq!(read(b"\0\x01a\0OcTeT\0").mode, TransferMode::Octet);
        assert_eq!(read(b"\0\x01a\0NETASCII\0").mode, TransferMode::Netascii);
        assert_eq!(read(b"\0\x01a\0mail\0").mode, TransferMode::Mail);
        assert_eq!(read(b"\0\x01a\0image\0").mode, TransferMode::Unknown);
    }

    #[test]
    fn nuls_and_junk_after_the_mode_of_a_cisco_7940_are_ignored() {
        let plain = read(b"\0\x01a\0octet\0");
        for datagram in
            [&b"\0\x01a\0octet\0\0\0\0"[..], b"\0\x01a\0octet\0junk", b"\0\x01a\0octet\0x\0y", b"\0\x01a\0octet"]
        {
            assert_eq!(read(datagram), plain, "{datagram:?}");
        }
    }

    #[test]
    fn options_before_the_junk_are_kept() {
        let request = read(b"\0\x01a\0octet\0blksize\x001024\0\0\0");
        assert_eq!(request.options, [RequestOption { name: b"blksize", value: b"1024" }]);
    }

    #[test]
    fn a_padded_ack_is_an_ack() {
        assert_eq!(Packet::parse(b"\0\x04\x12\x34\0\0\0\0"), Ok(Packet::Ack(0x1234)));
    }

    #[test]
    fn an_error_without_its_nul_is_an_error() {
        assert_eq!(Packet::parse(b"\0\x05\0\x08no"), Ok(Packet::Error { code: 8, message: b"no" }));
    }

    #[test]
    fn a_request_with_a_thousand_options_is_cut_at_the_bound() {
        let mut datagram = b"\0\x01a\0octet\0".to_vec();
        datagram.extend(std::iter::repeat_n(*b"a\0b\0", 1000).flatten());
        assert_eq!(read(&datagram).options.len(), MAX_OPTIONS);
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        for datagram in [&b""[..], b"\0", b"\0\x01", b"\0\x01name", b"\0\x01name\0", b"\0\x04\0", b"\0\x03", b"\0\x05"]
        {
            assert_eq!(Packet::parse(datagram), Err(PacketError::Truncated), "{datagram:?}");
        }
        assert_eq!(Packet::parse(b"\0\x07\0\0"), Err(PacketError::Opcode(7)));
    }

    #[test]
    fn every_refusal_is_a_well_formed_error() {
        let codes = [
            (ErrorReply::NotFound, ErrorCode::FileNotFound),
            (ErrorReply::AccessViolation, ErrorCode::AccessViolation),
            (ErrorReply::IllegalOperation, ErrorCode::IllegalOperation),
            (ErrorReply::DiskFull, ErrorCode::DiskFull),
            (ErrorReply::OctetOnly, ErrorCode::Undefined),
            (ErrorReply::Busy, ErrorCode::Undefined),
            (ErrorReply::TemporaryFailure, ErrorCode::Undefined),
            (ErrorReply::UnknownTransferId, ErrorCode::UnknownTransferId),
        ];
        for (refusal, expected) in codes {
            let packet = Packet::parse(refusal.packet()).expect("an ERROR");
            let Packet::Error { code, message } = &packet else { panic!("{packet:?}") };
            assert_eq!(*code, expected as u16);
            assert!(!message.is_empty());
            let mut again = Vec::new();
            packet.emit(&mut again);
            assert_eq!(again, refusal.packet());
        }
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        vec(1u8..=255, 0..40)
    }

    fn pairs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
        vec((vec(1u8..=255, 1..12), text()), 0..=MAX_OPTIONS)
    }

    fn borrow(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<RequestOption<'_>> {
        pairs.iter().map(|(name, value)| RequestOption { name, value }).collect()
    }

    fn survives(packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.emit(&mut bytes);
        assert_eq!(Packet::parse(&bytes).as_ref(), Ok(packet));
    }

    proptest! {
        #[test]
        fn no_datagram_panics_the_parser(datagram in vec(any::<u8>(), 0..600)) {
            let _ = Packet::parse(&datagram);
        }

        #[test]
        fn no_request_panics_the_parser(tail in vec(prop_oneof![Just(0u8), any::<u8>()], 0..600)) {
            let datagram: Vec<u8> = [0, 1].into_iter().chain(tail).collect();
            let _ = Packet::parse(&datagram);
        }

        #[test]
        fn a_request_survives_emit_and_parse(name in text(), kind in 0..4, pairs in pairs(), write in any::<bool>()) {
            let mode = [TransferMode::Octet, TransferMode::Netascii, TransferMode::Mail, TransferMode::Unknown]
                .into_iter().nth(usize::try_from(kind).unwrap_or(0)).unwrap_or(TransferMode::Octet);
            let request = TransferRequest { name: &name, mode, options: borrow(&pairs) };
            survives(&if write { Packet::Write(request) } else { Packet::Read(request) });
        }

        #[test]
        fn other_packets_survive_emit_and_parse(block in any::<u16>(), bytes in vec(any::<u8>(), 0..600),
                                                message in text(), pairs in pairs()) {
            survives(&Packet::Data { block, bytes: &bytes });
            survives(&Packet::Ack(block));
            survives(&Packet::Error { code: block, message: &message });
            survives(&Packet::Oack(borrow(&pairs)));
        }
    }
}
