//! Reads the system clock, and whether the kernel trusts it. A Pi has no battery-backed clock: after power-on the time
//! is wrong until NTP answers.

use std::path::Path;
use std::time::{Instant, SystemTime};

use ids::UnixTime;
use status::ClockReading;

/// The time of the system clock, whether it is right or not: see [`synchronised`].
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub fn now() -> UnixTime {
    UnixTime::of(SystemTime::now())
}

/// Reads the system clock beside a clock that never steps, for [`status::Stats`].
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub fn readings() -> impl Fn() -> ClockReading + Send + Sync {
    let start = Instant::now();
    move || ClockReading { wall: now(), up: start.elapsed() }
}

/// The file that systemd-timesyncd makes once it has set the clock after a boot.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";

/// Whether the kernel says that its clock is synchronised (`adjtimex(2)`: not `TIME_ERROR`).
///
/// Our own systemd unit forbids the call, because `ProtectClock` cannot tell reading the clock from setting it. There
/// the file of systemd-timesyncd decides. With another NTP client the clock then counts as unsynchronised, and only
/// signed times are believed.
pub fn synchronised() -> bool {
    // SAFETY: a timex of zeros is valid, and with modes 0 adjtimex only reads.
    #[expect(unsafe_code, reason = "no package of ours wraps adjtimex, and this is the whole call")]
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    if state < 0 { Path::new(TIMESYNC).exists() } else { state < libc::TIME_ERROR }
}
