//! The questions that we ask other servers as a client, to octets. Pure.

use std::net::Ipv4Addr;

use dhcproto::v4::MessageType;

use super::message::{BROADCAST, MIN_REPLY_BYTES};
use super::options::{self, OptionCode};
use ids::MacAddr;

/// The options that we ask for: mask, router, DNS, domain, NTP, times, and every option that leads phones to their files.
pub(super) const ASKED: [u8; 14] = [1, 3, 6, 15, 42, 43, 51, 58, 59, 66, 120, 150, 159, 160];

/// A message of ours as a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Which address would you offer? Or would you offer this one?
    Discover(Option<Ipv4Addr>),
    /// I have this address. Which parameters are there?
    Inform(Ipv4Addr),
    /// I take the address that this server offered (SELECTING).
    Select(Ipv4Addr, Ipv4Addr),
    /// I remember this address (INIT-REBOOT).
    Reboot(Ipv4Addr),
    /// I give the address back to this server.
    Release(Ipv4Addr, Ipv4Addr),
}

/// The octets of a question. It wants its answer as a broadcast, because the address in question is not ours.
pub fn emit(question: Question, mac: MacAddr, xid: u32) -> Vec<u8> {
    let (kind, ciaddr) = match question {
        Question::Discover(_) => (MessageType::Discover, Ipv4Addr::UNSPECIFIED),
        Question::Inform(address) => (MessageType::Inform, address),
        Question::Select(..) | Question::Reboot(_) => (MessageType::Request, Ipv4Addr::UNSPECIFIED),
        Question::Release(address, _) => (MessageType::Release, address),
    };
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend(xid.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(if ciaddr.is_unspecified() { BROADCAST } else { 0 }.to_be_bytes());
    bytes.extend(ciaddr.octets());
    bytes.resize(28, 0);
    bytes.extend(mac.octets());
    bytes.resize(236, 0);
    bytes.extend(dhcproto::v4::MAGIC);
    let mut tell = |code: OptionCode, value: &[u8]| options::emit(code, value, &mut bytes);
    tell(OptionCode::MessageType, &[kind.into()]);
    match question {
        Question::Discover(Some(address)) | Question::Reboot(address) => {
            tell(OptionCode::RequestedIpAddress, &address.octets());
        }
        Question::Select(address, server) => {
            tell(OptionCode::RequestedIpAddress, &address.octets());
            tell(OptionCode::ServerIdentifier, &server.octets());
        }
        Question::Release(_, server) => tell(OptionCode::ServerIdentifier, &server.octets()),
        Question::Discover(None) | Question::Inform(_) => {}
    }
    if !matches!(question, Question::Release(..)) {
        tell(OptionCode::ParameterRequestList, &ASKED);
    }
    bytes.push(OptionCode::End.into());
    bytes.resize(bytes.len().max(MIN_REPLY_BYTES), 0);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::{MessageKind, Request};

    #[test]
    fn every_question_is_what_a_server_expects_of_a_client() {
        let mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
        let [address, server] = [Ipv4Addr::new(192, 168, 1, 77), Ipv4Addr::new(192, 168, 1, 1)];
        for (question, kind, requested, named, ciaddr) in [
            (Question::Discover(None), MessageKind::Discover, None, None, None),
            (Question::Discover(Some(address)), MessageKind::Discover, Some(address), None, None),
            (Question::Inform(address), MessageKind::Inform, None, None, Some(address)),
            (Question::Select(address, server), MessageKind::Request, Some(address), Some(server), None),
            (Question::Reboot(address), MessageKind::Request, Some(address), None, None),
            (Question::Release(address, server), MessageKind::Release, None, Some(server), Some(address)),
        ] {
            let request = Request::parse(&emit(question, mac, 7)).unwrap();
            assert_eq!((request.kind, request.chaddr, request.xid), (kind, mac, 7));
            assert_eq!(request.options.address(OptionCode::RequestedIpAddress), requested);
            assert_eq!(request.options.address(OptionCode::ServerIdentifier), named);
            assert_eq!(Some(request.ciaddr).filter(|address| !address.is_unspecified()), ciaddr);
            assert_eq!(request.wants_broadcast(), ciaddr.is_none());
        }
    }
}
