//! A TCP proxy that counts what goes through it, exchange by exchange.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes that went one way at one time.
#[derive(Debug, Clone, Copy)]
struct Piece {
    at: Instant,
    connection: usize,
    up: bool,
    bytes: u64,
}

#[derive(Default)]
struct Seen {
    pieces: Vec<Piece>,
    open: Vec<TcpStream>,
    connections: usize,
}

pub struct Proxy {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// What was sent and then answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exchange {
    pub connection: usize,
    pub up: u64,
    pub down: u64,
}

impl Exchange {
    pub fn both(&self) -> u64 {
        self.up + self.down
    }
}

impl Proxy {
    /// Listens on a free port of loopback and passes on to `to`.
    pub fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(to) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let mut seen = shared.lock().unwrap();
                seen.connections += 1;
                let connection = seen.connections;
                for (from, to, up) in [(&client, &server, true), (&server, &client, false)] {
                    seen.open.push(from.try_clone().unwrap());
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || pass(from, to, &shared, connection, up));
                }
            }
        });
        Self { address, seen }
    }

    /// Forgets what was seen.
    pub fn clear(&self) {
        self.seen.lock().unwrap().pieces.clear();
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        for stream in self.seen.lock().unwrap().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits until something went through and then nothing for a while.
    pub fn settled(&self) {
        let end = Instant::now() + Duration::from_secs(120);
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            let last = self.seen.lock().unwrap().pieces.last().map(|piece| piece.at);
            if last.is_some_and(|at| at.elapsed() > Duration::from_millis(700)) {
                return;
            }
        }
        panic!("nothing came through the proxy");
    }

    /// What went through since [`Proxy::clear`]: first sent, then answered, in the order of their beginnings.
    pub fn exchanges(&self) -> Vec<Exchange> {
        let mut found: Vec<(Exchange, bool)> = Vec::new();
        for piece in &self.seen.lock().unwrap().pieces {
            let open = found
                .iter_mut()
                .rev()
                .find(|(exchange, _)| exchange.connection == piece.connection)
                .filter(|(_, answered)| !(piece.up && *answered));
            let (exchange, answered) = match open {
                Some(open) => open,
                None => {
                    found.push((Exchange { connection: piece.connection, ..Exchange::default() }, false));
                    found.last_mut().unwrap()
                }
            };
            if piece.up {
                exchange.up += piece.bytes
            } else {
                exchange.down += piece.bytes
            }
            *answered |= !piece.up;
        }
        found.into_iter().map(|(exchange, _)| exchange).collect()
    }

    /// All bytes up and down since [`Proxy::clear`].
    pub fn total(&self) -> Exchange {
        self.exchanges().into_iter().fold(Exchange::default(), |sum, exchange| Exchange {
            connection: 0,
            up: sum.up + exchange.up,
            down: sum.down + exchange.down,
        })
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Seen>, connection: usize, up: bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(bytes) = from.read(&mut buffer) {
        if bytes == 0 || to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
        let piece = Piece { at: Instant::now(), connection, up, bytes: bytes as u64 };
        seen.lock().unwrap().pieces.push(piece);
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
