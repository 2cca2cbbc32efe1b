//! Which thread of the fast path takes which frames: those that its processor received.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::SockFilter;
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tracing::debug;

use ethernet::filter::{ANY_BIT, EQUAL, LOAD_BYTE, LOAD_HALF, LOAD_HALF_AT, LOAD_LENGTH, LOAD_WORD, PROCESSOR, RETURN};

/// The most threads. Few machines here have more processors; the first thread takes what further ones receive.
pub(super) const MAX_THREADS: usize = ethernet::MAX_DHCP_SOCKETS;
/// The real-time priority, of 99: before everything that is not real time, after what drives hardware (50).
const PRIORITY: u8 = 20;

/// The share of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CpuShare {
    /// The processor that the thread stays on. The only thread of a machine may move.
    home: Option<usize>,
    frames: ReceivedBy,
}

/// The frames of a share.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ReceivedBy {
    /// The frames that this processor received.
    One(u32),
    /// The frames that none of these processors received.
    NoneOf(Vec<u32>),
}

/// The processors that get a thread: those that this process may use, up to [`MAX_THREADS`].
pub(super) fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let mut all: Vec<usize> = (0..CpuSet::count()).filter(|number| allowed.is_set(*number) == Ok(true)).collect();
    all.truncate(MAX_THREADS);
    if all.is_empty() { vec![0] } else { all }
}

/// Divides the frames among these processors. The first share also has what any other processor received: one that this
/// process may not use, or one that was switched on later.
pub(super) fn divide(processors: &[usize]) -> Vec<CpuShare> {
    let number = |processor: &usize| u32::try_from(*processor).unwrap_or(u32::MAX);
    let [first, others @ ..] = processors else { return Vec::new() };
    let rest = ReceivedBy::NoneOf(others.iter().map(number).collect());
    let first = CpuShare { home: (!others.is_empty()).then_some(*first), frames: rest };
    let others = others.iter().map(|other| CpuShare { home: Some(*other), frames: ReceivedBy::One(number(other)) });
    std::iter::once(first).chain(others).collect()
}

impl CpuShare {
    /// Keeps the calling thread on its processor. If the kernel refuses, the thread moves as others do.
    pub(super) fn pin_thread(&self) {
        let Some(processor) = self.home else { return };
        let mut only = CpuSet::new();
        if let Err(error) = only.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only)) {
            debug!(%error, processor, "a thread for the link cannot stay on its processor");
        }
    }

    /// All frames, whichever processor receives them.
    pub(super) const fn everything() -> Self {
        Self { home: None, frames: ReceivedBy::NoneOf(Vec::new()) }
    }

    /// A filter for the frames of this share that hold a whole UDP datagram to the server's or the client's port. The kernel
    /// drops all other frames and wakes nobody for them.
    pub(super) fn filter(&self, server_port: u16, client_port: u16) -> Vec<SockFilter> {
        let drop = || SockFilter::new(RETURN, 0, 0, 0);
        let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, PROCESSOR)];
        match &self.frames {
            ReceivedBy::One(processor) => program.extend([SockFilter::new(EQUAL, 1, 0, *processor), drop()]),
            ReceivedBy::NoneOf(others) => {
                others.iter().for_each(|other| program.extend([SockFilter::new(EQUAL, 0, 1, *other), drop()]));
            }
        }
        program.extend([
            SockFilter::new(LOAD_HALF, 0, 0, 12),
            SockFilter::new(EQUAL, 0, 9, 0x0800),
            SockFilter::new(LOAD_BYTE, 0, 0, 23),
            SockFilter::new(EQUAL, 0, 7, 17),
            SockFilter::new(LOAD_HALF, 0, 0, 20),
            SockFilter::new(ANY_BIT, 5, 0, 0x3fff),
            SockFilter::new(LOAD_LENGTH, 0, 0, 14),
            SockFilter::new(LOAD_HALF_AT, 0, 0, 16),
            SockFilter::new(EQUAL, 1, 0, server_port.into()),
            SockFilter::new(EQUAL, 0, 1, client_port.into()),
            SockFilter::new(RETURN, 0, 0, 0xffff),
            drop(),
        ]);
        program
    }
}

/// Runs the calling thread before all other programs. On a busy machine it would otherwise lose to the router: with 20
/// processes waiting for two cores, about every third race (measured).
pub(super) fn raise_priority() {
    let Ok(priority) = ThreadPriorityValue::try_from(PRIORITY) else { return };
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let priority = ThreadPriority::Crossplatform(priority);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), priority, policy) {
        debug!(
            ?error,
            "no real-time priority (CAP_SYS_NICE or LimitRTPRIO=); `augment` loses more races on a busy box"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_any_processor_received_is_taken_once_and_by_a_thread_at_home_there_if_there_is_one() {
        for processors in [&[0][..], &[3], &[0, 1], &[0, 1, 2, 3], &[2, 5]] {
            let shares = divide(processors);
            assert_eq!(shares.len(), processors.len());
            for processor in 0..8 {
                let takes = |share: &&CpuShare| match &share.frames {
                    ReceivedBy::One(one) => *one == processor,
                    ReceivedBy::NoneOf(others) => !others.contains(&processor),
                };
                let all: Vec<&CpuShare> = shares.iter().filter(takes).collect();
                let [one] = all.as_slice() else { panic!("{processors:?} {processor}: {all:?}") };
                let here = usize::try_from(processor).is_ok_and(|number| processors.contains(&number));
                let home = one.home.and_then(|home| u32::try_from(home).ok());
                assert!(home == Some(processor) || !here || processors.len() == 1, "{processors:?} {processor}");
            }
        }
        assert!((1..=MAX_THREADS).contains(&processors().len()));
    }
}
