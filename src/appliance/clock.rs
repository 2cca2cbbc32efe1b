//! What the kernel says about its clock. A Pi has no clock of its own: after power-on it is 1970 until NTP answers.

use std::path::Path;
use std::time::SystemTime;

use ids::UnixTime;

/// The system clock's time, right or wrong.
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub fn now() -> UnixTime {
    UnixTime::of(SystemTime::now())
}

/// What systemd-timesyncd leaves when it has set the clock since the system started.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";

/// Whether the kernel says that its clock is synchronised (`adjtimex(2)`: not `TIME_ERROR`).
///
/// Our own unit forbids the call (`ProtectClock` cannot tell reading from setting); there systemd-timesyncd's word counts.
/// Beside another NTP client the clock then counts as unsynchronised, and signed times alone are believed.
pub fn synchronised() -> bool {
    // SAFETY: all-zero is a valid timex, and its modes of 0 make adjtimex only read.
    #[expect(unsafe_code, reason = "no package of ours wraps adjtimex, and this is the whole call")]
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    if state < 0 { Path::new(TIMESYNC).exists() } else { state < libc::TIME_ERROR }
}
