//! The write set of a transaction: what its commit does at each key.

use crate::hash::KeyHasher;
use crate::{Batch, Item, Key, KeyBuf, Lock, Query};
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::fmt;

/// The operation of the commit at one key.
pub(super) enum Op<T> {
    Lock(Lock),
    Check(Lock),
    Set(Item<T>),
    Create(Item<T>),
    Delete(KeyBuf),
}

impl<T> Op<T> {
    fn key(&self) -> Key<'_> {
        match self {
            Op::Lock(lock) | Op::Check(lock) => lock.key(),
            Op::Set(item) | Op::Create(item) => item.key(),
            Op::Delete(key) => key.as_key(),
        }
    }

    fn has_key(&self, key: Key<'_>) -> bool {
        let own = match self {
            Op::Lock(lock) | Op::Check(lock) => lock.key_buf(),
            Op::Set(item) | Op::Create(item) => item.key_buf(),
            Op::Delete(key) => key,
        };
        own.has_bytes(key.bytes())
    }
}

/// One operation for each key, in the order in which the keys were first used.
///
/// A small set is scanned linearly, which is cheaper than hashing and allocates nothing.
pub(super) struct WriteSet<T> {
    ops: SmallVec<[Op<T>; 4]>,
    /// How many of them are locks and checks. An operation never changes from one to a write.
    locks: usize,
    /// All operations by their keys, once there are more than [`LINEAR_SCAN_MAX`].
    index: Option<Index>,
}

struct Index {
    hasher: KeyHasher,
    /// Positions in [`WriteSet::ops`].
    positions: HashTable<usize>,
}

const LINEAR_SCAN_MAX: usize = 8;

impl<T> WriteSet<T> {
    pub(super) fn new() -> Self {
        WriteSet {
            ops: SmallVec::new(),
            locks: 0,
            index: None,
        }
    }

    /// Returns the operation at `key`.
    pub(super) fn find(&mut self, key: Key<'_>) -> Option<&mut Op<T>> {
        let Some(Index { hasher, positions }) = &self.index else {
            return self.ops.iter_mut().find(|op| op.has_key(key));
        };
        let has_key = |position: &usize| self.ops[*position].has_key(key);
        let position = *positions.find(hasher.hash_key(key), has_key)?;
        Some(&mut self.ops[position])
    }

    /// Adds an operation at a key that has none.
    pub(super) fn add(&mut self, op: Op<T>) {
        self.locks += usize::from(matches!(op, Op::Lock(_) | Op::Check(_)));
        self.ops.push(op);
        if self.ops.len() > LINEAR_SCAN_MAX {
            self.update_index();
        }
    }

    fn update_index(&mut self) {
        let Index { hasher, positions } = self.index.get_or_insert_with(|| Index {
            hasher: KeyHasher::default(),
            positions: HashTable::new(),
        });
        for position in positions.len()..self.ops.len() {
            let hash = |position: &usize| hasher.hash_key(self.ops[*position].key());
            positions.insert_unique(hash(&position), position, hash);
        }
    }

    pub(super) fn has_locks(&self) -> bool {
        self.locks > 0
    }

    pub(super) fn has_writes(&self) -> bool {
        self.ops.len() > self.locks
    }

    /// Returns the keys that `query` selects, with the item that is written there or `None` for a
    /// deletion, in the order of the query.
    pub(super) fn items_of(&self, query: &Query) -> Vec<(KeyBuf, Option<Item<T>>)> {
        let written = self.ops.iter().filter_map(|op| match op {
            Op::Lock(_) | Op::Check(_) => None,
            Op::Set(item) | Op::Create(item) => Some((item.key(), Some(item))),
            Op::Delete(key) => Some((key.as_key(), None)),
        });
        let mut written: Vec<_> = written
            .filter(|(key, _)| query.matches(*key))
            .map(|(key, item)| (key.to_buf(), item.cloned()))
            .collect();
        written.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        if query.reverse {
            written.reverse();
        }
        written
    }

    pub(super) fn into_batch(self) -> Batch<T> {
        let mut batch = Batch::new();
        for op in self.ops {
            match op {
                Op::Lock(lock) => batch.locks.push(lock),
                Op::Check(lock) => batch.checks.push(lock),
                Op::Set(item) => batch.sets.push(item),
                Op::Create(item) => batch.creates.push(item),
                Op::Delete(key) => batch.deletes.push(key),
            }
        }
        batch
    }
}

/// Shows the kind and the key of each operation, but no data.
impl<T> fmt::Debug for WriteSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |op: &Op<T>| match op {
            Op::Lock(_) => "lock",
            Op::Check(_) => "check",
            Op::Set(_) => "set",
            Op::Create(_) => "create",
            Op::Delete(_) => "delete",
        };
        f.debug_list()
            .entries(self.ops.iter().map(|op| (kind(op), op.key())))
            .finish()
    }
}
