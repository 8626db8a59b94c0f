use crate::sync::{Arc, Mutex, thread};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where "now" comes from: the system's clock, or one that a test moves.
///
/// A database, its locks, a cache in front of it and the back-off of a transaction can all be given
/// the same clock. Expiry is exact: what has a time to live of `t` is there while the clock's
/// [`epoch_seconds`](Clock::epoch_seconds) are at most `t`, and not after.
///
/// A clock is never asked while a mutex of this crate is held, so it may call a database.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time since the Unix epoch.
    fn now(&self) -> Duration;

    /// Returns when `duration` has passed on this clock.
    fn sleep(&self, duration: Duration);

    /// The whole seconds since the Unix epoch, which times to live are measured in.
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

/// The operating system's clock, which everything uses unless it is given another.
///
/// ```
/// use atomic_db::{Clock, SystemClock};
///
/// assert!(SystemClock.epoch_seconds() > 1_700_000_000);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    /// The time since the epoch; zero on a system whose clock is set before it.
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
/// Whoever sleeps on it returns at once, and the clock has moved on by as much.
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
    /// A clock that stands at `epoch_seconds`.
    #[must_use]
    pub fn new(epoch_seconds: u64) -> Self {
        ManualClock {
            now: Arc::new(Mutex::new(Duration::from_secs(epoch_seconds))),
        }
    }

    /// Moves the clock to `epoch_seconds`, forward or back.
    pub fn set(&self, epoch_seconds: u64) {
        *self.now.lock() = Duration::from_secs(epoch_seconds);
    }

    /// Moves the clock forward.
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
