use crate::sync::Arc;
use crate::{Key, KeyBuf, Version};
use std::fmt;

/// A version token: read from a database, and passed back with a commit.
///
/// **A lock is a version, not a mutex**: it never blocks and has no owner. Any number of callers may
/// hold the same lock. Of their commits that renew it, one succeeds, and the others fail with a
/// conflict and write nothing. A lock is stored next to the data, under a key of its own, and may
/// guard any number of items.
///
/// It is a cheap handle: cloning increments a reference count.
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, MemoryDb};
///
/// let db = MemoryDb::new();
/// let lock = db.get_lock(Key::new("account#1", "lock"))?;
/// let version = db.set_atomic(&[Item::new("account#1", "balance", 10)], &[lock.clone()])?;
///
/// // The commit gave the lock a new version. The next commit needs no other read of it:
/// let lock = lock.with_version(version);
/// db.set_atomic(&[Item::new("account#1", "balance", 20)], &[lock])?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Lock {
    key: Arc<LockKey>,
    ttl: u64,
    version: Version,
}

/// The key of a lock, which the handles that are read from a database in memory share with the stored
/// lock.
pub(crate) struct LockKey {
    key: KeyBuf,
    row: Option<LockRow>,
}

impl PartialEq for LockKey {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for LockKey {}

/// Where a database in memory stored a lock when it created it. A commit looks there first, and
/// need not hash the key.
#[derive(Clone, Copy)]
pub(crate) struct LockRow {
    /// The number of the database. The rest means nothing to another one.
    pub(crate) database: u64,
    pub(crate) stripe: u32,
    pub(crate) hash: u32,
    pub(crate) number: u32,
}

impl Lock {
    /// The life of a lock from its creation or its last refresh, in seconds: 24 hours.
    pub const LIFETIME: u64 = 24 * 60 * 60;

    /// A lock with less than this many seconds left, one hour, is extended by
    /// [`LIFETIME`](Lock::LIFETIME) from now when it is read. It keeps its version.
    pub const REFRESH_WINDOW: u64 = 60 * 60;

    /// Creates a lock as a database stores it; `ttl` is the last epoch second at which it is live.
    /// For implementors of [`AtomicDb`](crate::AtomicDb): callers read locks with
    /// [`get_lock`](crate::AtomicDb::get_lock).
    #[must_use]
    pub fn new(key: impl Into<KeyBuf>, version: Version, ttl: u64) -> Self {
        Lock::with_row(key.into(), version, ttl, None)
    }

    /// Creates a lock that is stored in `row`.
    pub(crate) fn in_row(key: Key<'_>, version: Version, ttl: u64, row: LockRow) -> Self {
        Lock::with_row(key.to_buf(), version, ttl, Some(row))
    }

    fn with_row(key: KeyBuf, version: Version, ttl: u64, row: Option<LockRow>) -> Self {
        Lock {
            key: Arc::new(LockKey { key, row }),
            ttl,
            version,
        }
    }

    /// Returns the lock's key.
    #[must_use]
    pub fn key(&self) -> Key<'_> {
        self.key.key.as_key()
    }

    /// Returns the version that the lock had when it was read.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the last epoch second at which the lock is live, as of when it was read.
    #[must_use]
    pub fn ttl(&self) -> u64 {
        self.ttl
    }

    /// Returns the lock as a commit that returned `version` left it: the same key and expiry, with
    /// that version. The next commit can use it without another read.
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Returns `true` if the lock is live at `now`, in epoch seconds.
    #[must_use]
    pub fn is_live(&self, now: u64) -> bool {
        now <= self.ttl
    }

    /// Returns the expiry of the lock after it is read at `now`, in epoch seconds: unchanged, or
    /// [`LIFETIME`](Lock::LIFETIME) from `now` if less than
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

    pub(crate) fn key_buf(&self) -> &KeyBuf {
        &self.key.key
    }

    pub(crate) fn shared_key(&self) -> &Arc<LockKey> {
        &self.key
    }

    /// Returns the row that the database in memory with this number stored the lock in.
    #[inline]
    pub(crate) fn row_in(&self, database: u64) -> Option<LockRow> {
        self.key.row.filter(|row| row.database == database)
    }

    #[inline]
    pub(crate) fn has_key(&self, bytes: (&[u8], &[u8])) -> bool {
        self.key.key.has_bytes(bytes)
    }

    pub(crate) fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    pub(crate) fn set_ttl(&mut self, ttl: u64) {
        self.ttl = ttl;
    }
}

impl<'a> From<&'a Lock> for Key<'a> {
    fn from(lock: &'a Lock) -> Self {
        lock.key()
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("pk", &self.key().pk)
            .field("sk", &self.key().sk)
            .field("version", &self.version)
            .field("ttl", &self.ttl)
            .finish()
    }
}
