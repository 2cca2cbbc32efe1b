//! Checks whether this appliance does what it is for. A boot of a new image counts as good only if this check passes.
//!
//! The check depends on nothing that another image could not mend. A site whose router, line or HQ is down, or whose
//! cable is pulled, is healthy as long as the last poll says so and a file of the release can be fetched by TFTP.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use access::{Catalog, DeviceTable, Files};
use api::SiteState;
use bundle::{FileEntry, Scope};
use ids::{Digest, Lan, MacAddr};
use status::{Stats, StatusReport};
use tftp::packet::{Packet, TransferMode, TransferRequest};

/// How long the server may take to answer one packet.
const BLOCK_WITHIN: Duration = Duration::from_secs(5);
/// How often one packet is sent at the most: a busy board may lose the first.
const TRIES: u32 = 3;
/// The largest file that is fetched, in bytes. The smallest file of a release has some hundreds.
const MAX_BYTES: u64 = 1024 * 1024;
/// The data in a full block, in octets, without options (RFC 1350 §2).
const BLOCK_BYTES: usize = 512;

/// What the check looks at. Clones look at the same.
#[derive(Clone)]
pub struct Health {
    /// The release that is served.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// Opens the files of that release.
    pub files: Arc<dyn Files>,
    /// The record of what happens here, which knows how the last poll ended.
    pub stats: Stats,
    /// Whether the settings ask for TFTP at all. If not, no file is fetched.
    pub tftp: bool,
}

impl Health {
    /// Runs the check, and returns in a sentence what it saw.
    ///
    /// # Errors
    /// What is wrong, or what is not known yet because no poll has ended.
    pub async fn check(&self) -> anyhow::Result<String> {
        let interfaces = nix::ifaddrs::getifaddrs().context("interfaces cannot be listed")?;
        let is_ethernet = |found: &nix::ifaddrs::InterfaceAddress| {
            let mac = found.address.as_ref().and_then(|address| address.as_link_addr()?.addr());
            mac.is_some_and(|mac| mac != [0; 6])
        };
        if !interfaces.into_iter().any(|found| is_ethernet(&found)) {
            bail!("there is no network interface");
        }
        let report = StatusReport::of(&self.stats);
        if report.state == SiteState::Starting.code() {
            bail!("no poll has ended yet: whether HQ can be reached is not known");
        }
        let catalog = Arc::clone(&self.catalog.borrow());
        let served = match probe(&catalog).filter(|_| self.tftp) {
            Some((entry, phone)) => {
                self.fetch(entry, phone).await.context("a file of the release cannot be had by TFTP")?;
                "a file of the release was fetched by TFTP"
            }
            None => "the release has no file to try",
        };
        Ok(format!("generation {}, HQ: {}; {served}", catalog.generation(), report.state))
    }

    /// Serves the release on loopback for a moment, and fetches a file there as a phone that may have it. The socket of
    /// the LAN does not hear what this machine sends to itself; everything behind the socket is the same code.
    async fn fetch(&self, entry: &FileEntry, phone: MacAddr) -> anyhow::Result<()> {
        let own = Ipv4Addr::LOCALHOST;
        let service = tftp::Service::bind(tftp::Config::new(SocketAddrV4::new(own, 0), Lan::new(own, 8)))?;
        let server = service.local_addr();
        let mut devices = DeviceTable::without_link();
        devices.fixed(own, phone);
        let (resolve, _nobody) = mpsc::channel(1);
        let feeds = tftp::Feeds {
            catalog: self.catalog.clone(),
            files: Arc::clone(&self.files),
            devices: Arc::new(RwLock::new(devices)),
            resolve,
            // A record of its own, so that this transfer does not count as a phone's.
            stats: Stats::new(),
        };
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        let serving = tokio::spawn(service.run(feeds, stop.clone()));
        let fetched = fetch(server, entry).await;
        stop.cancel();
        serving.await.context("the service failed")?.context("the service failed")?;
        fetched
    }
}

/// The smallest file of the release that some phone may have, and that phone. `None` if there is none of at most
/// [`MAX_BYTES`].
fn probe(catalog: &Catalog) -> Option<(&FileEntry, MacAddr)> {
    let phone = |entry: &FileEntry| match &entry.scope {
        Scope::Device(mac) => catalog.phone(*mac).map(|phone| phone.mac),
        Scope::Model(model) => catalog.phones().find(|phone| phone.model == *model).map(|phone| phone.mac),
        Scope::Everyone => catalog.phones().next().map(|phone| phone.mac),
    };
    let small = catalog.files().filter(|entry| entry.blob.clear_bytes <= MAX_BYTES);
    let found = small.filter_map(|entry| Some((entry.as_ref(), phone(entry)?)));
    found.min_by_key(|(entry, _)| entry.blob.clear_bytes)
}

/// Fetches the file by TFTP without options, block after block, and compares its SHA-256 with the release's.
async fn fetch(server: SocketAddrV4, entry: &FileEntry) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let request =
        TransferRequest { name: entry.name.as_str().as_bytes(), mode: TransferMode::Octet, options: Vec::new() };
    let mut packet = Vec::new();
    Packet::Read(request).emit(&mut packet);
    let (mut to, mut wanted, mut content) = (server, 1_u16, Vec::new());
    let mut buffer = [0; 4 + BLOCK_BYTES];
    loop {
        let (length, from) = exchange(&socket, &packet, to, &mut buffer).await?;
        match Packet::parse(buffer.get(..length).unwrap_or_default())? {
            Packet::Data { block, bytes } if block == wanted => {
                content.extend_from_slice(bytes);
                to = from;
                packet.clear();
                Packet::Ack(block).emit(&mut packet);
                wanted = wanted.wrapping_add(1);
                if bytes.len() < BLOCK_BYTES {
                    socket.send_to(&packet, to).await?;
                    break;
                }
            }
            Packet::Data { .. } => {}
            Packet::Error { code, message } => bail!("error {code}: {}", String::from_utf8_lossy(message)),
            _ => bail!("an answer that is none"),
        }
        if content.len() as u64 > MAX_BYTES {
            bail!("it does not end");
        }
    }
    if Digest::of(&content) != entry.sha256 {
        bail!("other bytes than the release says");
    }
    Ok(())
}

async fn exchange(
    socket: &UdpSocket,
    packet: &[u8],
    to: SocketAddrV4,
    buffer: &mut [u8],
) -> anyhow::Result<(usize, SocketAddrV4)> {
    for _ in 0..TRIES {
        socket.send_to(packet, to).await?;
        if let Ok(received) = timeout(BLOCK_WITHIN, socket.recv_from(buffer)).await
            && let (length, std::net::SocketAddr::V4(from)) = received?
        {
            return Ok((length, from));
        }
    }
    bail!("no answer")
}
