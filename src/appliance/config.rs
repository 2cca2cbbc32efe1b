//! The appliance's one configuration file: TOML in, checked [`Settings`] out, every problem in one run.
//!
//! All keys have defaults that work; an empty file is a good one. What HQ signs for the site (DHCP mode, TFTP
//! limits, poll interval) comes with the release and is not written here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use bundle::{DhcpMode, DhcpSettings};
use ids::MacAddr;

/// Where the file is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/lineside/lineside.toml";
/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 256 * 1024;

/// The sample file, which is also its documentation.
pub const SAMPLE: &str = include_str!("lineside.toml");

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The LAN interface; `None` takes the only one with a private address.
    pub interface: Option<String>,
    /// Whether loopback may be the LAN: for the demo and tests.
    pub allow_loopback: bool,
    /// Fixed addresses of devices, for labs where there is no link layer.
    pub neighbours: BTreeMap<Ipv4Addr, MacAddr>,
    /// Where everything is kept that must survive.
    pub state: PathBuf,
    /// TFTP.
    pub tftp: TftpPart,
    /// DHCP.
    pub dhcp: DhcpPart,
    /// Where the system says which image runs, if it is one of ours.
    pub image_state: PathBuf,
    /// Time between polls while no release says otherwise.
    pub poll: Duration,
    /// The socket of `lineside status`.
    pub status_socket: PathBuf,
    /// The log filter.
    pub log: String,
}

/// The `[tftp]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TftpPart {
    /// Whether to serve.
    pub enabled: bool,
    /// UDP port, 69 in production.
    pub port: u16,
    /// The most transfers at a time, 1 to 10,000.
    pub max_transfers: usize,
    /// The most transfers of one address at a time, 1 to 100.
    pub max_transfers_per_device: usize,
}

/// The `[dhcp]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpPart {
    /// Whether to take part in DHCP at all.
    pub enabled: bool,
    /// UDP port to listen on, 67 in production.
    pub server_port: u16,
    /// UDP port of clients, 68 in production.
    pub client_port: u16,
    /// UDP port of relay agents, 67 in production.
    pub relay_port: u16,
    /// What to do while no release says otherwise, as in a lab without HQ.
    pub local: DhcpSettings,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which key, for example `tftp.port`; empty for the whole file.
    pub key: String,
    /// What it says, as written.
    pub value: String,
    /// What to write instead.
    pub instead: String,
}

/// Everything that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "{}: {count} problem{}", self.path.display(), if count == 1 { "" } else { "s" })?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.is_empty(), self.value.is_empty()) {
            (true, _) => write!(f, "{}", self.instead),
            (false, true) => write!(f, "{}: {}", self.key, self.instead),
            (false, false) => write!(f, "{} = {}: {}", self.key, self.value, self.instead),
        }
    }
}

impl Settings {
    /// Reads and checks a file. A missing file is the defaults only if `path` is [`DEFAULT_PATH`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let whole = |instead: String| ConfigError {
            path: path.to_owned(),
            problems: vec![Problem { key: String::new(), value: String::new(), instead }],
        };
        let text = match std::fs::metadata(path) {
            Ok(meta) if meta.len() > MAX_BYTES => return Err(whole(format!("the file is over {MAX_BYTES} bytes"))),
            Ok(_) => std::fs::read_to_string(path).map_err(|error| whole(format!("cannot read the file: {error}")))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => {
                String::new()
            }
            Err(error) => return Err(whole(format!("cannot read the file: {error}"))),
        };
        Self::parse(&text).map_err(|problems| ConfigError { path: path.to_owned(), problems })
    }

    /// Checks the text of a file.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            vec![Problem { key: String::new(), value: String::new(), instead: error.to_string().trim_end().to_owned() }]
        })?;
        let mut problems = Vec::new();
        let mut root = Section { prefix: "", table, problems: &mut problems };

        let mut lan = root.section("lan");
        let interface = lan.take("interface", "an interface name, for example \"eth0\", or \"auto\"", interface_name);
        let allow_loopback = lan.take("allow-loopback", "true or false", Value::as_bool).unwrap_or(false);
        let neighbours = lan
            .take(
                "neighbours",
                "a table of IP = MAC, for example { \"192.168.1.20\" = \"00:04:f2:aa:bb:cc\" }",
                neighbours,
            )
            .unwrap_or_default();
        lan.finish();

        let mut storage = root.section("storage");
        let state = storage.take("state", "an absolute path", absolute).unwrap_or_else(|| "/var/lib/lineside".into());
        storage.finish();

        let mut part = root.section("tftp");
        let tftp = TftpPart {
            enabled: part.take("enabled", "true or false", Value::as_bool).unwrap_or(true),
            port: part.take("port", PORT, port).unwrap_or(69),
            max_transfers: part.take("max-transfers", "a number from 1 to 10000", within::<1, 10_000>).unwrap_or(600),
            max_transfers_per_device: part
                .take("max-transfers-per-device", "a number from 1 to 100", within::<1, 100>)
                .unwrap_or(8),
        };
        part.finish();

        let mut part = root.section("dhcp");
        let dhcp = DhcpPart {
            enabled: part.take("enabled", "true or false", Value::as_bool).unwrap_or(true),
            server_port: part.take("server-port", PORT, port).unwrap_or(67),
            client_port: part.take("client-port", PORT, port).unwrap_or(68),
            relay_port: part.take("relay-port", PORT, port).unwrap_or(67),
            local: local_dhcp(&mut part),
        };
        part.finish();

        let mut part = root.section("update");
        let poll = part
            .take("poll-seconds", "a number of seconds from 5 to 86400", within::<5, 86_400>)
            .map_or(Duration::from_secs(300), |seconds| Duration::from_secs(seconds as u64));
        part.finish();

        let mut part = root.section("image");
        let image_state =
            part.take("state", "an absolute path", absolute).unwrap_or_else(|| "/run/lineside-os/state.toml".into());
        part.finish();

        let mut part = root.section("status");
        let status_socket = part
            .take("socket", "an absolute path of at most 100 bytes", socket)
            .unwrap_or_else(|| "/run/lineside/status.sock".into());
        part.finish();

        let mut part = root.section("log");
        let log = part.take("filter", "a filter, for example \"info\" or \"info,lineside::tftp=debug\"", text_value);
        part.finish();

        root.finish();
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            interface: interface.filter(|name| name != "auto"),
            allow_loopback,
            neighbours,
            state,
            tftp,
            dhcp,
            image_state,
            poll,
            status_socket,
            log: log.unwrap_or_else(|| "info".to_owned()),
        })
    }
}

const PORT: &str = "a port from 0 to 65535 (0 takes a free one)";
const CLASSES: &str = "a list of texts that option 60 or 124 starts with, for example [\"Polycom-\"]";
const ADDRESSES: &str = "a list of IPv4 addresses, for example [\"192.168.1.1\"]";

fn local_dhcp(part: &mut Section<'_>) -> DhcpSettings {
    let modes = "one of \"auto\", \"shadow\", \"inform\", \"augment\", \"phones-only\", \"all\"";
    let range = part.take("range", "two IPv4 addresses, for example [\"192.168.1.200\", \"192.168.1.219\"]", |value| {
        match *addresses(value)?.as_slice() {
            [first, last] if first <= last => Some((first, last)),
            _ => None,
        }
    });
    let settings = DhcpSettings {
        mode: part.take("mode", modes, dhcp_mode).unwrap_or_default(),
        range,
        routers: part.take("routers", ADDRESSES, addresses).unwrap_or_default(),
        dns: part.take("dns", ADDRESSES, addresses).unwrap_or_default(),
        ntp: part.take("ntp", ADDRESSES, addresses).unwrap_or_default(),
        domain: part.take("domain", "a domain name", text_value).unwrap_or_default(),
        lease_seconds: part
            .take("lease-seconds", "a number of seconds from 120 to 604800", within::<120, 604_800>)
            .and_then(|seconds| u32::try_from(seconds).ok()),
        tftp_servers: part.take("tftp-servers", ADDRESSES, addresses).unwrap_or_default(),
        vendor_options: Vec::new(),
        phone_classes: part.take("phone-classes", CLASSES, texts).unwrap_or_default(),
        phone_ouis: part
            .take("phone-ouis", "a list of how MAC addresses begin, for example [\"00:04:f2\"]", |value| {
                texts(value)?.iter().map(|text| text.parse().ok()).collect()
            })
            .unwrap_or_default(),
        offer_classes: part.take("offer-classes", CLASSES, texts),
    };
    if matches!(settings.mode, DhcpMode::All | DhcpMode::PhonesOnly) && settings.range.is_none() {
        part.problem("range", "", "this mode leases addresses: give the first and the last of a range");
    }
    settings
}

/// One table, from which each known key is taken; what is left over is unknown.
struct Section<'a> {
    prefix: &'static str,
    table: Table,
    problems: &'a mut Vec<Problem>,
}

impl Section<'_> {
    fn section(&mut self, name: &'static str) -> Section<'_> {
        let table = match self.table.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.problem(name, &other.to_string(), &format!("write a table: [{name}]"));
                Table::new()
            }
        };
        Section { prefix: name, table, problems: self.problems }
    }

    fn take<T>(&mut self, key: &str, instead: &str, parse: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.table.remove(key)?;
        let parsed = parse(&value);
        if parsed.is_none() {
            self.problem(key, &value.to_string(), &format!("write {instead}"));
        }
        parsed
    }

    fn problem(&mut self, key: &str, value: &str, instead: &str) {
        let key = if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) };
        let value = value.chars().take(80).collect();
        self.problems.push(Problem { key, value, instead: instead.to_owned() });
    }

    fn finish(mut self) {
        for (key, value) in std::mem::take(&mut self.table) {
            self.problem(&key, &value.to_string(), "no such key; see the sample file for what there is");
        }
    }
}

fn interface_name(value: &Value) -> Option<String> {
    // IFNAMSIZ is 16 with the NUL.
    let name = value.as_str()?;
    let fits = (1..=15).contains(&name.len()) && !name.contains(['/', ' ', '\0']);
    fits.then(|| name.to_owned())
}

fn text_value(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn absolute(value: &Value) -> Option<PathBuf> {
    let path = PathBuf::from(value.as_str()?);
    path.is_absolute().then_some(path)
}

fn socket(value: &Value) -> Option<PathBuf> {
    // sun_path holds 108 bytes; the kernel's own error for longer ones names neither key nor limit.
    absolute(value).filter(|path| path.as_os_str().len() <= 100)
}

fn port(value: &Value) -> Option<u16> {
    u16::try_from(value.as_integer()?).ok()
}

fn within<const LOW: i64, const HIGH: i64>(value: &Value) -> Option<usize> {
    let number = value.as_integer().filter(|number| (LOW..=HIGH).contains(number))?;
    usize::try_from(number).ok()
}

fn addresses(value: &Value) -> Option<Vec<Ipv4Addr>> {
    value.as_array()?.iter().map(|item| item.as_str()?.parse().ok()).collect()
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

fn neighbours(value: &Value) -> Option<BTreeMap<Ipv4Addr, MacAddr>> {
    value.as_table()?.iter().map(|(ip, mac)| Some((ip.parse().ok()?, mac.as_str()?.parse().ok()?))).collect()
}

/// The mode of this name, as it is written in files.
fn dhcp_mode(value: &Value) -> Option<DhcpMode> {
    let name = value.as_str()?;
    serde::Deserialize::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_a_good_one() {
        let settings = Settings::parse("").expect("defaults");
        assert_eq!((settings.tftp.port, settings.dhcp.server_port), (69, 67));
        assert_eq!(settings.dhcp.local.mode, DhcpMode::Auto);
    }

    #[test]
    fn the_sample_file_is_the_defaults() {
        let shown: String = SAMPLE
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n");
        let settings = Settings::parse(&shown).expect("the sample with every default uncommented");
        assert_eq!(settings, Settings::parse(SAMPLE).expect("the sample as it is"));
        assert_eq!(settings, Settings::parse("").expect("defaults"));
    }

    #[test]
    fn every_problem_is_reported_in_one_run_with_key_value_and_what_to_write() {
        let text = r#"
            speed = "fast"
            [lan]
            interface = "an interface name that is too long"
            [tftp]
            port = 70000
            prot = 69
            [dhcp]
            mode = "all"
            dns = ["8.8.8"]
            [storage]
            state = "relative/path"
            [update]
            poll-seconds = 1
        "#;
        let problems = Settings::parse(text).expect_err("seven problems");
        let shown: Vec<String> = problems.iter().map(Problem::to_string).collect();
        let expected = [
            "lan.interface = \"an interface name that is too long\": write an interface name",
            "storage.state = \"relative/path\": write an absolute path",
            "tftp.port = 70000: write a port from 0 to 65535",
            "tftp.prot = 69: no such key",
            "dhcp.dns = [\"8.8.8\"]: write a list of IPv4 addresses",
            "dhcp.range: this mode leases addresses",
            "update.poll-seconds = 1: write a number of seconds from 5",
            "speed = \"fast\": no such key",
        ];
        assert_eq!(shown.len(), expected.len(), "{shown:#?}");
        for (shown, expected) in shown.iter().zip(expected) {
            assert!(shown.starts_with(expected), "{shown:?} should start with {expected:?}");
        }
    }

    #[test]
    fn a_syntax_error_says_the_line() {
        let problems = Settings::parse("[lan]\ninterface = \n").expect_err("no value");
        assert!(problems.iter().any(|problem| problem.instead.contains("line 2")), "{problems:?}");
    }
}
