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

/// The counters of bounds that were reached: somebody asked for more than there may be.
pub(super) const LIMITS: &[&str] = &[
    "alert.dropped",
    "dhcp.silent.busy",
    "dhcp.silent.range-full",
    "neighbours.not-asked",
    "tftp.device-full",
    "tftp.not-held",
    "tftp.rate-limited",
    "tftp.refused.busy",
    "tftp.unknown-full",
];

/// Sorted by name.
const WORDS: &[(&str, &str)] = &[
    ("alert.dropped", "alerts that found no room"),
    ("dhcp.ack", "leases acknowledged"),
    ("dhcp.augment.ack", "leases of the router completed for phones"),
    ("dhcp.augment.address", "requests of phones not completed, because the address cannot be the phone's"),
    (
        "dhcp.augment.forged",
        "requests of phones not completed, because an offer named another server than the one asked",
    ),
    (
        "dhcp.augment.late",
        "leases that a phone took before the router answered this box, to be completed at its next start",
    ),
    ("dhcp.augment.malformed", "requests of phones not completed, because they contradict themselves"),
    ("dhcp.augment.no-lease-time", "requests of phones not completed, because the router's offer has no lease time"),
    (
        "dhcp.augment.no-room",
        "requests of phones not completed, because what the phone takes has no room for a TFTP server",
    ),
    (
        "dhcp.augment.not-relayed",
        "requests of phones not completed, because no router is known or they asked too often",
    ),
    ("dhcp.augment.offer", "offers of the router completed for phones"),
    ("dhcp.augment.other-server", "requests of phones not completed, because they chose a server that made no offer"),
    ("dhcp.augment.pointed", "offers in which the router points a phone to a TFTP server itself"),
    ("dhcp.augment.quiet", "requests of phones left alone for a day, because the router objected to them"),
    ("dhcp.augment.rapid-commit", "leases that the router made at once, to be completed at the phone's next start"),
    ("dhcp.augment.short", "leases of five minutes for phones, on the terms of the router's pool"),
    ("dhcp.augment.unknown", "requests of phones not completed, because they mean a lease that this box did not see"),
    ("dhcp.failed", "DHCP answers that could not be sent"),
    ("dhcp.malformed", "DHCP messages that cannot be read"),
    ("dhcp.nak", "requests for addresses refused"),
    ("dhcp.noted", "addresses given back or declined"),
    ("dhcp.offer", "addresses offered"),
    ("dhcp.others.nak", "requests of phones refused by another DHCP server"),
    ("dhcp.replies", "answers of other DHCP servers to this box as a relay agent"),
    ("dhcp.silent.busy", "DHCP requests left alone, because there were too many at once"),
    ("dhcp.silent.malformed", "DHCP requests that contradict themselves"),
    ("dhcp.silent.mode", "DHCP requests that the mode in force does not answer"),
    ("dhcp.silent.no-phone", "DHCP requests of devices that are no phones, not answered"),
    ("dhcp.silent.other-network", "DHCP requests that a relay agent of another network passed on, not answered"),
    ("dhcp.silent.other-server", "DHCP requests of devices that took another server's offer"),
    ("dhcp.silent.range-full", "DHCP requests without an answer, because all addresses are taken"),
    ("dhcp.silent.unknown-client", "DHCP requests about a lease that this box does not know"),
    ("dhcp.tagged", "DHCP requests of another VLAN, in tagged frames, not answered"),
    ("lan.changed", "changes of the LAN's interface or address"),
    ("neighbours.asked", "addresses asked for by ARP"),
    ("neighbours.not-asked", "addresses not asked for by ARP: not of this LAN, or too many at once"),
    ("neighbours.restarted", "times that the neighbour table was read anew"),
    ("tftp.aborted", "files that the phone did not want after all"),
    ("tftp.binding-lost", "transfers ended because the address went to another device"),
    ("tftp.bytes", "bytes of files delivered"),
    ("tftp.delivered", "files delivered"),
    ("tftp.device-full", "requests refused: one device had as many transfers as it may, from many addresses"),
    ("tftp.failed", "transfers that this box ended"),
    ("tftp.held", "requests that waited until it was known whose address it is"),
    ("tftp.log-not-kept", "logs of phones that could not be kept"),
    ("tftp.made-room", "transfers ended to make room for others"),
    ("tftp.malformed", "requests for files that cannot be read"),
    ("tftp.no-port", "transfers without a free port"),
    ("tftp.not-held", "requests dropped, because too many waited"),
    (
        "tftp.not-there",
        "own files not sent: the device did not answer by ARP, or only through a bridge that shows another MAC",
    ),
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
    ("tftp.unknown-full", "requests refused: devices that are not in the inventory had their half of all transfers"),
    ("tftp.unresolved", "requests not answered, because nobody answered by ARP for the address"),
    ("tftp.wrq", "requests to write"),
    ("update.activated", "releases activated"),
    ("update.check-in-failed", "check-ins that HQ did not hear"),
    ("update.fetched-bytes", "bytes fetched from HQ"),
    ("update.firmware-list-lapsed", "polls in which the firmware list had lapsed, so that no new image was taken"),
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
    fn every_bound_has_words() {
        for counter in LIMITS {
            assert!(matches!(of(counter), Shown::Words(_)), "{counter}");
        }
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

    #[test]
    fn what_dhcp_counts_has_words() {
        let augment = "ack offer pointed short unknown quiet malformed address other-server not-relayed no-room \
                       no-lease-time rapid-commit late forged";
        let silent = "mode no-phone other-network other-server unknown-client range-full malformed busy";
        let listed = |group: &str, names: &str| -> Vec<String> {
            names.split_whitespace().map(|name| format!("dhcp.{group}{name}")).collect()
        };
        let all = [
            listed("augment.", augment),
            listed("silent.", silent),
            listed("", "offer ack nak noted replies malformed tagged"),
        ];
        for counter in all.concat() {
            assert!(matches!(of(&counter), Shown::Words(_)), "{counter}");
        }
    }
}
