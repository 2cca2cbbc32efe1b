//! Servers that this program is itself: the floor, and async-tftp.

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

/// Runs one of them for ever. Arguments: address, directory.
pub fn serve(peer: &str, arguments: &[String]) {
    super::load::pin(0);
    let address: SocketAddrV4 = arguments[0].parse().unwrap();
    match peer {
        "floor" => floor(address, std::fs::metadata(format!("{}/image.bin", arguments[1])).unwrap().len()),
        "async-tftp" => async_tftp(address, arguments[1].clone()),
        other => panic!("no such peer: {other}"),
    }
}

/// What one segmented send may carry: a UDP packet over IPv4.
const LARGEST_SEND: usize = 65_507;

struct Flow {
    left: u64,
    block: u16,
    blksize: usize,
    windowsize: usize,
}

/// The least that a server on this kernel can do: one socket, one epoll, one answer for each packet. It knows how
/// many bytes are left for whom and nothing else: no files, no timers, no checks.
fn floor(address: SocketAddrV4, length: u64) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
    let mut flows: HashMap<SocketAddr, Flow> = HashMap::new();
    let mut events = [EpollEvent::empty(); 4];
    let mut incoming = [0u8; 2048];
    let mut outgoing = vec![0u8; 65_536];
    loop {
        epoll.wait(&mut events, EpollTimeout::NONE).unwrap();
        while let Ok((received, from)) = socket.recv_from(&mut incoming) {
            let packet = &incoming[..received];
            if packet[1] == 1 {
                let option = |name: &str| {
                    let mut fields = packet[2..].split(|byte| *byte == 0).map(String::from_utf8_lossy);
                    fields.find(|field| field == name)?;
                    fields.next()?.parse::<usize>().ok()
                };
                let (blksize, windowsize) = (option("blksize"), option("windowsize"));
                let flow = Flow {
                    left: length,
                    block: 0,
                    blksize: blksize.unwrap_or(512),
                    windowsize: windowsize.unwrap_or(1),
                };
                let mut oack = vec![0, 6];
                for (name, value) in [("blksize", blksize), ("windowsize", windowsize)] {
                    if let Some(value) = value {
                        oack.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
                    }
                }
                flows.insert(from, flow);
                if oack.len() > 2 {
                    socket.send_to(&oack, from).unwrap();
                    continue;
                }
            }
            let Some(flow) = flows.get_mut(&from) else { continue };
            let mut end = 0;
            let mut last = false;
            for _ in 0..flow.windowsize {
                if end + flow.blksize + 4 > LARGEST_SEND {
                    send_segments(&socket, &outgoing[..end], flow.blksize + 4, from);
                    end = 0;
                }
                flow.block = flow.block.wrapping_add(1);
                let data = flow.left.min(flow.blksize as u64) as usize;
                outgoing[end..end + 2].copy_from_slice(&[0, 3]);
                outgoing[end + 2..end + 4].copy_from_slice(&flow.block.to_be_bytes());
                // The bytes themselves would have to be copied by anybody; they come from the same file in memory.
                let start = (length - flow.left) as usize;
                content(start, &mut outgoing[end + 4..end + 4 + data]);
                end += 4 + data;
                flow.left -= data as u64;
                last = data < flow.blksize;
                if last {
                    break;
                }
            }
            if flow.windowsize == 1 {
                let _ = socket.send_to(&outgoing[..end], from);
            } else {
                send_segments(&socket, &outgoing[..end], flow.blksize + 4, from);
            }
            if last {
                flows.remove(&from);
            }
        }
    }
}

fn send_segments(socket: &UdpSocket, bytes: &[u8], segment: usize, to: SocketAddr) {
    let SocketAddr::V4(to) = to else { return };
    let size = segment as u16;
    let control = [ControlMessage::UdpGsoSegments(&size)];
    let to = SockaddrIn::from(to);
    let _ = sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), Some(&to));
}

/// The file of the benchmark, from its rule, copied from one buffer made once.
fn content(start: usize, into: &mut [u8]) {
    use std::sync::OnceLock;
    static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
    let whole = WHOLE.get_or_init(|| (0..60_000_000u64).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect());
    into.copy_from_slice(&whole[start..start + into.len()]);
}

fn async_tftp(address: SocketAddrV4, dir: String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = async_tftp::server::TftpServerBuilder::with_dir_ro(dir).unwrap();
        let server = server.bind(address.into()).build().await.unwrap();
        server.serve().await.unwrap();
    });
}
