//! DHCPINFORM (RFC 2131 §4.3.5): the client has an address and asks for the rest. Pure.

use std::net::Ipv4Addr;

use dhcproto::v4::MessageType;

use super::answer::Answer;
use super::verdict::{Destination, SilenceReason, Verdict, silent};
use crate::message::Request;
use crate::scope::{ActiveMode, DhcpScope};

/// Decides one DHCPINFORM that came from `source`. The answer depends on no lease and on nothing that the LAN shows, so
/// that it can go out at once.
pub fn respond_to_inform(scope: &DhcpScope, request: &Request, source: Ipv4Addr) -> Verdict {
    let answer = Answer { scope, request };
    if let Some(reason) = answer.refusal() {
        return silent(reason);
    }
    if scope.mode != ActiveMode::All && !scope.is_phone(request) {
        return silent(SilenceReason::NoPhone);
    }
    // The client must say where it is; some leave ciaddr empty and mean the address they send from.
    let ciaddr = if request.ciaddr.is_unspecified() { source } else { request.ciaddr };
    // An answer must not leave the LAN, whatever a forged request says.
    if !scope.lan.contains(ciaddr) || ciaddr == scope.lan.broadcast() {
        return silent(SilenceReason::OtherNetwork);
    }
    let reply = answer.reply(MessageType::Ack, Ipv4Addr::UNSPECIFIED, answer.parameters(None));
    Verdict::Reply(Box::new(reply), answer.relay().unwrap_or(Destination::Address(ciaddr)), None)
}
