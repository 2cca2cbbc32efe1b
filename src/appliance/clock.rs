//! What the kernel says about its clock. A Pi has no clock of its own: after power-on it is 1970 until NTP answers.

use std::time::SystemTime;

use crate::ids::UnixTime;

/// The system clock's time, right or wrong.
pub fn now() -> UnixTime {
    UnixTime::of(SystemTime::now())
}

/// Whether the kernel says that its clock is synchronised (`adjtimex(2)`: not `TIME_ERROR`).
pub fn synchronised() -> bool {
    // SAFETY: all-zero is a valid timex, and its modes of 0 make adjtimex only read.
    #[expect(unsafe_code, reason = "no package of ours wraps adjtimex, and this is the whole call")]
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    (0..libc::TIME_ERROR).contains(&state)
}
