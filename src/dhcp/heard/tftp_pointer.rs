//! Where a server points phones: what options 66, 150 and the vendors' own name, as addresses and names. Pure.
//!
//! People write these options in many ways: an address, a name, a URL with a slash, a port or a path at its end, several
//! of them, with a NUL; 150 as text, 66 as octets. What counts is the server that is meant.

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
    /// By a name that was looked up, and its address.
    Resolved(String, Ipv4Addr),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Resolved(name, address) => write!(f, "{name} ({address})"),
        }
    }
}

impl TftpPointer {
    /// Whether the server is one of these addresses; `None` for a name, which has to be resolved first.
    pub fn is_one_of(&self, addresses: &[Ipv4Addr]) -> Option<bool> {
        match &self.server {
            Host::Address(address) | Host::Resolved(_, address) => Some(addresses.contains(address)),
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

    const fn at(option: u8, address: Ipv4Addr) -> Self {
        Self { option, server: Host::Address(address) }
    }

    /// All servers that the options of a message name: those of 150, then of 66, then of the vendors' options.
    pub(super) fn of(options: &Options) -> Vec<Self> {
        let mut all = match options.get(TFTP_SERVERS).and_then(listed_as_text) {
            Some(text) => Self::of_text(TFTP_SERVERS.into(), text),
            None => options.addresses(TFTP_SERVERS).into_iter().map(|it| Self::at(TFTP_SERVERS.into(), it)).collect(),
        };
        all.retain(|pointer| pointer.server != Host::Address(Ipv4Addr::UNSPECIFIED));
        let mut read = |option: u8, value: &[u8]| {
            if let Some(address) = as_octets(value) {
                return all.push(Self::at(option, address));
            }
            // A NUL ends the text.
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            all.extend(Self::of_text(option, &String::from_utf8_lossy(text)));
        };
        if let Some(value) = options.get(TFTP_SERVER_NAME) {
            read(TFTP_SERVER_NAME.into(), value);
        }
        for text in options.get(OptionCode::from(VENDOR)).map(vendor_texts).unwrap_or_default() {
            read(VENDOR, text.as_bytes());
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

/// The servers that the text of a phone's option 43 names: bare text (Yealink, Fanvil), or the sub-options (RFC 2132 §8.4)
/// whose use by a phone's vendor is known. What other devices read there, such as Windows or access points, and what
/// phones read there that is no server of files, names none.
fn vendor_texts(value: &[u8]) -> Vec<&str> {
    if let Some(text) = printable(value) {
        if NO_FILES.iter().any(|start| starts_with(text, start)) {
            return Vec::new();
        }
        if let Some(servers) = mitel(text) {
            return servers;
        }
        if is_pointer_text(text) {
            return vec![text];
        }
    }
    let (mut texts, mut rest) = (Vec::new(), value);
    while let Some((&code, more)) = rest.split_first() {
        match code {
            0 => rest = more,
            255 => break,
            _ => {
                let Some((&length, more)) = more.split_first() else { break };
                let Some((text, more)) = more.split_at_checked(usize::from(length)) else { break };
                rest = more;
                texts.extend(printable(text).filter(|text| match code {
                    // Aastra 2; snom and Grandstream 66.
                    2 | 66 => is_pointer_text(text),
                    // Grandstream 1, Aastra 3. Access points have addresses in these (Ruckus and Huawei 3), phones URLs.
                    1 | 3 => url(text).is_some() && is_pointer_text(text),
                    _ => false,
                }));
            }
        }
    }
    texts
}

/// The texts of option 43 that hold no server of files: Nortel's and Avaya's call servers
/// (`Nortel-i2004-A,192.168.1.9:4100,1,5;`) and VLANs (`VLAN-A:100.`).
const NO_FILES: [&str; 2] = ["Nortel-", "VLAN-"];

/// The servers of a text of Mitel's MiNet phones, if it is one:
/// `id:ipphone.mitel.com;sw_tftp=192.168.1.2;call_srv=192.168.1.9;vlan=20`. The other servers in it take calls.
fn mitel(text: &str) -> Option<Vec<&str>> {
    let keys = || text.split(';').filter_map(|word| word.split_once('='));
    let is_mitel = starts_with(text.trim_start(), "id:ipphone.mitel.com")
        || keys().any(|(key, _)| ["sw_tftp", "call_srv"].iter().any(|known| known.eq_ignore_ascii_case(key.trim())));
    is_mitel.then(|| keys().filter(|(key, _)| key.trim().eq_ignore_ascii_case("sw_tftp")).map(|(_, it)| it).collect())
}

fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// Octets as text, if all of them are: people end it with a NUL or a line.
fn printable(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?.trim_end_matches(['\0', '\r', '\n']);
    (!text.is_empty() && text.chars().all(|char| char.is_ascii_graphic() || char == ' ')).then_some(text)
}

/// Whether a text names servers of files beyond doubt: each is in a URL, an address, or a name with a dot.
fn is_pointer_text(text: &str) -> bool {
    let mut named = 0_usize;
    let is_one = |word: &str| match host(word) {
        Some(Host::Name(name)) => url(word).is_some() || name.contains('.'),
        Some(Host::Address(_) | Host::Resolved(..)) => url(word).is_some() || !word.contains("://"),
        None => false,
    };
    words(text).all(|word| {
        named += 1;
        is_one(word)
    }) && named > 0
}

/// What follows the scheme of a URL that files are fetched by. People leave out one slash or both.
fn url(word: &str) -> Option<&str> {
    let (scheme, rest) = unquoted(word).split_once(':')?;
    // `tftp:69` is a machine of that name and its port.
    let is_port = rest.chars().all(|char| char.is_ascii_digit());
    (SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme)) && !is_port).then_some(rest)
}

/// The schemes of URLs that phones fetch files by.
const SCHEMES: [&str; 5] = ["tftp", "http", "https", "ftp", "ftps"];

/// The servers of option 150 that somebody wrote as text, where the phone looks for octets (RFC 5859). Octets of addresses
/// are not such a text: 49.57.50.46 begins nobody's list.
fn listed_as_text(value: &[u8]) -> Option<&str> {
    let text = printable(value).filter(|text| text.len() >= MIN_LIST_TEXT_BYTES)?;
    is_pointer_text(text).then_some(text)
}

/// The shortest address as text (`1.1.1.1`), in octets.
const MIN_LIST_TEXT_BYTES: usize = 7;

/// The address in an option of text that somebody wrote as four octets, where the phone looks for a name.
fn as_octets(value: &[u8]) -> Option<Ipv4Addr> {
    let address = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from).filter(|address| !address.is_unspecified())?;
    printable(value).is_none().then_some(address)
}

/// What an option that should hold a server in another form holds, for people.
pub(super) fn in_wrong_form(options: &Options) -> Option<String> {
    let list = options.get(TFTP_SERVERS).and_then(listed_as_text);
    let name = options.get(TFTP_SERVER_NAME).and_then(as_octets);
    let list = list.map(|text| {
        let text: String = text.chars().take(super::MAX_TEXT_BYTES).collect();
        format!("{text} (option 150 is written as text)")
    });
    list.or_else(|| name.map(|address| format!("{address} (option 66 is written as octets)")))
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
    words(text).filter_map(host).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| char.is_ascii_whitespace() || matches!(char, ',' | ';')).filter(|word| !word.is_empty())
}

fn unquoted(word: &str) -> &str {
    word.trim_matches(|char: char| matches!(char, '"' | '\'' | '\0'))
}

/// The machine of an address, a name or a URL.
fn host(word: &str) -> Option<Host> {
    let word = unquoted(word);
    let rest = url(word).or_else(|| word.split_once("://").map(|(_, rest)| rest)).unwrap_or(word);
    let authority = rest.split(['/', '\\', '?', '#']).find(|part| !part.is_empty())?;
    // RFC 3986 §3.2: user information before the machine, a port after it.
    let machine = authority.rsplit_once('@').map_or(authority, |(_, machine)| machine);
    let (machine, port) = machine.split_once(':').unwrap_or((machine, ""));
    // What is no port shows that the word before it is no machine (`id:ipphone.mitel.com`).
    if !port.chars().all(|char| char.is_ascii_digit()) {
        return None;
    }
    let machine = machine.strip_suffix('.').unwrap_or(machine);
    if let Some(address) = address(machine) {
        return (!address.is_unspecified()).then_some(Host::Address(address));
    }
    // RFC 3696 §2: no name ends in a number, which is how addresses are told from names.
    let last = machine.rsplit('.').next().unwrap_or_default();
    let is_name = machine.len() <= MAX_NAME_BYTES
        && !last.is_empty()
        && last.chars().any(|char| !char.is_ascii_digit())
        && machine.chars().any(|char| char.is_ascii_alphanumeric())
        && machine.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.'));
    is_name.then(|| Host::Name(machine.to_ascii_lowercase()))
}

/// An address as phones read it: the parts are decimal, zeros before them or not (`192.168.001.002`).
fn address(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|part| (1..=3).contains(&part.len()))?;
        *octet = part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u8>().ok())??;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
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
            "192.168.077.002",
            "tftp://192.168.077.002:69/",
            "tftp:192.168.77.2",
            "TFTP:/192.168.77.2/",
            "tftp:192.168.77.2:69",
            "https:\\\\192.168.77.2",
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
    fn what_is_written_in_the_form_of_another_option_is_read_and_said() {
        for (code, value, said) in [
            (150, &b"192.168.77.2"[..], "192.168.77.2 (option 150 is written as text)"),
            (150, b"192.168.077.002\0", "192.168.077.002 (option 150 is written as text)"),
            (150, b"tftp://192.168.77.2/", "tftp://192.168.77.2/ (option 150 is written as text)"),
            (66, &[192, 168, 77, 2], "192.168.77.2 (option 66 is written as octets)"),
        ] {
            assert_eq!(of(code, value), [TftpPointer::at(code, OURS)], "{code} {value:?}");
            let mut bytes = Vec::new();
            super::super::super::options::emit(OptionCode::from(code), value, &mut bytes);
            assert_eq!(in_wrong_form(&Options::parse(&bytes, &[], &[])).as_deref(), Some(said));
        }
        assert_eq!(servers(150, b"pbx.example.com"), [Host::Name("pbx.example.com".to_owned())]);
        for value in [&[10, 9, 9, 9][..], &[10, 10, 10, 10], &[10, 0, 0, 0]] {
            assert_eq!(servers(66, value), [Host::Address(Ipv4Addr::from(<[u8; 4]>::try_from(value).expect("four")))]);
        }
        // Octets that look like text are what they should be.
        assert_eq!(servers(66, b"pbx1"), [Host::Name("pbx1".to_owned())]);
        assert_eq!(servers(66, b"pbx\0"), [Host::Name("pbx".to_owned())]);
        assert_eq!(servers(150, b"ABCDEFGHIJKL").len(), 3);
        assert_eq!(servers(150, &[46, 46, 46, 46]), [Host::Address(Ipv4Addr::new(46, 46, 46, 46))]);
        assert_eq!(servers(66, b"tftp:69"), [Host::Name("tftp".to_owned())]);
    }

    #[test]
    fn what_vendors_phones_read_in_option_43_besides_files_names_no_server_of_files() {
        for value in [
            &b"Nortel-i2004-A,192.168.77.9:4100,1,5;192.168.77.9:4100,1,5."[..],
            b"Nortel-i2004-B,s1ip=192.168.77.9;p1=4100;",
            b"VLAN-A:100.",
            b"VLAN-A:100+200.",
            b"vlan-a:100.",
            b"id:ipphone.mitel.com;call_srv=192.168.77.9;vlan=20;l2p=6;dscp=46",
            b"id:ipphone.mitel.com",
            b"call_srv=192.168.77.9",
            b"100",
            b"1.5",
            b"192.168.77",
            b"id:pbx.example.com",
            b"sip://192.168.77.9",
            b"sdlp://192.168.77.9:18443",
            // Ruckus and Huawei, Aruba, Siemens: sub-options for controllers, VLANs and other servers.
            b"\x03\x0c192.168.77.5",
            b"\x03\x19192.168.77.5,192.168.77.6",
            b"\x06\x0c192.168.77.5",
            b"\x01\x0c192.168.77.5",
            b"\x01\x07Siemens\x02\x04\0\0\0\x14\x03\x18sdlp://192.168.77.9:1844",
            b"\x02\x02\x31\x30",
            b"\x80\x0c192.168.77.5",
        ] {
            assert_eq!(of(43, value), [], "{:?}", String::from_utf8_lossy(value));
        }
        for value in [
            &b"id:ipphone.mitel.com;sw_tftp=192.168.77.2;call_srv=192.168.77.9;vlan=20;l2p=6"[..],
            b"ID:ipphone.mitel.com;SW_TFTP=192.168.77.2;",
            b"call_srv=192.168.77.9;sw_tftp=192.168.77.2",
            b"\x02\x0c192.168.77.2",
            b"\x42\x0c192.168.77.2",
            b"192.168.77.2",
        ] {
            assert_eq!(of(43, value), [TftpPointer::at(43, OURS)], "{:?}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn what_names_nobody_is_no_pointer() {
        for (code, value) in [
            (66, &b""[..]),
            (66, b" \0"),
            (66, b"0.0.0.0"),
            (66, b"tftp://"),
            (66, b"100"),
            (66, b"192.168.77"),
            (66, b"192.168.77.256"),
            (66, b"id:ipphone.mitel.com"),
            (66, &[0, 0, 0, 0]),
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
