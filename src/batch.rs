use crate::{Error, Item, KeyBuf, Lock, Result};
use smallvec::SmallVec;

/// What one [`commit`](crate::AtomicDb::commit) checks and writes, all or nothing.
///
/// There may be any number of each kind, in any order, and one lock may guard any number of
/// writes. A key appears at most once: an item is written one way, and a lock is no item. A batch
/// without any lock or check is an all-or-nothing write that checks nothing but its creations.
///
/// ```
/// use atomic_db::{AtomicDb, Batch, Item, Key, MemoryDb};
///
/// let db = MemoryDb::new();
/// let lock = db.get_lock(Key::new("user#1", "lock"))?;
/// let open = db.get_lock(Key::new("shop", "lock"))?;
/// db.commit(
///     &Batch::new()
///         .lock(lock) // must be unchanged, and is renewed
///         .check(open) // must be unchanged, and stays as it is
///         .set(Item::new("user#1", "name", "Ada"))
///         .create(Item::new("user#1", "order#1", "tea"))
///         .delete(("user#1", "cart")),
/// )?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Batch<T> {
    pub(crate) locks: Vec<Lock>,
    pub(crate) checks: Vec<Lock>,
    pub(crate) sets: Vec<Item<T>>,
    pub(crate) creates: Vec<Item<T>>,
    pub(crate) deletes: Vec<KeyBuf>,
}

impl<T> Batch<T> {
    /// A batch that does nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Batch {
            locks: Vec::new(),
            checks: Vec::new(),
            sets: Vec::new(),
            creates: Vec::new(),
            deletes: Vec::new(),
        }
    }

    /// Demands that `lock` is unchanged, and gives it a new version.
    #[must_use]
    pub fn lock(mut self, lock: Lock) -> Self {
        self.locks.push(lock);
        self
    }

    /// Demands that `lock` is unchanged, and leaves it as it is: what was read under it still
    /// holds, and others who check it do not lose.
    #[must_use]
    pub fn check(mut self, lock: Lock) -> Self {
        self.checks.push(lock);
        self
    }

    /// Writes `item`, whatever is there.
    #[must_use]
    pub fn set(mut self, item: Item<T>) -> Self {
        self.sets.push(item);
        self
    }

    /// Writes `item`, and demands that no live item is there.
    #[must_use]
    pub fn create(mut self, item: Item<T>) -> Self {
        self.creates.push(item);
        self
    }

    /// Removes what is at `key`, item or lock, if anything is.
    #[must_use]
    pub fn delete(mut self, key: impl Into<KeyBuf>) -> Self {
        self.deletes.push(key.into());
        self
    }

    /// The locks that must be unchanged and are renewed.
    #[must_use]
    pub fn locks(&self) -> &[Lock] {
        &self.locks
    }

    /// The locks that must be unchanged and stay as they are.
    #[must_use]
    pub fn checks(&self) -> &[Lock] {
        &self.checks
    }

    /// The items that are written whatever is there.
    #[must_use]
    pub fn sets(&self) -> &[Item<T>] {
        &self.sets
    }

    /// The items that are written where no live item is.
    #[must_use]
    pub fn creates(&self) -> &[Item<T>] {
        &self.creates
    }

    /// The keys whose item or lock is removed.
    #[must_use]
    pub fn deletes(&self) -> &[KeyBuf] {
        &self.deletes
    }

    /// Whether the batch checks nothing and writes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes().len() == 0
    }

    /// Checks that no key appears twice, for implementors of
    /// [`commit`](crate::AtomicDb::commit): every database refuses the same batches.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] that names the first key, in the order of keys, that appears twice.
    pub fn validate(&self) -> Result<()> {
        self.writes().validate()
    }

    pub(crate) fn writes(&self) -> BatchRef<'_, T> {
        BatchRef {
            locks: &self.locks,
            checks: &self.checks,
            sets: &self.sets,
            creates: &self.creates,
            deletes: &self.deletes,
        }
    }
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch::new()
    }
}

/// A batch, borrowed: also what a `set_atomic` comes to, without building a batch for it.
pub(crate) struct BatchRef<'a, T> {
    pub(crate) locks: &'a [Lock],
    pub(crate) checks: &'a [Lock],
    pub(crate) sets: &'a [Item<T>],
    pub(crate) creates: &'a [Item<T>],
    pub(crate) deletes: &'a [KeyBuf],
}

impl<'a, T> BatchRef<'a, T> {
    /// The writes of `set_atomic`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if there are items and no lock.
    pub(crate) fn for_set_atomic(items: &'a [Item<T>], locks: &'a [Lock]) -> Result<Self> {
        if locks.is_empty() && !items.is_empty() {
            return Err(Error::InvalidInput(
                "set_atomic was given items and no lock: use commit for an all-or-nothing write that checks nothing".into(),
            ));
        }
        Ok(BatchRef {
            locks,
            checks: &[],
            sets: items,
            creates: &[],
            deletes: &[],
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.locks.len()
            + self.checks.len()
            + self.sets.len()
            + self.creates.len()
            + self.deletes.len()
    }

    /// Every key: locks, checks, sets, creates, deletes.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a KeyBuf> {
        let locks = self.locks.iter().chain(self.checks);
        let items = self.sets.iter().chain(self.creates);
        let guarded = locks.map(|lock| &**lock.key_buf());
        guarded.chain(items.map(Item::key_buf)).chain(self.deletes)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let mut keys: SmallVec<[&KeyBuf; 8]> = SmallVec::new();
        self.keys().for_each(|key| keys.push(key));
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => Err(Error::InvalidInput(format!(
                "{} appears twice in one batch",
                pair[0]
            ))),
        }
    }
}
