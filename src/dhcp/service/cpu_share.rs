//! Who of the threads for the link takes which frames: each those that its processor received.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::SockFilter;
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tracing::debug;

/// The most threads. Further processors are rare where this runs; what they receive is the first thread's.
pub const MAX_THREADS: usize = 4;
/// Of 99: before all that is not real time, after what drives hardware (50).
const PRIORITY: u8 = 20;

/// What falls to one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuShare {
    /// Where it runs; it need not stay there if it is the only one.
    home: Option<usize>,
    takes: ReceivedBy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ReceivedBy {
    /// Whatever this processor received.
    Of(u32),
    /// Whatever none of these received.
    Others(Vec<u32>),
}

/// The processors that this process may use, as many as get a thread.
pub fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let mut all: Vec<usize> = (0..CpuSet::count()).filter(|number| allowed.is_set(*number) == Ok(true)).collect();
    all.truncate(MAX_THREADS);
    if all.is_empty() { vec![0] } else { all }
}

/// A share for each of these processors. The first one's has also what any other processor received: one that this
/// process may not use, or that was switched on later.
pub fn divide(processors: &[usize]) -> Vec<CpuShare> {
    let number = |processor: &usize| u32::try_from(*processor).unwrap_or(u32::MAX);
    let [first, others @ ..] = processors else { return Vec::new() };
    let rest = ReceivedBy::Others(others.iter().map(number).collect());
    let first = CpuShare { home: (!others.is_empty()).then_some(*first), takes: rest };
    let others = others.iter().map(|other| CpuShare { home: Some(*other), takes: ReceivedBy::Of(number(other)) });
    std::iter::once(first).chain(others).collect()
}

impl CpuShare {
    /// Keeps this thread at home. Where that is refused it is woken up wherever it was.
    pub fn pin_thread(&self) {
        let Some(processor) = self.home else { return };
        let mut only = CpuSet::new();
        if let Err(error) = only.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only)) {
            debug!(%error, processor, "a thread for the link cannot stay on its processor");
        }
    }

    /// Lets through whole UDP datagrams to one of two ports that are this thread's; the kernel drops the rest before anybody is
    /// woken.
    pub fn filter(&self, (server, client): (u16, u16)) -> Vec<SockFilter> {
        const LOAD_WORD: u16 = 0x20;
        const LOAD_HALF: u16 = 0x28;
        const LOAD_BYTE: u16 = 0x30;
        const LOAD_LENGTH: u16 = 0xb1;
        const LOAD_HALF_AT: u16 = 0x48;
        const EQUAL: u16 = 0x15;
        const ANY_BIT: u16 = 0x45;
        const RETURN: u16 = 0x06;
        // SKF_AD_OFF + SKF_AD_CPU: the processor that is at work on the frame.
        const PROCESSOR: u32 = 0xffff_f000 + 36;
        let drop = || SockFilter::new(RETURN, 0, 0, 0);
        let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, PROCESSOR)];
        match &self.takes {
            ReceivedBy::Of(processor) => program.extend([SockFilter::new(EQUAL, 1, 0, *processor), drop()]),
            ReceivedBy::Others(others) => {
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
            SockFilter::new(EQUAL, 1, 0, server.into()),
            SockFilter::new(EQUAL, 0, 1, client.into()),
            SockFilter::new(RETURN, 0, 0, 0xffff),
            drop(),
        ]);
        program
    }
}

/// Runs this thread before all others of the machine. On a machine that is busy, serving TFTP or otherwise, it would lose
/// to the router now and then: measured, with 20 processes waiting for two cores, about every third time.
pub fn raise_priority() {
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
                let takes = |share: &&CpuShare| match &share.takes {
                    ReceivedBy::Of(one) => *one == processor,
                    ReceivedBy::Others(others) => !others.contains(&processor),
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
