//! Over loopback, on free ports, with the real policy. Phones are addresses of 127/8.

#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::access::{Content, ContentError};
use crate::bundle::manifest::MANIFEST_FORMAT;
use crate::bundle::{
    Class, ContentKey, FileEntry, Inventory, Manifest, ObjectRef, Packing, Phone, Scope, Shard, SiteSettings, Totals,
};
use crate::ids::{Digest, FileName, Generation, MacAddr, UnixTime};
use crate::tftp::packet::{Mode, Packet, Refusal, Request, RequestOption};

const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const PHONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const PHONE_MAC: MacAddr = MacAddr::new([0x00, 0x04, 0xf2, 0, 0, 2]);
const OTHER_MAC: MacAddr = MacAddr::new([0x00, 0x04, 0xf2, 0, 0, 3]);

const NOT_FOUND: &[u8] = b"\0\x05\0\x01File not found\0";

/// Files in memory. A file of this name is damaged from so many bytes on.
#[derive(Default)]
struct Shelf {
    files: HashMap<FileName, Arc<[u8]>>,
    damaged_at: HashMap<FileName, u64>,
    delay: Duration,
}

struct Book {
    bytes: Arc<[u8]>,
    damaged_at: u64,
    delay: Duration,
    reads: AtomicU64,
}

impl Files for Shelf {
    fn open(&self, entry: &Arc<FileEntry>) -> Result<Arc<dyn Content>, ContentError> {
        let bytes = self.files.get(&entry.name).ok_or_else(|| ContentError::Io("gone".to_owned()))?;
        let damaged_at = self.damaged_at.get(&entry.name).copied().unwrap_or(u64::MAX);
        Ok(Arc::new(Book { bytes: Arc::clone(bytes), damaged_at, delay: self.delay, reads: AtomicU64::new(0) }))
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
}

/// One site with its service.
struct Site {
    server: SocketAddrV4,
    catalog: watch::Sender<Arc<Catalog>>,
    devices: Arc<RwLock<DeviceTable>>,
    stop: CancellationToken,
    running: JoinHandle<io::Result<()>>,
    asked: mpsc::Receiver<Ipv4Addr>,
}

impl Site {
    fn start() -> Self {
        Self::start_with(shelf(), |_| {})
    }

    fn start_with(shelf: Shelf, change: impl FnOnce(&mut Service)) -> Self {
        let config = Config::new(SocketAddrV4::new(SERVER, 0), (SERVER, 24));
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

    async fn client(&self, address: Ipv4Addr) -> Client {
        let socket = UdpSocket::bind(SocketAddrV4::new(address, 0)).await.unwrap();
        Client { socket, server: self.server }
    }
}

struct Client {
    socket: UdpSocket,
    server: SocketAddrV4,
}

impl Client {
    async fn send(&self, datagram: &[u8], to: SocketAddrV4) {
        self.socket.send_to(datagram, to).await.unwrap();
    }

    async fn ask(&self, name: &str, mode: Mode, options: &[(&str, &str)]) {
        let options = options
            .iter()
            .map(|(name, value)| RequestOption { name: name.as_bytes(), value: value.as_bytes() })
            .collect();
        let mut datagram = Vec::new();
        Packet::Read(Request { name: name.as_bytes(), mode, options }).emit(&mut datagram);
        self.send(&datagram, self.server).await;
    }

    async fn hear(&self) -> (Vec<u8>, SocketAddrV4) {
        let mut buffer = vec![0; 70_000];
        let heard = timeout(Duration::from_secs(5), self.socket.recv_from(&mut buffer)).await;
        let (length, SocketAddr::V4(from)) = heard.expect("an answer").unwrap() else { panic!("not IPv4") };
        buffer.truncate(length);
        (buffer, from)
    }

    async fn hears_nothing(&self) -> bool {
        let mut buffer = [0; 2048];
        timeout(Duration::from_millis(150), self.socket.recv_from(&mut buffer)).await.is_err()
    }

    async fn ack(&self, number: u16, to: SocketAddrV4) {
        let [high, low] = number.to_be_bytes();
        self.send(&[0, 4, high, low], to).await;
    }

    /// The answer to one request in octet mode without options.
    async fn answer(&self, name: &str) -> Vec<u8> {
        self.ask(name, Mode::Octet, &[]).await;
        self.hear().await.0
    }

    /// Takes a whole file as a careful client does; the ERROR packet if there is one.
    async fn fetch(&self, name: &str, mode: Mode, options: &[(&str, &str)]) -> Result<Vec<u8>, Vec<u8>> {
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

    async fn get(&self, name: &str, options: &[(&str, &str)]) -> Vec<u8> {
        self.fetch(name, Mode::Octet, options).await.unwrap()
    }
}

fn pattern(len: usize) -> Vec<u8> {
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

fn shelf() -> Shelf {
    let files = contents().into_iter().map(|(name, _, _, bytes)| (name.parse().unwrap(), bytes.into())).collect();
    let damaged_at = [("damaged.bin", 0), ("half.bin", 65_536)];
    let damaged_at = damaged_at.into_iter().map(|(name, at)| (name.parse().unwrap(), at)).collect();
    Shelf { files, damaged_at, delay: Duration::ZERO }
}

fn object(bytes: u64) -> ObjectRef {
    let key = ContentKey::from_bytes([0; 32]);
    ObjectRef { digest: Digest::of(b""), bytes, key, packing: Packing::Plain, clear_bytes: bytes }
}

fn catalog(generation: u64) -> Catalog {
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
        settings: SiteSettings::default(),
        inventory: object(0),
        shards: Vec::new(),
    };
    let shard = Shard { files: contents().into_iter().map(entry).collect() };
    Catalog::new(&manifest, Inventory { phones: vec![phone(PHONE_MAC), phone(OTHER_MAC)] }, vec![shard]).unwrap()
}

#[tokio::test]
async fn a_phone_gets_its_own_file_from_another_port() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    phone.ask("/sep0004f2000002.CNF.XML", Mode::Octet, &[]).await;
    let (data, from) = phone.hear().await;
    assert_eq!(data, b"\0\x03\0\x01<device>\n</device>\n");
    // RFC 1350 §4: a transfer has a port of its own.
    assert_ne!(from.port(), site.server.port());
    phone.ack(1, from).await;
    assert!(phone.hears_nothing().await);
}

#[tokio::test]
async fn files_arrive_whole_whatever_was_agreed() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    let agreements: [&[(&str, &str)]; 5] = [
        &[],
        &[("blksize", "1468"), ("tsize", "0")],
        &[("blksize", "1468"), ("windowsize", "64")],
        &[("blksize", "1000"), ("windowsize", "7")],
        &[("blksize", "65464"), ("windowsize", "64")],
    ];
    for options in agreements {
        for (name, len) in [("jar.sbn", 700_001), ("exact.bin", 131_072), ("empty.tlv", 0)] {
            assert!(phone.get(name, options).await == pattern(len), "{name} {options:?}");
        }
    }
}

#[tokio::test]
async fn files_arrive_whole_without_segmentation_by_the_kernel() {
    let site = Site::start_with(shelf(), |service| service.gso = false);
    let phone = site.client(PHONE).await;
    for options in [&[("blksize", "1468"), ("windowsize", "64")], &[("blksize", "1000"), ("windowsize", "7")]] {
        assert!(phone.get("jar.sbn", options).await == pattern(700_001), "{options:?}");
    }
}

#[tokio::test]
async fn a_slow_disk_loses_nothing() {
    let slow = Shelf { delay: Duration::from_millis(40), ..shelf() };
    let site = Site::start_with(slow, |_| {});
    let phone = site.client(PHONE).await;
    assert!(phone.get("exact.bin", &[("blksize", "1468"), ("windowsize", "64")]).await == pattern(131_072));
}

#[tokio::test]
async fn an_oack_holds_what_was_asked_and_nothing_else() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    let options = [("tsize", "0"), ("grandstream_ID", "000b82aabbcc"), ("blksize", "1024"), ("windowsize", "0")];
    phone.ask("jar.sbn", Mode::Octet, &options).await;
    let (oack, from) = phone.hear().await;
    assert_eq!(oack, b"\0\x06tsize\x00700001\0blksize\x001024\0");
    // A tsize probe ends like this, and then nothing more may come.
    phone.send(b"\0\x05\0\x08no\0", from).await;
    assert!(phone.hears_nothing().await);
}

#[tokio::test]
async fn not_yours_not_found_and_no_name_are_the_same_packet() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    for name in ["SEP0004F2000003.cnf.xml", "SEP0004F2000099.cnf.xml", "nothing", "../etc/passwd", "", "a\u{1}b"] {
        assert_eq!(phone.answer(name).await, NOT_FOUND, "{name:?}");
    }
    phone.send(b"\0\x01\xff\xfe\0octet\0", site.server).await;
    assert_eq!(phone.hear().await.0, NOT_FOUND);
}

#[tokio::test]
async fn writing_is_refused_alike_whether_the_file_exists_or_not() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    for name in ["SEP0004F2000002.cnf.xml", "SEP0004F2000003.cnf.xml", "0004f2000002-app.log"] {
        phone.send(format!("\0\u{2}{name}\0octet\0").as_bytes(), site.server).await;
        assert_eq!(phone.hear().await.0, b"\0\x05\0\x02Access violation\0");
    }
}

#[tokio::test]
async fn mail_is_an_illegal_operation() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    phone.ask("ringlist.xml", Mode::Mail, &[]).await;
    assert_eq!(phone.hear().await.0, Refusal::IllegalOperation.packet());
}

#[tokio::test]
async fn netascii_is_translated_for_text_and_refused_for_what_it_would_destroy() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    let config = phone.fetch("SEP0004F2000002.cnf.xml", Mode::Netascii, &[("tsize", "0")]).await;
    assert_eq!(config.as_deref(), Ok(&b"<device>\r\n</device>\r\n"[..]));
    for name in ["jar.sbn", "empty.tlv", "tones.raw"] {
        let refused = phone.fetch(name, Mode::Netascii, &[]).await;
        assert_eq!(refused.unwrap_err(), Refusal::OctetOnly.packet(), "{name}");
    }
    phone.ask("SEP0004F2000002.cnf.xml", Mode::Netascii, &[("tsize", "0")]).await;
    assert_eq!(phone.hear().await.0, b"\0\x06tsize\x0021\0", "the size of what is sent");
}

#[tokio::test]
async fn what_is_no_request_is_never_answered() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    for datagram in [&b"\0\x05\0\0loop\0"[..], b"\0\x04\0\x01", b"\0\x03\0\x01x", b"\0\x06", b"", b"\0\x01cut", b"\xff"]
    {
        phone.send(datagram, site.server).await;
    }
    phone.send(&[0; 3000], site.server).await;
    assert!(phone.hears_nothing().await);
    assert_eq!(phone.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
}

#[tokio::test]
async fn outside_the_lan_there_is_silence() {
    let site = Site::start();
    let outside = site.client(Ipv4Addr::new(127, 0, 1, 2)).await;
    outside.ask("ringlist.xml", Mode::Octet, &[]).await;
    outside.ask("ringlist.xml", Mode::Mail, &[]).await;
    outside.send(b"\0\x02a\0octet\0", site.server).await;
    assert!(outside.hears_nothing().await);
}

#[tokio::test]
async fn an_address_that_nobody_knows_yet_is_resolved_and_then_answered() {
    let mut site = Site::start();
    let phone = site.client(STRANGER).await;
    phone.ask("SEP0004F2000002.cnf.xml", Mode::Octet, &[]).await;
    assert_eq!(site.asked.recv().await, Some(STRANGER));
    // The phone's patience is short; it still gets one answer.
    phone.ask("SEP0004F2000002.cnf.xml", Mode::Octet, &[]).await;
    assert!(phone.hears_nothing().await);
    site.devices.write().unwrap().neighbour(STRANGER, PHONE_MAC);
    let (data, from) = phone.hear().await;
    assert_eq!(data.get(..4), Some(&b"\0\x03\0\x01"[..]));
    phone.ack(1, from).await;
    assert!(phone.hears_nothing().await);
}

#[tokio::test]
async fn an_address_that_stays_unknown_gets_what_everyone_gets_after_a_second() {
    let site = Site::start();
    let phone = site.client(STRANGER).await;
    let asked = tokio::time::Instant::now();
    assert_eq!(phone.answer("SEP0004F2000002.cnf.xml").await, NOT_FOUND);
    assert!(asked.elapsed() < Duration::from_millis(1500));
    assert_eq!(phone.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
}

#[tokio::test]
async fn an_address_that_another_device_takes_gets_nothing_more() {
    // The thief asked under an unplugged phone's address, then claims it by ARP and waits for the resends.
    for taken in [true, false] {
        let site = Site::start();
        let phone = site.client(PHONE).await;
        phone.ask("jar.sbn", Mode::Octet, &[]).await;
        let (_, from) = phone.hear().await;
        {
            let mut devices = site.devices.write().unwrap();
            if taken {
                devices.neighbour(PHONE, OTHER_MAC);
            } else {
                devices.neighbour_gone(PHONE);
            }
        }
        phone.ack(1, from).await;
        let mut buffer = [0; 600];
        let more = timeout(Duration::from_millis(1300), phone.socket.recv_from(&mut buffer)).await;
        assert!(more.is_err(), "no block, no resend, no ERROR");
    }
}

#[tokio::test]
async fn a_repeated_request_does_not_start_a_second_transfer() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    phone.ask("jar.sbn", Mode::Octet, &[]).await;
    let (first, from) = phone.hear().await;
    phone.ask("jar.sbn", Mode::Octet, &[]).await;
    assert_eq!(phone.hear().await, (first, from));
    phone.ack(1, from).await;
    let (second, same) = phone.hear().await;
    assert_eq!((second.get(..4), same), (Some(&b"\0\x03\0\x02"[..]), from));
    assert!(phone.hears_nothing().await);
}

#[tokio::test]
async fn a_new_request_from_a_busy_port_replaces_the_old_transfer() {
    // Cisco 7921 has one port for all its requests.
    let site = Site::start();
    let phone = site.client(PHONE).await;
    phone.ask("jar.sbn", Mode::Octet, &[]).await;
    let (_, old) = phone.hear().await;
    phone.ask("ringlist.xml", Mode::Octet, &[]).await;
    let (data, new) = phone.hear().await;
    assert_eq!(data, b"\0\x03\0\x01<rings/>\r\n");
    phone.ack(1, old).await;
    phone.ack(1, new).await;
    let mut buffer = [0; 600];
    let more = timeout(Duration::from_millis(1300), phone.socket.recv_from(&mut buffer)).await;
    assert!(more.is_err(), "the old transfer is over");
}

#[tokio::test]
async fn a_stranger_on_the_port_gets_error_5_and_the_transfer_goes_on() {
    // RFC 1350 §4
    let site = Site::start();
    let (phone, other) = (site.client(PHONE).await, site.client(OTHER).await);
    phone.ask("jar.sbn", Mode::Octet, &[]).await;
    let (_, from) = phone.hear().await;
    other.ack(1, from).await;
    assert_eq!(other.hear().await.0, Refusal::UnknownTransferId.packet());
    other.send(b"\0\x05\0\0die\0", from).await;
    assert!(other.hears_nothing().await);
    phone.ack(1, from).await;
    assert_eq!(phone.hear().await.0.get(..4), Some(&b"\0\x03\0\x02"[..]));
}

#[tokio::test]
async fn over_the_bound_one_address_is_refused_and_others_go_on() {
    let site = Site::start_with(shelf(), |service| service.config.max_transfers_per_address = 2);
    let mut phones = Vec::new();
    for _ in 0..3 {
        let phone = site.client(PHONE).await;
        phones.push((phone.answer("jar.sbn").await, phone));
    }
    assert_eq!(phones.iter().filter(|(answer, _)| answer == Refusal::Busy.packet()).count(), 1);
    assert_eq!(site.client(OTHER).await.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
}

#[tokio::test]
async fn transfers_that_a_phone_left_without_a_word_make_room_for_its_next() {
    let site = Site::start_with(shelf(), |service| service.config.max_transfers_per_address = 2);
    let abandoned = [site.client(PHONE).await, site.client(PHONE).await];
    for phone in &abandoned {
        phone.answer("jar.sbn").await;
    }
    // The first resend, after a second.
    for phone in &abandoned {
        phone.hear().await;
    }
    assert_eq!(site.client(PHONE).await.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_never_a_short_file() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    assert_eq!(phone.answer("damaged.bin").await, Refusal::TemporaryFailure.packet());
    let half = phone.fetch("half.bin", Mode::Octet, &[("blksize", "1468")]).await;
    assert_eq!(half.unwrap_err(), Refusal::TemporaryFailure.packet());
}

#[tokio::test]
async fn a_transfer_ends_on_the_release_that_it_began_with() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    phone.ask("jar.sbn", Mode::Octet, &[]).await;
    let (_, from) = phone.hear().await;
    site.catalog.send(Arc::new(Catalog::empty("site".parse().unwrap()))).unwrap();
    phone.ack(1, from).await;
    assert_eq!(phone.hear().await.0.get(..4), Some(&b"\0\x03\0\x02"[..]));
    assert_eq!(site.client(PHONE).await.answer("jar.sbn").await, NOT_FOUND);
}

#[tokio::test]
async fn after_a_stop_running_transfers_end_and_no_new_ones_begin() {
    let site = Site::start();
    let phone = site.client(PHONE).await;
    phone.ask("exact.bin", Mode::Octet, &[("blksize", "65464")]).await;
    let (_, from) = phone.hear().await;
    site.stop.cancel();
    tokio::task::yield_now().await;
    let late = site.client(OTHER).await;
    late.ask("ringlist.xml", Mode::Octet, &[]).await;
    assert!(late.hears_nothing().await);
    for number in 0..=2 {
        phone.ack(number, from).await;
        phone.hear().await;
    }
    phone.ack(3, from).await;
    timeout(Duration::from_secs(2), site.running).await.expect("drained").unwrap().unwrap();
}

#[tokio::test]
async fn a_transfer_that_outlasts_the_drain_is_told() {
    let site = Site::start_with(shelf(), |service| service.config.drain = Duration::from_millis(50));
    let phone = site.client(PHONE).await;
    phone.answer("jar.sbn").await;
    site.stop.cancel();
    assert_eq!(phone.hear().await.0, Refusal::TemporaryFailure.packet());
    timeout(Duration::from_secs(2), site.running).await.expect("stopped").unwrap().unwrap();
}

#[test]
fn only_private_addresses_are_served() {
    // F1, S7
    for address in ["0.0.0.0", "8.8.8.8", "172.32.0.1", "100.128.0.1", "255.255.255.255", "224.0.0.1", "192.0.2.1"] {
        let bind = SocketAddrV4::new(address.parse().unwrap(), 0);
        let refused = Service::bind(Config::new(bind, (SERVER, 8)));
        assert!(matches!(refused, Err(BindError::NotPrivate(_))), "{address}");
    }
    for address in
        ["10.1.2.3", "172.31.255.1", "192.168.1.2", "169.254.9.9", "100.64.0.1", "100.127.255.1", "127.0.0.1"]
    {
        assert!(is_private(address.parse().unwrap()), "{address}");
    }
}

#[test]
fn what_stops_the_service_from_listening_is_said_with_what_to_do() {
    let first = Service::bind(Config::new(SocketAddrV4::new(SERVER, 0), (SERVER, 8))).unwrap();
    let busy = Service::bind(Config::new(first.local_addr(), (SERVER, 8))).unwrap_err();
    assert!(matches!(busy, BindError::InUse { .. }), "{busy}");
    let absent = Service::bind(Config::new("10.255.254.253:0".parse().unwrap(), (SERVER, 8))).unwrap_err();
    assert!(matches!(absent, BindError::NoSuchAddress { .. }), "{absent}");
    let mut config = Config::new(SocketAddrV4::new(SERVER, 0), (SERVER, 8));
    config.interface = Some("nosuch0".to_owned());
    let named = Service::bind(config).unwrap_err();
    assert!(matches!(named, BindError::NoSuchInterface(_)), "{named}");
}

#[test]
fn the_loopback_interface_tells_its_mtu() {
    assert_eq!(mtu_of(&Config::new(SocketAddrV4::new(PHONE, 0), (SERVER, 8))), Some(65_536));
}
