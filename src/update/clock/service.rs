//! The host's clocks. This is the only file of the room that reads a wall clock.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::{Reading, SystemClock};
use ids::UnixTime;

/// The clocks of the machine that we run on.
#[derive(Debug)]
pub struct HostClock {
    start: Instant,
    synchronised: Synchronised,
}

#[derive(Debug)]
enum Synchronised {
    Assumed(bool),
    Asked(fn() -> bool),
}

impl HostClock {
    /// The host's clocks; `synchronised` tells whether the kernel trusts its own. It is asked at every reading.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub fn new(synchronised: fn() -> bool) -> Self {
        Self { start: Instant::now(), synchronised: Synchronised::Asked(synchronised) }
    }

    /// The host's clocks for callers that know better whether they are synchronised.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub fn assuming(synchronised: bool) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), synchronised: Synchronised::Assumed(synchronised) })
    }
}

impl SystemClock for HostClock {
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn read(&self) -> Reading {
        Reading {
            system: UnixTime::of(SystemTime::now()),
            monotonic: self.start.elapsed(),
            synchronised: match self.synchronised {
                Synchronised::Assumed(assumed) => assumed,
                Synchronised::Asked(ask) => ask(),
            },
        }
    }
}
