//! The retry policy of a transaction, and what happens between its attempts.

use super::queue::{RetryQueue, Turns};
use crate::random::jitter;
use crate::stopwatch::Stopwatch;
use crate::sync::Arc;
use crate::{Clock, Error, Key, KeyBuf, Observer, Result, SystemClock};
use std::fmt;
use std::time::Duration;

/// The retry policy of a transaction: attempts, deadline and back-off.
///
/// After a conflict, the transaction pauses and runs again. Once it has used all its attempts or its
/// deadline has passed, it fails with [`RetriesExhausted`](Error::RetriesExhausted).
///
/// Each pause is a random duration between zero and a ceiling, which doubles after each attempt
/// ("full jitter"), so that contending transactions do not retry in lockstep. Within one process, the
/// next attempt then waits for its turn in the database's [`RetryQueue`], at most until the deadline.
///
/// # Defaults
///
/// A deadline of 10 seconds, any number of attempts, and a ceiling that grows from 200 microseconds to
/// 250 milliseconds, on the [`SystemClock`].
///
/// ```
/// use atomic_db::{AtomicDbExt, MemoryDb, Retry};
/// use std::time::{Duration, Instant};
///
/// let retry = Retry::new()
///     .attempts(10)
///     .deadline(Duration::from_secs(2))
///     .backoff(Duration::from_millis(5), Duration::from_millis(500));
/// let db = MemoryDb::<u32>::new();
/// db.transact_with(&retry, |tx| tx.lock(("account#1", "lock")).map(drop))?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Retry {
    policy: Policy,
    observer: Option<Arc<dyn Observer + Send + Sync>>,
}

/// A [`Retry`] without its observer.
#[derive(Clone)]
pub(super) struct Policy {
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
        Retry::default()
    }

    /// Sets the largest number of times that the closure is run. Zero counts as one.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.policy.attempts = attempts.max(1);
        self
    }

    /// Sets the time after the start of the first attempt from which no other attempt starts. A
    /// pause that would end later is cut short. An attempt in progress is not interrupted, and may
    /// still succeed.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.policy.deadline = deadline;
        self
    }

    /// Sets the ceiling of the first pause, which doubles with each further one, and the ceiling that
    /// it does not exceed.
    #[must_use]
    pub fn backoff(mut self, first: Duration, ceiling: Duration) -> Self {
        self.policy.first_ceiling = first;
        self.policy.last_ceiling = ceiling;
        self
    }

    /// Sets the clock of the pauses and the deadline.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.policy.clock = Some(Arc::new(clock));
        self
    }

    /// Reports the transactions that use this policy to `observer`. Transactions on an
    /// [`Observed`](crate::Observed) database are reported to its observer without this; one that is set
    /// in both places receives them twice.
    ///
    /// Durations are measured on the policy's clock, or else on the system's monotonic clock.
    ///
    /// ```
    /// use atomic_db::{AtomicDbExt, Counters, MemoryDb, Retry};
    ///
    /// let counters = Counters::new();
    /// let retry = Retry::new().observer(counters.clone());
    /// let db = MemoryDb::<u32>::new();
    /// db.transact_with(&retry, |tx| tx.lock(("account#1", "lock")).map(drop))?;
    /// assert_eq!(counters.snapshot().transactions.first_attempt, 1);
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    pub(super) fn parts(&self) -> (&Policy, Option<&dyn Observer>) {
        let observer = self.observer.as_deref();
        (
            &self.policy,
            observer.map(|observer| observer as &dyn Observer),
        )
    }
}

/// Shows the policy, and not the observer.
impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("attempts", &self.policy.attempts)
            .field("deadline", &self.policy.deadline)
            .field("first_ceiling", &self.policy.first_ceiling)
            .field("last_ceiling", &self.policy.last_ceiling)
            .field("clock", &self.policy.clock)
            .finish_non_exhaustive()
    }
}

impl Policy {
    pub(super) fn clock(&self) -> Option<&dyn Clock> {
        self.clock.as_deref()
    }

    fn start(&self) -> Stopwatch {
        Stopwatch::start(self.clock())
    }

    /// Returns the time until the deadline, which begins now if it has not begun yet.
    fn time_left(&self, start: &mut Option<Stopwatch>) -> Duration {
        let start = start.get_or_insert_with(|| self.start());
        self.deadline.saturating_sub(start.elapsed(self.clock()))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            attempts: u32::MAX,
            deadline: Duration::from_secs(10),
            first_ceiling: Duration::from_micros(200),
            last_ceiling: Duration::from_millis(250),
            clock: None,
        }
    }
}

/// The attempts of one transaction.
pub(super) struct Attempts<'a> {
    policy: &'a Policy,
    /// The number of attempts so far.
    count: u32,
    start: Option<Stopwatch>,
    /// `None` if the database has no queue.
    turns: Option<Turns<'a>>,
}

impl<'a> Attempts<'a> {
    /// The time until the deadline begins with the first conflict or wait, or with a call of
    /// [`start`](Attempts::start) before.
    pub(super) fn new(policy: &'a Policy, queue: Option<&'a RetryQueue>) -> Self {
        Attempts {
            policy,
            count: 0,
            start: None,
            turns: queue.map(Turns::new),
        }
    }

    pub(super) fn start(&mut self) {
        self.start = Some(self.policy.start());
    }

    /// Waits, before `lock` is read, if too many other transactions contend for it.
    #[inline]
    pub(super) fn wait_if_closed(&mut self, lock: Key<'_>) {
        let (policy, start) = (self.policy, &mut self.start);
        if let Some(turns) = &mut self.turns {
            turns.wait_if_closed(lock, &mut || policy.time_left(start));
        }
    }

    /// Returns the time that was waited for turns.
    pub(super) fn waited(&self) -> Duration {
        self.turns.as_ref().map_or(Duration::ZERO, Turns::waited)
    }

    /// Counts an attempt that `locked` these keys and ended in `race`. Pauses before the next one, and
    /// waits for the turns at the locks for which the race was lost.
    ///
    /// # Errors
    ///
    /// [`Error::RetriesExhausted`] if there may be no other attempt.
    pub(super) fn next(&mut self, race: Error, locked: &[Key<'_>]) -> Result<()> {
        self.count += 1;
        let (policy, start) = (self.policy, &mut self.start);
        let time_left = policy.time_left(start);
        if self.count >= policy.attempts || time_left.is_zero() {
            return Err(Error::RetriesExhausted {
                attempts: self.count,
                source: Box::new(race),
            });
        }
        let factor = 2_u32.checked_pow(self.count - 1).unwrap_or(u32::MAX);
        let ceiling = policy.first_ceiling.saturating_mul(factor);
        let pause = jitter(ceiling.min(policy.last_ceiling));
        policy
            .clock()
            .unwrap_or(&SystemClock)
            .sleep(pause.min(time_left));
        if let (Some(turns), Error::RaceCondition { keys }) = (&mut self.turns, &race) {
            let lost = keys.iter().map(KeyBuf::as_key);
            let lost = lost.filter(|key| locked.contains(key));
            turns.take_after_race(lost, &mut || policy.time_left(start));
        }
        Ok(())
    }
}
