//! One monotonic clock for a whole run.

use std::time::Instant;

/// Nanoseconds since the run's origin. Copies share the origin.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
    offset_ns: i64,
}

impl Clock {
    /// A clock that shows 0 now.
    pub fn start() -> Self {
        Self::start_at(0)
    }

    /// A clock that shows `offset_ns` now: a resumed run goes on where its manifest's origin puts it.
    pub fn start_at(offset_ns: i64) -> Self {
        Self { origin: now(), offset_ns }
    }

    /// Nanoseconds since the origin.
    pub fn now_ns(&self) -> i64 {
        self.at_ns(now())
    }

    /// An instant on this clock.
    pub fn at_ns(&self, instant: Instant) -> i64 {
        let since = instant.saturating_duration_since(self.origin);
        self.offset_ns + i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    /// The instant at which this clock shows `ns`, clamped to the origin.
    pub fn instant(&self, ns: i64) -> Instant {
        self.origin + std::time::Duration::from_nanos((ns - self.offset_ns).max(0).unsigned_abs())
    }
}

/// The one place where kvbench reads the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "execute is the layer that times")]
pub fn now() -> Instant {
    Instant::now()
}
