//! Opens the packet sockets and leaves them with systemd (`sd_pid_notify_with_fds(3)`, `FDSTORE=1`). systemd
//! passes them to the appliance at each start. This is the only process that needs `CAP_NET_RAW`. It reads no input,
//! and it ends before the appliance starts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sd_notify::NotifyState;

use ethernet::Purpose;

/// How long systemd may take to read what we sent.
const BARRIER_WITHIN: Duration = Duration::from_secs(5);

/// Opens the packet sockets and hands them over to systemd.
///
/// # Errors
/// Without `CAP_NET_RAW`, or if no service manager that keeps sockets has started the process.
pub fn hand_over() -> anyhow::Result<()> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        bail!("no service manager keeps sockets for us; this is what lineside.service starts");
    }
    for purpose in Purpose::ALL {
        let sockets: Vec<_> = (0..purpose.count())
            .map(|_| ethernet::open(purpose))
            .collect::<io::Result<_>>()
            .context("cannot open a packet socket (CAP_NET_RAW)")?;
        let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let name = || NotifyState::FdName(purpose.name());
        // Sockets of an earlier start still work, but nobody knows which interface they are bound to.
        sd_notify::notify(&[NotifyState::FdStoreRemove, name()]).context("systemd does not listen")?;
        tell(&[NotifyState::FdStore, name()], &fds)?;
    }
    barrier()
}

fn tell(states: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
    sd_notify::notify_with_fds(states, fds).context("systemd does not take the sockets")
}

/// Waits until systemd has read what was sent (`sd_notify_barrier(3)`). systemd may not know which unit a message
/// belongs to once its sender has ended.
fn barrier() -> anyhow::Result<()> {
    let (ours, theirs) = io::pipe()?;
    tell(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    let mut closed = [PollFd::new(ours.as_fd(), PollFlags::empty())];
    if poll(&mut closed, PollTimeout::try_from(BARRIER_WITHIN)?)? == 0 {
        bail!("systemd has not taken the sockets within {} s", BARRIER_WITHIN.as_secs());
    }
    Ok(())
}
