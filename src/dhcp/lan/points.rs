//! Where a server points phones, judged by the site's own TFTP servers. Pure.

use std::net::Ipv4Addr;

use crate::heard::{Host, TftpPointer};
use crate::options::{TFTP_SERVER_NAME, TFTP_SERVERS};

/// The most servers that words name.
const MAX_NAMED: usize = 3;

/// Where a server points phones in options 66 and 150, which phones of every vendor read.
///
/// Most phones take the first server of an option and no other. Some take 150 before 66, some read one of them only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Points {
    /// The server hands out neither option 66 nor 150.
    Nowhere,
    /// It points phones to a TFTP server of this site first.
    Here,
    /// It names a TFTP server of this site, but not first, or not in each of the two options.
    Partly,
    /// It names a server by a name, which may or may not be one of this site.
    Unsure,
    /// It points phones to another TFTP server.
    Elsewhere,
}

impl Points {
    /// Judges what options 66 and 150 name, for a site with these TFTP servers.
    pub fn of(pointers: &[TftpPointer], ours: &[Ipv4Addr]) -> Self {
        let general = |option: u8| pointers.iter().filter(move |pointer| pointer.option == option);
        let options = [u8::from(TFTP_SERVERS), u8::from(TFTP_SERVER_NAME)];
        let firsts: Vec<Option<bool>> =
            options.iter().filter_map(|&option| general(option).next()).map(|first| first.is_one_of(ours)).collect();
        let named_at_all = options.iter().any(|&option| general(option).any(|it| it.is_one_of(ours) == Some(true)));
        if firsts.is_empty() {
            Self::Nowhere
        } else if firsts.iter().all(|first| *first == Some(true)) {
            Self::Here
        } else if named_at_all && firsts.contains(&Some(false)) {
            Self::Partly
        } else if firsts.contains(&None) {
            Self::Unsure
        } else {
            Self::Elsewhere
        }
    }
}

/// What options 66 and 150 say, in words that follow "points phones"; `None` if they say nothing.
pub fn words(pointers: &[TftpPointer], ours: &[Ipv4Addr]) -> Option<String> {
    let of = |option: u8| -> Vec<&TftpPointer> { pointers.iter().filter(|it| it.option == option).collect() };
    let (list, name) = (of(TFTP_SERVERS.into()), of(TFTP_SERVER_NAME.into()));
    let servers = |them: &[&TftpPointer]| them.iter().map(|it| it.server.clone()).collect::<Vec<_>>();
    match (list.is_empty(), name.is_empty()) {
        (true, true) => None,
        (false, true) => Some(route(&list, ours)),
        (true, false) => Some(route(&name, ours)),
        // Which option a phone reads depends on its vendor.
        (false, false) if servers(&list) == servers(&name) => Some(route(&list, ours)),
        (false, false) if Points::of(pointers, ours) == Points::Here => Some(route(&list, ours)),
        (false, false) => Some(format!("{} by option 150, {} by option 66", route(&list, ours), route(&name, ours))),
    }
}

/// The servers of one option in their order.
fn route(pointers: &[&TftpPointer], ours: &[Ipv4Addr]) -> String {
    let target = |pointer: &TftpPointer| match pointer.is_one_of(ours) {
        Some(true) => (format!("here ({})", address_of(&pointer.server)), ""),
        Some(false) => (format!("to {}", pointer.server), ", which is not this machine"),
        None => (format!("to {}", pointer.server), ", which may or may not be this machine"),
    };
    let targets: Vec<(String, &str)> = pointers.iter().take(MAX_NAMED).map(|pointer| target(pointer)).collect();
    match targets.as_slice() {
        [] => String::new(),
        [(only, what)] => format!("{only}{what}"),
        [(first, _), rest @ ..] => {
            let rest: Vec<&str> = rest.iter().map(|(target, _)| target.as_str()).collect();
            format!("{first} first, then {}", rest.join(", then "))
        }
    }
}

/// A server's address, or its name where that is all that is known.
fn address_of(server: &Host) -> String {
    match server {
        Host::Address(address) | Host::Resolved(_, address) => address.to_string(),
        Host::Name(name) => name.clone(),
    }
}

/// What the options say that one vendor's phones ask before 66 and 150, where that leads elsewhere: the option, who asks
/// it, and the server.
pub fn vendors_elsewhere(pointers: &[TftpPointer], ours: &[Ipv4Addr]) -> Vec<String> {
    let others = pointers.iter().filter(|it| !it.is_general() && it.is_one_of(ours) != Some(true));
    let text = |pointer: &TftpPointer| {
        let unsure = if pointer.is_one_of(ours).is_none() { ", which may or may not be this machine" } else { "" };
        format!("option {} sends {} to {}{unsure}", pointer.option, family(pointer.option), pointer.server)
    };
    others.take(MAX_NAMED).map(text).collect()
}

/// Whose phones ask this option.
const fn family(option: u8) -> &'static str {
    match option {
        43 => "phones that read vendor options first (Yealink, snom, Grandstream, Fanvil, Aastra)",
        159 => "Mitel and Aastra phones",
        160 => "Polycom, Mitel and Aastra phones",
        176 | 242 => "Avaya phones",
        _ => "some phones",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [Ipv4Addr; 1] = [Ipv4Addr::new(192, 168, 77, 2)];

    #[test]
    fn an_option_66_that_means_us_points_here_however_it_is_written() {
        for text in [
            "192.168.77.2",
            "tftp://192.168.77.2",
            "tftp://192.168.77.2/",
            "tftp://192.168.77.2:69/a/b",
            "192.168.77.2,10.0.0.9",
        ] {
            assert_eq!(judged(&[(66, text)]).0, Points::Here, "{text}");
        }
    }

    #[test]
    fn what_is_true_for_some_phones_only_is_not_here() {
        for (said, points, says) in [
            (&[(150, "10.0.0.9,192.168.77.2")][..], Points::Partly, "to 10.0.0.9 first, then here (192.168.77.2)"),
            (&[(150, "192.168.77.2"), (66, "10.0.0.9")], Points::Partly, "by option 150, to 10.0.0.9"),
            (&[(66, "tftp.example.lan")], Points::Unsure, "to tftp.example.lan, which may or may not be this machine"),
            (&[(150, "192.168.77.2"), (66, "tftp.example.lan")], Points::Unsure, "here (192.168.77.2) by option 150"),
            (&[(66, "tftp://10.0.0.9/")], Points::Elsewhere, "to 10.0.0.9, which is not this machine"),
            (&[(150, "10.0.0.9"), (66, "10.0.0.9")], Points::Elsewhere, "to 10.0.0.9, which is not this machine"),
            (&[(150, "192.168.77.2"), (66, "tftp://192.168.77.2")], Points::Here, "here (192.168.77.2)"),
        ] {
            let (judged, words) = judged(said);
            assert_eq!(judged, points, "{said:?}");
            assert!(words.as_deref().is_some_and(|words| words.contains(says)), "{said:?}: {words:?}");
        }
    }

    #[test]
    fn vendors_options_are_no_66_and_are_named_where_they_lead_elsewhere() {
        let pointers: Vec<TftpPointer> =
            [(160, "ftp://10.0.0.9"), (43, "192.168.77.2"), (159, "pbx.lan")].iter().flat_map(pointer).collect();
        assert_eq!((Points::of(&pointers, &OURS), words(&pointers, &OURS)), (Points::Nowhere, None));
        assert_eq!(
            vendors_elsewhere(&pointers, &OURS),
            [
                "option 160 sends Polycom, Mitel and Aastra phones to 10.0.0.9",
                "option 159 sends Mitel and Aastra phones to pbx.lan, which may or may not be this machine"
            ]
        );
    }

    fn judged(said: &[(u8, &str)]) -> (Points, Option<String>) {
        let pointers: Vec<TftpPointer> = said.iter().flat_map(pointer).collect();
        (Points::of(&pointers, &OURS), words(&pointers, &OURS))
    }

    fn pointer((option, text): &(u8, &str)) -> Vec<TftpPointer> {
        TftpPointer::of_text(*option, text)
    }
}
