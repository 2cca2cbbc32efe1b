//! A simulated phone. It asks for an address by DHCP as if it were behind a relay agent, then for its files by TFTP.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable as _, Decoder, Encodable as _};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use ids::MacAddr;

/// How long a phone waits for an answer before it asks again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a phone sends one request before it gives up.
const TRIES: u32 = 4;
/// The largest file that a phone has room for, in bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// What a phone knows of itself.
#[derive(Debug, Clone)]
pub struct SimulatedPhone {
    /// The name in the demo's output.
    pub name: String,
    /// The MAC address on its label.
    pub mac: MacAddr,
    /// Its DHCP vendor class (option 60).
    pub vendor_class: &'static str,
    /// The block size that it asks for, if it knows options at all (RFC 2348).
    pub blksize: Option<u16>,
}

/// What a DHCP server told a phone, in a DHCPACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpAnswer {
    /// The phone's own address: the leased one (`yiaddr`), or after an INFORM the one that it had.
    pub ip: Ipv4Addr,
    /// The TFTP server's name, option 66 (RFC 2132 §9.4); `None` if the answer had none.
    pub tftp_server_name: Option<String>,
    /// The TFTP servers' addresses, option 150 (RFC 5859); empty if the answer had none.
    pub tftp_servers: Vec<Ipv4Addr>,
}

/// How a request for a file ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The whole file arrived.
    File(Vec<u8>),
    /// The server sent an ERROR packet with this code and text (RFC 1350 §5).
    Refused(u16, String),
    /// The server did not answer.
    Silence,
}

impl SimulatedPhone {
    /// Gets a lease by DISCOVER and REQUEST, as if through a relay agent at `relay`, where the answers arrive.
    pub async fn lease(&self, server: SocketAddrV4, relay: SocketAddrV4) -> anyhow::Result<DhcpAnswer> {
        let socket = UdpSocket::bind(relay).await.with_context(|| format!("cannot be a relay agent at {relay}"))?;
        let mut discover = self.message(MessageType::Discover);
        discover.set_giaddr(*relay.ip());
        let offer = self.exchange(&socket, server, &discover, MessageType::Offer).await?;
        let mut request = self.message(MessageType::Request);
        request.set_giaddr(*relay.ip()).set_xid(offer.xid());
        request.opts_mut().insert(DhcpOption::RequestedIpAddress(offer.yiaddr()));
        if let Some(id) = offer.opts().get(OptionCode::ServerIdentifier) {
            request.opts_mut().insert(id.clone());
        }
        let ack = self.exchange(&socket, server, &request, MessageType::Ack).await?;
        Ok(dhcp_answer(&ack, ack.yiaddr()))
    }

    /// Asks by INFORM from `own`, an address that the phone has already (RFC 2131 §3.4).
    pub async fn inform(&self, server: SocketAddrV4, own: SocketAddrV4) -> anyhow::Result<DhcpAnswer> {
        let socket = UdpSocket::bind(own).await.with_context(|| format!("cannot use {own}"))?;
        let mut inform = self.message(MessageType::Inform);
        inform.set_ciaddr(*own.ip());
        let ack = self.exchange(&socket, server, &inform, MessageType::Ack).await?;
        Ok(dhcp_answer(&ack, *own.ip()))
    }

    fn message(&self, kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_chaddr(&self.mac.octets());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        // Most real phones end the vendor class with a NUL.
        options.insert(DhcpOption::ClassIdentifier([self.vendor_class.as_bytes(), &[0]].concat()));
        options.insert(DhcpOption::ParameterRequestList(vec![
            OptionCode::SubnetMask,
            OptionCode::Router,
            OptionCode::TFTPServerName,
            OptionCode::from(150),
        ]));
        message
    }

    async fn exchange(
        &self,
        socket: &UdpSocket,
        server: SocketAddrV4,
        message: &Message,
        expected: MessageType,
    ) -> anyhow::Result<Message> {
        let bytes = message.to_vec().context("cannot write the DHCP message")?;
        for _ in 0..TRIES {
            socket.send_to(&bytes, server).await?;
            let mut buffer = [0; 1500];
            while let Ok(received) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await {
                let (length, _) = received?;
                let packet = buffer.get(..length).unwrap_or_default();
                let Ok(reply) = Message::decode(&mut Decoder::new(packet)) else { continue };
                if reply.xid() == message.xid() && reply.opts().msg_type() == Some(expected) {
                    return Ok(reply);
                }
            }
        }
        Err(anyhow!("{}: no {expected:?} from {server}", self.name))
    }

    /// Asks for a file by TFTP from the address `own`.
    pub async fn fetch(&self, server: SocketAddrV4, own: Ipv4Addr, name: &str) -> anyhow::Result<Fetched> {
        let socket = UdpSocket::bind((own, 0)).await.with_context(|| format!("cannot use {own}"))?;
        let mut request = request(1, name);
        if let Some(blksize) = self.blksize {
            request.extend_from_slice(format!("blksize\0{blksize}\0tsize\0{}\0", 0).as_bytes());
        }
        TftpReceiver { socket, server, reply_to: None, block: 0, blksize: 512, content: Vec::new() }.run(&request).await
    }

    /// Tries to write a file, as Polycom phones do with their logs. Returns the server's answer.
    pub async fn put(&self, server: SocketAddrV4, own: Ipv4Addr, name: &str) -> anyhow::Result<Fetched> {
        let socket = UdpSocket::bind((own, 0)).await.with_context(|| format!("cannot use {own}"))?;
        TftpReceiver { socket, server, reply_to: None, block: 0, blksize: 512, content: Vec::new() }
            .run(&request(2, name))
            .await
    }
}

fn dhcp_answer(message: &Message, ip: Ipv4Addr) -> DhcpAnswer {
    let raw = |code: u8| message.opts().get(OptionCode::from(code)).and_then(option_bytes);
    let tftp_servers = raw(150).unwrap_or_default();
    let (addresses, _) = tftp_servers.as_chunks::<4>();
    DhcpAnswer {
        ip,
        tftp_server_name: raw(66).map(|name| String::from_utf8_lossy(&name).into_owned()),
        tftp_servers: addresses.iter().map(|octets| Ipv4Addr::from(*octets)).collect(),
    }
}

/// The value of an option in bytes, whatever type the parser gave it: what follows its code and length.
fn option_bytes(option: &DhcpOption) -> Option<Vec<u8>> {
    let bytes = option.to_vec().ok()?;
    bytes.get(2..).map(<[u8]>::to_vec)
}

fn request(opcode: u8, name: &str) -> Vec<u8> {
    [&[0, opcode], name.as_bytes(), b"\0octet\0"].concat()
}

/// The receiver of a transfer by RFC 1350, as simple as in a phone.
struct TftpReceiver {
    socket: UdpSocket,
    server: SocketAddrV4,
    reply_to: Option<std::net::SocketAddr>,
    block: u16,
    blksize: usize,
    content: Vec<u8>,
}

impl TftpReceiver {
    async fn run(mut self, request: &[u8]) -> anyhow::Result<Fetched> {
        let mut last = request.to_vec();
        let mut tries = 0;
        loop {
            match self.reply_to {
                Some(peer) => self.socket.send_to(&last, peer).await?,
                None => self.socket.send_to(&last, self.server).await?,
            };
            let mut buffer = vec![0; 65_536];
            let Ok(received) = timeout(PATIENCE, self.socket.recv_from(&mut buffer)).await else {
                tries += 1;
                if tries >= TRIES {
                    return Ok(Fetched::Silence);
                }
                continue;
            };
            let (length, from) = received?;
            let packet = buffer.get(..length).unwrap_or_default();
            self.reply_to.get_or_insert(from);
            match packet {
                [0, 3, high, low, data @ ..] => {
                    tries = 0;
                    let block = u16::from_be_bytes([*high, *low]);
                    last = [&[0, 4], &block.to_be_bytes()[..]].concat();
                    if block != self.block.wrapping_add(1) {
                        continue;
                    }
                    self.block = block;
                    self.content.extend_from_slice(data);
                    if self.content.len() > MAX_BYTES {
                        bail!("the file is over {MAX_BYTES} bytes");
                    }
                    if data.len() < self.blksize {
                        self.socket.send_to(&last, from).await?;
                        return Ok(Fetched::File(self.content));
                    }
                }
                [0, 5, high, low, text @ ..] => {
                    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
                    let code = u16::from_be_bytes([*high, *low]);
                    return Ok(Fetched::Refused(code, String::from_utf8_lossy(text).into_owned()));
                }
                [0, 6, options @ ..] => {
                    let mut fields = options.split(|byte| *byte == 0).map(String::from_utf8_lossy);
                    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
                        if name.eq_ignore_ascii_case("blksize") {
                            self.blksize = value.parse().context("the server's blksize is no number")?;
                        }
                    }
                    last = vec![0, 4, 0, 0];
                }
                _ => bail!("the server sent something that is no TFTP"),
            }
        }
    }
}
