//! `login`: which machine is HQ's host, its CA, and the API token. They are in `keys/host.toml`, which never gets into git.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::host::Remote;
use crate::inventory::FleetInventory;
use durable::{PRIVATE, PRIVATE_DIR, PUBLIC};
use ids::{Digest, FleetId, UnixTime};
use online::db::Db;
use online::desk::TOKEN_PREFIX;
use repository::layout::Layout;
use settings::MAX_TEXT_BYTES;
use telemetry::Hint as _;

/// How long the text of a token may be that is typed or read.
const MAX_TOKEN_TEXT: u64 = 4096;
/// The length of an API token's secret.
const TOKEN_BYTES: usize = 32;
/// How long API tokens are good unless `--days` says otherwise.
pub(crate) const DAYS: u32 = 365;
/// The most days.
const MAX_DAYS: u32 = 3650;

/// Where the host is and how the desk shows who it is.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Session {
    /// Where operators are answered: `https://host:port`.
    pub(crate) url: String,
    /// The host's name in its certificate, for a URL that is the end of a tunnel.
    pub(crate) name: String,
    /// The fleet that the host serves.
    pub(crate) fleet: FleetId,
    /// SHA-256 of the CA's certificate that the host's must be under.
    pub(crate) ca_sha256: Digest,
    /// The API token.
    pub(crate) token: String,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

impl Session {
    fn path(layout: &Layout) -> PathBuf {
        layout.keys().join("host.toml")
    }

    /// The session of this fleet directory; `None` if HQ's host is this machine.
    pub(crate) fn read(layout: &Layout) -> anyhow::Result<Option<Self>> {
        let path = Self::path(layout);
        let text = match durable::read_regular(&path, MAX_TEXT_BYTES) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            // Who may not look into keys/ runs commands that need none of it.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && !may_list(&layout.keys()) => {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let session = toml::from_slice(&text).with_context(|| format!("{} is malformed", path.display()))?;
        Ok(Some(session))
    }

    fn write(&self, layout: &Layout) -> anyhow::Result<()> {
        durable::create_dirs(&layout.keys(), PRIVATE_DIR).context("cannot make keys/")?;
        let body = Zeroizing::new(toml::to_string(self).context("cannot write the login")?);
        let text = Zeroizing::new(format!(
            "# Secret. HQ's host, and the API token that it knows this desk by. `lineside-hq logout` removes it.\n\n{}",
            *body
        ));
        let path = Self::path(layout);
        durable::replace(&path, text.as_bytes(), PRIVATE).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn may_list(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok()
}

/// Makes an API token on HQ's host. The text has the token and the SHA-256 of the CA that a desk shall trust.
pub(crate) fn add_token(
    online: &Path,
    name: &str,
    days: u32,
    now: UnixTime,
) -> anyhow::Result<(Zeroizing<String>, UnixTime)> {
    ensure!(is_name(name), "`{name}` cannot name a token; use 1 to 60 letters, digits, hyphens, dots and underscores");
    ensure!((1..=MAX_DAYS).contains(&days), "a token is good for 1 to {MAX_DAYS} days");
    let ca = online::ca::digest(online)?;
    let mut secret = Zeroizing::new([0u8; TOKEN_BYTES]);
    getrandom::fill(secret.as_mut_slice()).map_err(|error| anyhow!("no randomness: {error}"))?;
    let token =
        Zeroizing::new(format!("{TOKEN_PREFIX}{}", *Zeroizing::new(data_encoding::HEXLOWER.encode(secret.as_slice()))));
    let until = now.plus(std::time::Duration::from_secs(u64::from(days) * 86_400));
    Db::open_existing(&online.join("hq.sqlite")).or_else(|_| Db::open(&online.join("hq.sqlite")))?.add_api_token(
        name,
        &Digest::of(token.as_bytes()),
        now,
        until,
    )?;
    Ok((Zeroizing::new(format!("{}.{ca}", *token)), until))
}

fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (1..=60).contains(&name.len()) && name.chars().all(good)
}

/// Token and CA out of what `api-token add` printed, with whatever stands around it.
fn parse(text: &str) -> anyhow::Result<(Zeroizing<String>, Digest)> {
    let word = text.split_whitespace().find(|word| word.starts_with(TOKEN_PREFIX));
    let (token, ca) = word.and_then(|word| word.split_once('.')).ok_or_else(|| {
        anyhow!("this is no API token: it begins with {TOKEN_PREFIX}, and the CA's SHA-256 follows a dot")
    })?;
    let secret = token.strip_prefix(TOKEN_PREFIX).unwrap_or_default();
    ensure!(
        secret.len() == 2 * TOKEN_BYTES && secret.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "the API token was cut or changed on the way"
    );
    let ca = ca.parse().map_err(|_| anyhow!("the CA's SHA-256 behind the token was cut or changed on the way"))?;
    Ok((Zeroizing::new(token.to_owned()), ca))
}

/// Reads the token from a file, from standard input, or from whoever sits at the terminal.
pub(crate) fn token_text(file: Option<&Path>) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    match file {
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            file.take(MAX_TOKEN_TEXT).read_to_string(&mut text).context("cannot read the token")?;
        }
        None if std::io::stdin().is_terminal() => {
            eprint!("what `lineside-hq api-token add` printed on HQ's host (it will show): ");
            std::io::stdin().read_line(&mut text).context("cannot read the token")?;
        }
        None => {
            std::io::stdin().lock().take(MAX_TOKEN_TEXT).read_to_string(&mut text).context("cannot read the token")?;
        }
    }
    Ok(text)
}

/// Logs this fleet directory in to HQ's host.
pub(crate) fn login(layout: &Layout, inventory: &FleetInventory, url: &str, text: &str) -> anyhow::Result<Session> {
    for own in ["online.key", "ca.key"] {
        if layout.online().join(own).exists() {
            return Err(anyhow!("online/{own} is here: this directory is HQ's host itself").hint(
                "move online/ to the host (`scp -rp online HOST:/var/lib/lineside-hq/ && rm -r online`), start `serve` there, \
                 then log in",
            ));
        }
    }
    let (token, ca_sha256) = parse(text)?;
    let fleet = &inventory.fleet;
    let session = Session {
        url: url.trim_end_matches('/').to_owned(),
        name: crate::init::host_of(&fleet.url).unwrap_or_default(),
        fleet: fleet.id.clone(),
        ca_sha256,
        token: (*token).clone(),
    };
    let remote = Remote::new(session)?;
    let told = &remote.state()?.0;
    if told.version != env!("CARGO_PKG_VERSION") {
        tracing::warn!(host = told.version, here = env!("CARGO_PKG_VERSION"), "HQ's host runs another version");
    }
    let Some(ca) = remote.client.ca_certificate() else { bail!("HQ's host did not show the certificate of its CA") };
    durable::create_dirs(&layout.online(), PRIVATE_DIR).context("cannot make online/")?;
    let path = layout.online().join("ca.pem");
    durable::replace(&path, pem(&ca).as_bytes(), PUBLIC).with_context(|| format!("cannot write {}", path.display()))?;
    remote.session.write(layout)?;
    Session::read(layout)?.context("the login was not kept")
}

/// Forgets the host. Returns its URL if there was one.
pub(crate) fn logout(layout: &Layout) -> anyhow::Result<Option<String>> {
    let Some(session) = Session::read(layout)? else { return Ok(None) };
    let path = Session::path(layout);
    durable::wipe(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(Some(session.url.clone()))
}

/// A certificate in PEM (RFC 7468).
fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut lines = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        lines.push_str(line);
        lines.push('\n');
        rest = after;
    }
    lines + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::testing::{NOW, sample};

    #[test]
    fn a_token_is_printed_with_the_ca_and_read_back_from_whatever_stands_around_it() {
        let sample = sample();
        let online = sample.layout.online();
        let (text, until) = add_token(&online, "desk", 30, NOW).unwrap();
        assert_eq!(until, UnixTime(NOW.0 + 30 * 86_400));
        let (token, ca) = parse(&format!("token for the desk:\n  {}\n", *text)).unwrap();
        assert_eq!(ca, online::ca::digest(&online).unwrap());
        let db = Db::open_existing(&sample.layout.database()).unwrap();
        assert_eq!(db.api_token(&Digest::of(token.as_bytes()), NOW).unwrap().as_deref(), Some("desk"));
        let cut = text.get(..text.len() - 1).unwrap();
        for wrong in ["", "lsh_", cut, &text.replace('.', " "), &text.replace("lsh_", "lsh_0")] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        // The database knows the token by its digest alone.
        let database = std::fs::read(sample.layout.database()).unwrap();
        assert!(!database.windows(20).any(|window| window == token.as_bytes().get(..20).unwrap()));
    }

    #[test]
    fn a_login_is_kept_for_its_owner_alone_and_forgotten() {
        let sample = sample();
        assert!(Session::read(&sample.layout).unwrap().is_none());
        let session = Session {
            url: "https://hq.example.net:8444".to_owned(),
            name: "hq.example.net".to_owned(),
            fleet: "f-1".parse().unwrap(),
            ca_sha256: Digest::of(b"ca"),
            token: "lsh_00".to_owned(),
        };
        session.write(&sample.layout).unwrap();
        let path = Session::path(&sample.layout);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Session::read(&sample.layout).unwrap().unwrap().token, "lsh_00");
        assert_eq!(logout(&sample.layout).unwrap().as_deref(), Some("https://hq.example.net:8444"));
        assert_eq!(logout(&sample.layout).unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn hqs_own_directory_is_not_logged_in_to_another_host() {
        let sample = sample();
        let inventory = crate::lint::read(&sample.layout).0.unwrap().inventory;
        let error = login(&sample.layout, &inventory, "https://127.0.0.1:1", "").err().unwrap();
        assert!(telemetry::explain(&error).contains("move online/ to the host"), "{error}");
    }

    #[test]
    fn a_certificate_in_pem_is_the_same_certificate() {
        let sample = sample();
        let path = sample.layout.online().join("ca.pem");
        let text = std::fs::read_to_string(&path).unwrap();
        let der = data_encoding::BASE64
            .decode(text.lines().filter(|line| !line.starts_with('-')).collect::<String>().as_bytes())
            .unwrap();
        assert_eq!(pem(&der).replace('\r', ""), text.replace('\r', ""));
    }
}
