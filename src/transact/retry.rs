//! The retry policy of a transaction, and the pauses between its attempts.

use crate::random::jitter;
use crate::sync::Arc;
use crate::{Clock, Error, Result, SystemClock};
use std::time::Duration;

/// The retry policy of a transaction: attempts, deadline and back-off.
///
/// After a conflict, the transaction pauses and runs again. Once it has used all its attempts or its
/// deadline has passed, it fails with [`RetriesExhausted`](Error::RetriesExhausted).
///
/// Each pause is a random duration between zero and a ceiling, which doubles after each attempt
/// ("full jitter"), so that contending transactions do not retry in lockstep.
///
/// # Defaults
///
/// A deadline of 10 seconds, any number of attempts, and a ceiling that grows from 200 microseconds to
/// 250 milliseconds, on the [`SystemClock`].
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
    deadline: Duration,
    first_ceiling: Duration,
    last_ceiling: Duration,
    /// `None` is the [`SystemClock`], so that the defaults allocate nothing.
    clock: Option<Arc<dyn Clock>>,
}

impl Retry {
    /// Creates the default policy.
    #[must_use]
    pub fn new() -> Self {
        Retry {
            attempts: u32::MAX,
            deadline: Duration::from_secs(10),
            first_ceiling: Duration::from_micros(200),
            last_ceiling: Duration::from_millis(250),
            clock: None,
        }
    }

    /// Sets the largest number of times that the closure is run. Zero counts as one.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets the time after the start of the first attempt from which no other attempt starts. A
    /// pause that would end later is cut short. An attempt in progress is not interrupted, and may
    /// still succeed.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the ceiling of the first pause, which doubles with each further one, and the ceiling that
    /// it does not exceed.
    #[must_use]
    pub fn backoff(mut self, first: Duration, ceiling: Duration) -> Self {
        self.first_ceiling = first;
        self.last_ceiling = ceiling;
        self
    }

    /// Sets the clock of the pauses and the deadline.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    fn get_clock(&self) -> &dyn Clock {
        self.clock.as_deref().unwrap_or(&SystemClock)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry::new()
    }
}

/// The state of one transaction's retries.
pub(super) struct Backoff<'a> {
    retry: &'a Retry,
    /// The number of attempts so far.
    attempts: u32,
    /// The time of the clock after which no attempt starts.
    deadline: Duration,
}

impl<'a> Backoff<'a> {
    pub(super) fn new(retry: &'a Retry) -> Self {
        Backoff {
            retry,
            attempts: 0,
            deadline: retry.get_clock().now().saturating_add(retry.deadline),
        }
    }

    /// Counts an attempt that ended in `race`, and pauses before the next one.
    ///
    /// # Errors
    ///
    /// [`Error::RetriesExhausted`] if there may be no other attempt.
    pub(super) fn back_off(&mut self, race: Error) -> Result<()> {
        self.attempts += 1;
        let time_left = self.deadline.saturating_sub(self.retry.get_clock().now());
        if self.attempts >= self.retry.attempts || time_left.is_zero() {
            return Err(Error::RetriesExhausted {
                attempts: self.attempts,
                source: Box::new(race),
            });
        }
        let factor = 2_u32.checked_pow(self.attempts - 1).unwrap_or(u32::MAX);
        let ceiling = self.retry.first_ceiling.saturating_mul(factor);
        let pause = jitter(ceiling.min(self.retry.last_ceiling));
        self.retry.get_clock().sleep(pause.min(time_left));
        Ok(())
    }
}
