use crate::sync::Arc;
use crate::{Key, KeyBuf, Version};
use std::fmt;

/// A version token, read from a database and handed back with a commit.
///
/// **A lock is a version, not a mutex**: nobody waits for it and nobody owns it. Any number of
/// callers may hold the same one; of their commits that renew it, one succeeds, and the others are
/// told that they lost. A lock lives beside the data, under a key of its own, and may guard any
/// number of items.
///
/// It is a cheap handle: a clone is one reference count.
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, MemoryDb};
///
/// let db = MemoryDb::new();
/// let lock = db.get_lock(Key::new("account#1", "lock"))?;
/// let version = db.set_atomic(&[Item::new("account#1", "balance", 10)], &[lock.clone()])?;
///
/// // The commit gave the lock a new version. Going on without reading it again:
/// let lock = lock.with_version(version);
/// db.set_atomic(&[Item::new("account#1", "balance", 20)], &[lock])?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Lock {
    key: Arc<KeyBuf>,
    ttl: u64,
    version: Version,
}

impl Lock {
    /// How long a lock lives from its creation or its last refresh, in seconds: 24 hours.
    pub const LIFETIME: u64 = 24 * 60 * 60;

    /// A lock with less than this many seconds to live, one hour, is given a new
    /// [`LIFETIME`](Lock::LIFETIME) when it is read, and keeps its version.
    pub const REFRESH_WINDOW: u64 = 60 * 60;

    /// The lock at `key` as a database holds it, with its last live epoch second. For implementors
    /// of [`AtomicDb`](crate::AtomicDb); everybody else reads locks with
    /// [`get_lock`](crate::AtomicDb::get_lock).
    #[must_use]
    pub fn new(key: impl Into<KeyBuf>, version: Version, ttl: u64) -> Self {
        Lock {
            key: Arc::new(key.into()),
            ttl,
            version,
        }
    }

    /// The lock's address.
    #[must_use]
    pub fn key(&self) -> Key<'_> {
        self.key.as_key()
    }

    /// The version that this lock was read with.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The last epoch second at which the lock exists.
    #[must_use]
    pub fn ttl(&self) -> u64 {
        self.ttl
    }

    /// The lock as a commit left it: the same key and time to live, and the version that the
    /// commit returned. Whoever has just committed under a lock may commit under it again without
    /// reading it.
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Whether the lock exists at `now`, in epoch seconds.
    #[must_use]
    pub fn is_live(&self, now: u64) -> bool {
        now <= self.ttl
    }

    /// The time to live that reading the lock at `now`, in epoch seconds, leaves it with: its own,
    /// or [`LIFETIME`](Lock::LIFETIME) from now if less than
    /// [`REFRESH_WINDOW`](Lock::REFRESH_WINDOW) is left. For implementors.
    ///
    /// ```
    /// use atomic_db::{Lock, Version};
    ///
    /// let lock = Lock::new(("account#1", "lock"), Version::from_u128(1), 10_000);
    /// assert_eq!(lock.refreshed_ttl(10_000 - 3_600), 10_000);
    /// assert_eq!(lock.refreshed_ttl(10_000 - 3_599), 10_000 - 3_599 + 24 * 3_600);
    /// ```
    #[must_use]
    pub fn refreshed_ttl(&self, now: u64) -> u64 {
        if self.ttl.saturating_sub(now) < Lock::REFRESH_WINDOW {
            now.saturating_add(Lock::LIFETIME)
        } else {
            self.ttl
        }
    }

    pub(crate) fn key_buf(&self) -> &Arc<KeyBuf> {
        &self.key
    }

    #[inline]
    pub(crate) fn has_key(&self, bytes: (&[u8], &[u8])) -> bool {
        self.key.is(bytes)
    }

    pub(crate) fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    pub(crate) fn set_ttl(&mut self, ttl: u64) {
        self.ttl = ttl;
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("pk", &self.key.pk())
            .field("sk", &self.key.sk())
            .field("version", &self.version)
            .field("ttl", &self.ttl)
            .finish()
    }
}
