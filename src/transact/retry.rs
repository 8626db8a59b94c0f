//! How a transaction is tried again.

use crate::random::jitter;
use crate::sync::Arc;
use crate::{Clock, Error, Result, SystemClock};
use std::time::Duration;

/// How often, how long and how fast a transaction is tried again after it lost a race.
///
/// The pause before each further attempt is drawn evenly between nothing and a ceiling that
/// doubles each time ("full jitter"), so that those who collided once do not collide again in step.
///
/// # Defaults
///
/// 32 attempts, no deadline, a first ceiling of 200 microseconds and a last one of 250
/// milliseconds, on the [`SystemClock`]. That is a mean of some 3 seconds if every attempt loses.
///
/// ```
/// use atomic_db::{AtomicDbExt, MemoryDb, Retry};
/// use std::time::Duration;
///
/// let retry = Retry::new()
///     .attempts(10)
///     .deadline(Duration::from_secs(2))
///     .backoff(Duration::from_millis(5), Duration::from_millis(500));
/// let db = MemoryDb::<u32>::new();
/// db.transact_with(&retry, |tx| tx.lock(("account#1", "lock")).map(drop))?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Retry {
    attempts: u32,
    deadline: Option<Duration>,
    first: Duration,
    ceiling: Duration,
    /// The system's if there is none: the defaults allocate nothing.
    clock: Option<Arc<dyn Clock>>,
}

impl Retry {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Retry {
            attempts: 32,
            deadline: None,
            first: Duration::from_micros(200),
            ceiling: Duration::from_millis(250),
            clock: None,
        }
    }

    /// How often the body is run at most; zero counts as one.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// How long after the beginning of the first attempt another one may begin. A pause is cut
    /// short where it would pass the deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The ceiling of the first pause, which doubles with each further one, and the ceiling that it
    /// grows to.
    #[must_use]
    pub fn backoff(mut self, first: Duration, ceiling: Duration) -> Self {
        self.first = first;
        self.ceiling = ceiling;
        self
    }

    /// The clock that pauses and deadline are measured on.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    fn its_clock(&self) -> &dyn Clock {
        self.clock.as_deref().unwrap_or(&SystemClock)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry::new()
    }
}

/// The attempts that one transaction has made.
pub(super) struct Attempts<'a> {
    retry: &'a Retry,
    made: u32,
    began: Option<Duration>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(retry: &'a Retry) -> Self {
        Attempts {
            retry,
            made: 0,
            // A transaction without a deadline asks no clock.
            began: retry.deadline.map(|_| retry.its_clock().now()),
        }
    }

    /// Counts an attempt that ended in `race`, and pauses before the next one.
    ///
    /// # Errors
    ///
    /// [`Error::RetriesExhausted`] if there is to be no next one.
    pub(super) fn pause_after(&mut self, race: Error) -> Result<()> {
        self.made += 1;
        let left = self.time_left();
        if self.made >= self.retry.attempts || left == Some(Duration::ZERO) {
            return Err(Error::RetriesExhausted {
                attempts: self.made,
                source: Box::new(race),
            });
        }
        let doubled = 2_u32.checked_pow(self.made - 1).unwrap_or(u32::MAX);
        let ceiling = self
            .retry
            .first
            .saturating_mul(doubled)
            .min(self.retry.ceiling);
        let pause = jitter(ceiling);
        let pause = left.map_or(pause, |left| pause.min(left));
        self.retry.its_clock().sleep(pause);
        Ok(())
    }

    fn time_left(&self) -> Option<Duration> {
        let deadline = self.began?.saturating_add(self.retry.deadline?);
        Some(deadline.saturating_sub(self.retry.its_clock().now()))
    }
}
