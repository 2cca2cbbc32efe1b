//! The text of `keys show`: the keys that are trusted now, and what the prepared root would change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::{FleetKeys, Role};
use repository::keyring;
use tuf::KeyId;
use tuf::schema::Root;

/// How many digits of a key's id are shown: enough to tell keys apart, and short enough for a line.
const DIGITS: usize = 16;

impl FleetKeys {
    /// Lists the roles with their keys. If a root is prepared, it marks the keys that would come (`+`) and go (`-`) and
    /// counts the signatures.
    pub fn describe(&self) -> anyhow::Result<String> {
        let files = self.files();
        let mut text = String::new();
        let now = self.trusted();
        let next = self.pending().unwrap_or(now);
        writeln!(text, "root version {}, valid until {}", now.version, now.expires)?;
        if let Some(pending) = self.pending() {
            writeln!(text, "prepared: version {}, valid until {}", pending.version, pending.expires)?;
        }
        if let Some(time) = self.pending().and_then(Root::time) {
            writeln!(text, "sites set the time that they remember to {time}, also if theirs is later")?;
        }
        for role in Role::ALL {
            role_lines(&mut text, role, (now, next), &files)?;
        }
        if let Some(pending) = &self.pending {
            let (old, new) = self.progress()?;
            writeln!(text, "signatures on {}:", pending.path.display())?;
            writeln!(text, "  {} of {} by the keys trusted now", old.have, old.need)?;
            writeln!(text, "  {} of {} by the keys that it names", new.have, new.need)?;
        }
        Ok(text)
    }

    /// The key files that can be read without a passphrase, by the public ids in their comments.
    fn files(&self) -> BTreeMap<String, PathBuf> {
        let mut paths = keyring::files(&self.layout.keys()).unwrap_or_default();
        paths.push(self.layout.online_key());
        let id = |path: &PathBuf| {
            let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).ok()?);
            text.lines().find_map(|line| Some(line.strip_prefix("# public id: ")?.trim().to_owned()))
        };
        paths.into_iter().filter_map(|path| Some((id(&path)?, path))).collect()
    }
}

fn role_lines(
    text: &mut String,
    role: Role,
    (now, next): (&Root, &Root),
    files: &BTreeMap<String, PathBuf>,
) -> std::fmt::Result {
    let (old, new) = (role.keys(now), role.keys(next));
    write!(text, "{:9} {} of {} must sign", role.word(), new.threshold, new.keyids.len())?;
    if (old.threshold, old.keyids.len()) != (new.threshold, new.keyids.len()) {
        write!(text, " (now {} of {})", old.threshold, old.keyids.len())?;
    }
    writeln!(text)?;
    let mut line = |mark: char, id: &KeyId| {
        let short = id.0.get(..DIGITS).unwrap_or(&id.0);
        let place = files.get(&id.0).map(|path| path.display().to_string()).unwrap_or_default();
        writeln!(text, "{}", format!("  {mark} {short}  {place}").trim_end())
    };
    for id in &new.keyids {
        line(if old.keyids.contains(id) { ' ' } else { '+' }, id)?;
    }
    for id in old.keyids.iter().filter(|id| !new.keyids.contains(id)) {
        line('-', id)?;
    }
    Ok(())
}
