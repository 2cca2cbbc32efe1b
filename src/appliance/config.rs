//! The appliance's one configuration file. TOML is read into checked [`ApplianceSettings`]. One run reports all
//! problems.
//!
//! Every key has a default that works, so an empty file is valid. What HQ signs for the site (DHCP mode, TFTP
//! limits, poll interval) comes with the release and is not written here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bundle::DhcpSettings;
use ids::MacAddr;
use settings::{Problem, Source, Table, Wrong, count};

/// The path of the configuration file if `--config` names no other.
pub const DEFAULT_PATH: &str = "/etc/lineside/lineside.toml";
/// The largest configuration file that is read, in bytes.
const MAX_BYTES: u64 = 256 * 1024;
/// The longest path of a socket: `sun_path` holds 108 bytes, and the kernel's own error names neither key nor limit.
const MAX_SOCKET_BYTES: usize = 100;
/// The longest name of an interface: `IFNAMSIZ` is 16 with the NUL.
const MAX_INTERFACE_BYTES: usize = 15;

/// The sample file, which is also its documentation.
pub const SAMPLE: &str = include_str!("lineside.toml");

/// What the configuration file says, checked, with a default for each key that it leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplianceSettings {
    /// The name of the LAN interface. `None` takes the only interface with a private address.
    pub interface: Option<String>,
    /// Whether loopback may be the LAN: for the demo and tests.
    pub allow_loopback: bool,
    /// Fixed addresses of devices, for labs where there is no link layer.
    pub neighbours: BTreeMap<Ipv4Addr, MacAddr>,
    /// The state directory: everything that must survive a restart.
    pub state: PathBuf,
    /// What the `[tftp]` table says.
    pub tftp: TftpPart,
    /// What the `[dhcp]` table says.
    pub dhcp: DhcpPart,
    /// The file in which the system says which image runs. It exists only on an image of ours.
    pub image_state: PathBuf,
    /// The time between two polls of HQ, as long as no release sets another.
    pub poll: Duration,
    /// The path of the Unix socket that `lineside status` asks.
    pub status_socket: PathBuf,
    /// Which log lines are written, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
}

/// The `[tftp]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TftpPart {
    /// Whether TFTP is served.
    pub enabled: bool,
    /// The UDP port of the TFTP server: 69 in production; 0 takes any free port.
    pub port: u16,
    /// The most transfers at a time, 1 to 10,000.
    pub max_transfers: usize,
    /// The most transfers of one address at a time, 1 to 100.
    pub max_transfers_per_device: usize,
}

/// The `[dhcp]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpPart {
    /// Whether the appliance takes part in DHCP at all.
    pub enabled: bool,
    /// The UDP port that the appliance listens on: 67 in production; 0 takes any free port.
    pub server_port: u16,
    /// The UDP port of clients, where answers go: 68 in production.
    pub client_port: u16,
    /// The UDP port of relay agents, where answers to relayed messages go: 67 in production.
    pub relay_port: u16,
    /// What DHCP does as long as no release sets it, as in a lab without HQ.
    pub local: DhcpSettings,
}

/// Everything that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The path of the configuration file.
    pub path: PathBuf,
    /// What is wrong, in the order of lines; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has {}", self.path.display(), count(self.problems.len(), "problem"))?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl ApplianceSettings {
    /// Reads and checks a configuration file. A file that is missing gives the defaults only if `path` is
    /// [`DEFAULT_PATH`]; a file that somebody named must be there.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let source = match Source::read(path, &path.to_string_lossy(), MAX_BYTES) {
            Err(_) if path == Path::new(DEFAULT_PATH) && matches!(path.try_exists(), Ok(false)) => {
                Ok(Source::new(DEFAULT_PATH, ""))
            }
            read => read.map_err(|problem| vec![problem]),
        };
        source
            .and_then(|source| Self::parse(&source))
            .map_err(|problems| ConfigError { path: path.to_owned(), problems })
    }

    /// Checks the text of a configuration file, and reports all of its problems in the order of lines.
    pub fn parse(source: &Source) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let settings = read(source, &mut problems);
        problems.sort_by_key(|problem| problem.line);
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }
}

/// Reads every key. A key that is missing or wrong gets its default; a wrong one adds to `problems` as well.
fn read(source: &Source, problems: &mut Vec<Problem>) -> ApplianceSettings {
    let mut root = source.toml(problems);

    let mut lan = root.table("lan", problems);
    let interface = lan.checked("interface", "the name of one, for example \"eth0\", or \"auto\"", problems, interface);
    let allow_loopback = flag(&mut lan, "allow-loopback", problems).unwrap_or(false);
    let neighbours = lan.checked(
        "neighbours",
        "a table of IP = MAC: { \"192.168.1.20\" = \"00:04:f2:aa:bb:cc\" }",
        problems,
        Ok::<BTreeMap<Ipv4Addr, MacAddr>, Wrong>,
    );
    lan.finish(problems);

    let mut storage = root.table("storage", problems);
    let state = path(&mut storage, "state", usize::MAX, problems);
    storage.finish(problems);

    let mut table = root.table("tftp", problems);
    let tftp = TftpPart {
        enabled: flag(&mut table, "enabled", problems).unwrap_or(true),
        port: port(&mut table, "port", problems).unwrap_or(69),
        max_transfers: table.number("max-transfers", 1..=10_000, problems).unwrap_or(600),
        max_transfers_per_device: table.number("max-transfers-per-device", 1..=100, problems).unwrap_or(8),
    };
    table.finish(problems);

    let mut table = root.table("dhcp", problems);
    let mut dhcp = DhcpPart {
        enabled: flag(&mut table, "enabled", problems).unwrap_or(true),
        server_port: port(&mut table, "server-port", problems).unwrap_or(67),
        client_port: port(&mut table, "client-port", problems).unwrap_or(68),
        relay_port: port(&mut table, "relay-port", problems).unwrap_or(67),
        local: DhcpSettings::default(),
    };
    settings::read_dhcp(table, &mut dhcp.local, problems);

    let mut table = root.table("update", problems);
    let poll = Duration::from_secs(table.number("poll-seconds", 5..=86_400, problems).unwrap_or(300));
    table.finish(problems);

    let mut table = root.table("image", problems);
    let image_state = path(&mut table, "state", usize::MAX, problems);
    table.finish(problems);

    let mut table = root.table("status", problems);
    let status_socket = path(&mut table, "socket", MAX_SOCKET_BYTES, problems);
    table.finish(problems);

    let mut table = root.table("log", problems);
    let log =
        table.checked("filter", "a filter: \"info\" or \"info,lineside::tftp=debug\"", problems, Ok::<String, Wrong>);
    table.finish(problems);

    root.finish(problems);
    ApplianceSettings {
        interface: interface.map(|(_, name)| name).filter(|name| name != "auto"),
        allow_loopback,
        neighbours: neighbours.map(|(_, known)| known).unwrap_or_default(),
        state: state.unwrap_or_else(|| "/var/lib/lineside".into()),
        tftp,
        dhcp,
        image_state: image_state.unwrap_or_else(|| "/run/lineside-os/state.toml".into()),
        poll,
        status_socket: status_socket.unwrap_or_else(|| "/run/lineside/status.sock".into()),
        log: log.map_or_else(|| "info".to_owned(), |(_, filter)| filter),
    }
}

fn flag(table: &mut Table<'_>, key: &'static str, problems: &mut Vec<Problem>) -> Option<bool> {
    table.checked(key, "true or false", problems, Ok::<bool, Wrong>).map(|(_, yes)| yes)
}

/// Takes the number of a UDP port. 0 means any port that is free.
fn port(table: &mut Table<'_>, key: &'static str, problems: &mut Vec<Problem>) -> Option<u16> {
    table.number(key, 0..=65_535, problems)
}

fn path(table: &mut Table<'_>, key: &'static str, most: usize, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    let check = |text: String| {
        if text.len() > most {
            return Err(
                Wrong::new(format!("has {} bytes", text.len())).hint(format!("write a path of at most {most} bytes"))
            );
        }
        let path = PathBuf::from(&text);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(Wrong::new(format!("is `{}`, which does not begin with /", text.escape_debug())))
        }
    };
    table.checked(key, "an absolute path", problems, check).map(|(_, path)| path)
}

fn interface(name: String) -> Result<String, Wrong> {
    if (1..=MAX_INTERFACE_BYTES).contains(&name.len()) && !name.contains(['/', ' ', '\0']) {
        return Ok(name);
    }
    Err(Wrong::new(format!("is `{}`, which no interface is called", name.escape_debug())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bundle::DhcpMode;
    use settings::sample;

    use super::*;

    fn parse(text: &str) -> Result<ApplianceSettings, Vec<Problem>> {
        ApplianceSettings::parse(&Source::new("lineside.toml", text))
    }

    #[test]
    fn an_empty_file_is_a_good_one() {
        let settings = parse("").expect("defaults");
        assert_eq!((settings.tftp.port, settings.dhcp.server_port), (69, 67));
        assert_eq!(settings.dhcp.local.mode, DhcpMode::Auto);
    }

    #[test]
    fn the_sample_file_is_the_defaults() {
        let shown: String = SAMPLE
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n");
        let settings = parse(&shown).expect("the sample with every default uncommented");
        assert_eq!(settings, parse(SAMPLE).expect("the sample as it is"));
        assert_eq!(settings, parse("").expect("defaults"));
        // Its examples are good ones, too.
        parse(&sample::uncommented(SAMPLE)).expect("the sample with every line uncommented");
    }

    #[test]
    fn the_sample_documents_every_key_and_no_other() {
        let keys = sample::keys(SAMPLE, |source| ApplianceSettings::parse(source).unwrap_err());
        assert_eq!(keys.documented, keys.known);
        for key in ["tftp.port", "dhcp.server-port", "dhcp.range", "dhcp.vendor-options.code", "log.filter"] {
            assert!(keys.known.contains(key), "{key} is not among {:?}", keys.known);
        }
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
        let problems = parse(text).expect_err("eight problems");
        let shown: Vec<String> = problems.iter().map(Problem::to_string).collect();
        let expected = [
            "lineside.toml:2: unknown key `speed`\n  hint: known here: lan, storage, tftp,",
            "lineside.toml:4: `lan.interface` is `an interface name that is too long`, which no interface is called\n  hint: write the name",
            "lineside.toml:6: `tftp.port` is 70000, but must be 0 to 65535",
            "lineside.toml:7: unknown key `tftp.prot`\n  hint: did you mean `port`?",
            "lineside.toml:9: this `dhcp.mode` leases addresses, but there is no `range`\n  hint: add range",
            "lineside.toml:10: `dhcp.dns[0]`: invalid IPv4 address syntax\n  hint: write a list of IPv4 addresses",
            "lineside.toml:12: `storage.state` is `relative/path`, which does not begin with /\n  hint: write an absolute path",
            "lineside.toml:14: `update.poll-seconds` is 1, but must be 5 to 86400",
        ];
        assert_eq!(shown.len(), expected.len(), "{shown:#?}");
        for (shown, expected) in shown.iter().zip(expected) {
            assert!(shown.starts_with(expected), "{shown:?} should start with {expected:?}");
        }
    }

    #[test]
    fn values_are_taken_up_to_their_limits_and_no_further() {
        let longest = format!("/{}", "s".repeat(99));
        for good in [
            "[lan]\ninterface = \"auto\"".to_owned(),
            "[lan]\nneighbours = { \"127.0.0.20\" = \"00:04:f2:aa:bb:cc\" }".to_owned(),
            "[tftp]\nport = 0\nmax-transfers = 10000\nmax-transfers-per-device = 1".to_owned(),
            "[update]\npoll-seconds = 5".to_owned(),
            format!("[status]\nsocket = \"{longest}\""),
        ] {
            parse(&good).expect(&good);
        }
        for bad in [
            "[lan]\ninterface = \"\"".to_owned(),
            "[lan]\nneighbours = { \"127.0.0\" = \"00:04:f2:aa:bb:cc\" }".to_owned(),
            "[lan]\nallow-loopback = 1".to_owned(),
            "[tftp]\nport = -1".to_owned(),
            "[tftp]\nmax-transfers = 10001".to_owned(),
            "[tftp]\nmax-transfers-per-device = 0".to_owned(),
            "[update]\npoll-seconds = 86401".to_owned(),
            format!("[status]\nsocket = \"{longest}s\""),
            "[image]\nstate = \"x\"".to_owned(),
            "log = 1".to_owned(),
        ] {
            assert_eq!(parse(&bad).expect_err(&bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_syntax_error_says_the_line() {
        let problems = parse("[lan]\ninterface = \n").expect_err("no value");
        assert!(problems.iter().any(|problem| problem.line == Some(2)), "{problems:?}");
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let error = ApplianceSettings::load(Path::new("/nonexistent/lineside.toml")).unwrap_err();
        let told = "/nonexistent/lineside.toml has 1 problem\n/nonexistent/lineside.toml: the file is missing";
        assert_eq!(error.to_string(), told);
    }
}
