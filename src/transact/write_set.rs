//! The write set of a transaction: what its commit does at each key.

use crate::hash::KeyHasher;
use crate::{Batch, Item, Key, KeyBuf, Lock, Query};
use hashbrown::HashTable;
use std::fmt;

/// An operation of the commit at one key.
pub(super) enum Op<T> {
    Lock(Lock),
    Check(Lock),
    Set(Item<T>),
    Create(Item<T>),
    Delete(KeyBuf),
}

/// The list of the batch that has the operation at a key, and its position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Lock(usize),
    Check(usize),
    Set(usize),
    Create(usize),
    Delete(usize),
}

/// A batch with at most one operation for each key, which can be found by the key.
///
/// A small set is scanned linearly, which is cheaper than hashing and allocates nothing.
pub(super) struct WriteSet<T> {
    batch: Batch<T>,
    /// The number of operations.
    len: usize,
    /// The places of all operations, once there are more than [`LINEAR_SCAN_MAX`].
    index: Option<Index>,
}

struct Index {
    hasher: KeyHasher,
    places: HashTable<Place>,
}

const LINEAR_SCAN_MAX: usize = 8;

impl<T> WriteSet<T> {
    pub(super) fn new() -> Self {
        WriteSet {
            batch: Batch::new(),
            len: 0,
            index: None,
        }
    }

    pub(super) fn batch(&self) -> &Batch<T> {
        &self.batch
    }

    pub(super) fn has_locks(&self) -> bool {
        !(self.batch.locks.is_empty() && self.batch.checks.is_empty())
    }

    pub(super) fn has_writes(&self) -> bool {
        let Batch {
            sets,
            creates,
            deletes,
            ..
        } = &self.batch;
        !(sets.is_empty() && creates.is_empty() && deletes.is_empty())
    }

    /// Returns the place of the operation at `key`.
    #[inline]
    pub(super) fn find(&self, key: Key<'_>) -> Option<Place> {
        match &self.index {
            Some(index) => index.find(&self.batch, key.bytes()),
            None => self.scan(&key),
        }
    }

    /// Returns the place of the operation at the key of `item`.
    #[inline]
    pub(super) fn find_item(&self, item: &Item<T>) -> Option<Place> {
        let key = item.key_buf();
        match &self.index {
            Some(index) => index.find(&self.batch, key.bytes()),
            // Cheaper than a comparison with a borrowed key.
            None => self.scan(key),
        }
    }

    /// Returns the place of the item that is written or deleted at `key`.
    #[inline]
    pub(super) fn find_write(&self, key: Key<'_>) -> Option<Place> {
        let Some(index) = &self.index else {
            return self.scan_writes(&key);
        };
        let place = index.find(&self.batch, key.bytes());
        place.filter(|place| !matches!(place, Place::Lock(_) | Place::Check(_)))
    }

    #[inline(always)]
    fn scan<K>(&self, key: &K) -> Option<Place>
    where
        KeyBuf: PartialEq<K>,
    {
        let Batch { locks, checks, .. } = &self.batch;
        if let Some(position) = position(locks, key, Lock::key_buf) {
            return Some(Place::Lock(position));
        }
        if let Some(position) = position(checks, key, Lock::key_buf) {
            return Some(Place::Check(position));
        }
        self.scan_writes(key)
    }

    #[inline(always)]
    fn scan_writes<K>(&self, key: &K) -> Option<Place>
    where
        KeyBuf: PartialEq<K>,
    {
        let Batch {
            sets,
            creates,
            deletes,
            ..
        } = &self.batch;
        if let Some(position) = position(sets, key, Item::key_buf) {
            return Some(Place::Set(position));
        }
        if let Some(position) = position(creates, key, Item::key_buf) {
            return Some(Place::Create(position));
        }
        let position = position(deletes, key, |key| key)?;
        Some(Place::Delete(position))
    }

    /// Adds an operation at a key that has none.
    #[inline]
    pub(super) fn add(&mut self, op: Op<T>) {
        let place = push(&mut self.batch, op);
        self.len += 1;
        if self.len > LINEAR_SCAN_MAX {
            self.add_to_index(place);
        }
    }

    fn add_to_index(&mut self, place: Place) {
        match &mut self.index {
            Some(index) => index.insert(&self.batch, place),
            None => self.index = Some(Index::new(&self.batch)),
        }
    }

    /// Replaces the operation at `place` by one at the same key.
    pub(super) fn replace(&mut self, place: Place, op: Op<T>) {
        match (place, op) {
            (Place::Set(position), Op::Set(item)) => self.batch.sets[position] = item,
            (Place::Create(position), Op::Create(item)) => self.batch.creates[position] = item,
            (place, op) => {
                self.remove(place);
                self.add(op);
            }
        }
    }

    fn remove(&mut self, place: Place) {
        if let Some(index) = &mut self.index {
            index.remove(&self.batch, place);
        }
        self.len -= 1;
        let batch = &mut self.batch;
        match place {
            Place::Lock(position) => drop(batch.locks.swap_remove(position)),
            Place::Check(position) => drop(batch.checks.swap_remove(position)),
            Place::Set(position) => drop(batch.sets.swap_remove(position)),
            Place::Create(position) => drop(batch.creates.swap_remove(position)),
            Place::Delete(position) => drop(batch.deletes.swap_remove(position)),
        }
    }

    /// Returns the keys that `query` selects, with the item that is written there or `None` for a
    /// deletion, in the order of the query.
    pub(super) fn items_of(&self, query: &Query) -> Vec<(KeyBuf, Option<Item<T>>)> {
        let items = self.batch.sets.iter().chain(&self.batch.creates);
        let items = items.map(|item| (item.key(), Some(item)));
        let deletes = self.batch.deletes.iter().map(|key| (key.as_key(), None));
        let mut written: Vec<_> = items
            .chain(deletes)
            .filter(|(key, _)| query.matches(*key))
            .map(|(key, item)| (key.to_buf(), item.cloned()))
            .collect();
        written.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        if query.reverse {
            written.reverse();
        }
        written
    }
}

impl Index {
    fn new<T>(batch: &Batch<T>) -> Self {
        let mut index = Index {
            hasher: KeyHasher::default(),
            places: HashTable::new(),
        };
        let lists = [
            (0..batch.locks.len()).map(Place::Lock as fn(usize) -> Place),
            (0..batch.checks.len()).map(Place::Check),
            (0..batch.sets.len()).map(Place::Set),
            (0..batch.creates.len()).map(Place::Create),
            (0..batch.deletes.len()).map(Place::Delete),
        ];
        for place in lists.into_iter().flatten() {
            index.insert(batch, place);
        }
        index
    }

    fn find<T>(&self, batch: &Batch<T>, key: (&[u8], &[u8])) -> Option<Place> {
        let has_key = |place: &Place| key_at(batch, *place).has_bytes(key);
        let hash = self.hasher.hash_parts(key).1;
        self.places.find(hash, has_key).copied()
    }

    fn insert<T>(&mut self, batch: &Batch<T>, place: Place) {
        let Index { hasher, places } = self;
        let hash = |place: &Place| hasher.hash_parts(key_at(batch, *place).bytes()).1;
        places.insert_unique(hash(&place), place, hash);
    }

    /// Removes `place`, and updates the place of the operation that is moved there: the last one of
    /// its list.
    fn remove<T>(&mut self, batch: &Batch<T>, place: Place) {
        let Index { hasher, places } = self;
        let hash = |place: Place| hasher.hash_parts(key_at(batch, place).bytes()).1;
        if let Ok(entry) = places.find_entry(hash(place), |other| *other == place) {
            entry.remove();
        }
        let last = match place {
            Place::Lock(_) => Place::Lock(batch.locks.len() - 1),
            Place::Check(_) => Place::Check(batch.checks.len() - 1),
            Place::Set(_) => Place::Set(batch.sets.len() - 1),
            Place::Create(_) => Place::Create(batch.creates.len() - 1),
            Place::Delete(_) => Place::Delete(batch.deletes.len() - 1),
        };
        if let Some(moved) = places.find_mut(hash(last), |other| *other == last) {
            *moved = place;
        }
    }
}

/// Returns the position of the element with this key. Inlined, because the lists are short.
#[inline(always)]
fn position<E, K>(list: &[E], key: &K, key_of: impl Fn(&E) -> &KeyBuf) -> Option<usize>
where
    KeyBuf: PartialEq<K>,
{
    for (position, element) in list.iter().enumerate() {
        if key_of(element) == key {
            return Some(position);
        }
    }
    None
}

/// Adds `op` to the list of its kind, and returns its place.
#[inline(always)]
fn push<T>(batch: &mut Batch<T>, op: Op<T>) -> Place {
    match op {
        Op::Lock(lock) => {
            batch.locks.push(lock);
            Place::Lock(batch.locks.len() - 1)
        }
        Op::Check(lock) => {
            batch.checks.push(lock);
            Place::Check(batch.checks.len() - 1)
        }
        Op::Set(item) => {
            batch.sets.push(item);
            Place::Set(batch.sets.len() - 1)
        }
        Op::Create(item) => {
            batch.creates.push(item);
            Place::Create(batch.creates.len() - 1)
        }
        Op::Delete(key) => {
            batch.deletes.push(key);
            Place::Delete(batch.deletes.len() - 1)
        }
    }
}

fn key_at<T>(batch: &Batch<T>, place: Place) -> &KeyBuf {
    match place {
        Place::Lock(position) => batch.locks[position].key_buf(),
        Place::Check(position) => batch.checks[position].key_buf(),
        Place::Set(position) => batch.sets[position].key_buf(),
        Place::Create(position) => batch.creates[position].key_buf(),
        Place::Delete(position) => &batch.deletes[position],
    }
}

/// Shows the kind and the key of each operation, but no data.
impl<T> fmt::Debug for WriteSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batch = self.batch.as_batch_ref();
        let kinds = [
            ("lock", batch.locks.len()),
            ("check", batch.checks.len()),
            ("set", batch.sets.len()),
            ("create", batch.creates.len()),
            ("delete", batch.deletes.len()),
        ];
        let kinds = kinds
            .into_iter()
            .flat_map(|(kind, count)| std::iter::repeat_n(kind, count));
        f.debug_list().entries(kinds.zip(batch.keys())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Version;

    /// Adds operations of each kind, few enough to be scanned or so many that they are indexed, and
    /// replaces some of them, which moves others.
    #[test]
    fn every_operation_is_found_after_others_were_replaced() {
        for count in [8, 40] {
            let keys: Vec<KeyBuf> = (0..count)
                .map(|number| KeyBuf::new(format!("{number}"), "sk"))
                .collect();
            for step in [1, 3, 7] {
                let mut set = WriteSet::<u32>::new();
                for (number, key) in keys.iter().enumerate() {
                    let key = key.as_key();
                    set.add(match number % 3 {
                        0 => Op::Check(Lock::new(key, Version::from_u128(1), 0)),
                        1 => Op::Delete(key.to_buf()),
                        _ => Op::Set(Item::at(key, number as u32)),
                    });
                }
                // Each once, because no step divides the count.
                for turn in 0..keys.len() {
                    let key = keys[turn * step % keys.len()].as_key();
                    let place = set.find(key).unwrap();
                    match place {
                        Place::Check(_) => {
                            set.replace(place, Op::Lock(Lock::new(key, Version::from_u128(1), 0)));
                        }
                        Place::Delete(_) => set.replace(place, Op::Set(Item::at(key, 1))),
                        Place::Set(_) => set.replace(place, Op::Delete(key.to_buf())),
                        place => panic!("{place:?}"),
                    }
                    for (number, key) in keys.iter().enumerate() {
                        let place = set.find(key.as_key()).unwrap();
                        assert_eq!(key_at(&set.batch, place), key, "operation {number}");
                    }
                }
                assert!(set.find(Key::new("other", "sk")).is_none());
                assert_eq!(set.batch.as_batch_ref().len(), keys.len());
            }
        }
    }
}
