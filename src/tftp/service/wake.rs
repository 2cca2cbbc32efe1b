//! Waking the thread that waits for packets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A bell that `epoll` hears.
#[derive(Debug)]
pub(super) struct Waker(EventFd);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?))
    }

    /// Rings. It stays rung until [`Waker::quiet`].
    pub(super) fn wake(&self) {
        // Fails only when it has been rung 2^64 times.
        let _ = self.0.write(1);
    }

    /// Heard.
    pub(super) fn quiet(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
