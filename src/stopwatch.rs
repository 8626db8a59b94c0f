//! Measuring a duration, on the system's monotonic clock or on a caller's [`Clock`].

use crate::Clock;
use std::time::{Duration, Instant};

/// The beginning of a duration.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stopwatch {
    /// On the system's monotonic clock, which is cheaper to read and is not set back.
    System(Instant),
    /// The time that the caller's clock showed.
    Clock(Duration),
}

impl Stopwatch {
    /// Begins now: on `clock`, or on the system's monotonic clock without one.
    pub(crate) fn start(clock: Option<&dyn Clock>) -> Self {
        match clock {
            Some(clock) => Stopwatch::Clock(clock.now()),
            None => Stopwatch::System(Instant::now()),
        }
    }

    /// Returns the time that has passed; `clock` is the one that [`start`](Stopwatch::start) was given.
    pub(crate) fn elapsed(&self, clock: Option<&dyn Clock>) -> Duration {
        match self {
            Stopwatch::System(start) => start.elapsed(),
            Stopwatch::Clock(start) => {
                clock.map_or(Duration::ZERO, |clock| clock.now().saturating_sub(*start))
            }
        }
    }
}
