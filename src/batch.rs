use crate::{Error, Item, KeyBuf, Lock, Result};
use smallvec::SmallVec;

/// The locks that one [`commit`](crate::AtomicDb::commit) validates and the items that it writes,
/// all or nothing.
///
/// There may be any number of each kind, in any order, and one lock may guard any number of writes.
/// A key may appear at most once, whether as a lock or as an item (guarantee 14). A batch without
/// locks and checks is an atomic write whose only preconditions are its `create`s.
///
/// ```
/// use atomic_db::{AtomicDb, Batch, Item, Key, MemoryDb};
///
/// let db = MemoryDb::new();
/// let lock = db.get_lock(Key::new("user#1", "lock"))?;
/// let open = db.get_lock(Key::new("shop", "lock"))?;
/// db.commit(
///     &Batch::new()
///         .lock(lock) // must be unchanged, and gets the new version
///         .check(open) // must be unchanged, and keeps its version
///         .set(Item::new("user#1", "name", "Ada"))
///         .create(Item::new("user#1", "order#1", "tea"))
///         .delete(("user#1", "cart")),
/// )?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<T> {
    /// The usual sizes need no allocation.
    pub(crate) locks: SmallVec<[Lock; 2]>,
    pub(crate) checks: Vec<Lock>,
    pub(crate) sets: SmallVec<[Item<T>; 2]>,
    pub(crate) creates: Vec<Item<T>>,
    pub(crate) deletes: Vec<KeyBuf>,
}

impl<T> Batch<T> {
    /// Creates an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Batch {
            locks: SmallVec::new(),
            checks: Vec::new(),
            sets: SmallVec::new(),
            creates: Vec::new(),
            deletes: Vec::new(),
        }
    }

    /// Requires `lock` to be unchanged, and gives it the commit's new version.
    #[must_use]
    pub fn lock(mut self, lock: Lock) -> Self {
        self.locks.push(lock);
        self
    }

    /// Requires `lock` to be unchanged, and keeps its version: validates the data that was read under
    /// it, without a conflict with other checks (guarantee 13).
    #[must_use]
    pub fn check(mut self, lock: Lock) -> Self {
        self.checks.push(lock);
        self
    }

    /// Writes `item`, and replaces any item or lock at its key.
    #[must_use]
    pub fn set(mut self, item: Item<T>) -> Self {
        self.sets.push(item);
        self
    }

    /// Writes `item`, and requires that no live item exists at its key. A lock there is replaced.
    #[must_use]
    pub fn create(mut self, item: Item<T>) -> Self {
        self.creates.push(item);
        self
    }

    /// Removes the item or lock at `key`, if there is one.
    #[must_use]
    pub fn delete(mut self, key: impl Into<KeyBuf>) -> Self {
        self.deletes.push(key.into());
        self
    }

    /// Returns the locks that must be unchanged and get the new version.
    #[must_use]
    pub fn locks(&self) -> &[Lock] {
        &self.locks
    }

    /// Returns the locks that must be unchanged and keep their versions.
    #[must_use]
    pub fn checks(&self) -> &[Lock] {
        &self.checks
    }

    /// Returns the items that are written unconditionally.
    #[must_use]
    pub fn sets(&self) -> &[Item<T>] {
        &self.sets
    }

    /// Returns the items that must not exist yet.
    #[must_use]
    pub fn creates(&self) -> &[Item<T>] {
        &self.creates
    }

    /// Returns the keys whose item or lock is removed.
    #[must_use]
    pub fn deletes(&self) -> &[KeyBuf] {
        &self.deletes
    }

    /// Returns `true` if the batch validates nothing and writes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_batch_ref().len() == 0
    }

    /// Checks that no key appears more than once (guarantee 14), for implementors of
    /// [`commit`](crate::AtomicDb::commit).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] that names the smallest key that appears more than once.
    pub fn validate(&self) -> Result<()> {
        self.as_batch_ref().validate()
    }

    pub(crate) fn as_batch_ref(&self) -> BatchRef<'_, T> {
        BatchRef {
            locks: &self.locks,
            checks: &self.checks,
            sets: &self.sets,
            creates: &self.creates,
            deletes: &self.deletes,
        }
    }
}

/// Adds items as [`set`](Batch::set) does.
///
/// ```
/// use atomic_db::{AtomicDb, Batch, Item, MemoryDb};
///
/// let db = MemoryDb::new();
/// let batch: Batch<u32> = (1..=3).map(|day| Item::new("log", day.to_string(), day)).collect();
/// db.commit(&batch)?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
impl<T> Extend<Item<T>> for Batch<T> {
    fn extend<I: IntoIterator<Item = Item<T>>>(&mut self, items: I) {
        self.sets.extend(items);
    }
}

/// Creates a batch that writes items as [`set`](Batch::set) does.
impl<T> FromIterator<Item<T>> for Batch<T> {
    fn from_iter<I: IntoIterator<Item = Item<T>>>(items: I) -> Self {
        let mut batch = Batch::new();
        batch.extend(items);
        batch
    }
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch::new()
    }
}

/// A borrowed [`Batch`]. `set_atomic` borrows its arguments as one, instead of building a batch.
pub(crate) struct BatchRef<'a, T> {
    pub(crate) locks: &'a [Lock],
    pub(crate) checks: &'a [Lock],
    pub(crate) sets: &'a [Item<T>],
    pub(crate) creates: &'a [Item<T>],
    pub(crate) deletes: &'a [KeyBuf],
}

impl<'a, T> BatchRef<'a, T> {
    /// Borrows the arguments of `set_atomic`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if there are items and no lock (guarantee 10).
    pub(crate) fn for_set_atomic(items: &'a [Item<T>], locks: &'a [Lock]) -> Result<Self> {
        if locks.is_empty() && !items.is_empty() {
            return Err(Error::InvalidInput(
                "set_atomic requires a lock: use commit with a batch for an atomic write without one".into(),
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

    /// Returns every key: of locks, checks, sets, creates and deletes, in this order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a KeyBuf> {
        let locks = self.locks.iter().chain(self.checks);
        let items = self.sets.iter().chain(self.creates);
        let locks = locks.map(Lock::key_buf);
        locks.chain(items.map(Item::key_buf)).chain(self.deletes)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let mut keys: SmallVec<[&KeyBuf; 8]> = SmallVec::new();
        self.keys().for_each(|key| keys.push(key));
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => Err(Error::InvalidInput(format!(
                "the key {} appears more than once in the batch",
                pair[0]
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validate_names_the_smallest_key_that_appears_more_than_once() {
        let batch = |sks: &[&str]| {
            sks.iter().fold(Batch::<()>::new(), |batch, sk| {
                batch.set(Item::without_data("pk", sk))
            })
        };
        for (sks, named) in [
            (&["b", "a", "c", "b"][..], "b"),
            (&["c", "a", "c", "b"], "c"),
            (&["c", "b", "a", "c", "b", "d"], "b"),
            (&["a", "b", "c", "a"], "a"),
        ] {
            match batch(sks).validate() {
                Err(Error::InvalidInput(text)) => {
                    let named = KeyBuf::new("pk", named).to_string();
                    assert!(text.contains(&named), "{sks:?}: {text}");
                }
                outcome => panic!("{sks:?}: {outcome:?}"),
            }
        }
        batch(&["c", "a", "b"]).validate().unwrap();
        // Different keys with the same joined text.
        let batch = Batch::<()>::new()
            .set(Item::without_data("a:b", "c"))
            .create(Item::without_data("a", ":bc"))
            .delete(("a:", "bc"));
        batch.validate().unwrap();
    }
}
