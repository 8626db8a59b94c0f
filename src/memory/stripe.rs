//! One stripe: the items and locks of the partitions that fall to it.
//!
//! Plain `&mut self` code that never sees a mutex, a clock or a caller's code. What it removes it
//! hands out as [`Removed`], for the caller to drop after unlocking.

use super::order::{Order, Place};
use crate::hash::KeyHasher;
use crate::{Item, Key, Lock, Query, Version};
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// What was replaced or removed, kept alive until no mutex is held. A row of its own kind, so that
/// removing costs no allocation.
pub(super) type Removed<T> = SmallVec<[Row<T>; 2]>;

/// Where a key lives: computed once, outside the mutex.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    /// Chooses the stripe.
    pub(super) stripe: usize,
    partition: u32,
    row: u32,
}

impl Address {
    /// The address of `key` among `stripes` stripes, a power of two.
    pub(super) fn new(hasher: &KeyHasher, key: Key<'_>, stripes: usize) -> Self {
        let partition = hasher.partition(key.pk);
        Address {
            stripe: stripe_of(partition, stripes),
            partition: partition as u32,
            row: hasher.row(partition, key.sk) as u32,
        }
    }
}

/// The stripe of the partition with this hash. A stripe's own tables use the lower half of a hash
/// (see [`spread`]), so the choice is made by bits of the upper half: were it made by theirs, each
/// stripe would use only its share of their buckets.
pub(super) fn stripe_of(partition_hash: u64, stripes: usize) -> usize {
    (partition_hash >> 32) as usize & (stripes - 1)
}

/// The table hash of a 32-bit one. Tables choose a bucket by a hash's lowest bits and a tag by its
/// highest seven; 32 bits that are both are enough for both, and half the size in every row.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// A slot of the slab: what is at one key, or a link of the free list. At most 24 bytes, for there
/// is one for every item.
#[derive(Debug)]
pub(super) enum Row<T> {
    Item { hash: u32, item: Item<T> },
    Lock { hash: u32, lock: Box<Lock> },
    Vacant { next: u32 },
}

impl<T> Row<T> {
    fn is_at(&self, key: Key<'_>) -> bool {
        match self {
            Row::Item { item, .. } => item.is_at(key),
            Row::Lock { lock, .. } => lock.is_at(key),
            Row::Vacant { .. } => false,
        }
    }

    fn hash(&self) -> u32 {
        match self {
            Row::Item { hash, .. } | Row::Lock { hash, .. } => *hash,
            Row::Vacant { .. } => 0,
        }
    }

    fn item(&self) -> Option<&Item<T>> {
        match self {
            Row::Item { item, .. } => Some(item),
            _ => None,
        }
    }

    fn key(&self) -> Key<'_> {
        match self {
            Row::Item { item, .. } => item.key(),
            Row::Lock { lock, .. } => lock.key(),
            Row::Vacant { .. } => Key::new("", ""),
        }
    }

    fn ttl(&self) -> Option<u64> {
        match self {
            Row::Item { item, .. } => item.ttl(),
            Row::Lock { lock, .. } => Some(lock.ttl()),
            Row::Vacant { .. } => None,
        }
    }
}

/// The end of the free list, and so never a row.
const NO_ROW: u32 = u32::MAX;

/// The most rows that a stripe can number.
pub(super) const MAX_ROWS: usize = NO_ROW as usize;

/// The items of one partition key, in order. Its rows know the key itself.
#[derive(Debug)]
struct Partition {
    hash: u32,
    order: Order,
}

/// Why a lock cannot be read.
#[derive(Debug, PartialEq)]
pub(super) enum NoLock {
    /// A live item is at its key.
    Item,
    /// The stripe is full.
    Room,
}

/// Rules that hold between calls, which [`validate`](Stripe::validate) checks in tests:
///
/// 1. Every row that is not vacant is in `by_key` once, under its hash; every vacant one is on the
///    free list once.
/// 2. Every item is in the order of its partition once. No lock is, so that a query need not step
///    over them.
/// 3. No partition is empty, so its first row tells its key.
/// 4. Every row with a time to live is in `expiries` under it, and nothing else is.
/// 5. `items` counts the items.
#[derive(Debug)]
pub(super) struct Stripe<T> {
    rows: Vec<Row<T>>,
    vacant: u32,
    by_key: HashTable<u32>,
    partitions: HashTable<Partition>,
    expiries: BTreeSet<(u64, u32)>,
    items: usize,
    hasher: KeyHasher,
    max_rows: usize,
}

impl<T> Stripe<T> {
    /// An empty stripe with room for `capacity` rows before it grows, that never holds more than
    /// `max_rows`.
    pub(super) fn new(hasher: KeyHasher, capacity: usize, max_rows: usize) -> Self {
        Stripe {
            rows: Vec::with_capacity(capacity),
            vacant: NO_ROW,
            by_key: HashTable::with_capacity(capacity),
            partitions: HashTable::new(),
            expiries: BTreeSet::new(),
            items: 0,
            hasher,
            max_rows,
        }
    }

    /// How many items there are, expired ones that were not removed yet included.
    pub(super) fn items(&self) -> usize {
        self.items
    }

    /// Whether `more` rows can be added.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.by_key.len().saturating_add(more) <= self.max_rows
    }

    fn find(&self, at: &Address, key: Key<'_>) -> Option<u32> {
        let rows = &self.rows;
        self.by_key
            .find(spread(at.row), |row| rows[*row as usize].is_at(key))
            .copied()
    }

    /// The item at `key`, live or not.
    pub(super) fn item(&self, at: &Address, key: Key<'_>) -> Option<Item<T>> {
        let row = self.find(at, key)?;
        self.rows[row as usize].item().cloned()
    }

    /// The item at `key` that is live at `now`. One that has expired is removed.
    pub(super) fn live_item(
        &mut self,
        at: &Address,
        key: Key<'_>,
        now: u64,
        removed: &mut Removed<T>,
    ) -> Option<Item<T>> {
        let row = self.find(at, key)?;
        let item = self.rows[row as usize].item()?;
        if item.is_live(now) {
            return Some(item.clone());
        }
        self.remove_row(row, removed);
        None
    }

    /// Whether a live item is at `key`.
    pub(super) fn has_item(&self, at: &Address, key: Key<'_>, now: u64) -> bool {
        let row = self.find(at, key);
        let item = row.and_then(|row| self.rows[row as usize].item());
        item.is_some_and(|item| item.is_live(now))
    }

    /// The row of `lock` if it is live and has the same version.
    pub(super) fn unchanged(&self, at: &Address, lock: &Lock, now: u64) -> Option<u32> {
        let row = self.find(at, lock.key())?;
        match &self.rows[row as usize] {
            Row::Lock { lock: held, .. }
                if held.version() == lock.version() && held.is_live(now) =>
            {
                Some(row)
            }
            _ => None,
        }
    }

    /// Gives the lock in `row`, which [`unchanged`](Stripe::unchanged) found, its next version.
    pub(super) fn renew(&mut self, row: u32, version: Version) {
        if let Row::Lock { lock, .. } = &mut self.rows[row as usize] {
            lock.set_version(version);
        }
    }

    /// The lock at `key`, made or refreshed if need be.
    pub(super) fn lock(
        &mut self,
        at: &Address,
        key: Key<'_>,
        now: u64,
        version: impl FnOnce() -> Version,
        removed: &mut Removed<T>,
    ) -> Result<Lock, NoLock> {
        if let Some(row) = self.find(at, key) {
            match &mut self.rows[row as usize] {
                Row::Lock { lock, .. } if lock.is_live(now) => {
                    let (old, new) = (lock.ttl(), lock.refreshed_ttl(now));
                    lock.set_ttl(new);
                    let lock = Lock::clone(lock);
                    self.expires_instead(row, Some(old), Some(new));
                    return Ok(lock);
                }
                Row::Item { item, .. } if item.is_live(now) => return Err(NoLock::Item),
                _ => self.remove_row(row, removed),
            }
        }
        if !self.has_room(1) {
            return Err(NoLock::Room);
        }
        let lock = Lock::new(key, version(), now.saturating_add(Lock::LIFETIME));
        let hash = at.row;
        self.add(Row::Lock {
            hash,
            lock: Box::new(lock.clone()),
        });
        Ok(lock)
    }

    /// Writes `item` over whatever is at its key. There must be room for one more.
    pub(super) fn put(&mut self, at: &Address, item: Item<T>, removed: &mut Removed<T>) {
        let new = Row::Item { hash: at.row, item };
        let Some(row) = self.find(at, new.key()) else {
            let row = self.add(new);
            self.arrange(at.partition, row);
            return;
        };
        let ttl = new.ttl();
        let old = std::mem::replace(&mut self.rows[row as usize], new);
        self.expires_instead(row, old.ttl(), ttl);
        if old.item().is_none() {
            self.items += 1;
            self.arrange(at.partition, row);
        }
        removed.push(old);
    }

    /// Removes what is at `key`, if anything is.
    pub(super) fn remove(&mut self, at: &Address, key: Key<'_>, removed: &mut Removed<T>) {
        if let Some(row) = self.find(at, key) {
            self.remove_row(row, removed);
        }
    }

    /// Removes at most `max` rows that have expired at `now`; returns how many it removed. Costs
    /// what it removes, whatever else is stored.
    pub(super) fn remove_expired(
        &mut self,
        now: u64,
        max: usize,
        removed: &mut Removed<T>,
    ) -> usize {
        for count in 0..max {
            match self.expiries.first() {
                Some(&(ttl, row)) if ttl < now => self.remove_row(row, removed),
                _ => return count,
            }
        }
        max
    }

    /// At most `max` live items of what `query` asks for, and whether there are more. Expired ones
    /// that are met are removed.
    pub(super) fn select(
        &mut self,
        partition_hash: u64,
        query: &Query,
        after: Option<&str>,
        max: usize,
        now: u64,
        removed: &mut Removed<T>,
    ) -> (Vec<Item<T>>, bool) {
        let hash = partition_hash as u32;
        let found = self
            .partitions
            .find(spread(hash), |partition| self.is_of(partition, query.pk()));
        let Some(Partition { order, .. }) = found else {
            return (Vec::new(), false);
        };
        let (from, to) = self.bounds(order, query, after);
        let mut items = Vec::with_capacity(order.count(from, to).min(max));
        let mut expired: SmallVec<[u32; 8]> = SmallVec::new();
        let mut more = false;
        let mut visit = |row: u32| match self.rows[row as usize].item() {
            Some(item) if !item.is_live(now) => {
                expired.push(row);
                true
            }
            Some(item) if items.len() < max => {
                items.push(item.clone());
                true
            }
            _ => {
                more = true;
                false
            }
        };
        match query.is_reverse() {
            false => order.range(from, to).all(&mut visit),
            true => order.range(from, to).rev().all(&mut visit),
        };
        for row in expired {
            self.remove_row(row, removed);
        }
        (items, more)
    }

    /// The places between which the rows of a query lie.
    fn bounds(&self, order: &Order, query: &Query, after: Option<&str>) -> (Place, Place) {
        let prefix = query.sk_prefix();
        let (mut from, mut to) = match prefix {
            "" => (order.start(), order.end()),
            _ => (
                order.place(|row| self.sk(row) < prefix),
                order.place(|row| self.sk(row) < prefix || self.sk(row).starts_with(prefix)),
            ),
        };
        if let Some(after) = after {
            match query.is_reverse() {
                false => from = from.max(order.place(|row| self.sk(row) <= after)),
                true => to = to.min(order.place(|row| self.sk(row) < after)),
            }
        }
        (from, to)
    }

    fn sk(&self, row: u32) -> &str {
        self.rows[row as usize].key().sk
    }

    fn is_of(&self, partition: &Partition, pk: &str) -> bool {
        let first = partition.order.first();
        first.is_some_and(|row| self.rows[row as usize].key().pk == pk)
    }

    /// Puts `row` into the slab, the index, the expiries and the count; not into an order.
    fn add(&mut self, row: Row<T>) -> u32 {
        let (hash, ttl) = (row.hash(), row.ttl());
        self.items += usize::from(row.item().is_some());
        let number = match self.rows.get(self.vacant as usize) {
            Some(&Row::Vacant { next }) => {
                let number = std::mem::replace(&mut self.vacant, next);
                self.rows[number as usize] = row;
                number
            }
            _ => {
                self.rows.push(row);
                (self.rows.len() - 1) as u32
            }
        };
        let rows = &self.rows;
        self.by_key.insert_unique(spread(hash), number, |row| {
            spread(rows[*row as usize].hash())
        });
        self.expires_instead(number, None, ttl);
        number
    }

    /// Puts the item in `row` into the order of its partition.
    fn arrange(&mut self, hash: u32, row: u32) {
        let rows = &self.rows;
        let key = rows[row as usize].key();
        let entry = self.partitions.entry(
            spread(hash),
            |partition| {
                let first = partition.order.first();
                first.is_some_and(|row| rows[row as usize].key().pk == key.pk)
            },
            |partition| spread(partition.hash),
        );
        match entry {
            hashbrown::hash_table::Entry::Vacant(entry) => {
                let order = Order::of(row);
                entry.insert(Partition { hash, order });
            }
            hashbrown::hash_table::Entry::Occupied(mut entry) => {
                let order = &mut entry.get_mut().order;
                order.insert(row, |other| rows[other as usize].key().sk.cmp(key.sk));
            }
        }
    }

    /// Takes the item in `row` out of the order of its partition.
    fn disarrange(&mut self, row: u32) {
        let rows = &self.rows;
        let key = rows[row as usize].key();
        let hash = self.hasher.partition(key.pk) as u32;
        let found = self.partitions.find_entry(spread(hash), |partition| {
            let first = partition.order.first();
            first.is_some_and(|row| rows[row as usize].key().pk == key.pk)
        });
        if let Ok(mut entry) = found {
            let order = &mut entry.get_mut().order;
            order.remove(|other| rows[other as usize].key().sk.cmp(key.sk));
            if order.is_empty() {
                entry.remove();
            }
        }
    }

    /// Takes `row` out of everything.
    fn remove_row(&mut self, row: u32, removed: &mut Removed<T>) {
        if self.rows[row as usize].item().is_some() {
            self.disarrange(row);
            self.items -= 1;
        }
        let hash = self.rows[row as usize].hash();
        if let Ok(entry) = self.by_key.find_entry(spread(hash), |other| *other == row) {
            entry.remove();
        }
        let vacant = Row::Vacant { next: self.vacant };
        let old = std::mem::replace(&mut self.rows[row as usize], vacant);
        self.vacant = row;
        self.expires_instead(row, old.ttl(), None);
        removed.push(old);
    }

    /// Moves `row` in the index of expiries.
    fn expires_instead(&mut self, row: u32, old: Option<u64>, new: Option<u64>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.expiries.remove(&(old, row));
        }
        if let Some(new) = new {
            self.expiries.insert((new, row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashMap, HashSet};

    impl<T> Stripe<T> {
        /// Checks the rules of a stripe, by their numbers.
        fn validate(&self) {
            let held = |row: &u32| !matches!(self.rows[*row as usize], Row::Vacant { .. });
            let numbers = || 0..self.rows.len() as u32;

            // 1
            let indexed: HashSet<u32> = self.by_key.iter().copied().collect();
            assert_eq!(indexed.len(), self.by_key.len(), "a row is indexed twice");
            assert_eq!(indexed, numbers().filter(held).collect());
            for row in &indexed {
                let hash = spread(self.rows[*row as usize].hash());
                let found = self.by_key.find(hash, |other| other == row);
                assert!(found.is_some(), "row {row} is not under its hash");
            }
            let mut free = HashSet::new();
            let mut next = self.vacant;
            while let Some(row) = self.rows.get(next as usize) {
                assert!(free.insert(next), "the free list comes back to {next}");
                match row {
                    Row::Vacant { next: after } => next = *after,
                    _ => panic!("row {next} is free and not vacant"),
                }
            }
            assert_eq!(next, NO_ROW);
            assert_eq!(free, numbers().filter(|row| !held(row)).collect());

            // 2 and 3
            let mut arranged = HashSet::new();
            for partition in &self.partitions {
                let order = &partition.order;
                assert!(!order.is_empty(), "a partition is empty");
                let rows: Vec<u32> = order.range(order.start(), order.end()).collect();
                let pk = self.rows[rows[0] as usize].key().pk;
                assert_eq!(partition.hash, self.hasher.partition(pk) as u32);
                let mine = |other: &Partition| std::ptr::eq(other, partition);
                assert!(
                    self.partitions.find(spread(partition.hash), mine).is_some(),
                    "the partition {pk:?} is not under its hash"
                );
                assert!(
                    rows.is_sorted_by(|a, b| self.sk(*a) < self.sk(*b)),
                    "the partition {pk:?} is out of order"
                );
                for row in rows {
                    let held = &self.rows[row as usize];
                    assert!(held.item().is_some(), "row {row} is no item");
                    assert_eq!(held.key().pk, pk);
                    assert!(arranged.insert(row), "row {row} is in two orders");
                }
            }
            let is_item = |row: &u32| self.rows[*row as usize].item().is_some();
            assert_eq!(arranged, numbers().filter(is_item).collect());

            // 4
            let expiries = numbers()
                .filter_map(|row| self.rows[row as usize].ttl().map(|ttl| (ttl, row)))
                .collect();
            assert_eq!(self.expiries, expiries);

            // 5
            assert_eq!(self.items, arranged.len());
        }
    }

    /// One is the beginning of another, and they come together in more ways than one.
    const PKS: [&str; 5] = ["", "a", "ab", "a\0", "ä"];
    const SKS: [&str; 8] = ["", "\0", "a", "ab", "abc", "b", "ä", "\u{10ffff}"];

    fn key() -> impl Strategy<Value = (&'static str, &'static str)> {
        (
            proptest::sample::select(&PKS[..]),
            proptest::sample::select(&SKS[..]),
        )
    }

    /// The address of `key`, with row hashes so few that most rows share theirs with others.
    fn colliding(hasher: &KeyHasher, key: (&str, &str)) -> Address {
        let mut at = Address::new(hasher, key.into(), 1);
        at.row %= 4;
        at
    }

    fn version(number: usize) -> Version {
        Version::from_u128(number as u128)
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// With a time to live this long from now.
        Put((&'static str, &'static str), Option<u64>),
        Remove((&'static str, &'static str)),
        Look((&'static str, &'static str)),
        Lock((&'static str, &'static str)),
        /// Renews a lock if it is unchanged, held with the right version or with a wrong one.
        Renew((&'static str, &'static str), bool),
        Expire(usize),
        Select {
            query: Query,
            after: Option<&'static str>,
            max: usize,
        },
        Advance(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let ttl = prop_oneof![
            2 => Just(None),
            3 => proptest::sample::select(vec![0_u64, 1, 5_000]).prop_map(Some)
        ];
        let select = (
            key(),
            any::<bool>(),
            proptest::option::of(proptest::sample::select(&SKS[..])),
            prop_oneof![0..4_usize, Just(usize::MAX)],
        )
            .prop_map(|((pk, prefix), reverse, after, max)| {
                let query = Query::new(pk).prefix(prefix);
                let query = if reverse { query.reverse() } else { query };
                Step::Select { query, after, max }
            });
        // Around the lifetime of a lock, and around the last hour of it.
        let moves = vec![0, 1, 2, 3_599, 3_600, 82_799, 82_800, 86_400, 86_401];
        let step = prop_oneof![
            6 => (key(), ttl).prop_map(|(key, ttl)| Step::Put(key, ttl)),
            3 => key().prop_map(Step::Remove),
            2 => key().prop_map(Step::Look),
            4 => key().prop_map(Step::Lock),
            3 => (key(), any::<bool>()).prop_map(|(key, right)| Step::Renew(key, right)),
            1 => (0..4_usize).prop_map(Step::Expire),
            6 => select,
            3 => proptest::sample::select(moves).prop_map(Step::Advance),
        ];
        proptest::collection::vec(step, 0..60)
    }

    #[derive(Clone, Debug, PartialEq)]
    enum Held {
        Item(Item<usize>),
        Lock(Lock),
    }

    impl Held {
        fn is_live(&self, now: u64) -> bool {
            match self {
                Held::Item(item) => item.is_live(now),
                Held::Lock(lock) => lock.is_live(now),
            }
        }

        fn live_item(&self, now: u64) -> Option<Item<usize>> {
            match self {
                Held::Item(item) if item.is_live(now) => Some(item.clone()),
                _ => None,
            }
        }
    }

    type Model = BTreeMap<(&'static str, &'static str), Held>;

    /// What `query` yields, and whether there is more.
    fn selected(
        model: &Model,
        query: &Query,
        after: Option<&str>,
        max: usize,
        now: u64,
    ) -> (Vec<Item<usize>>, bool) {
        let mut items: Vec<Item<usize>> = model
            .iter()
            .filter(|((pk, sk), _)| *pk == query.pk() && sk.starts_with(query.sk_prefix()))
            .filter(|((_, sk), _)| {
                after.is_none_or(|after| match query.is_reverse() {
                    false => *sk > after,
                    true => *sk < after,
                })
            })
            .filter_map(|(_, held)| held.live_item(now))
            .collect();
        if query.is_reverse() {
            items.reverse();
        }
        let more = items.len() > max;
        items.truncate(max);
        (items, more)
    }

    /// Takes what the stripe removed out of the model, which must have held exactly that; returns
    /// it.
    fn take(model: &mut Model, removed: Removed<usize>) -> Vec<Held> {
        let held = removed.into_iter().map(|row| match row {
            Row::Item { item, .. } => Held::Item(item),
            Row::Lock { lock, .. } => Held::Lock(*lock),
            Row::Vacant { .. } => panic!("a vacant row was removed"),
        });
        held.map(|held| {
            let key = match &held {
                Held::Item(item) => item.key(),
                Held::Lock(lock) => lock.key(),
            };
            let known = model.keys().copied().find(|known| key == Key::from(*known));
            let known = known.and_then(|known| model.remove(&known));
            assert_eq!(known.as_ref(), Some(&held));
            held
        })
        .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_stripe_does_what_an_ordered_map_of_items_and_locks_does(steps in steps()) {
            let hasher = KeyHasher::default();
            let mut stripe = Stripe::new(hasher.clone(), 0, MAX_ROWS);
            let mut model = Model::new();
            let mut now = 1_000_000;
            for (number, step) in steps.into_iter().enumerate() {
                let mut removed = Removed::new();
                match step {
                    Step::Put(key, ttl) => {
                        let item = Item::new(key.0, key.1, number);
                        let item = ttl.map_or(item.clone(), |ttl| item.with_ttl(now + ttl));
                        let there = model.contains_key(&key);
                        stripe.put(&colliding(&hasher, key), item.clone(), &mut removed);
                        prop_assert_eq!(take(&mut model, removed).len(), usize::from(there));
                        model.insert(key, Held::Item(item));
                    }
                    Step::Remove(key) => {
                        let there = model.contains_key(&key);
                        stripe.remove(&colliding(&hasher, key), key.into(), &mut removed);
                        prop_assert_eq!(take(&mut model, removed).len(), usize::from(there));
                        prop_assert!(!model.contains_key(&key));
                    }
                    Step::Look(key) => {
                        let at = colliding(&hasher, key);
                        let live = model.get(&key).and_then(|held| held.live_item(now));
                        prop_assert_eq!(stripe.has_item(&at, key.into(), now), live.is_some());
                        let found = stripe.live_item(&at, key.into(), now, &mut removed);
                        prop_assert_eq!(found, live);
                        for held in take(&mut model, removed) {
                            prop_assert!(!held.is_live(now), "{:?} was live", held);
                        }
                    }
                    Step::Lock(key) => {
                        let at = colliding(&hasher, key);
                        let mut minted = false;
                        let mint = || {
                            minted = true;
                            version(number)
                        };
                        let found = stripe.lock(&at, key.into(), now, mint, &mut removed);
                        for held in take(&mut model, removed) {
                            prop_assert!(!held.is_live(now), "{:?} was live", held);
                        }
                        let expected = match model.get(&key) {
                            Some(Held::Item(_)) => Err(NoLock::Item),
                            Some(Held::Lock(lock)) => {
                                Ok(Lock::new(key, lock.version(), lock.refreshed_ttl(now)))
                            }
                            None => Ok(Lock::new(key, version(number), now + Lock::LIFETIME)),
                        };
                        prop_assert_eq!(&found, &expected);
                        prop_assert_eq!(minted, expected.is_ok() && !model.contains_key(&key));
                        if let Ok(lock) = found {
                            model.insert(key, Held::Lock(lock));
                        }
                    }
                    Step::Renew(key, right) => {
                        let at = colliding(&hasher, key);
                        let held = match model.get(&key) {
                            Some(Held::Lock(lock)) => Some(lock.clone()),
                            _ => None,
                        };
                        let asked = match (&held, right) {
                            (Some(lock), true) => lock.clone(),
                            _ => Lock::new(key, version(usize::MAX), now),
                        };
                        let found = stripe.unchanged(&at, &asked, now);
                        let expected = right && held.is_some_and(|held| held.is_live(now));
                        prop_assert_eq!(found.is_some(), expected);
                        if let Some(row) = found {
                            stripe.renew(row, version(number));
                            model.insert(key, Held::Lock(asked.renewed(version(number))));
                        }
                    }
                    Step::Expire(max) => {
                        let expired = model.values().filter(|held| !held.is_live(now)).count();
                        let count = stripe.remove_expired(now, max, &mut removed);
                        prop_assert_eq!(count, expired.min(max));
                        let taken = take(&mut model, removed);
                        prop_assert_eq!(taken.len(), count);
                        for held in taken {
                            prop_assert!(!held.is_live(now), "{:?} was live", held);
                        }
                    }
                    Step::Select { query, after, max } => {
                        let hash = hasher.partition(query.pk());
                        let found = stripe.select(hash, &query, after, max, now, &mut removed);
                        prop_assert_eq!(found, selected(&model, &query, after, max, now));
                        for held in take(&mut model, removed) {
                            prop_assert!(held.live_item(0).is_some(), "{:?} is a lock", held);
                            prop_assert!(!held.is_live(now), "{:?} was live", held);
                        }
                    }
                    Step::Advance(seconds) => now += seconds,
                }
                stripe.validate();
                prop_assert!(stripe.has_room(MAX_ROWS - model.len()));
                prop_assert!(!stripe.has_room(MAX_ROWS - model.len() + 1));
                for pk in PKS {
                    for key in SKS.map(|sk| (pk, sk)) {
                        let at = colliding(&hasher, key);
                        let expected = match model.get(&key) {
                            Some(Held::Item(item)) => Some(item.clone()),
                            _ => None,
                        };
                        prop_assert_eq!(stripe.item(&at, key.into()), expected);
                    }
                }
            }
        }
    }

    fn address<T>(stripe: &Stripe<T>, key: Key<'_>) -> Address {
        Address::new(&stripe.hasher, key, 1)
    }

    fn put(stripe: &mut Stripe<u32>, item: Item<u32>) -> usize {
        let at = address(stripe, item.key());
        let mut removed = Removed::new();
        stripe.put(&at, item, &mut removed);
        removed.len()
    }

    fn remove(stripe: &mut Stripe<u32>, key: Key<'_>) -> usize {
        let at = address(stripe, key);
        let mut removed = Removed::new();
        stripe.remove(&at, key, &mut removed);
        removed.len()
    }

    fn lock(stripe: &mut Stripe<u32>, sk: &str) -> Result<Lock, NoLock> {
        let key = Key::new("pk", sk);
        let at = address(stripe, key);
        stripe.lock(&at, key, 0, || version(1), &mut Removed::new())
    }

    fn empty(max_rows: usize) -> Stripe<u32> {
        Stripe::new(KeyHasher::default(), 0, max_rows)
    }

    /// What `query` selects of it without a limit.
    fn all(stripe: &mut Stripe<u32>, query: &Query, now: u64) -> Vec<u32> {
        let hash = stripe.hasher.partition(query.pk());
        let after = query.start_after();
        let mut removed = Removed::new();
        let (items, more) = stripe.select(hash, query, after, usize::MAX, now, &mut removed);
        assert!(!more);
        items
            .iter()
            .filter_map(|item| item.data().copied())
            .collect()
    }

    #[test]
    fn a_partition_of_thousands_of_items_keeps_their_order_as_they_come_and_go() {
        const ITEMS: u32 = 4_096;
        let sk = |number: u32| format!("{:02}/{:02}", number / 64, number % 64);
        let mut stripe = empty(MAX_ROWS);
        // 1,597 is odd, so this visits every number below a power of two, far from each other.
        let scrambled = || (0..ITEMS).map(|step| step.wrapping_mul(1_597) % ITEMS);
        for number in scrambled() {
            // Every third one expires, and in another order than the keys'.
            let item = Item::new("pk", sk(number), number);
            let item = match number % 3 {
                0 => item.with_ttl(u64::from(number % 100)),
                _ => item,
            };
            assert_eq!(put(&mut stripe, item), 0);
        }
        stripe.validate();
        assert_eq!(stripe.items(), ITEMS as usize);
        assert_eq!(
            all(&mut stripe, &Query::new("pk"), 0),
            (0..ITEMS).collect::<Vec<_>>()
        );

        let in_row = |number: &u32| (7 * 64..8 * 64).contains(number);
        let live = |number: &u32| number % 3 != 0;
        let row = Query::new("pk").prefix("07/");
        let mut expected: Vec<u32> = (0..ITEMS).filter(in_row).filter(live).collect();
        assert_eq!(all(&mut stripe, &row, 100), expected);
        expected.reverse();
        assert_eq!(all(&mut stripe, &row.reverse(), 100), expected);
        stripe.validate();

        // Page by page, either way.
        for reverse in [false, true] {
            let query = Query::new("pk");
            let query = if reverse { query.reverse() } else { query };
            let hash = stripe.hasher.partition("pk");
            let mut seen = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let mut removed = Removed::new();
                let from = after.as_deref();
                let (items, more) = stripe.select(hash, &query, from, 100, 100, &mut removed);
                seen.extend(items.iter().filter_map(|item| item.data().copied()));
                after = items.last().map(|item| item.sk().to_owned());
                if !more {
                    break;
                }
                assert_eq!(items.len(), 100);
            }
            if reverse {
                seen.reverse();
            }
            assert!(seen.into_iter().eq((0..ITEMS).filter(live)));
        }
        stripe.validate();
        let survivors = (0..ITEMS).filter(live).count();
        assert_eq!(stripe.items(), survivors);

        for (removals, number) in scrambled().filter(live).enumerate() {
            assert_eq!(remove(&mut stripe, Key::new("pk", &sk(number))), 1);
            if removals % 500 == 0 {
                stripe.validate();
                assert_eq!(stripe.items(), survivors - removals - 1);
            }
        }
        stripe.validate();
        assert_eq!(stripe.items(), 0);
        assert_eq!(stripe.partitions.len(), 0);
    }

    #[test]
    fn a_full_stripe_has_no_room_for_a_lock_until_something_leaves_it() {
        let mut stripe = empty(3);
        put(&mut stripe, Item::new("pk", "a", 1));
        put(&mut stripe, Item::new("other", "a", 1).with_ttl(5));
        assert!(stripe.has_room(1) && !stripe.has_room(2));
        let first = lock(&mut stripe, "lock").expect("there is room for one more");
        assert!(stripe.has_room(0) && !stripe.has_room(1));
        assert!(!stripe.has_room(usize::MAX));

        assert_eq!(lock(&mut stripe, "another"), Err(NoLock::Room));
        assert_eq!(lock(&mut stripe, "a"), Err(NoLock::Item));
        // What is there needs no room.
        assert_eq!(lock(&mut stripe, "lock"), Ok(first));
        assert_eq!(put(&mut stripe, Item::new("pk", "a", 2)), 1);
        stripe.validate();

        assert_eq!(stripe.remove_expired(6, usize::MAX, &mut Removed::new()), 1);
        assert!(lock(&mut stripe, "another").is_ok());
        stripe.validate();
    }

    #[test]
    fn vacant_rows_are_used_again() {
        let mut stripe = empty(MAX_ROWS);
        for round in 0..100 {
            for sk in ["a", "b", "c"] {
                put(&mut stripe, Item::new(format!("{round}"), sk, 0));
            }
            lock(&mut stripe, "lock").expect("there is room");
            stripe.validate();
            for sk in ["b", "a", "c"] {
                let pk = format!("{round}");
                assert_eq!(remove(&mut stripe, Key::new(&pk, sk)), 1);
                assert_eq!(remove(&mut stripe, Key::new(&pk, sk)), 0);
            }
            remove(&mut stripe, Key::new("pk", "lock"));
            stripe.validate();
        }
        assert_eq!(stripe.rows.len(), 4);
        assert_eq!(stripe.by_key.len(), 0);
    }

    #[test]
    fn the_first_item_of_a_partition_can_leave_before_the_others() {
        let mut stripe = empty(MAX_ROWS);
        let numbers: HashMap<&str, u32> = [("a", 1), ("b", 2), ("c", 3)].into();
        for (sk, number) in &numbers {
            put(&mut stripe, Item::new("pk", *sk, *number));
        }
        for (first, left) in [("a", vec![2, 3]), ("b", vec![3]), ("c", vec![])] {
            remove(&mut stripe, Key::new("pk", first));
            stripe.validate();
            assert_eq!(all(&mut stripe, &Query::new("pk"), 0), left);
        }
    }

    #[test]
    fn a_row_takes_24_bytes_whatever_the_data() {
        assert!(size_of::<Row<Box<u64>>>() <= 24);
        assert!(size_of::<Row<[u8; 4_096]>>() <= 24);
        assert!(size_of::<Row<()>>() <= 24);
    }
}
