//! One site with its service on a free port of the loopback interface, and the phones that ask it.

#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::*;
use super::{OTHER, OTHER_MAC, PHONE, PHONE_MAC, SERVER};
use crate::packet::{Packet, RequestOption, TransferMode, TransferRequest};
use access::{Content, ContentError};
use bundle::manifest::MANIFEST_FORMAT;
use bundle::{
    Class, ContentKey, FileEntry, Inventory, Manifest, ObjectRef, Packing, Phone, Scope, Shard, SiteSettings, Totals,
};
use ids::{Digest, FileName, Generation, Lan, UnixTime};

/// Files in memory. A file of this name is damaged from so many bytes on.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) files: HashMap<FileName, Arc<[u8]>>,
    pub(super) damaged_at: HashMap<FileName, u64>,
    /// Asking for a file of this name panics where packets are moved.
    pub(super) breaks: Option<FileName>,
    pub(super) delay: Duration,
}

struct Book {
    bytes: Arc<[u8]>,
    damaged_at: u64,
    breaks: bool,
    delay: Duration,
    reads: AtomicU64,
}

impl Files for Shelf {
    fn open(&self, entry: &Arc<FileEntry>) -> Result<Arc<dyn Content>, ContentError> {
        let bytes = self.files.get(&entry.name).ok_or_else(|| ContentError::Io("gone".to_owned()))?;
        let damaged_at = self.damaged_at.get(&entry.name).copied().unwrap_or(u64::MAX);
        Ok(Arc::new(Book {
            bytes: Arc::clone(bytes),
            damaged_at,
            breaks: self.breaks.as_ref() == Some(&entry.name),
            delay: self.delay,
            reads: AtomicU64::new(0),
        }))
    }
}

impl Content for Book {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn chunk(&self, index: u64) -> Result<Arc<[u8]>, ContentError> {
        std::thread::sleep(self.delay);
        let start = index * 65_536;
        let read = self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(read, index, "every chunk is read once, in order");
        if start >= self.damaged_at {
            return Err(ContentError::Damaged("its tag is wrong".to_owned()));
        }
        let end = self.len().min(start + 65_536);
        Ok(self.bytes[start as usize..end as usize].into())
    }

    fn cached(&self, _index: u64) -> Option<Arc<[u8]>> {
        assert!(!self.breaks, "a mistake in our own code");
        None
    }
}

/// One site with its service.
pub(super) struct TestSite {
    pub(super) server: SocketAddrV4,
    pub(super) catalog: watch::Sender<Arc<Catalog>>,
    pub(super) devices: Arc<RwLock<DeviceTable>>,
    pub(super) stop: CancellationToken,
    pub(super) running: JoinHandle<io::Result<()>>,
    pub(super) asked: mpsc::Receiver<Ipv4Addr>,
}

impl TestSite {
    pub(super) fn start() -> Self {
        Self::start_with(shelf(), |_| {})
    }

    pub(super) fn start_with(shelf: Shelf, change: impl FnOnce(&mut Service)) -> Self {
        let config = Config::new(SocketAddrV4::new(SERVER, 0), Lan::new(SERVER, 24));
        let mut service = Service::bind(config).unwrap();
        change(&mut service);
        let mut devices = DeviceTable::default();
        devices.neighbour(PHONE, PHONE_MAC);
        devices.neighbour(OTHER, OTHER_MAC);
        let devices = Arc::new(RwLock::new(devices));
        let (catalog, served) = watch::channel(Arc::new(catalog(7)));
        let (resolve, asked) = mpsc::channel(8);
        let feeds = Feeds {
            catalog: served,
            files: Arc::new(shelf),
            devices: Arc::clone(&devices),
            resolve,
            stats: Stats::new(),
        };
        let stop = CancellationToken::new();
        let server = service.local_addr();
        let running = tokio::spawn(service.run(feeds, stop.clone()));
        Self { server, catalog, devices, stop, running, asked }
    }

    pub(super) async fn client(&self, address: Ipv4Addr) -> Client {
        let socket = UdpSocket::bind(SocketAddrV4::new(address, 0)).await.unwrap();
        Client { socket, server: self.server }
    }
}

pub(super) struct Client {
    pub(super) socket: UdpSocket,
    pub(super) server: SocketAddrV4,
}

impl Client {
    pub(super) async fn send(&self, datagram: &[u8], to: SocketAddrV4) {
        self.socket.send_to(datagram, to).await.unwrap();
    }

    pub(super) async fn ask(&self, name: &str, mode: TransferMode, options: &[(&str, &str)]) {
        let options = options
            .iter()
            .map(|(name, value)| RequestOption { name: name.as_bytes(), value: value.as_bytes() })
            .collect();
        let mut datagram = Vec::new();
        Packet::Read(TransferRequest { name: name.as_bytes(), mode, options }).emit(&mut datagram);
        self.send(&datagram, self.server).await;
    }

    pub(super) async fn hear(&self) -> (Vec<u8>, SocketAddrV4) {
        let mut buffer = vec![0; 70_000];
        let heard = timeout(Duration::from_secs(5), self.socket.recv_from(&mut buffer)).await;
        let (length, SocketAddr::V4(from)) = heard.expect("an answer").unwrap() else { panic!("not IPv4") };
        buffer.truncate(length);
        (buffer, from)
    }

    pub(super) async fn hears_nothing(&self) -> bool {
        let mut buffer = [0; 2048];
        timeout(Duration::from_millis(150), self.socket.recv_from(&mut buffer)).await.is_err()
    }

    pub(super) async fn ack(&self, number: u16, to: SocketAddrV4) {
        let [high, low] = number.to_be_bytes();
        self.send(&[0, 4, high, low], to).await;
    }

    /// The answer to one request in octet mode without options.
    pub(super) async fn answer(&self, name: &str) -> Vec<u8> {
        self.ask(name, TransferMode::Octet, &[]).await;
        self.hear().await.0
    }

    /// Takes a whole file as a careful client does; the ERROR packet if there is one.
    pub(super) async fn fetch(
        &self,
        name: &str,
        mode: TransferMode,
        options: &[(&str, &str)],
    ) -> Result<Vec<u8>, Vec<u8>> {
        self.ask(name, mode, options).await;
        let (mut datagram, server) = self.hear().await;
        let (mut blksize, mut windowsize) = (512, 1);
        if let Ok(Packet::Oack(agreed)) = Packet::parse(&datagram) {
            for RequestOption { name, value } in agreed {
                let value = std::str::from_utf8(value).unwrap().parse::<usize>().unwrap();
                match name {
                    b"blksize" => blksize = value,
                    b"windowsize" => windowsize = value,
                    _ => {}
                }
            }
            self.ack(0, server).await;
            datagram = self.hear().await.0;
        }
        let (mut file, mut expected, mut unacked) = (Vec::new(), 1u16, 0);
        loop {
            match Packet::parse(&datagram).unwrap() {
                Packet::Data { block, bytes } if block == expected => {
                    file.extend_from_slice(bytes);
                    unacked += 1;
                    let last = bytes.len() < blksize;
                    if last || unacked == windowsize {
                        self.ack(block, server).await;
                        unacked = 0;
                    }
                    if last {
                        return Ok(file);
                    }
                    expected = expected.wrapping_add(1);
                }
                Packet::Data { .. } => {}
                Packet::Error { .. } => return Err(datagram),
                other => panic!("{other:?}"),
            }
            datagram = self.hear().await.0;
        }
    }

    pub(super) async fn get(&self, name: &str, options: &[(&str, &str)]) -> Vec<u8> {
        self.fetch(name, TransferMode::Octet, options).await.unwrap()
    }
}

pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at / 65_536) as u8).collect()
}

fn contents() -> Vec<(&'static str, Scope, Class, Vec<u8>)> {
    vec![
        ("SEP0004F2000002.cnf.xml", Scope::Device(PHONE_MAC), Class::Config, b"<device>\n</device>\n".to_vec()),
        ("SEP0004F2000003.cnf.xml", Scope::Device(OTHER_MAC), Class::Config, b"<other/>".to_vec()),
        ("ringlist.xml", Scope::Everyone, Class::Locale, b"<rings/>\r\n".to_vec()),
        ("tones.raw", Scope::Everyone, Class::Locale, vec![0, 10, 13, 0]),
        ("empty.tlv", Scope::Everyone, Class::TrustList, Vec::new()),
        ("jar.sbn", Scope::Everyone, Class::Firmware, pattern(700_001)),
        ("exact.bin", Scope::Everyone, Class::Firmware, pattern(131_072)),
        ("damaged.bin", Scope::Everyone, Class::Firmware, pattern(1000)),
        ("half.bin", Scope::Everyone, Class::Firmware, pattern(200_000)),
    ]
}

pub(super) fn shelf() -> Shelf {
    let files = contents().into_iter().map(|(name, _, _, bytes)| (name.parse().unwrap(), bytes.into())).collect();
    let damaged_at = [("damaged.bin", 0), ("half.bin", 65_536)];
    let damaged_at = damaged_at.into_iter().map(|(name, at)| (name.parse().unwrap(), at)).collect();
    Shelf { files, damaged_at, breaks: None, delay: Duration::ZERO }
}

fn object(bytes: u64) -> ObjectRef {
    let key = ContentKey::from_bytes([0; 32]);
    ObjectRef { digest: Digest::of(b""), bytes, key, packing: Packing::Plain, clear_bytes: bytes }
}

fn catalog(generation: u64) -> Catalog {
    catalog_with(generation, SiteSettings::default())
}

pub(super) fn catalog_with(generation: u64, settings: SiteSettings) -> Catalog {
    let entry = |(name, scope, class, bytes): (&str, Scope, Class, Vec<u8>)| FileEntry {
        name: name.parse().unwrap(),
        scope,
        class,
        sha256: Digest::of(&bytes),
        blob: object(bytes.len() as u64),
    };
    let phone = |mac| Phone { mac, model: "cisco-7942".to_owned(), label: String::new() };
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        fleet: "fleet".parse().unwrap(),
        site: "site".parse().unwrap(),
        generation: Generation(generation),
        created: UnixTime(0),
        totals: Totals::default(),
        catalogue_version: 1,
        activation_window: None,
        settings,
        inventory: object(0),
        shards: Vec::new(),
        image: None,
    };
    let shard = Shard { files: contents().into_iter().map(entry).collect() };
    Catalog::new(&manifest, Inventory { phones: vec![phone(PHONE_MAC), phone(OTHER_MAC)] }, vec![shard]).unwrap()
}
