//! Where a server points phones: what options 66, 150 and the vendors' own name, as addresses and names. Pure.
//!
//! People write these options in many ways: an address, a name, a URL with a slash, a port or a path at its end, several
//! of them, with a NUL. What counts is the server that is meant.

use std::net::Ipv4Addr;

use super::super::options::{OptionCode, Options, TFTP_SERVER_NAME, TFTP_SERVERS};

/// The most servers of one message that are remembered.
const MAX_POINTERS: usize = 8;
/// The longest name of a server, in octets (RFC 1035).
const MAX_NAME_BYTES: usize = 253;

/// Vendor-specific information (RFC 2132 §8.4).
const VENDOR: u8 = 43;
/// The options of vendors that hold servers as text, in the order in which they are read: Mitel and Aastra (159, 160),
/// Polycom (160), Avaya (242, and 176 before that).
const VENDOR_TEXTS: [u8; 4] = [159, 160, 242, 176];
/// The keys of Avaya's text that name a server: `HTTPSRVR=192.168.1.2,TFTPSRVR=192.168.1.2`.
const AVAYA_KEYS: [&str; 4] = ["TFTPSRVR", "HTTPSRVR", "TLSSRVR", "FTPSRVR"];

/// One server that an option names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TftpPointer {
    /// The option: 66, 150, or one that a vendor's phones ask first (43, 159, 160, 176, 242).
    pub option: u8,
    /// The server.
    pub server: Host,
}

/// A machine, as an option names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// By its address.
    Address(Ipv4Addr),
    /// By its name in DNS, which may be any machine.
    Name(String),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl TftpPointer {
    /// Whether the server is one of these addresses; `None` for a name, which has to be resolved first.
    pub fn is_one_of(&self, addresses: &[Ipv4Addr]) -> Option<bool> {
        match &self.server {
            Host::Address(address) => Some(addresses.contains(address)),
            Host::Name(_) => None,
        }
    }

    /// Whether the option is for phones of every vendor.
    pub fn is_general(&self) -> bool {
        [TFTP_SERVER_NAME, TFTP_SERVERS].map(u8::from).contains(&self.option)
    }

    /// What the text of an option names, in its order.
    pub fn of_text(option: u8, text: &str) -> Vec<Self> {
        hosts(text).into_iter().take(MAX_POINTERS).map(|server| Self { option, server }).collect()
    }

    /// All servers that the options of a message name: those of 150, then of 66, then of the vendors' options.
    pub(super) fn of(options: &Options) -> Vec<Self> {
        let addresses = options.addresses(TFTP_SERVERS).into_iter().filter(|address| !address.is_unspecified());
        let mut all: Vec<Self> =
            addresses.map(|address| Self { option: TFTP_SERVERS.into(), server: Host::Address(address) }).collect();
        let mut read = |option: u8, value: &[u8]| {
            // A NUL ends the text.
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            all.extend(Self::of_text(option, &String::from_utf8_lossy(text)));
        };
        if let Some(value) = options.get(TFTP_SERVER_NAME) {
            read(TFTP_SERVER_NAME.into(), value);
        }
        for part in options.get(OptionCode::from(VENDOR)).map(vendor_texts).unwrap_or_default() {
            read(VENDOR, part);
        }
        for option in VENDOR_TEXTS {
            if let Some(value) = options.get(OptionCode::from(option)) {
                match avaya(value) {
                    Some(servers) => servers.iter().for_each(|server| read(option, server.as_bytes())),
                    // Mitel and Aastra write 159 and 160 as text; some servers write an address in four octets.
                    None => read(option, value),
                }
            }
        }
        all.truncate(MAX_POINTERS);
        all
    }
}

/// The texts in option 43 that name a server. Vendors write it as sub-options (RFC 2132 §8.4; Aastra 2 and 3, snom 66,
/// Grandstream 66 and 1) or as bare text (Yealink, Fanvil). What other devices than phones read there, such as Windows or
/// access points, is no text.
fn vendor_texts(value: &[u8]) -> Vec<&[u8]> {
    if is_pointer_text(value) {
        return vec![value];
    }
    let (mut texts, mut rest) = (Vec::new(), value);
    while let Some((&code, more)) = rest.split_first() {
        match code {
            0 => rest = more,
            255 => break,
            _ => {
                let Some((&length, more)) = more.split_first() else { break };
                let Some((text, more)) = more.split_at_checked(usize::from(length)) else { break };
                if is_pointer_text(text) {
                    texts.push(text);
                }
                rest = more;
            }
        }
    }
    texts
}

/// Whether octets are a text that names a server beyond doubt: a URL, an address, or a name with a dot.
fn is_pointer_text(value: &[u8]) -> bool {
    let text = value.strip_suffix(&[0]).unwrap_or(value);
    let Ok(text) = std::str::from_utf8(text) else { return false };
    text.chars().all(|char| char.is_ascii_graphic() || char == ' ')
        && (text.contains("://") || text.contains('.'))
        && !hosts(text).is_empty()
}

/// The servers of an Avaya text, if it is one.
fn avaya(value: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut servers = Vec::new();
    let mut current = false;
    for word in text.split(',') {
        let (key, named) = word.split_once('=').map_or((None, word), |(key, named)| (Some(key.trim()), named));
        if let Some(key) = key {
            current = AVAYA_KEYS.iter().any(|known| known.eq_ignore_ascii_case(key));
        }
        if current {
            servers.push(named.trim_matches(['"', ' ', '\0']).to_owned());
        }
    }
    text.contains('=').then_some(servers).filter(|servers| !servers.is_empty() || !text.contains("://"))
}

/// The machines that a text names: a list of addresses, names and URLs.
fn hosts(text: &str) -> Vec<Host> {
    let words = text.split(|char: char| char.is_ascii_whitespace() || matches!(char, ',' | ';'));
    words.filter_map(host).collect()
}

/// The machine of an address, a name or a URL.
fn host(word: &str) -> Option<Host> {
    let word = word.trim_matches(|char: char| matches!(char, '"' | '\'' | '\0'));
    let rest = word.split_once("://").map_or(word, |(_, rest)| rest);
    let authority = rest.split(['/', '\\', '?', '#']).find(|part| !part.is_empty())?;
    // RFC 3986 §3.2: user information before the machine, a port after it.
    let machine = authority.rsplit_once('@').map_or(authority, |(_, machine)| machine);
    let machine = machine.split_once(':').map_or(machine, |(machine, _)| machine);
    let machine = machine.strip_suffix('.').unwrap_or(machine);
    if let Ok(address) = machine.parse::<Ipv4Addr>() {
        return (!address.is_unspecified()).then_some(Host::Address(address));
    }
    let is_name = machine.len() <= MAX_NAME_BYTES
        && machine.chars().any(|char| char.is_ascii_alphanumeric())
        && machine.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.'));
    is_name.then(|| Host::Name(machine.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

    fn of(code: u8, value: &[u8]) -> Vec<TftpPointer> {
        let mut bytes = Vec::new();
        super::super::super::options::emit(OptionCode::from(code), value, &mut bytes);
        TftpPointer::of(&Options::parse(&bytes, &[], &[]))
    }

    fn servers(code: u8, value: &[u8]) -> Vec<Host> {
        of(code, value).into_iter().map(|pointer| pointer.server).collect()
    }

    #[test]
    fn the_server_of_option_66_is_read_however_people_write_it() {
        for text in [
            "192.168.77.2",
            "tftp://192.168.77.2",
            "TFTP://192.168.77.2/",
            "tftp://192.168.77.2:69/phones/",
            "http://user:pw@192.168.77.2:8080/cfg?x=1",
            "192.168.77.2:69",
            "192.168.77.2/",
            "/192.168.77.2",
            " 192.168.77.2 ",
            "\"192.168.77.2\"",
            "192.168.77.2\0",
            "192.168.77.2\0junk.example.com",
            "192.168.77.2.",
        ] {
            assert_eq!(servers(66, text.as_bytes()), [Host::Address(OURS)], "{text:?}");
        }
    }

    #[test]
    fn a_list_names_its_servers_in_order() {
        let other = Host::Address(Ipv4Addr::new(10, 9, 9, 9));
        for text in ["10.9.9.9,192.168.77.2", "10.9.9.9 192.168.77.2", "tftp://10.9.9.9; tftp://192.168.77.2/"] {
            assert_eq!(servers(66, text.as_bytes()), [other.clone(), Host::Address(OURS)], "{text}");
        }
        assert_eq!(servers(150, &[10, 9, 9, 9, 192, 168, 77, 2]), [other, Host::Address(OURS)]);
    }

    #[test]
    fn a_name_is_a_name_and_no_other_machine() {
        assert_eq!(servers(66, b"tftp://Boot.Example.COM./x"), [Host::Name("boot.example.com".to_owned())]);
        assert_eq!(of(66, b"pbx").first().and_then(|pointer| pointer.is_one_of(&[OURS])), None);
        assert_eq!(of(66, b"192.168.77.2").first().and_then(|pointer| pointer.is_one_of(&[OURS])), Some(true));
        assert_eq!(of(66, b"192.168.77.3").first().and_then(|pointer| pointer.is_one_of(&[OURS])), Some(false));
    }

    #[test]
    fn what_names_nobody_is_no_pointer() {
        for (code, value) in [
            (66, &b""[..]),
            (66, b" \0"),
            (66, b"0.0.0.0"),
            (66, b"tftp://"),
            (150, &[0, 0, 0, 0]),
            (150, &[192, 168]),
            // Windows: NetBIOS off. An access point's controller.
            (43, &[1, 4, 0, 0, 0, 2, 255]),
            (43, &[0xf1, 4, 192, 168, 77, 5]),
            (43, &[9, 200, b'x']),
            (242, b"MCIPADD=192.168.77.9,MCPORT=1719"),
        ] {
            assert_eq!(of(code, value), [], "{code} {value:?}");
        }
    }

    #[test]
    fn what_vendors_phones_ask_first_is_read_with_the_option_that_says_it() {
        let url = b"tftp://192.168.77.2";
        let sub = |code: u8| [&[code, 19][..], url].concat();
        for (code, value) in [
            (43, url.to_vec()),
            (43, sub(2)),
            (43, sub(66)),
            (43, [&[1, 1, 0][..], &sub(3), &[255]].concat()),
            (159, b"192.168.77.2".to_vec()),
            (160, [&url[..], b"/\0"].concat()),
            (242, b"MCIPADD=192.168.77.9,TFTPSRVR=192.168.77.2,L2Q=1".to_vec()),
            (176, b"TFTPSRVR=192.168.77.2".to_vec()),
        ] {
            let found = of(code, &value);
            assert_eq!(found, [TftpPointer { option: code, server: Host::Address(OURS) }], "{code} {value:?}");
        }
        let two = of(242, b"HTTPSRVR=\"10.9.9.9,192.168.77.2\",DNSSRVR=192.168.77.9");
        assert_eq!(two.len(), 2, "{two:?}");
    }

    #[test]
    fn no_message_fills_the_memory() {
        assert_eq!(of(150, &[9; 400]).len(), MAX_POINTERS);
        assert_eq!(of(66, &b"1.1.1.1 ".repeat(100)).len(), MAX_POINTERS);
    }
}
