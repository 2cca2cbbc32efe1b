//! What counters mean, for people.

/// How a counter is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// In these words, with its name behind them.
    Words(&'static str),
    /// By its name alone.
    Name,
    /// Not among the counters: another part of the report tells it.
    Elsewhere,
}

/// The words for a counter.
pub(super) fn of(name: &str) -> Shown {
    if let Ok(at) = WORDS.binary_search_by_key(&name, |(name, _)| name) {
        return WORDS.get(at).map_or(Shown::Name, |(_, words)| Shown::Words(words));
    }
    // Alerts and the state of polls stand in lines of their own.
    if name.starts_with("alert.") || name.starts_with("poll.") || name.starts_with("update.poll-") {
        return Shown::Elsewhere;
    }
    Shown::Name
}

/// Sorted by name.
const WORDS: &[(&str, &str)] = &[
    ("alert.dropped", "alerts that found no room"),
    ("dhcp.ack", "leases acknowledged"),
    ("dhcp.augment.ack", "leases of the router completed for phones"),
    ("dhcp.augment.offer", "offers of the router completed for phones"),
    ("dhcp.augment.pointed", "phones that the router points here itself"),
    ("dhcp.failed", "DHCP answers that could not be sent"),
    ("dhcp.malformed", "DHCP messages that cannot be read"),
    ("dhcp.others.nak", "requests of phones refused by another DHCP server"),
    ("dhcp.silent.busy", "DHCP requests left alone, because there were too many at once"),
    ("dhcp.silent.other-network", "DHCP requests that a relay agent of another network passed on, not answered"),
    ("lan.changed", "changes of the LAN's interface or address"),
    ("neighbours.asked", "addresses asked for by ARP"),
    ("neighbours.not-asked", "addresses not asked for by ARP: not of this LAN, or too many at once"),
    ("neighbours.restarted", "times that the neighbour table was read anew"),
    ("tftp.aborted", "files that the phone did not want after all"),
    ("tftp.binding-lost", "transfers ended because the address went to another device"),
    ("tftp.bytes", "bytes of files delivered"),
    ("tftp.delivered", "files delivered"),
    ("tftp.failed", "transfers that this box ended"),
    ("tftp.held", "requests that waited until it was known whose address it is"),
    ("tftp.log-not-kept", "logs of phones that could not be kept"),
    ("tftp.made-room", "transfers ended to make room for others of the same address"),
    ("tftp.malformed", "requests for files that cannot be read"),
    ("tftp.no-port", "transfers without a free port"),
    ("tftp.not-held", "requests dropped, because too many waited"),
    ("tftp.outside-lan", "requests for files from outside this LAN, not answered"),
    ("tftp.rate-limited", "requests for files left alone, because there were too many at once"),
    ("tftp.receive-failed", "failed reads of the TFTP socket"),
    ("tftp.received", "logs of phones kept"),
    ("tftp.refused", "requests for files refused"),
    ("tftp.refused.bad-name", "requests refused: no file can have such a name"),
    ("tftp.refused.busy", "requests refused: too many transfers at once"),
    ("tftp.refused.locked-out", "requests refused: the device guessed names before"),
    ("tftp.refused.not-found", "requests refused: there is no such file"),
    ("tftp.refused.octet-only", "requests refused: an image was asked for as text"),
    ("tftp.refused.other-device", "requests refused: the file is another device's"),
    ("tftp.refused.other-model", "requests refused: the file is for another model"),
    ("tftp.refused.unknown-device", "requests refused: the device is not in the inventory"),
    ("tftp.refused.unsupported-mode", "requests refused: neither octet nor netascii"),
    ("tftp.refused.write-refused", "writes refused"),
    ("tftp.repeated", "requests sent again by the phone"),
    ("tftp.retransmissions", "packets sent again"),
    ("tftp.rrq", "requests for files"),
    ("tftp.send-failed", "TFTP packets that could not be sent"),
    ("tftp.silent", "requests for files not answered"),
    ("tftp.stranger", "packets of a stranger on a transfer's port"),
    ("tftp.stray", "packets to port 69 that are no request"),
    ("tftp.timed-out", "transfers whose phone fell silent"),
    ("tftp.unconfirmed", "files sent whose end the phone did not confirm"),
    ("tftp.wrq", "requests to write"),
    ("update.activated", "releases activated"),
    ("update.check-in-failed", "check-ins that HQ did not hear"),
    ("update.fetched-bytes", "bytes fetched from HQ"),
    ("update.rolled-back", "releases that were given up"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use api::{FileRefusal, TransferEnd};

    #[test]
    fn the_words_are_sorted_and_each_counter_has_them_once() {
        assert!(WORDS.is_sorted_by(|(one, _), (other, _)| one < other));
    }

    #[test]
    fn every_outcome_of_a_request_has_words() {
        let counters = (FileRefusal::ALL.iter().map(|reason| format!("tftp.refused.{reason}")))
            .chain(TransferEnd::ALL.iter().map(|end| format!("tftp.{end}")));
        for counter in counters.filter(|name| !name.ends_with(".rate-limited") && !name.ends_with(".outside-lan")) {
            assert!(matches!(of(&counter), Shown::Words(_)), "{counter}");
        }
        assert_eq!(of("tftp.something-new"), Shown::Name);
        assert_eq!(of("poll.ok"), Shown::Elsewhere);
    }
}
