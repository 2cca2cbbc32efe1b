//! One datagram through everything that reads datagrams before anybody is known: the parser, the negotiation of
//! options, and the file name with the search for addresses in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use access::owner;
use ids::FileName;
use tftp::options::{AskedOptions, MAX_BLKSIZE, NegotiatedOptions, OptionLimits};
use tftp::packet::{MAX_OPTIONS, Packet, TransferRequest};
use tftp::transfer::Input;

fuzz_target!(|datagram: &[u8]| {
    let _ = Input::from_datagram(datagram);
    let Ok(packet) = Packet::parse(datagram) else { return };
    // What is emitted is what was parsed, but for a mode that has no name.
    let mut emitted = Vec::new();
    packet.emit(&mut emitted);
    assert_eq!(Packet::parse(&emitted).as_ref(), Ok(&packet));
    if let Packet::Read(request) | Packet::Write(request) = &packet {
        request_is_bounded(request, datagram.len());
    }
});

fn request_is_bounded(request: &TransferRequest<'_>, length: usize) {
    assert!(request.options.len() <= MAX_OPTIONS);
    let asked = AskedOptions::of(&request.options);
    let _ = (asked.device_hint(), asked.announced_size());
    for mtu in [0, 576, 1500, 65_536] {
        let limits = OptionLimits::new(mtu, None, None);
        let terms = NegotiatedOptions::negotiate(&asked, 1 << 33, &limits);
        assert!(limits.max_blksize() <= MAX_BLKSIZE);
        assert!((8..=limits.max_blksize()).contains(&terms.blksize) && (1..=64).contains(&terms.windowsize));
        if let Some(oack) = &terms.oack {
            // RFC 2347: only what was asked for is answered; each value has at most ten digits.
            assert!(oack.len() <= length + 4 * 10, "{} bytes for {length}", oack.len());
            let Ok(Packet::Oack(answered)) = Packet::parse(oack) else { panic!("not an OACK") };
            assert!(answered.iter().all(|answer| request.options.iter().any(|asked| asked.name == answer.name)));
        }
    }
    if let Ok(name) = FileName::from_wire(request.name) {
        let text = name.as_str();
        assert!(!text.is_empty() && !text.starts_with('/') && !text.contains('\\'));
        assert!(text.split('/').all(|part| !matches!(part, "" | "." | "..")));
        let _ = owner::by_rule(&name);
        let _ = owner::in_inventory(&name, &|_| false);
    }
}
