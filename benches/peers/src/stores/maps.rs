//! Maps from a pair of keys to a handle to the value. The caller passes an owned pair, which saves a map
//! the look-up by borrowed parts.

use super::store::{Account, Hasher, Operation, Store};
use crate::keys::{Pair, Span};
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

const POINTS: &[Operation] = &[
    Operation::Get,
    Operation::GetInPlace,
    Operation::GetMiss,
    Operation::Set,
    Operation::SetInPlace,
    Operation::Insert,
    Operation::Delete,
];

const ORDERED_POINTS: &[Operation] = &[
    Operation::Get,
    Operation::GetInPlace,
    Operation::GetMiss,
    Operation::Set,
    Operation::Insert,
    Operation::Delete,
    Operation::Query,
];

/// A map under one mutex can do everything while it holds the mutex.
const UNDER_ONE_MUTEX: &[Operation] = &[
    Operation::Get,
    Operation::GetInPlace,
    Operation::GetMiss,
    Operation::Set,
    Operation::SetInPlace,
    Operation::Insert,
    Operation::Delete,
    Operation::Transfer,
];

const ORDERED_UNDER_ONE_MUTEX: &[Operation] = &[
    Operation::Get,
    Operation::GetInPlace,
    Operation::GetMiss,
    Operation::Set,
    Operation::SetInPlace,
    Operation::Insert,
    Operation::Delete,
    Operation::Transfer,
    Operation::Query,
];

fn bounds(span: &Span) -> Range<Pair> {
    Pair::new(&span.pk, &span.first)..Pair::new(&span.pk, &span.beyond)
}

pub(crate) struct DashMapStore(dashmap::DashMap<Pair, Arc<u64>, Hasher>);

impl Store for DashMapStore {
    const NAME: &'static str = "DashMap";
    const OPERATIONS: &'static [Operation] = POINTS;

    type Key = Pair;
    type Range = ();
    type Lock = ();

    fn new() -> Self {
        DashMapStore(dashmap::DashMap::with_hasher(Hasher::default()))
    }

    fn key(pk: &str, sk: &str) -> Pair {
        Pair::new(pk, sk)
    }

    fn range(_: &Span) {}

    fn get(&self, key: &Pair) -> Option<u64> {
        let handle = self.0.get(key).map(|entry| Arc::clone(&entry));
        handle.map(|handle| *handle)
    }

    fn get_in_place(&self, key: &Pair) -> Option<u64> {
        self.0.get(key).map(|entry| **entry)
    }

    fn set(&self, key: &Pair, value: u64) {
        self.0.insert(key.clone(), Arc::new(value));
    }

    fn set_in_place(&self, key: &Pair, value: u64) {
        let value = Arc::new(value);
        let entry = self.0.get_mut(key);
        let old = entry.map(|mut entry| std::mem::replace(&mut *entry, value));
        drop(old);
    }

    fn get_lock(&self, _: &Account<Pair>) {}

    fn delete(&self, key: &Pair) {
        self.0.remove(key);
    }
}

pub(crate) struct PapayaStore(papaya::HashMap<Pair, Arc<u64>, Hasher>);

impl Store for PapayaStore {
    const NAME: &'static str = "papaya";
    const OPERATIONS: &'static [Operation] = POINTS;

    type Key = Pair;
    type Range = ();
    type Lock = ();

    fn new() -> Self {
        PapayaStore(papaya::HashMap::with_hasher(Hasher::default()))
    }

    fn key(pk: &str, sk: &str) -> Pair {
        Pair::new(pk, sk)
    }

    fn range(_: &Span) {}

    fn get(&self, key: &Pair) -> Option<u64> {
        let handle = self.0.pin().get(key).map(Arc::clone);
        handle.map(|handle| *handle)
    }

    fn get_in_place(&self, key: &Pair) -> Option<u64> {
        self.0.pin().get(key).map(|value| **value)
    }

    fn set(&self, key: &Pair, value: u64) {
        self.0.pin().insert(key.clone(), Arc::new(value));
    }

    /// The map copies its key into the new entry, so it needs an owned one here, too.
    fn set_in_place(&self, key: &Pair, value: u64) {
        let value = Arc::new(value);
        self.0.pin().update(key.clone(), |_| Arc::clone(&value));
    }

    fn get_lock(&self, _: &Account<Pair>) {}

    fn delete(&self, key: &Pair) {
        self.0.pin().remove(key);
    }
}

pub(crate) struct SccStore(scc::HashMap<Pair, Arc<u64>, Hasher>);

impl Store for SccStore {
    const NAME: &'static str = "scc";
    const OPERATIONS: &'static [Operation] = POINTS;

    type Key = Pair;
    type Range = ();
    type Lock = ();

    fn new() -> Self {
        SccStore(scc::HashMap::with_hasher(Hasher::default()))
    }

    fn key(pk: &str, sk: &str) -> Pair {
        Pair::new(pk, sk)
    }

    fn range(_: &Span) {}

    fn get(&self, key: &Pair) -> Option<u64> {
        let handle = self.0.read_sync(key, |_, value| Arc::clone(value));
        handle.map(|handle| *handle)
    }

    fn get_in_place(&self, key: &Pair) -> Option<u64> {
        self.0.read_sync(key, |_, value| **value)
    }

    fn set(&self, key: &Pair, value: u64) {
        self.0.upsert_sync(key.clone(), Arc::new(value));
    }

    fn set_in_place(&self, key: &Pair, value: u64) {
        let value = Arc::new(value);
        let old = self
            .0
            .update_sync(key, |_, held| std::mem::replace(held, value));
        drop(old);
    }

    fn get_lock(&self, _: &Account<Pair>) {}

    fn delete(&self, key: &Pair) {
        self.0.remove_sync(key);
    }
}

/// An ordered map, read without locks.
pub(crate) struct TreeIndexStore(scc::TreeIndex<Pair, Arc<u64>>);

impl Store for TreeIndexStore {
    const NAME: &'static str = "scc::TreeIndex";
    const OPERATIONS: &'static [Operation] = ORDERED_POINTS;

    type Key = Pair;
    type Range = Range<Pair>;
    type Lock = ();

    fn new() -> Self {
        TreeIndexStore(scc::TreeIndex::new())
    }

    fn key(pk: &str, sk: &str) -> Pair {
        Pair::new(pk, sk)
    }

    fn range(span: &Span) -> Range<Pair> {
        bounds(span)
    }

    fn get(&self, key: &Pair) -> Option<u64> {
        let handle = self.0.peek_with(key, |_, value| Arc::clone(value));
        handle.map(|handle| *handle)
    }

    fn get_in_place(&self, key: &Pair) -> Option<u64> {
        self.0.peek_with(key, |_, value| **value)
    }

    fn set(&self, key: &Pair, value: u64) {
        self.0.upsert_sync(key.clone(), Arc::new(value));
    }

    fn get_lock(&self, _: &Account<Pair>) {}

    fn delete(&self, key: &Pair) {
        self.0.remove_sync(key);
    }

    fn query(&self, range: &Range<Pair>) -> usize {
        let guard = scc::Guard::new();
        let found = self.0.range(range.clone(), &guard);
        let handles: Vec<Arc<u64>> = found.map(|(_, value)| Arc::clone(value)).collect();
        handles.len()
    }
}

/// A hash map under one mutex: the minimum for point operations.
pub(crate) struct MutexHashMap(parking_lot::Mutex<hashbrown::HashMap<Pair, Arc<u64>, Hasher>>);

impl Store for MutexHashMap {
    const NAME: &'static str = "Mutex<HashMap>";
    const OPERATIONS: &'static [Operation] = UNDER_ONE_MUTEX;

    type Key = Pair;
    type Range = ();
    type Lock = ();

    fn new() -> Self {
        MutexHashMap(parking_lot::Mutex::default())
    }

    fn key(pk: &str, sk: &str) -> Pair {
        Pair::new(pk, sk)
    }

    fn range(_: &Span) {}

    fn get(&self, key: &Pair) -> Option<u64> {
        let handle = self.0.lock().get(key).map(Arc::clone);
        handle.map(|handle| *handle)
    }

    fn get_in_place(&self, key: &Pair) -> Option<u64> {
        self.0.lock().get(key).map(|value| **value)
    }

    fn set(&self, key: &Pair, value: u64) {
        let (key, value) = (key.clone(), Arc::new(value));
        let old = self.0.lock().insert(key, value);
        drop(old);
    }

    fn set_in_place(&self, key: &Pair, value: u64) {
        let value = Arc::new(value);
        let old = self
            .0
            .lock()
            .get_mut(key)
            .map(|held| std::mem::replace(held, value));
        drop(old);
    }

    fn get_lock(&self, _: &Account<Pair>) {}

    fn delete(&self, key: &Pair) {
        let old = self.0.lock().remove_entry(key);
        drop(old);
    }

    fn transfer(&self, from: &Account<Pair>, to: &Account<Pair>) {
        let mut map = self.0.lock();
        for (account, by) in [(from, u64::MAX), (to, 1)] {
            if let Some(balance) = map.get_mut(&account.balance) {
                *balance = Arc::new(balance.wrapping_add(by));
            }
        }
    }
}

/// An ordered map under one mutex: the minimum for queries.
pub(crate) struct MutexBTreeMap(parking_lot::Mutex<BTreeMap<Pair, Arc<u64>>>);

impl Store for MutexBTreeMap {
    const NAME: &'static str = "Mutex<BTreeMap>";
    const OPERATIONS: &'static [Operation] = ORDERED_UNDER_ONE_MUTEX;

    type Key = Pair;
    type Range = Range<Pair>;
    type Lock = ();

    fn new() -> Self {
        MutexBTreeMap(parking_lot::Mutex::default())
    }

    fn key(pk: &str, sk: &str) -> Pair {
        Pair::new(pk, sk)
    }

    fn range(span: &Span) -> Range<Pair> {
        bounds(span)
    }

    fn get(&self, key: &Pair) -> Option<u64> {
        let handle = self.0.lock().get(key).map(Arc::clone);
        handle.map(|handle| *handle)
    }

    fn get_in_place(&self, key: &Pair) -> Option<u64> {
        self.0.lock().get(key).map(|value| **value)
    }

    fn set(&self, key: &Pair, value: u64) {
        let (key, value) = (key.clone(), Arc::new(value));
        let old = self.0.lock().insert(key, value);
        drop(old);
    }

    fn set_in_place(&self, key: &Pair, value: u64) {
        let value = Arc::new(value);
        let old = self
            .0
            .lock()
            .get_mut(key)
            .map(|held| std::mem::replace(held, value));
        drop(old);
    }

    fn get_lock(&self, _: &Account<Pair>) {}

    fn delete(&self, key: &Pair) {
        let old = self.0.lock().remove_entry(key);
        drop(old);
    }

    fn transfer(&self, from: &Account<Pair>, to: &Account<Pair>) {
        let mut map = self.0.lock();
        for (account, by) in [(from, u64::MAX), (to, 1)] {
            if let Some(balance) = map.get_mut(&account.balance) {
                *balance = Arc::new(balance.wrapping_add(by));
            }
        }
    }

    fn query(&self, range: &Range<Pair>) -> usize {
        let map = self.0.lock();
        // A caller knows the largest result, so the vector does not have to grow.
        let mut handles = Vec::with_capacity(crate::keys::QUERIED);
        let bounds = (Bound::Included(&range.start), Bound::Excluded(&range.end));
        let found = map.range::<Pair, _>(bounds);
        handles.extend(found.map(|(_, value)| Arc::clone(value)));
        drop(map);
        handles.len()
    }
}
