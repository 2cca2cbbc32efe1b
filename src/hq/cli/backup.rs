//! `backup`, `restore` and `rebuild`.

use std::io::Write;
use std::path::Path;

use anyhow::Context as _;

use crate::backup;
use ids::UnixTime;
use online::ca::Ca;
use repository::layout::Layout;

/// Writes a backup of HQ's host.
pub(super) fn write(layout: &Layout, to: Option<&Path>, now: UnixTime, out: &mut dyn Write) -> anyhow::Result<()> {
    let file = backup::write(layout, to, now)?;
    writeln!(out, "wrote {}: only the recovery key opens it", file.display())?;
    Ok(writeln!(out, "keep it on another machine than this one")?)
}

/// Puts a backup back.
pub(super) fn restore(
    layout: &Layout,
    (file, key): (&Path, Option<&Path>),
    now: UnixTime,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let recovery = layout.key("recovery");
    told(backup::restore(layout, file, key.unwrap_or(&recovery), now)?, out)
}

/// Makes the database anew.
pub(super) fn rebuild(layout: &Layout, now: UnixTime, out: &mut dyn Write) -> anyhow::Result<()> {
    told(backup::rebuild(layout, now)?, out)
}

/// Makes a certificate for a web server of one's own.
pub(super) fn certificate(
    layout: &Layout,
    (name, to): (&str, &Path),
    now: UnixTime,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let made = Ca::load(&layout.online())?.certificate_for(name, now)?;
    // A host's name has no slash, so it names a file in this folder.
    let stem = name.replace(':', "-");
    for (ending, text) in [("key", made.key.as_str()), ("pem", &made.certificate)] {
        let path = to.join(format!("{stem}.{ending}"));
        durable::replace(&path, text.as_bytes(), durable::PRIVATE)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    writeln!(out, "made {stem}.key and {stem}.pem in {}: for two years, so make them again each year", to.display())?;
    Ok(writeln!(out, "the server must ask for client certificates of {}/ca.pem", layout.online().display())?)
}

fn told(lines: Vec<String>, out: &mut dyn Write) -> anyhow::Result<()> {
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
