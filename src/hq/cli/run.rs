//! What each command does and prints.

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow, bail};
use zeroize::Zeroizing;

use super::desk;
use super::{Cli, Command, ImageCommand, OnlineCommand, SecretCommand, SiteCommand};
use crate::host::Host;
use crate::images::{self, Images};
use crate::init::{self, InitOptions};
use crate::inventory::{FleetInventory, InventorySite};
use crate::login::Session;
use crate::preview::{self, Preview};
use crate::problem::{CheckReport, NotClean};
use crate::publish::{self, PublishOptions};
use crate::{address, backup, clock, enrol, lint, plan, progress, recipients, removal, secrets, warnings};
use ids::UnixTime;
use online::{freshen, service};
use repository::keyring::Passphrase;
use repository::layout::Layout;
use repository::lock::TreeLock;
use repository::ownership;
use settings::count;
use telemetry::Hint as _;

/// The most sites that are named one by one in warnings.
const MAX_WARNINGS: usize = 50;

/// Runs one command and prints its result to `out`. Returns `false` if `check` found problems.
pub fn run(cli: &Cli, out: &mut dyn Write) -> anyhow::Result<bool> {
    if let Command::Check = cli.command {
        let report = lint::check(&Layout::new(&cli.fleet));
        writeln!(out, "{report}")?;
        for warning in warnings::of(&Layout::new(&cli.fleet), now()) {
            writeln!(out, "warning: {warning}")?;
        }
        return Ok(report.is_clean());
    }
    let done = act(cli, out);
    // Root may work beside a `serve` that is another user.
    let writes = !matches!(
        cli.command,
        Command::Plan { .. } | Command::Preview { .. } | Command::Fleet { .. } | Command::Serve { .. }
    );
    if writes && let Err(error) = ownership::follow(&Layout::new(&cli.fleet).online()) {
        return done.and(Err(error));
    }
    done.map(|()| true)
}

fn act(cli: &Cli, out: &mut dyn Write) -> anyhow::Result<()> {
    let layout = Layout::new(&cli.fleet);
    match &cli.command {
        Command::Init { dir, name, url, passphrase } => start(dir, name, url, *passphrase, out),
        Command::Site(command) => site(&layout, command, out),
        Command::Secret(command) => secret(&layout, command, out),
        Command::Image(command) => image(&layout, command, out),
        Command::Enrolment(command) => super::enrolment::run(&layout, command, out),
        Command::Keys(command) => super::keys::run(&layout, command, now(), out),
        Command::Check => Ok(()),
        Command::Plan { sites } => {
            let fleet = inventory(&layout)?;
            if let Some(outdated) = desk::pull(&layout, &fleet)? {
                writeln!(out, "warning: {outdated}\n  hint: `git pull`, or publishing would take that back")?;
            }
            take_over_sealing_keys(&layout, &fleet, out)?;
            let enrolled = recipients::of_sites(&layout)?;
            for change in recipients::changes(&layout, &enrolled, &|site| fleet.name_of(site))? {
                writeln!(out, "{change}")?;
            }
            let plan = plan::plan(&layout, some(sites), &mut *progress::for_terminal())?;
            writeln!(out, "{plan}")?;
            plan.complete()
        }
        Command::Publish { refresh: true, clock_is_right, .. } => {
            let now = now();
            if let Host::Remote(remote) = Host::of(&layout)? {
                return Ok(writeln!(out, "HQ's host {} does that by itself", remote.session.url)?);
            }
            clock::may_sign(&layout, now, *clock_is_right)?;
            let held = TreeLock::wait(&layout.online())?;
            let sites = freshen::refresh(&layout.online(), now)?;
            drop(held);
            clock::signed(&layout, now)?;
            Ok(writeln!(out, "metadata of {} signed anew", count(sites, "site"))?)
        }
        Command::Publish { sites, clock_is_right, yes, outdated, again, .. } => {
            let now = now();
            if Session::read(&layout)?.is_none() {
                clock::may_sign(&layout, now, *clock_is_right)?;
            }
            let fleet = inventory(&layout)?;
            desk::refuse_outdated(desk::pull(&layout, &fleet)?, *outdated)?;
            if Session::read(&layout)?.is_some() {
                // The host has just said what time it is there.
                clock::may_sign(&layout, now, *clock_is_right)?;
            } else {
                backup::finish_restore(&layout, now)?;
                if address::follow_url(&layout, &fleet)? {
                    writeln!(out, "made a certificate for the host of `url`; start `lineside-hq serve` again")?;
                }
            }
            take_over_sealing_keys(&layout, &fleet, out)?;
            if sites.is_empty() {
                removal::ask_about(&layout, *yes)?;
            }
            recipients::ask_about(&layout, *yes, &|site| fleet.name_of(site))?;
            let options = PublishOptions { sites: some(sites).map(<[String]>::to_vec), now };
            let mut progress = progress::for_terminal();
            let summary = match again {
                true => publish::publish_again(&layout, &options, &mut *progress)?,
                false => publish::publish(&layout, &options, &mut *progress)?,
            };
            clock::signed(&layout, now)?;
            recipients::keep(&layout, &fleet.fleet.id)?;
            writeln!(out, "{summary}")?;
            match summary.refused.len() {
                0 => summary.complete(),
                sites => bail!("HQ's host did not take {}", count(sites, "site")),
            }
        }
        Command::Preview { site, mac, name } => match preview::preview(&layout, site, mac, name)? {
            Preview::Served(bytes) => Ok(out.write_all(&bytes).and_then(|()| out.flush())?),
            Preview::Refused(reason) => bail!("the phone would hear \"File not found\": {reason}"),
        },
        Command::Fleet { site } => super::fleet::show(&layout, site.as_deref(), now(), out),
        Command::Login { url, token } => desk::log_in(&layout, &inventory(&layout)?, url, token.as_deref(), out),
        Command::Logout => desk::log_out(&layout, out),
        Command::ApiToken(command) => desk::api_token(&layout, command, now(), out),
        Command::Backup { to, dir } => {
            let layout = dir.as_ref().map_or(layout, Layout::of_online);
            super::backup::write(&layout, to.as_deref(), now(), out)
        }
        Command::Restore { file, key } => super::backup::restore(&layout, (file, key.as_deref()), now(), out),
        Command::Online(OnlineCommand::Certificate { name, to }) => {
            super::backup::certificate(&layout, (name, to), now(), out)
        }
        Command::Rebuild => super::backup::rebuild(&layout, now(), out),
        Command::Serve { listen, operators, keys_here, dir, clock_is_right } => {
            let dir = dir.clone().unwrap_or_else(|| layout.online());
            desk::mind_keys(&dir, *keys_here)?;
            let confirmed = *clock_is_right || clock::asked_for_host(&Layout::of_online(&dir), now())?;
            serve(service::ServeOptions { dir, listen: *listen }, *operators, confirmed)
        }
    }
}

/// Takes over new sealing keys that appliances proved. Names those that are not believed.
fn take_over_sealing_keys(layout: &Layout, fleet: &FleetInventory, out: &mut dyn Write) -> anyhow::Result<()> {
    let refused = enrol::take_over_sealing_keys(layout, &fleet.fleet.id, now())?;
    for one in refused.iter().take(MAX_WARNINGS) {
        let site = fleet.name_of(&one.site).unwrap_or_else(|| one.site.to_string());
        writeln!(out, "warning: {site}: {one}")?;
    }
    match refused.len().saturating_sub(MAX_WARNINGS) {
        0 => Ok(()),
        more => Ok(writeln!(out, "warning: and {more} more like these")?),
    }
}

fn some(names: &[String]) -> Option<&[String]> {
    (!names.is_empty()).then_some(names)
}

#[expect(clippy::disallowed_methods, reason = "a command runs now")]
fn now() -> UnixTime {
    UnixTime::of(SystemTime::now())
}

fn start(dir: &Path, name: &str, url: &str, passphrase: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let passphrase = passphrase.then(Passphrase::for_new_keys).transpose()?;
    let options = InitOptions { name: name.to_owned(), url: url.to_owned(), now: now() };
    init::init_with(dir, &options, passphrase.as_ref())?;
    let dir = dir.display();
    writeln!(out, "made {dir}: a sample site, three sample phones, templates and all keys")?;
    writeln!(out, "keep copies of {dir}/keys in a safe place; neither keys/ nor online/ belongs into git")?;
    writeln!(out)?;
    writeln!(out, "next:")?;
    for (command, what) in [
        ("git init && git add .", "from now on every change is a commit"),
        ("lineside-hq check", "what is wrong with it"),
        ("lineside-hq serve --keys-here", "HQ online, on this machine, to try it out"),
        ("lineside-hq site enroll sample-office", "a token for the first appliance"),
        ("lineside-hq publish", "once it is enrolled"),
    ] {
        writeln!(out, "  {command:38}  {what}")?;
    }
    Ok(())
}

/// Reads the inventory. Fails with the problems that make it unreadable.
pub(super) fn inventory(layout: &Layout) -> anyhow::Result<FleetInventory> {
    let mut problems = Vec::new();
    FleetInventory::read(layout, &mut problems)
        .ok_or_else(|| NotClean(CheckReport { problems, ..CheckReport::default() }).into())
}

fn site(layout: &Layout, command: &SiteCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        SiteCommand::Add { name } => {
            inventory(layout)?;
            let id = init::add_site(layout, name)?;
            writeln!(out, "made sites/{name}.toml, id {id}")?;
        }
        SiteCommand::Enroll { name, qr, output } => {
            let inventory = inventory(layout)?;
            let site = find(&inventory, name)?;
            let fleet = &inventory.fleet;
            let token = enrol::issue(layout, &site.id, &site.name, &fleet.id, &fleet.url, fleet.repository.as_deref())?;
            let text = Zeroizing::new(toml::to_string(&token).context("cannot write the token")?);
            match output {
                Some(path) => {
                    write_secret(path, text.as_bytes())?;
                    writeln!(out, "wrote {}: good for one appliance until {}", path.display(), token.expires)?;
                    writeln!(out, "copy it to the appliance's card as lineside-token.toml")?;
                }
                None => out.write_all(text.as_bytes())?,
            }
            if *qr {
                writeln!(out, "{}", qr_code(&text)?)?;
            }
        }
        SiteCommand::List => {
            let inventory = inventory(layout)?;
            let standing = enrol::standing(layout)?;
            let phones = inventory.phones_by_site();
            let width = inventory.sites.keys().map(String::len).max().unwrap_or(0).max(4);
            writeln!(out, "{:width$}  {:18}  {:>6}  STATE", "SITE", "ID", "PHONES")?;
            for site in inventory.sites.values() {
                let number = phones.get(site.name.as_str()).map_or(0, Vec::len);
                let state = standing.of(&site.id);
                writeln!(out, "{:width$}  {:18}  {number:>6}  {state}", site.name, site.id.as_str())?;
            }
        }
        SiteCommand::Rename { old, new } => super::site::rename(layout, &inventory(layout)?, (old, new), out)?,
        SiteCommand::Remove { name, phones } => {
            super::site::remove(layout, &inventory(layout)?, name, *phones, out)?;
        }
        SiteCommand::Revoke { name } => {
            super::site::revoke(layout, &inventory(layout)?, name, out)?;
        }
    }
    Ok(())
}

fn image(layout: &Layout, command: &ImageCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    let inventory = inventory(layout)?;
    match command {
        ImageCommand::Add { file } => {
            let name = images::add(layout, file)?;
            writeln!(out, "images/{name}.raucb is there; no site runs it yet")?;
            if name.ends_with(images::THROW_AWAY) {
                writeln!(
                    out,
                    "WARNING: throw-away keys of somebody's checkout sign it; for tests only (image/build --keys)"
                )?;
            }
            writeln!(
                out,
                "next: image = \"{name}\" under [update] of one site, publish, and see `lineside-hq fleet`;"
            )?;
            writeln!(out, "then of the next sites, or under [defaults.update] of fleet.toml for all")?;
        }
        ImageCommand::List => {
            let mut problems = Vec::new();
            let images = Images::read(layout, &mut problems);
            let width = images.names().map(str::len).max().unwrap_or(0).max(5);
            writeln!(out, "{:width$}  {:>5}", "IMAGE", "SITES")?;
            for name in images.names() {
                let wants =
                    |site: &&InventorySite| site.settings.image.as_ref().is_some_and(|image| image.name == name);
                writeln!(out, "{name:width$}  {:>5}", inventory.sites.values().filter(wants).count())?;
            }
            if !problems.is_empty() {
                return Err(NotClean(CheckReport { problems, ..CheckReport::default() }).into());
            }
        }
    }
    Ok(())
}

fn find<'i>(inventory: &'i FleetInventory, name: &str) -> anyhow::Result<&'i InventorySite> {
    inventory.sites.get(name).ok_or_else(|| {
        let known: Vec<&str> = inventory.sites.keys().map(String::as_str).collect();
        anyhow!("there is no site `{name}`").hint(match settings::nearest(name, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`lineside-hq site list` names them".to_owned(),
        })
    })
}

fn secret(layout: &Layout, command: &SecretCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    if let SecretCommand::AllowCommand = command {
        let command = secrets::allow(layout, &inventory(layout)?.fleet.secrets_command)?;
        return Ok(writeln!(out, "`publish` and `preview` may run {command}")?);
    }
    let mut values = secrets::read(layout)?;
    match command {
        SecretCommand::AllowCommand => {}
        SecretCommand::Set { name } => {
            let input = std::io::stdin();
            if input.is_terminal() {
                eprint!("value of {name} (it will show): ");
            }
            let mut line = Zeroizing::new(String::new());
            input.lock().read_line(&mut line).context("cannot read the value")?;
            let value = line.trim_end_matches(['\r', '\n']).to_owned();
            secrets::check_name(name)?;
            values.insert(name.clone(), Zeroizing::new(value));
            secrets::write(layout, &values)?;
            writeln!(out, "set {name}")?;
        }
        SecretCommand::Generate { names } => {
            let mut made = 0usize;
            for name in names {
                secrets::check_name(name)?;
                if !values.contains_key(name) {
                    values.insert(name.clone(), secrets::generate()?);
                    made += 1;
                }
            }
            secrets::write(layout, &values)?;
            writeln!(out, "made {}", count(made, "password"))?;
        }
        SecretCommand::List => {
            for name in values.keys() {
                writeln!(out, "{name}")?;
            }
        }
    }
    Ok(())
}

fn serve(options: service::ServeOptions, operators: Option<SocketAddr>, clock_is_right: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let stop = tokio_util::sync::CancellationToken::new();
        let asked = stop.clone();
        let signals = async move {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                done = tokio::signal::ctrl_c() => done,
                _ = terminate.recv() => Ok(()),
            }
        };
        let server = desk::with_operators(service::Server::bind(options)?, operators)?;
        let server = if clock_is_right { server.clock_is_right()? } else { server };
        let serving = server.run(stop);
        tokio::pin!(serving);
        tokio::select! {
            done = &mut serving => done,
            signal = signals => {
                signal.context("cannot wait for signals")?;
                asked.cancel();
                serving.await
            }
        }
    })
}

/// Writes a new file that only its owner can read. Fails if there is one already.
fn write_secret(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    durable::create_new(path, bytes, durable::PRIVATE).with_context(|| format!("cannot create {}", path.display()))
}

fn qr_code(text: &str) -> anyhow::Result<String> {
    let code = qrcode::QrCode::with_error_correction_level(text, qrcode::EcLevel::L)
        .map_err(|error| anyhow!("the token does not fit a QR code: {error}"))?;
    // Terminals have a dark background, so the printed characters are the light modules.
    use qrcode::render::unicode::Dense1x2;
    let mut picture = code.render::<Dense1x2>();
    Ok(picture.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).quiet_zone(true).build())
}

/// Whether the command failed because its reader closed the output, as `head` does.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The text of an error for people: the chain of causes, then a hint.
pub(super) fn explain(error: &anyhow::Error) -> String {
    if let Some(NotClean(report)) = error.downcast_ref::<NotClean>() {
        return format!("{report}\nerror: nothing was done, because the fleet directory has problems\n");
    }
    let mut text = telemetry::explain(error);
    let hint = error.chain().find_map(|cause| {
        let io = cause.downcast_ref::<std::io::Error>()?;
        match io.kind() {
            std::io::ErrorKind::PermissionDenied => Some("run as the user whom the fleet directory belongs to"),
            std::io::ErrorKind::NotFound => Some("run inside the fleet directory, or name it with --fleet DIR"),
            std::io::ErrorKind::StorageFull => Some("the disk is full; nothing was switched over"),
            std::io::ErrorKind::AlreadyExists => Some("take another name, or remove the file first"),
            _ => None,
        }
    });
    if let Some(hint) = hint.filter(|_| telemetry::hints(error).next().is_none()) {
        text.push_str(&format!("\nhint: {hint}"));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::testing::{Sample, sample};

    fn ask(sample: &Sample, arguments: &[&str]) -> (String, Result<bool, String>) {
        let fleet = sample.layout.dir().to_str().unwrap();
        let cli = Cli::parse_from(["lineside-hq", "--fleet", fleet].iter().chain(arguments));
        let mut out = Vec::new();
        let result = run(&cli, &mut out).map_err(|error| explain(&error));
        (String::from_utf8(out).unwrap(), result)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn check_prints_what_it_found_and_says_whether_all_is_well() {
        let sample = sample();
        assert_eq!(ask(&sample, &["check"]), ("no problems: 1 site, 3 phones, 6 files\n".into(), Ok(true)));
        sample.replace("phones.csv", "polycom,Workshop", "vvx,Workshop");
        assert_eq!(
            ask(&sample, &["check"]),
            (
                "phones.csv:7: there are no templates for model `vvx`\n  \
                 hint: there are templates for cisco-8941, cisco-9971, polycom\n1 problem\n"
                    .into(),
                Ok(false)
            )
        );
        let (out, result) = ask(&sample, &["publish"]);
        assert_eq!(out, "");
        assert!(result.unwrap_err().ends_with("error: nothing was done, because the fleet directory has problems\n"));
    }

    #[test]
    fn a_token_is_written_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let sample = sample();
        let path = sample.layout.dir().join("token.toml");
        let (_, result) = ask(&sample, &["site", "enroll", "sample-office", "--output", path.to_str().unwrap()]);
        assert_eq!(result, Ok(true));
        let token: api::EnrolmentToken = toml::from_str(&sample.read("token.toml")).unwrap();
        assert_eq!(token.hq, "https://hq.example.net:8443");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A second one does not replace the first.
        let (_, again) = ask(&sample, &["site", "enroll", "sample-office", "--output", path.to_str().unwrap()]);
        assert!(again.unwrap_err().contains("hint: take another name"), "it must not be replaced");
    }

    #[test]
    fn an_unknown_site_gets_a_hint() {
        let (_, result) = ask(&sample(), &["site", "enroll", "sample-offic"]);
        assert_eq!(result, Err("error: there is no site `sample-offic`\nhint: did you mean `sample-office`?\n".into()));
    }

    #[test]
    fn a_revoked_site_lists_the_accounts_to_change() {
        let sample = sample();
        let _ = ask(&sample, &["site", "enroll", "sample-office"]);
        let (out, result) = ask(&sample, &["site", "revoke", "sample-office"]);
        assert_eq!(result, Ok(true));
        assert!(out.contains("  00:04:f2:00:00:03  Workshop  sip-103\n"), "{out}");
    }

    #[test]
    fn sites_are_listed_with_their_state() {
        let (out, _) = ask(&sample(), &["site", "list"]);
        assert!(out.ends_with("       3  waiting for enrolment\n"), "{out}");
    }
}
