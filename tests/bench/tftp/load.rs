//! Simulated phones: many at once on one core, each lock-step or with windows, each with a socket of its own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::Pid;

/// How long a phone waits before it repeats its last packet.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// How often it repeats before it gives up.
const TRIES: u32 = 8;

/// What the phones do.
#[derive(Clone)]
pub struct Phones {
    pub count: u32,
    pub bytes: u64,
    pub blksize: Option<u16>,
    pub windowsize: Option<u16>,
    pub loss: f64,
    /// The first three octets of the phones' addresses, but for what the count adds to the third.
    net: [u8; 3],
    /// The file that they ask for.
    name: &'static str,
}

impl Phones {
    pub fn new(count: u32, bytes: u64) -> Self {
        Self { count, bytes, blksize: None, windowsize: None, loss: 0.0, net: [127, 7, 0], name: "image.bin" }
    }

    pub fn blksize(self, blksize: u16) -> Self {
        Self { blksize: Some(blksize), ..self }
    }

    pub fn windowsize(self, windowsize: u16) -> Self {
        Self { windowsize: Some(windowsize), ..self }
    }

    pub fn loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// Phones of this network that want this file.
    pub fn of(self, net: [u8; 3], name: &'static str) -> Self {
        Self { net, name, ..self }
    }

    /// The first of them alone.
    pub fn one(&self) -> Self {
        Self { count: 1, ..self.clone() }
    }

    /// The address of phone `index`.
    pub fn address(&self, index: u32) -> Ipv4Addr {
        let ([_, _, high, low], [a, b, c]) = ((index + 1).to_be_bytes(), self.net);
        Ipv4Addr::new(a, b, c + high, low)
    }

    /// The beginning of their requests.
    pub fn request(&self) -> Vec<u8> {
        [b"\0\x01", self.name.as_bytes(), b"\0octet\0"].concat()
    }
}

/// What came of it.
#[derive(Default)]
pub struct Taken {
    pub blocks: u64,
    pub bytes: u64,
    pub wall: Duration,
    pub failed: u32,
    times: Vec<Duration>,
}

impl Taken {
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.times.len().saturating_sub(1);
        self.times.get(last * percent / 100).copied().unwrap_or_default()
    }
}

/// Pins this process to one core.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core).unwrap();
    if sched_setaffinity(Pid::from_raw(0), &set).is_err() {
        eprintln!("core {core} is not to be had; figures are worth less");
    }
}

struct Phone {
    socket: UdpSocket,
    server: SocketAddr,
    peer: Option<SocketAddr>,
    last: Vec<u8>,
    sent: Instant,
    started: Instant,
    tries: u32,
    block: u16,
    in_window: u16,
    windowsize: u16,
    blksize: usize,
    got: u64,
    ended: Option<bool>,
}

/// Runs all phones at once and checks every byte.
pub fn run(phones: &Phones, server: SocketAddrV4, content: &[u8]) -> Taken {
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    let started = Instant::now();
    let mut all: Vec<Phone> = (0..phones.count).map(|index| Phone::new(phones, index, server)).collect();
    for (index, phone) in all.iter_mut().enumerate() {
        epoll.add(phone.socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, index as u64)).unwrap();
        phone.send();
    }
    let mut taken = Taken::default();
    // A fixed seed: every server loses the same packets of the same phones' sequence.
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut left = all.len();
    let mut events = vec![EpollEvent::empty(); 256];
    let mut buffer = vec![0u8; 65_536];
    let mut checked = Instant::now();
    let mut finished: HashMap<usize, Duration> = HashMap::new();
    while left > 0 {
        let ready = epoll.wait(&mut events, EpollTimeout::try_from(100).unwrap()).unwrap_or(0);
        for event in &events[..ready] {
            let index = event.data() as usize;
            let phone = &mut all[index];
            while let Ok((length, from)) = phone.socket.recv_from(&mut buffer) {
                if phones.loss > 0.0 && dice.roll() < phones.loss {
                    continue;
                }
                phone.handle(&buffer[..length], from, content, &mut taken, phones.loss, &mut dice);
                if phone.ended.is_some() {
                    break;
                }
            }
            if phone.ended.is_some() && !finished.contains_key(&index) {
                finished.insert(index, phone.started.elapsed());
                left -= 1;
            }
        }
        if checked.elapsed() > Duration::from_millis(100) {
            checked = Instant::now();
            for (index, phone) in all.iter_mut().enumerate() {
                if phone.ended.is_none() && phone.sent.elapsed() > PATIENCE {
                    phone.tries += 1;
                    if phone.tries > TRIES {
                        phone.ended = Some(false);
                        finished.insert(index, phone.started.elapsed());
                        left -= 1;
                    } else {
                        phone.send();
                    }
                }
            }
        }
    }
    taken.wall = started.elapsed();
    taken.failed = all.iter().filter(|phone| phone.ended != Some(true)).count() as u32;
    taken.times = finished.into_values().collect();
    taken.times.sort_unstable();
    taken
}

impl Phone {
    fn new(phones: &Phones, index: u32, server: SocketAddrV4) -> Self {
        let socket = UdpSocket::bind((phones.address(index), 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut request = phones.request();
        for (name, value) in [("blksize", phones.blksize), ("windowsize", phones.windowsize)] {
            if let Some(value) = value {
                request.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
            }
        }
        let now = Instant::now();
        Self {
            socket,
            server: server.into(),
            peer: None,
            last: request,
            sent: now,
            started: now,
            tries: 0,
            block: 0,
            in_window: 0,
            windowsize: 1,
            blksize: 512,
            got: 0,
            ended: None,
        }
    }

    fn send(&mut self) {
        self.sent = Instant::now();
        let _ = self.socket.send_to(&self.last, self.peer.unwrap_or(self.server));
    }

    fn ack(&mut self, loss: f64, dice: &mut Dice) {
        self.last.clear();
        self.last.extend_from_slice(&[0, 4]);
        self.last.extend_from_slice(&self.block.to_be_bytes());
        self.in_window = 0;
        if loss > 0.0 && dice.roll() < loss {
            self.sent = Instant::now();
            return;
        }
        self.send();
    }

    fn handle(
        &mut self,
        packet: &[u8],
        from: SocketAddr,
        content: &[u8],
        taken: &mut Taken,
        loss: f64,
        dice: &mut Dice,
    ) {
        self.peer.get_or_insert(from);
        match packet {
            [0, 3, high, low, data @ ..] => {
                taken.blocks += 1;
                if u16::from_be_bytes([*high, *low]) != self.block.wrapping_add(1) {
                    // RFC 7440 §4: a gap is answered with the last block in order, once a window.
                    if self.windowsize > 1 && self.in_window != u16::MAX {
                        self.ack(loss, dice);
                        self.in_window = u16::MAX;
                    }
                    return;
                }
                let start = self.got as usize;
                if content.get(start..start + data.len()) != Some(data) {
                    self.ended = Some(false);
                    return;
                }
                if self.in_window == u16::MAX {
                    self.in_window = 0;
                }
                self.tries = 0;
                self.block = self.block.wrapping_add(1);
                self.got += data.len() as u64;
                self.in_window += 1;
                taken.bytes += data.len() as u64;
                let last = data.len() < self.blksize;
                if last || self.in_window >= self.windowsize {
                    self.ack(if last { 0.0 } else { loss }, dice);
                }
                if last {
                    self.ended = Some(self.got == content.len() as u64);
                }
            }
            [0, 6, options @ ..] => {
                let mut fields = options.split(|byte| *byte == 0).map(String::from_utf8_lossy);
                while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
                    match name.to_ascii_lowercase().as_str() {
                        "blksize" => self.blksize = value.parse().unwrap(),
                        "windowsize" => self.windowsize = value.parse().unwrap(),
                        _ => {}
                    }
                }
                self.ack(loss, dice);
            }
            _ => self.ended = Some(false),
        }
    }
}

/// xorshift64*: the same sequence in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}
