//! Secrets, for example SIP passwords: `secret:NAME` in a variable stands for a value that is never in git in clear.
//!
//! The value comes from `secrets.age`, which holds TOML (`NAME = "value"`) encrypted with age to `keys/secrets.key`. Or
//! it comes from the program that `secrets-command` in `fleet.toml` names, which prints the secret whose name it is
//! given.

mod consent;
mod masked;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use age::secrecy::ExposeSecret as _;
use anyhow::{Context as _, anyhow, bail};
use zeroize::Zeroizing;

use super::inventory::Fleet;
use repository::keyring::{self, Passphrase};
use repository::layout::Layout;

pub use consent::allow;
pub(crate) use masked::Masked;

/// The beginning of a variable's text that stands for a secret.
pub const PREFIX: &str = "secret:";

/// The largest `secrets.age`, in bytes: 100,000 secrets of ordinary length.
const MAX_SECRETS_BYTES: u64 = 64 * 1024 * 1024;

/// The longest value of a secret, in bytes.
const MAX_SECRET_BYTES: usize = 4096;

/// The secrets of a fleet, from wherever they come in this run.
#[derive(Debug)]
pub struct Secrets(Origin);

/// Where the secrets come from.
enum Origin {
    /// They are in `secrets.age`, which was decrypted.
    File(BTreeMap<String, Zeroizing<String>>),
    /// A program prints them. It is called once for each name.
    Command { command: Vec<String>, known: Mutex<BTreeMap<String, Result<Zeroizing<String>, String>>> },
    /// `keys/secrets.key` is not on this machine. Every name gets a placeholder, so that the rest can be checked.
    Locked,
    /// A program would print them, and this command runs none. Every name gets a placeholder that [`Masked`] finds again.
    Withheld,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File(_) => "File",
            Self::Command { .. } => "Command",
            Self::Locked => "Locked",
            Self::Withheld => "Withheld",
        })
    }
}

impl Secrets {
    /// Opens the secrets as `fleet.toml` says, but runs no program: what is in git runs nothing by itself.
    pub fn open(layout: &Layout, fleet: &Fleet) -> anyhow::Result<Self> {
        if !fleet.secrets_command.is_empty() {
            return Ok(Self(Origin::Withheld));
        }
        if layout.secrets().exists() && !layout.key("secrets").exists() {
            return Ok(Self(Origin::Locked));
        }
        read(layout).map(|values| Self(Origin::File(values)))
    }

    /// The same secrets for `publish` and `preview`: a program may be asked for them, if a person here agreed to it.
    pub fn for_use(self, layout: &Layout, fleet: &Fleet) -> anyhow::Result<Self> {
        match self.0 {
            Origin::Withheld => {
                consent::needed(layout, &fleet.secrets_command)?;
                let command = fleet.secrets_command.clone();
                Ok(Self(Origin::Command { command, known: Mutex::default() }))
            }
            _ => Ok(self),
        }
    }

    /// Whether a program would have to be run for the values, and is not.
    pub fn are_withheld(&self) -> bool {
        matches!(self.0, Origin::Withheld)
    }

    /// Secrets that give a placeholder for every name.
    pub fn locked() -> Self {
        Self(Origin::Locked)
    }

    /// Whether the real values are at hand, and not placeholders.
    pub fn is_unlocked(&self) -> bool {
        !matches!(self.0, Origin::Locked | Origin::Withheld)
    }

    /// The value of a secret. The error says why there is none.
    pub fn resolve(&self, name: &str) -> Result<Zeroizing<String>, String> {
        match &self.0 {
            Origin::Locked => Ok(Zeroizing::new("locked".to_owned())),
            Origin::Withheld => Ok(Zeroizing::new(masked::PLACEHOLDER.to_owned())),
            Origin::File(values) => values.get(name).cloned().ok_or_else(|| "it is not in secrets.age".to_owned()),
            Origin::Command { command, known } => {
                let mut known = known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                known.entry(name.to_owned()).or_insert_with(|| ask(command, name)).clone()
            }
        }
    }
}

/// Runs the program for one name and returns the first line that it prints.
fn ask(command: &[String], name: &str) -> Result<Zeroizing<String>, String> {
    // A name that looks like an option must not become one.
    if name.starts_with('-') || name.is_empty() {
        return Err("its name is empty or begins with a hyphen".to_owned());
    }
    let mut asking = asking(command, name).ok_or_else(|| "no command is named".to_owned())?;
    let program = asking.get_program().to_string_lossy().into_owned();
    let output = asking.output().map_err(|error| format!("`{program}` cannot be run: {error}"))?;
    let text = Zeroizing::new(output.stdout);
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        return Err(format!("`{program}` ended with {}: {reason}", output.status));
    }
    let text = std::str::from_utf8(&text).map_err(|_| format!("`{program}` printed something that is not text"))?;
    let line = text.lines().next().unwrap_or_default();
    match line.len() {
        0 => Err(format!("`{program}` printed nothing")),
        1..=MAX_SECRET_BYTES => Ok(Zeroizing::new(line.to_owned())),
        _ => Err(format!("`{program}` printed more than {MAX_SECRET_BYTES} bytes")),
    }
}

/// The program with its arguments and the name.
fn asking(command: &[String], name: &str) -> Option<Command> {
    let (program, arguments) = command.split_first()?;
    let mut asking = Command::new(program);
    // What opens the offline keys is none of its business.
    asking.args(arguments).arg(name).env_remove("LINESIDE_PASSPHRASE").stdin(Stdio::null());
    Some(asking)
}

/// Makes `keys/secrets.key`, in age's own format so that the age tools read it, and `secrets.age` with these values.
pub fn init(
    layout: &Layout,
    values: &BTreeMap<String, Zeroizing<String>>,
    passphrase: Option<&Passphrase>,
) -> anyhow::Result<()> {
    let identity = age::x25519::Identity::generate();
    let text = Zeroizing::new(format!(
        "# Opens secrets.age. Offline; keep a copy in a safe place.\n# public key: {}\n{}\n",
        identity.to_public(),
        identity.to_string().expose_secret()
    ));
    keyring::write(&layout.key("secrets"), &text, passphrase)?;
    write_to(layout, &identity.to_public(), values)
}

fn identity(layout: &Layout) -> anyhow::Result<age::x25519::Identity> {
    let path = layout.key("secrets");
    let text = keyring::read(&path)?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    line.parse().map_err(|error| anyhow!("{} is not an age key: {error}", path.display()))
}

/// Decrypts all secrets of `secrets.age`. Empty if there is no such file.
pub fn read(layout: &Layout) -> anyhow::Result<BTreeMap<String, Zeroizing<String>>> {
    let path = layout.secrets();
    let sealed = match durable::read_regular(&path, MAX_SECRETS_BYTES) {
        Ok(sealed) => sealed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let clear = age::decrypt(&identity(layout)?, &sealed)
        .map_err(|error| anyhow!("secrets.age does not open with keys/secrets.key: {error}"))?;
    let clear = Zeroizing::new(clear);
    let text = std::str::from_utf8(&clear).map_err(|_| anyhow!("secrets.age holds something that is not text"))?;
    // The parser's message is dropped, because it would quote the line with the secret.
    let values: BTreeMap<String, String> =
        toml::from_str(text).map_err(|_| anyhow!("the text in secrets.age is not lines of NAME = \"value\""))?;
    Ok(values.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect())
}

/// Encrypts these secrets into `secrets.age` and replaces the file.
pub fn write(layout: &Layout, values: &BTreeMap<String, Zeroizing<String>>) -> anyhow::Result<()> {
    write_to(layout, &identity(layout)?.to_public(), values)
}

fn write_to(
    layout: &Layout,
    recipient: &age::x25519::Recipient,
    values: &BTreeMap<String, Zeroizing<String>>,
) -> anyhow::Result<()> {
    let mut text = Zeroizing::new(String::new());
    for (name, value) in values {
        if value.is_empty() || value.len() > MAX_SECRET_BYTES || value.chars().any(char::is_control) {
            bail!("secret {name} is empty, longer than {MAX_SECRET_BYTES} bytes or holds a control character");
        }
        text.push_str(&format!("{} = {}\n", quoted(name), quoted(value)));
    }
    let sealed = age::encrypt_and_armor(recipient, text.as_bytes())
        .map_err(|error| anyhow!("cannot encrypt the secrets: {error}"))?;
    repository::tree::write_file(&layout.secrets(), sealed.as_bytes())
}

/// This text as a basic string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Fails for a name that could not follow `secret:` in a line of `phones.csv`.
pub fn check_name(name: &str) -> anyhow::Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@');
    if name.is_empty() || name.len() > 100 || name.starts_with('-') || !name.chars().all(good) {
        bail!("`{name}` cannot name a secret; use 1 to 100 letters, digits and - _ . / : @");
    }
    Ok(())
}

/// Makes a random password of 20 letters and digits, about 114 bits, without those that look alike (I34).
pub fn generate() -> anyhow::Result<Zeroizing<String>> {
    const LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let mut password = Zeroizing::new(String::new());
    let mut bytes = Zeroizing::new([0u8; 64]);
    while password.len() < 20 {
        getrandom::fill(&mut *bytes).map_err(|error| anyhow!("no random numbers from the system: {error}"))?;
        for byte in bytes.iter() {
            // Values beyond the last letter are skipped: a modulus would prefer some letters.
            if let Some(letter) = LETTERS.get(usize::from(byte & 63))
                && password.len() < 20
            {
                password.push(char::from(*letter));
            }
        }
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn fleet(dir: &std::path::Path) -> Layout {
        let layout = Layout::new(dir);
        fs::create_dir(layout.keys()).unwrap();
        init(&layout, &BTreeMap::new(), None).unwrap();
        layout
    }

    #[test]
    fn secrets_come_back_as_they_were_and_are_not_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let layout = fleet(dir.path());
        let values = BTreeMap::from([("alice".to_owned(), Zeroizing::new("p\"w\\d&<hunter2".to_owned()))]);
        write(&layout, &values).unwrap();
        assert_eq!(read(&layout).unwrap(), values);
        let text = fs::read_to_string(layout.secrets()).unwrap();
        assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----") && !text.contains("hunter2"));
    }

    #[test]
    fn another_fleets_key_opens_nothing() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, theirs) = (fleet(ours.path()), fleet(theirs.path()));
        write(&ours, &BTreeMap::from([("a".to_owned(), Zeroizing::new("b".to_owned()))])).unwrap();
        fs::copy(ours.secrets(), theirs.secrets()).unwrap();
        assert!(read(&theirs).unwrap_err().to_string().contains("does not open"));
    }

    #[test]
    fn a_command_is_asked_with_the_name_as_last_argument() {
        let command = vec!["echo".to_owned(), "value-of".to_owned()];
        let secrets = Secrets(Origin::Command { command, known: Mutex::default() });
        assert_eq!(secrets.resolve("alice").unwrap().as_str(), "value-of alice");
        assert!(secrets.resolve("--version").is_err());
    }

    #[test]
    fn a_program_does_not_see_the_passphrase_of_the_keys() {
        let command = vec!["sh".to_owned(), "-c".to_owned(), "echo \"[$LINESIDE_PASSPHRASE]\"".to_owned()];
        assert_eq!(ask(&command, "name").unwrap().as_str(), "[]");
        let asked = asking(&command, "name").unwrap();
        assert!(asked.get_envs().any(|(name, value)| name == "LINESIDE_PASSPHRASE" && value.is_none()));
    }

    #[test]
    fn generated_passwords_are_long_and_differ() {
        let (a, b) = (generate().unwrap(), generate().unwrap());
        assert_eq!(a.len(), 20);
        assert_ne!(a, b);
    }
}
