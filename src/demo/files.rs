//! `--files`: publishes the files of a directory at a new HQ, and serves them from a site of its own, which pulls and
//! verifies them. Load tests measure the real path this way.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::directory::{Directory, Listing};
use super::stage::{DemoHq, DemoSite, free_udp_port, unprivileged_dhcp};
use access::owner::{self, NameOwner};
use hq::{init, lint};
use ids::{FileName, Generation, MacAddr};

/// HQ and a site that serve the files of a directory.
#[derive(Debug)]
pub struct Served {
    hq: DemoHq,
    /// The site; `None` with `--keep`, where `lineside run` serves in its place.
    site: Option<DemoSite>,
    files: usize,
    /// How many of the files belong to one device alone.
    own: usize,
    /// What of the directory is not served, and why.
    problems: Vec<String>,
    /// The address and port that TFTP is served on.
    at: SocketAddrV4,
    // The last field, so that what uses the directory is dropped first.
    _dir: tempfile::TempDir,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, own, problems, at, .. } = self;
        for problem in problems {
            writeln!(f, "not served: {problem}")?;
        }
        let doing = if self.site.is_some() { "serving" } else { "prepared" };
        write!(f, "{doing} {files} files ({own} of them one device's own) on {at}: published, pulled, verified")
    }
}

/// Publishes the files below `dir` and serves them on the loopback address `tftp`. With `keep` it leaves the
/// appliance's state and configuration in that directory, and only HQ goes on here. `lineside --config
/// KEEP/lineside.toml run` then serves the files in a process of its own.
///
/// # Errors
/// If the directory cannot be read, has too many files or none; or if publishing or serving fails. What cannot be served is
/// left out, and named in what [`Served`] displays.
pub async fn serve(
    dir: &Path,
    tftp: SocketAddrV4,
    neighbours: &[(Ipv4Addr, MacAddr)],
    keep: Option<&Path>,
) -> anyhow::Result<Served> {
    ensure!(*tftp.ip() == Ipv4Addr::LOCALHOST, "the demo serves on 127.0.0.1 only: write --tftp 127.0.0.1:PORT");
    let directory = Directory::open(dir)?;
    let Listing { mut names, mut problems } = directory.list()?;

    let scratch = tempfile::Builder::new().prefix("lineside-demo-").tempdir()?;
    let mut phones: BTreeSet<MacAddr> = neighbours.iter().map(|(_, mac)| *mac).collect();
    phones.extend(names.iter().filter_map(owner::by_rule));
    let mut own = 0;
    names.retain(|name| match owner::of(name, &|mac| phones.contains(&mac)) {
        NameOwner::Shared => true,
        NameOwner::Device(_) => {
            own += 1;
            true
        }
        NameOwner::Several(one, other) => {
            problems.push(format!("{name}: the addresses {one} and {other} both end with its digits"));
            false
        }
        NameOwner::NoDevice => {
            problems.push(format!("{name}: no device's address ends with its digits; name the device by --neighbour"));
            false
        }
    });
    ensure!(!names.is_empty(), "{} has no files{}", dir.display(), told(&problems));
    let hq = DemoHq::start(scratch.path(), "Files").await?;
    fill(&hq, &directory, &names, &phones)?;
    let report = lint::check(&hq.layout);
    ensure!(report.is_clean(), "{} cannot be published:\n{report}", dir.display());
    let token = hq.token("files")?;
    let relay = free_udp_port()?;
    let devices = neighbours.iter().copied().collect();
    let home = keep.unwrap_or(scratch.path());
    let site = DemoSite::start(home, "files", &token, tftp, devices, unprivileged_dhcp(relay, relay)).await?;
    hq.publish().await?;
    site.serves(Generation(1)).await?;
    let at = site.tftp()?;
    let site = match keep {
        None => Some(site),
        Some(keep) => {
            let config = site.config();
            site.running.stop().await;
            let path = keep.join("lineside.toml");
            std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
            None
        }
    };
    Ok(Served { hq, site, files: names.len(), own, problems, at, _dir: scratch })
}

impl Served {
    /// Ends the site, then HQ.
    pub async fn stop(mut self) {
        if let Some(site) = self.site {
            site.running.stop().await;
        }
        if let Err(error) = self.hq.go_away().await {
            tracing::debug!(%error, "HQ ended badly");
        }
    }
}

/// Fills the fleet directory: one site, one model with a template of one line, and the files as they are.
fn fill(hq: &DemoHq, from: &Directory, names: &[FileName], phones: &BTreeSet<MacAddr>) -> anyhow::Result<()> {
    let layout = &hq.layout;
    for folder in [layout.templates(), layout.sites(), layout.files()] {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        std::fs::create_dir_all(&folder)?;
    }
    std::fs::create_dir_all(layout.templates().join("any"))?;
    // A model must name at least one file. This one is for everyone.
    let about = "[[file]]\nname = \"lineside-demo.txt\"\ntemplate = \"about.j2\"\nscope = \"everyone\"\n";
    hq.write("templates/any/model.toml", &format!("models = [\"any\"]\n{about}"))?;
    hq.write("templates/any/about.j2", "Served by the Lineside demo.\n")?;
    init::add_site(layout, "files")?;
    hq.edit("fleet.toml", "[defaults.dhcp]", "device-files = true\n\n[defaults.dhcp]")?;
    let settings = std::fs::read_to_string(layout.fleet_toml())?;
    // A top-level key must stand before the first table, so the line above was put right before it.
    ensure!(settings.contains("device-files = true"), "the sample fleet.toml has changed");
    let mut lines = "mac,site,model,label\n".to_owned();
    for mac in phones {
        writeln!(lines, "{mac},files,any,")?;
    }
    hq.write("phones.csv", &lines)?;
    for name in names {
        let to = layout.files().join(name.as_str());
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = from.file(name.as_str()).with_context(|| format!("cannot read {name}"))?;
        let mut copy = std::fs::File::create(&to).with_context(|| format!("cannot write {name}"))?;
        std::io::copy(&mut file, &mut copy).with_context(|| format!("cannot copy {name}"))?;
    }
    Ok(())
}

/// The problems as the end of an error message.
fn told(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\nnot served: {problem}")).collect()
}
