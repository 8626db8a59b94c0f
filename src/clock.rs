use crate::sync::{Arc, Mutex, thread};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The source of the current time: the system's clock, or one that a test moves.
///
/// A database, its locks, a cache in front of it and the back-off of a transaction can share one
/// clock. Expiry is exact: an item or lock with the `ttl` `t` is live while
/// [`epoch_seconds`](Clock::epoch_seconds) is at most `t`, and not after.
///
/// The clock is never read while this crate holds a mutex, so an implementation may call a database
/// (guarantee 22).
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the time since the Unix epoch.
    fn now(&self) -> Duration;

    /// Blocks until `duration` has passed on this clock.
    fn sleep(&self, duration: Duration);

    /// Returns the time in whole seconds since the Unix epoch, the unit of `ttl`.
    fn epoch_seconds(&self) -> u64 {
        self.now().as_secs()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Duration {
        (**self).now()
    }

    fn sleep(&self, duration: Duration) {
        (**self).sleep(duration);
    }

    fn epoch_seconds(&self) -> u64 {
        (**self).epoch_seconds()
    }
}

/// The operating system's clock, which is the default everywhere.
///
/// ```
/// use atomic_db::{Clock, SystemClock};
///
/// assert!(SystemClock.epoch_seconds() > 1_700_000_000);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "its name is also its only value")]
pub struct SystemClock;

impl Clock for SystemClock {
    /// Returns the time since the Unix epoch, or zero if the system's clock is set before it.
    fn now(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }
}

/// A clock that stands still until it is moved. Clones are handles to the same clock.
///
/// `sleep` returns immediately and advances the clock by the duration.
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, ManualClock, MemoryDb};
/// use std::time::Duration;
///
/// let clock = ManualClock::new(1_000);
/// let db = MemoryDb::builder().clock(clock.clone()).build();
/// db.set(&[Item::new("session", "abc", ()).expires_at(1_060)])?;
///
/// clock.advance(Duration::from_secs(60));
/// assert!(db.get(Key::new("session", "abc"))?.is_some());
/// clock.advance(Duration::from_secs(1));
/// assert!(db.get(Key::new("session", "abc"))?.is_none());
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now: Arc<Mutex<Duration>>,
}

impl ManualClock {
    /// Creates a clock that shows `epoch_seconds`.
    #[must_use]
    pub fn new(epoch_seconds: u64) -> Self {
        ManualClock {
            now: Arc::new(Mutex::new(Duration::from_secs(epoch_seconds))),
        }
    }

    /// Sets the clock to `epoch_seconds`, forward or back.
    pub fn set(&self, epoch_seconds: u64) {
        *self.now.lock() = Duration::from_secs(epoch_seconds);
    }

    /// Moves the clock forward by `duration`.
    pub fn advance(&self, duration: Duration) {
        let mut now = self.now.lock();
        *now = now.saturating_add(duration);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.now.lock()
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}
