#![allow(clippy::unwrap_used)]

use dhcproto::v4::{DhcpOption, Message, MessageType};
use dhcproto::{Decodable as _, Decoder, Encodable as _, Encoder};

use tokio::net::UdpSocket;

use super::*;
use crate::leases::{Lease, MemoryLog};
use bundle::DhcpMode;
use ids::Lan;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[tokio::test]
async fn a_relayed_phone_gets_its_lease_over_real_sockets() {
    let lab = Lab::start(Box::new(MemoryLog::default())).await;
    let offer = lab.ask(&message(MessageType::Discover)).await.unwrap();
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    let ack = lab.ask(&select(offer.yiaddr())).await.unwrap();
    assert_eq!((ack.opts().msg_type(), ack.yiaddr()), (Some(MessageType::Ack), offer.yiaddr()));
    lab.stop().await;
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_acknowledged() {
    let lab = Lab::start(Box::new(FullDisk)).await;
    let offer = lab.ask(&message(MessageType::Discover)).await.unwrap();
    // The next thing to arrive is the answer to the DISCOVER that follows, so there was none to the REQUEST.
    lab.send(&select(offer.yiaddr())).await;
    lab.send(&select(offer.yiaddr())).await;
    let next = lab.ask(&message(MessageType::Discover)).await.unwrap();
    assert_eq!(next.opts().msg_type(), Some(MessageType::Offer));
    lab.stop().await;
}

#[tokio::test]
async fn junk_does_not_end_the_service() {
    let lab = Lab::start(Box::new(MemoryLog::default())).await;
    for junk in [&[][..], &[1; 10], &[0; 300], &[255; 1500], &[1; 9000]] {
        lab.socket.send_to(junk, (HERE, lab.port)).await.unwrap();
    }
    assert!(lab.ask(&message(MessageType::Discover)).await.is_some());
    lab.stop().await;
}

#[tokio::test]
async fn a_public_address_and_a_port_in_use_are_refused() {
    let lab = Lab::start(Box::new(MemoryLog::default())).await;
    let config = |address, server_port| Config { lan: Lan::new(address, 8), server_port, ..lab_config(1) };
    let public = Service::bind(config(Ipv4Addr::new(203, 0, 113, 1), 0)).unwrap_err();
    assert!(matches!(public, BindError::Address(_)), "{public}");
    let unspecified = Service::bind(config(Ipv4Addr::UNSPECIFIED, 0)).unwrap_err();
    assert!(matches!(unspecified, BindError::Address(_)), "{unspecified}");
    let taken = Service::bind(config(HERE, lab.port)).unwrap_err();
    assert!(matches!(taken, BindError::PortInUse(port) if port == lab.port), "{taken}");
    lab.stop().await;
}

struct FullDisk;

impl LeaseLog for FullDisk {
    fn load(&mut self) -> Vec<Lease> {
        Vec::new()
    }

    fn commit(&mut self, _lease: &Lease) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

/// A service on loopback, and a phone that acts as its own relay.
struct Lab {
    socket: UdpSocket,
    port: u16,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<io::Result<()>>,
    _catalog: watch::Sender<Arc<Catalog>>,
}

impl Lab {
    async fn start(leases: Box<dyn LeaseLog + Send>) -> Self {
        let socket = UdpSocket::bind((HERE, 0)).await.unwrap();
        let service = Service::bind(lab_config(socket.local_addr().unwrap().port())).unwrap();
        let (sender, catalog) = watch::channel(Arc::new(Catalog::empty("lab".parse().unwrap())));
        let range = Some((Ipv4Addr::new(127, 7, 0, 1), Ipv4Addr::new(127, 7, 0, 9)));
        let local = DhcpSettings { mode: DhcpMode::All, range, ..DhcpSettings::default() };
        let feeds = Feeds { catalog, local, devices: Arc::default(), leases, stats: Stats::new() };
        let (stop, port) = (CancellationToken::new(), service.port());
        let task = tokio::spawn(service.run(feeds, stop.clone()));
        Self { socket, port, stop, task, _catalog: sender }
    }

    async fn send(&self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        self.socket.send_to(&bytes, (HERE, self.port)).await.unwrap();
    }

    async fn ask(&self, message: &Message) -> Option<Message> {
        self.send(message).await;
        let mut bytes = [0; 1500];
        let received = tokio::time::timeout(Duration::from_secs(10), self.socket.recv_from(&mut bytes)).await;
        let (length, _) = received.ok()?.ok()?;
        Message::decode(&mut Decoder::new(bytes.get(..length)?)).ok()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn lab_config(relay_port: u16) -> Config {
    Config {
        interface: Some("lo".to_owned()),
        lan: Lan::new(HERE, 8),
        server_port: 0,
        client_port: relay_port,
        relay_port,
    }
}

fn message(kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_chaddr(&[0, 4, 0xf2, 1, 2, 3]).set_giaddr(HERE);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

fn select(address: Ipv4Addr) -> Message {
    let mut message = message(MessageType::Request);
    message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
    message.opts_mut().insert(DhcpOption::ServerIdentifier(HERE));
    message
}
