//! The scenes of the demo: what Lineside is for, step by step. Each scene makes a claim, and a claim that does not hold
//! fails the demo.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

use super::phone::{DhcpAnswer, Fetched, SimulatedPhone};
use super::stage::{DemoHq, DemoSite, free_udp_port, unprivileged_dhcp};
use api::SiteState;
use ids::{Digest, Generation, MacAddr, UnixTime};

const RECEPTION: MacAddr = MacAddr::new([0x00, 0x1b, 0x54, 0xaa, 0x00, 0x01]);
const MEETING: MacAddr = MacAddr::new([0x00, 0x1b, 0x54, 0xaa, 0x00, 0x02]);
const WORKSHOP: MacAddr = MacAddr::new([0x00, 0x04, 0xf2, 0xbb, 0x00, 0x03]);
/// The address of berlin's reception phone. curl sends from it without `--interface`, and so is that phone.
const YOU: Ipv4Addr = Ipv4Addr::LOCALHOST;
const WORKSHOP_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 20, 13);
const STRANGER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 66, 6);

/// HQ and the sites after the last scene. They still run.
#[derive(Debug)]
pub struct Finished {
    hq: DemoHq,
    berlin: DemoSite,
    lisbon: DemoSite,
    // The last field, so that what uses the directory is dropped first.
    dir: tempfile::TempDir,
}

/// Plays all scenes and prints them.
///
/// # Errors
/// If a claim does not hold or a step fails. The message says what and where.
pub async fn play() -> anyhow::Result<Finished> {
    let dir = tempfile::Builder::new().prefix("lineside-demo-").tempdir()?;
    let mut narrator = Narrator::default();

    narrator.scene("Headquarters starts a fleet: a directory for git, keys, and a small online service");
    let mut hq = DemoHq::start(dir.path(), "Demo").await?;
    inventory(&hq)?;
    let report = hq::lint::check(&hq.layout);
    ensure!(report.is_clean(), "the demo's fleet directory has problems:\n{report}");
    narrator.saw(format!("fleet directory {}", hq.layout.dir().display()));
    narrator.saw("two sites, three phones, templates for each model; `check` finds no problem");
    narrator.saw(format!("HQ serves https://{}", hq.address));

    narrator.scene("Two sites enrol: each box makes its own keys and gets a certificate, once, by a token");
    let relay_port = free_udp_port()?;
    let client_port = free_udp_port()?;
    let free = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let token = hq.token("berlin")?;
    let dhcp = unprivileged_dhcp(relay_port, client_port);
    let berlin = DemoSite::start(dir.path(), "berlin", &token, free, [(YOU, RECEPTION)].into(), dhcp.clone())
        .await
        .context("berlin")?;
    let lisbon_token = hq.token("lisbon")?;
    let known = [(WORKSHOP_ADDRESS, WORKSHOP)].into();
    let lisbon = DemoSite::start(dir.path(), "lisbon", &lisbon_token, free, known, dhcp).await.context("lisbon")?;
    narrator.saw(format!("berlin: TFTP on {}, DHCP on {}", berlin.tftp()?, berlin.dhcp()?));
    narrator.saw(format!("lisbon: TFTP on {}, DHCP on {}", lisbon.tftp()?, lisbon.dhcp()?));
    let again = enrol_again(dir.path().join("thief"), &token).await;
    narrator.saw(format!("a second box with berlin's token is refused: {}", again?));

    narrator.scene("HQ publishes; each site pulls, verifies, decrypts and activates its own release");
    let summary = hq.publish().await?;
    narrator.saw(summary.to_string().lines().next().unwrap_or_default());
    for site in [&berlin, &lisbon] {
        let report = site.serves(Generation(1)).await?;
        let fetched = report.counters.get("update.fetched-bytes").copied().unwrap_or(0);
        narrator.saw(format!("{} serves generation 1 ({fetched} bytes of sealed objects pulled)", site.name));
    }
    nothing_in_clear(&hq, &berlin)?;
    narrator.saw("neither the published tree nor berlin's card holds a password in clear");

    narrator.scene("The phones boot: DHCP tells them where, TFTP gives each its own files");
    let (reception, meeting, workshop) = phones();
    let reception_at = lease(&mut narrator, &reception, &berlin, relay_port, 1).await?;
    let meeting_at = lease(&mut narrator, &meeting, &berlin, relay_port, 2).await?;
    let informed = workshop.inform(lisbon.dhcp()?, SocketAddrV4::new(WORKSHOP_ADDRESS, client_port)).await?;
    ensure!(informed.tftp_server_name.is_some(), "the Polycom's INFORM brought no option 66: {informed:?}");
    narrator.saw(format!(
        "{} ({}) has an address already and asks with INFORM: {}",
        workshop.name,
        workshop.mac,
        said(&informed)
    ));
    let first = boot_cisco(&mut narrator, &reception, &berlin, reception_at).await?;
    let other = boot_cisco(&mut narrator, &meeting, &berlin, meeting_at).await?;
    ensure!(first != other, "two phones got the same configuration");
    boot_polycom(&mut narrator, &workshop, &lisbon).await?;

    narrator.scene("One line changes at HQ; the site takes it, and only that phone's file changes");
    hq.edit("phones.csv", ",101,Reception,", ",101,Front desk,")?;
    let plan = hq::plan::plan(&hq.layout, None, &mut hq::progress::Silent)?.to_string();
    for line in plan.lines().filter(|line| !line.trim().is_empty()).take(6) {
        narrator.saw(format!("plan | {line}"));
    }
    hq.publish().await?;
    let before = fetched(&berlin);
    berlin.serves(Generation(2)).await?;
    let changed = own_file(&reception, &berlin, reception_at).await?;
    ensure!(changed != first, "the reception's file did not change");
    ensure!(contains(&changed, b"Front desk"), "the reception's file does not have the change");
    ensure!(own_file(&meeting, &berlin, meeting_at).await? == other, "the meeting room's file changed too");
    narrator.saw(format!("berlin serves generation 2 ({} bytes of sealed objects pulled)", fetched(&berlin) - before));
    narrator.saw(format!("{}: {} is new, {}'s is as it was", reception.name, reception.file(), meeting.name));
    ensure!(lisbon.serves(Generation(1)).await?.generation == Generation(1), "lisbon took what is not its own");
    narrator.saw("lisbon had nothing to take");

    narrator.scene("A phone asks for another phone's file, a stranger asks for any");
    let server = berlin.tftp()?;
    let refused = meeting.fetch(server, meeting_at, &reception.file()).await?;
    let absent = meeting.fetch(server, meeting_at, "no-such-file.xml").await?;
    let stranger = workshop.fetch(server, STRANGER_ADDRESS, &reception.file()).await?;
    let Fetched::Refused(1, text) = &refused else { bail!("the meeting room got the reception's file: {refused:?}") };
    ensure!(refused == absent, "`not yours` and `not there` differ: {refused:?}, {absent:?}");
    ensure!(refused == stranger, "a stranger is told something else: {stranger:?}");
    narrator.saw(format!("both hear ERROR 1 \"{text}\", the same as for a name that does not exist"));
    let put = meeting.put(server, meeting_at, &meeting.file()).await?;
    ensure!(matches!(put, Fetched::Refused(2, _)), "a write was not refused: {put:?}");
    narrator.saw("a write is refused with ERROR 2; there is nothing to write into");

    narrator.scene("Somebody changes one bit of a published object on the web server");
    hq.edit("phones.csv", ",101,Front desk,", ",101,Lobby,")?;
    let old = objects(&hq)?;
    hq.publish().await?;
    let fresh: Vec<PathBuf> = objects(&hq)?.into_iter().filter(|path| !old.contains(path)).collect();
    let victim = fresh.first().context("the change made no new object")?;
    let good = std::fs::read(victim)?;
    let mut bad = good.clone();
    if let Some(byte) = bad.last_mut() {
        *byte ^= 1;
    }
    std::fs::write(victim, &bad)?;
    let report = berlin.poll_until("the refusal", |report| report.state != SiteState::Ok.code()).await?;
    ensure!(report.generation == Generation(2), "berlin took a tampered release");
    ensure!(own_file(&reception, &berlin, reception_at).await? == changed, "the old file is no longer served");
    narrator.saw(format!("berlin refuses it: {} ({})", report.state, report.reason));
    narrator.saw("generation 2 goes on being served");
    std::fs::write(victim, &good)?;
    berlin.serves(Generation(3)).await?;
    narrator.saw("the object is restored; berlin serves generation 3");

    narrator.scene("HQ's machine goes away; the phones do not notice");
    hq.go_away().await?;
    let report = berlin.poll_until("the outage", |report| report.state == SiteState::Unreachable.code()).await?;
    narrator.saw(format!("berlin: {} ({})", report.state, report.reason));
    let still = boot_cisco(&mut narrator, &reception, &berlin, reception_at).await?;
    ensure!(contains(&still, b"Lobby"), "the phone did not get its newest file");
    hq.serve()?;
    berlin.serves(Generation(3)).await?;
    lisbon.serves(Generation(1)).await?;
    narrator.saw("HQ is back; what its engineer sees:");
    let rows = online::fleet::rows(&hq.layout.database(), UnixTime::of(std::time::SystemTime::now()))?;
    for line in online::fleet::print(&rows, 100).lines() {
        narrator.saw(format!("fleet | {line}"));
    }
    println!("\nEvery scene held.");
    Ok(Finished { hq, berlin, lisbon, dir })
}

impl Finished {
    /// Prints commands that a person can try while everything runs.
    pub fn tell_what_to_try(&self) {
        let (Ok(berlin), Ok(lisbon)) = (self.berlin.tftp(), self.lisbon.tftp()) else { return };
        let file = format!("SEP{}.cnf.xml", RECEPTION.upper());
        let polycom = format!("{}.cfg", WORKSHOP.lower());
        let hq = self.hq.layout.dir().display();
        println!("\nEverything stays up until Ctrl-C. From {YOU} you are berlin's reception phone. Try:\n");
        println!("  curl tftp://{berlin}/{file}");
        println!("  curl --interface {STRANGER_ADDRESS} tftp://{berlin}/{file}        # a stranger");
        println!("  curl --interface {WORKSHOP_ADDRESS} tftp://{lisbon}/{polycom}     # lisbon's Polycom");
        println!("  $EDITOR {hq}/phones.csv && lineside-hq --fleet {hq} plan && lineside-hq --fleet {hq} publish");
        println!("  lineside-hq --fleet {hq} fleet");
        for site in [&self.berlin, &self.lisbon] {
            println!(
                "  lineside --config {} status --poll",
                self.dir.path().join(format!("{}.toml", site.name)).display()
            );
        }
        println!(
            "\n(`lineside` and `lineside-hq` are beside the demo in target/release after `cargo build --release`.)"
        );
        for site in [&self.berlin, &self.lisbon] {
            let socket = self.dir.path().join(format!("{}.sock", site.name));
            let text = format!("[status]\nsocket = \"{}\"\n", socket.display());
            if let Err(error) = std::fs::write(self.dir.path().join(format!("{}.toml", site.name)), text) {
                tracing::warn!(%error, "no configuration for `lineside status`");
            }
        }
    }

    /// Ends sites and HQ and removes the temporary directory.
    pub async fn stop(mut self) {
        self.berlin.running.stop().await;
        self.lisbon.running.stop().await;
        if let Err(error) = self.hq.go_away().await {
            tracing::debug!(%error, "HQ ended badly");
        }
    }
}

/// Prints the title of each scene, numbered from 1, and what was seen in it.
#[derive(Default)]
struct Narrator {
    scenes: u32,
}

impl Narrator {
    fn scene(&mut self, title: &str) {
        self.scenes += 1;
        println!("\n{}. {title}", self.scenes);
    }

    fn saw(&mut self, what: impl std::fmt::Display) {
        println!("   - {what}");
    }
}

fn inventory(hq: &DemoHq) -> anyhow::Result<()> {
    hq::init::add_site(&hq.layout, "berlin")?;
    hq::init::add_site(&hq.layout, "lisbon")?;
    std::fs::remove_file(hq.layout.sites().join("sample-office.toml"))?;
    let berlin = hq.layout.sites().join("berlin.toml");
    let text = std::fs::read_to_string(&berlin)?;
    let dhcp = "[dhcp]\nmode = \"all\"\nrange = [\"127.0.10.10\", \"127.0.10.40\"]\nrouters = [\"127.0.10.1\"]\n";
    ensure!(text.contains("[dhcp]\n"), "the sample site file has changed");
    std::fs::write(&berlin, text.replacen("[dhcp]\n", dhcp, 1))?;
    let phones = format!(
        "mac,site,model,label,extension,display_name,auth_user,password\n\
         {RECEPTION},berlin,cisco-8941,Reception,101,Reception,101,secret:sip-101\n\
         {MEETING},berlin,cisco-9971,Meeting room,102,Meeting room,102,secret:sip-102\n\
         {WORKSHOP},lisbon,polycom,Workshop,103,Workshop,103,secret:sip-103\n"
    );
    hq.write("phones.csv", &phones)
}

fn phones() -> (SimulatedPhone, SimulatedPhone, SimulatedPhone) {
    let phone =
        |name: &str, mac, vendor_class, blksize| SimulatedPhone { name: name.to_owned(), mac, vendor_class, blksize };
    (
        phone("reception", RECEPTION, "Cisco Systems, Inc. IP Phone CP-8941", None),
        phone("meeting room", MEETING, "Cisco Systems, Inc. IP Phone CP-9971", Some(1400)),
        phone("workshop", WORKSHOP, "Polycom-SPIP670", None),
    )
}

impl SimulatedPhone {
    /// The file name of its configuration, as phones of its vendor ask for it.
    fn file(&self) -> String {
        if self.vendor_class.starts_with("Polycom") {
            format!("{}.cfg", self.mac.lower())
        } else {
            format!("SEP{}.cnf.xml", self.mac.upper())
        }
    }
}

async fn lease(
    narrator: &mut Narrator,
    phone: &SimulatedPhone,
    site: &DemoSite,
    port: u16,
    relay: u8,
) -> anyhow::Result<Ipv4Addr> {
    let relay = SocketAddrV4::new(Ipv4Addr::new(127, 0, 9, relay), port);
    let address = phone.lease(site.dhcp()?, relay).await?;
    ensure!(address.tftp_servers == [Ipv4Addr::LOCALHOST], "option 150 is not the box: {address:?}");
    ensure!(address.tftp_server_name.as_deref() == Some("127.0.0.1"), "option 66 is not the box: {address:?}");
    narrator.saw(format!("{} ({}) leases {}: {}", phone.name, phone.mac, address.ip, said(&address)));
    Ok(address.ip)
}

fn said(address: &DhcpAnswer) -> String {
    let name = address.tftp_server_name.as_deref().unwrap_or("none");
    let servers: Vec<String> = address.tftp_servers.iter().map(ToString::to_string).collect();
    format!("option 66 is {name}, option 150 is {}", servers.join(", "))
}

/// Boots a Cisco phone. It asks for three trust lists first, and goes on to its configuration when there are none.
async fn boot_cisco(
    narrator: &mut Narrator,
    phone: &SimulatedPhone,
    site: &DemoSite,
    at: Ipv4Addr,
) -> anyhow::Result<Vec<u8>> {
    let server = site.tftp()?;
    let mac = phone.mac.upper();
    for name in [format!("CTLSEP{mac}.tlv"), format!("ITLSEP{mac}.tlv"), "ITLFile.tlv".to_owned()] {
        let answer = phone.fetch(server, at, &name).await?;
        ensure!(matches!(answer, Fetched::Refused(1, _)), "{}: {name}: {answer:?}", phone.name);
    }
    let content = own_file(phone, site, at).await?;
    narrator.saw(format!("{}: three trust lists not found, then {} ({})", phone.name, phone.file(), size(&content)));
    Ok(content)
}

/// Boots a Polycom phone. It tries to write its log first, which is refused here.
async fn boot_polycom(narrator: &mut Narrator, phone: &SimulatedPhone, site: &DemoSite) -> anyhow::Result<()> {
    let server = site.tftp()?;
    let log = format!("{}-app.log", phone.mac.lower());
    let written = phone.put(server, WORKSHOP_ADDRESS, &log).await?;
    ensure!(matches!(written, Fetched::Refused(2, _)), "a write was not refused: {written:?}");
    let content = own_file(phone, site, WORKSHOP_ADDRESS).await?;
    narrator.saw(format!("{}: may not write {log}, then gets {} ({})", phone.name, phone.file(), size(&content)));
    Ok(())
}

async fn own_file(phone: &SimulatedPhone, site: &DemoSite, at: Ipv4Addr) -> anyhow::Result<Vec<u8>> {
    match phone.fetch(site.tftp()?, at, &phone.file()).await? {
        Fetched::File(content) => Ok(content),
        other => bail!("{} did not get {}: {other:?}", phone.name, phone.file()),
    }
}

fn size(content: &[u8]) -> String {
    let digest = Digest::of(content).to_string();
    format!("{} bytes, SHA-256 {}…", content.len(), digest.get(..12).unwrap_or_default())
}

fn fetched(site: &DemoSite) -> u64 {
    site.report().counters.get("update.fetched-bytes").copied().unwrap_or(0)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Enrols a second box with a used token, and returns the reason with which HQ refuses it.
async fn enrol_again(state: PathBuf, token: &api::EnrolmentToken) -> anyhow::Result<String> {
    let store = store::Store::open(&state)?;
    match update::enrol(token, &store, appliance::clock::synchronised()).await {
        Ok(_) => bail!("a used token was taken again"),
        Err(error) => Ok(error.to_string()),
    }
}

fn objects(hq: &DemoHq) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(hq.layout.public().join("objects"))? {
        for file in std::fs::read_dir(folder?.path())? {
            found.push(file?.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Checks that no file of the published tree or of the site's card has the reception's password or MAC address in
/// clear.
fn nothing_in_clear(hq: &DemoHq, site: &DemoSite) -> anyhow::Result<()> {
    let preview = hq::preview::preview(
        &hq.layout,
        &site.name,
        &RECEPTION.to_string(),
        &format!("SEP{}.cnf.xml", RECEPTION.upper()),
    )?;
    let hq::preview::Preview::Served(config) = preview else { bail!("the preview shows no file") };
    let config = String::from_utf8(config.to_vec()).context("the configuration is no text")?;
    let password = config.split("<authPassword>").nth(1).and_then(|rest| rest.split('<').next());
    let password = password.context("the sample configuration has no password")?;
    ensure!(password.len() > 7, "the sample password is short: {password}");
    let mut looked = 0;
    let mut left = vec![hq.layout.public(), site.state().to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        } else if path.is_file() {
            let bytes = std::fs::read(&path)?;
            for secret in [password, &RECEPTION.upper(), &RECEPTION.lower()] {
                ensure!(!contains(&bytes, secret.as_bytes()), "{} holds {secret} in clear", path.display());
            }
            looked += 1;
        }
    }
    ensure!(looked > 10, "only {looked} files were looked at");
    Ok(())
}
