//! Wakes the `tftp` thread, which waits in `epoll`, from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// An `eventfd` that `epoll` reports as readable once another thread has written to it.
#[derive(Debug)]
pub(super) struct Waker(EventFd);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?))
    }

    /// Makes `epoll` return. The descriptor stays readable until [`Waker::quiet`].
    pub(super) fn wake(&self) {
        // Fails only when the counter is full, and then the descriptor is readable anyway.
        let _ = self.0.write(1);
    }

    /// Resets the descriptor; called before the results are taken, so that no later one is missed.
    pub(super) fn quiet(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
