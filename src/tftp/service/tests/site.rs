//! One site with its service on a free port of the loopback interface, and the phones that ask it.

#![allow(clippy::cast_possible_truncation, clippy::indexing_slicing, clippy::unwrap_used)]

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::*;
use super::{OTHER, PHONE, SERVER};
use crate::endpoint::tests::shelf::{OTHER_MAC, PHONE_MAC, Shelf, catalog, shelf};
use crate::packet::{Packet, RequestOption, TransferMode, TransferRequest};
use ids::Lan;

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
