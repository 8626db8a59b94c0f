use super::*;
use crate::memory::rows::{MAX_ROWS, NO_ROW};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};

impl<T> Stripe<T> {
    /// Checks the invariants of a stripe, by their numbers.
    fn validate(&self) {
        self.rows.validate();

        // 1
        for row in self.rows.iter() {
            let hash = self.hasher.hash_parts(row.entry.key_buf().bytes()).1 as u32;
            let same_hash = [hash, hash % COLLIDING].map(|hash| {
                let same = |entry: &Entry<T>| std::ptr::eq(entry, &row.entry);
                self.rows.find_colliding(hash, same).is_some()
            });
            assert!(
                same_hash.contains(&true),
                "row {} is not under its hash",
                row.number()
            );
        }

        // 2 and 3
        let mut indexed_items = HashSet::new();
        for partition in &self.partitions {
            let sorted = &partition.rows;
            assert!(!sorted.is_empty(), "a partition is empty");
            let rows: Vec<u32> = sorted.range(sorted.start(), sorted.end()).collect();
            let pk = key_of_row(&self.rows, rows[0]).0;
            assert_eq!(partition.hash, self.hasher.hash_partition(pk) as u32);
            let same = |other: &Partition| std::ptr::eq(other, partition);
            let hash = widen_hash(partition.hash);
            assert!(
                self.partitions.find(hash, same).is_some(),
                "the partition {pk:?} is not under its hash"
            );
            assert!(
                rows.is_sorted_by(|a, b| self.rows.sk(*a) < self.rows.sk(*b)),
                "the partition {pk:?} is out of order"
            );
            sorted.validate(&self.rows);
            for (row, block) in sorted.with_blocks() {
                assert_eq!(self.rows.block(row), block, "the block of row {row}");
            }
            for row in rows {
                let stored = self.rows.get(row).and_then(Entry::item);
                let item = stored.expect("a sorted row is an item");
                assert_eq!(item.pk().as_bytes(), pk);
                assert!(indexed_items.insert(row), "row {row} is indexed twice");
            }
        }
        let items = self.rows.iter().filter(|row| row.entry.item().is_some());
        assert_eq!(indexed_items, items.map(Row::number).collect());

        // 4
        let expiries = self.rows.iter();
        let expiries = expiries
            .filter_map(|row| row.entry.ttl().map(|ttl| (ttl, row.number())))
            .collect();
        assert_eq!(self.expiries, expiries);

        // 5
        assert_eq!(self.item_count, indexed_items.len());
    }
}

/// Some keys are prefixes of others, and different pairs have the same concatenation.
const PKS: [&str; 5] = ["", "a", "ab", "a\0", "ä"];
const SKS: [&str; 8] = ["", "\0", "a", "ab", "abc", "b", "ä", "\u{10ffff}"];

fn key() -> impl Strategy<Value = (&'static str, &'static str)> {
    (
        proptest::sample::select(&PKS[..]),
        proptest::sample::select(&SKS[..]),
    )
}

/// The number of hashes of [`colliding_location`].
const COLLIDING: u32 = 4;

/// Returns the location of `key` with one of only a few hashes, so that most keys collide.
fn colliding_location(hasher: &KeyHasher, key: (&str, &str)) -> Location {
    let mut at = Location::new(hasher, Key::from(key).bytes(), 1);
    at.key_hash %= COLLIDING;
    at
}

fn version(number: usize) -> Version {
    Version::from_u128(number as u128)
}

#[derive(Clone, Debug)]
enum Op {
    /// Writes an item that lives for this many seconds.
    Put((&'static str, &'static str), Option<u64>),
    Remove((&'static str, &'static str)),
    Get((&'static str, &'static str)),
    GetLock((&'static str, &'static str)),
    /// Validates a lock with its version or with a wrong one, and sets the version if it is unchanged.
    CommitLock((&'static str, &'static str), bool),
    Purge(usize),
    Select {
        query: Query,
        after: Option<&'static str>,
        max: usize,
    },
    Advance(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
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
            Op::Select { query, after, max }
        });
    // Around the lifetime of a lock, and around its last hour.
    let advances = vec![0, 1, 2, 3_599, 3_600, 82_799, 82_800, 86_400, 86_401];
    let op = prop_oneof![
        6 => (key(), ttl).prop_map(|(key, ttl)| Op::Put(key, ttl)),
        3 => key().prop_map(Op::Remove),
        2 => key().prop_map(Op::Get),
        4 => key().prop_map(Op::GetLock),
        3 => (key(), any::<bool>()).prop_map(|(key, current)| Op::CommitLock(key, current)),
        1 => (0..4_usize).prop_map(Op::Purge),
        6 => select,
        3 => proptest::sample::select(advances).prop_map(Op::Advance),
    ];
    proptest::collection::vec(op, 0..60)
}

#[derive(Clone, Debug, PartialEq)]
enum Stored {
    Item(Item<usize>),
    Lock(Lock),
}

impl Stored {
    fn is_live(&self, now: u64) -> bool {
        match self {
            Stored::Item(item) => item.is_live(now),
            Stored::Lock(lock) => lock.is_live(now),
        }
    }

    fn live_item(&self, now: u64) -> Option<Item<usize>> {
        match self {
            Stored::Item(item) if item.is_live(now) => Some(item.clone()),
            _ => None,
        }
    }
}

type Model = BTreeMap<(&'static str, &'static str), Stored>;

/// Returns the items that `query` yields, and whether there are more.
fn selected(
    model: &Model,
    query: &Query,
    after: Option<&str>,
    max: usize,
    now: u64,
) -> (Vec<Item<usize>>, bool) {
    let mut items: Vec<Item<usize>> = model
        .iter()
        .filter(|((pk, sk), _)| *pk == query.pk && sk.starts_with(&*query.prefix))
        .filter(|((_, sk), _)| {
            after.is_none_or(|after| {
                if query.reverse {
                    *sk < after
                } else {
                    *sk > after
                }
            })
        })
        .filter_map(|(_, stored)| stored.live_item(now))
        .collect();
    if query.reverse {
        items.reverse();
    }
    let more = items.len() > max;
    items.truncate(max);
    (items, more)
}

/// Removes the rows that the stripe removed from the model, which must have contained exactly these,
/// and returns them.
fn remove_from_model(model: &mut Model, removed: RemovedRows<usize>) -> Vec<Stored> {
    let rows = removed.values().iter().map(|entry| match entry {
        Entry::Item(item) => Stored::Item(item.clone()),
        Entry::Lock(lock) => Stored::Lock(Lock::clone(lock)),
    });
    let rows: Vec<Stored> = rows.collect();
    for row in &rows {
        let key = match row {
            Stored::Item(item) => item.key(),
            Stored::Lock(lock) => lock.key(),
        };
        let known = model.keys().copied().find(|known| key == Key::from(*known));
        let known = known.and_then(|known| model.remove(&known));
        assert_eq!(known.as_ref(), Some(row));
    }
    rows
}

proptest! {
    #[test]
    fn a_stripe_agrees_with_an_ordered_map_of_items_and_locks(ops in ops()) {
        let hasher = KeyHasher::default();
        let mut stripe = Stripe::new(hasher.clone(), 0, MAX_ROWS);
        let mut model = Model::new();
        let mut now = 1_000_000;
        for (number, op) in ops.into_iter().enumerate() {
            let mut removed = RemovedRows::new();
            match op {
                Op::Put(key, ttl) => {
                    let item = Item::new(key.0, key.1, number);
                    let item = ttl.map_or(item.clone(), |ttl| item.expires_at(now + ttl));
                    let existed = model.contains_key(&key);
                    removed.extend(stripe.put(&colliding_location(&hasher, key), item.clone()));
                    prop_assert_eq!(remove_from_model(&mut model, removed).len(), usize::from(existed));
                    model.insert(key, Stored::Item(item));
                }
                Op::Remove(key) => {
                    let existed = model.contains_key(&key);
                    removed.extend(stripe.remove(&colliding_location(&hasher, key), Key::from(key).bytes()));
                    prop_assert_eq!(remove_from_model(&mut model, removed).len(), usize::from(existed));
                    prop_assert!(!model.contains_key(&key));
                }
                Op::Get(key) => {
                    let at = colliding_location(&hasher, key);
                    let live = model.get(&key).and_then(|stored| stored.live_item(now));
                    prop_assert_eq!(stripe.has_item(&at, Key::from(key).bytes(), now), live.is_some());
                    let found = stripe.live_item(&at, key.into(), now, &mut removed);
                    prop_assert_eq!(found, live);
                    for stored in remove_from_model(&mut model, removed) {
                        prop_assert!(!stored.is_live(now), "{:?} was live", stored);
                    }
                }
                Op::GetLock(key) => {
                    let at = colliding_location(&hasher, key);
                    let mut generated = false;
                    let generate = || {
                        generated = true;
                        version(number)
                    };
                    let fast = stripe.get_lock_fast(&at, &key.into(), now);
                    let key_of_lock = Key::from(key);
                    let found = stripe.create_or_refresh_lock(
                        &at, key_of_lock, now, 1, generate, &mut removed,
                    );
                    if let Some(fast) = fast {
                        prop_assert_eq!(&found, &Ok(fast));
                        prop_assert!(!generated);
                    }
                    for stored in remove_from_model(&mut model, removed) {
                        prop_assert!(!stored.is_live(now), "{:?} was live", stored);
                    }
                    let expected = match model.get(&key) {
                        Some(stored) if !stored.is_live(now) => panic!("{stored:?} has expired"),
                        Some(Stored::Item(_)) => Err(LockError::ItemExists),
                        Some(Stored::Lock(lock)) => {
                            Ok(Lock::new(key, lock.version(), lock.refreshed_ttl(now)))
                        }
                        None => Ok(Lock::new(key, version(number), now + Lock::LIFETIME)),
                    };
                    prop_assert_eq!(&found, &expected);
                    prop_assert_eq!(generated, expected.is_ok() && !model.contains_key(&key));
                    if let Ok(lock) = found {
                        model.insert(key, Stored::Lock(lock));
                    }
                }
                Op::CommitLock(key, current) => {
                    let at = colliding_location(&hasher, key);
                    let stored = match model.get(&key) {
                        Some(Stored::Lock(lock)) => Some(lock.clone()),
                        _ => None,
                    };
                    let lock = match (&stored, current) {
                        (Some(lock), true) => lock.clone(),
                        _ => Lock::new(key, version(usize::MAX), now),
                    };
                    let expected = lock.row_in(1).map_or(NO_ROW, |row| row.number);
                    let found = stripe.find_unchanged_lock(&at, expected, &lock, now);
                    prop_assert_eq!(found, stripe.find_unchanged_lock(&at, NO_ROW, &lock, now));
                    let expected = current && stored.is_some_and(|stored| stored.is_live(now));
                    prop_assert_eq!(found.is_some(), expected);
                    if let Some(row) = found {
                        stripe.set_lock_version(row, version(number));
                        model.insert(key, Stored::Lock(lock.with_version(version(number))));
                    }
                }
                Op::Purge(max) => {
                    let expired = model.values().filter(|stored| !stored.is_live(now)).count();
                    let count = stripe.remove_expired(now, max, &mut removed);
                    prop_assert_eq!(count, expired.min(max));
                    let rows = remove_from_model(&mut model, removed);
                    prop_assert_eq!(rows.len(), count);
                    for stored in rows {
                        prop_assert!(!stored.is_live(now), "{:?} was live", stored);
                    }
                }
                Op::Select { query, after, max } => {
                    let hash = hasher.hash_partition(query.pk.as_bytes());
                    let found = stripe.select(hash, &query, after, max, now, &mut removed);
                    prop_assert_eq!(found, selected(&model, &query, after, max, now));
                    for stored in remove_from_model(&mut model, removed) {
                        prop_assert!(stored.live_item(0).is_some(), "{:?} is a lock", stored);
                        prop_assert!(!stored.is_live(now), "{:?} was live", stored);
                    }
                }
                Op::Advance(seconds) => now += seconds,
            }
            stripe.validate();
            prop_assert!(stripe.has_capacity(MAX_ROWS - model.len()));
            prop_assert!(!stripe.has_capacity(MAX_ROWS - model.len() + 1));
            for pk in PKS {
                for key in SKS.map(|sk| (pk, sk)) {
                    let at = colliding_location(&hasher, key);
                    let expected = match model.get(&key) {
                        Some(Stored::Item(item)) => Some(item.clone()),
                        _ => None,
                    };
                    match stripe.probe(&at) {
                        Probe::Item(item) if item.key() == Key::from(key) => {
                            prop_assert_eq!(Some(item), expected);
                        }
                        Probe::Vacant => prop_assert_eq!(None, expected),
                        // Another key has the hash.
                        Probe::Item(item) => {
                            let mut keys = model.keys();
                            prop_assert!(keys.any(|other| item.key() == Key::from(*other)));
                        }
                        Probe::Inconclusive => {
                            let mut stored = model.values();
                            prop_assert!(stored.any(|stored| stored.live_item(0).is_none()));
                        }
                    }
                }
            }
        }
    }
}

fn locate<T>(stripe: &Stripe<T>, key: Key<'_>) -> Location {
    Location::new(&stripe.hasher, key.bytes(), 1)
}

fn put(stripe: &mut Stripe<u32>, item: Item<u32>) -> usize {
    let at = locate(stripe, item.key());
    stripe.put(&at, item).iter().count()
}

fn remove(stripe: &mut Stripe<u32>, key: Key<'_>) -> usize {
    let at = locate(stripe, key);
    stripe.remove(&at, key.bytes()).iter().count()
}

fn get_lock(stripe: &mut Stripe<u32>, sk: &str) -> Result<Lock, LockError> {
    let key = Key::new("pk", sk);
    let at = locate(stripe, key);
    stripe.create_or_refresh_lock(&at, key, 0, 1, || version(1), &mut RemovedRows::new())
}

fn empty_stripe(max_rows: usize) -> Stripe<u32> {
    Stripe::new(KeyHasher::default(), 0, max_rows)
}

/// Returns the data of all items that match `query`.
fn select_all(stripe: &mut Stripe<u32>, query: &Query, now: u64) -> Vec<u32> {
    let hash = stripe.hasher.hash_partition(query.pk.as_bytes());
    let after = query.after.as_deref();
    let mut removed = RemovedRows::new();
    let (items, more) = stripe.select(hash, query, after, usize::MAX, now, &mut removed);
    assert!(!more);
    items
        .iter()
        .filter_map(|item| item.data().copied())
        .collect()
}

#[test]
fn a_partition_of_thousands_of_items_stays_sorted_under_writes_and_removals() {
    const ITEMS: u32 = 4_096;
    let sk = |number: u32| format!("{:02}/{:02}", number / 64, number % 64);
    let mut stripe = empty_stripe(MAX_ROWS);
    // 1,597 is odd, so its multiples visit every number below a power of two, in a scattered order.
    let scrambled = || (0..ITEMS).map(|step| step.wrapping_mul(1_597) % ITEMS);
    for number in scrambled() {
        // Every third item expires, in another order than that of the keys.
        let item = Item::new("pk", sk(number), number);
        let item = match number % 3 {
            0 => item.expires_at(u64::from(number % 100)),
            _ => item,
        };
        assert_eq!(put(&mut stripe, item), 0);
    }
    stripe.validate();
    assert_eq!(stripe.item_count(), ITEMS as usize);
    assert_eq!(
        select_all(&mut stripe, &Query::new("pk"), 0),
        (0..ITEMS).collect::<Vec<_>>()
    );

    let in_row = |number: &u32| (7 * 64..8 * 64).contains(number);
    let live = |number: &u32| number % 3 != 0;
    let row = Query::new("pk").prefix("07/");
    let mut expected: Vec<u32> = (0..ITEMS).filter(in_row).filter(live).collect();
    assert_eq!(select_all(&mut stripe, &row, 100), expected);
    expected.reverse();
    assert_eq!(select_all(&mut stripe, &row.reverse(), 100), expected);
    stripe.validate();

    // Page by page, in either direction.
    for reverse in [false, true] {
        let query = Query::new("pk");
        let query = if reverse { query.reverse() } else { query };
        let hash = stripe.hasher.hash_partition(b"pk");
        let mut seen = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut removed = RemovedRows::new();
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
    assert_eq!(stripe.item_count(), survivors);

    for (removals, number) in scrambled().filter(live).enumerate() {
        assert_eq!(remove(&mut stripe, Key::new("pk", &sk(number))), 1);
        if removals % 500 == 0 {
            stripe.validate();
            assert_eq!(stripe.item_count(), survivors - removals - 1);
        }
    }
    stripe.validate();
    assert_eq!(stripe.item_count(), 0);
    assert_eq!(stripe.partitions.len(), 0);
}

/// The last character and the last one before the surrogates, whose successor is not a character, and
/// the neighbours of both.
#[test]
fn a_prefix_may_end_in_a_character_that_has_no_successor() {
    let starts = [
        "",
        "a",
        "\u{d7fe}",
        "\u{d7ff}",
        "\u{e000}",
        "\u{10fffe}",
        "\u{10ffff}",
    ];
    let mut sks: Vec<String> = Vec::new();
    for first in starts {
        for second in starts {
            sks.extend(["", "\0", "z", "\u{10ffff}"].map(|end| format!("{first}{second}{end}")));
        }
    }
    sks.sort();
    sks.dedup();
    let mut stripe = empty_stripe(MAX_ROWS);
    for (number, sk) in (0..).zip(&sks) {
        put(&mut stripe, Item::new("pk", sk, number));
    }
    let numbered = || (0_u32..).zip(&sks);
    for prefix in &sks {
        for reverse in [false, true] {
            let mut query = Query::new("pk").prefix(prefix);
            query.reverse = reverse;
            let matching = numbered().filter(|(_, sk)| sk.starts_with(prefix));
            let mut expected: Vec<u32> = matching.map(|(number, _)| number).collect();
            if reverse {
                expected.reverse();
            }
            assert_eq!(select_all(&mut stripe, &query, 0), expected, "{query:?}");
            for (after, sk) in numbered() {
                let query = query.clone().after(sk);
                let is_after = |number: &u32| {
                    if reverse {
                        *number < after
                    } else {
                        *number > after
                    }
                };
                let rest: Vec<u32> = expected.iter().copied().filter(is_after).collect();
                assert_eq!(select_all(&mut stripe, &query, 0), rest, "{query:?}");
            }
        }
    }
}

#[test]
fn a_full_stripe_creates_no_lock_until_a_row_is_removed() {
    let mut stripe = empty_stripe(3);
    put(&mut stripe, Item::new("pk", "a", 1));
    put(&mut stripe, Item::new("other", "a", 1).expires_at(5));
    assert!(stripe.has_capacity(1) && !stripe.has_capacity(2));
    let first = get_lock(&mut stripe, "lock").expect("the stripe has capacity for one more row");
    assert!(stripe.has_capacity(0) && !stripe.has_capacity(1));
    assert!(!stripe.has_capacity(usize::MAX));

    assert_eq!(get_lock(&mut stripe, "another"), Err(LockError::StripeFull));
    assert_eq!(get_lock(&mut stripe, "a"), Err(LockError::ItemExists));
    // Existing rows need no capacity.
    assert_eq!(get_lock(&mut stripe, "lock"), Ok(first));
    assert_eq!(put(&mut stripe, Item::new("pk", "a", 2)), 1);
    stripe.validate();

    assert_eq!(
        stripe.remove_expired(6, usize::MAX, &mut RemovedRows::new()),
        1
    );
    assert!(get_lock(&mut stripe, "another").is_ok());
    stripe.validate();
}

#[test]
fn a_lock_is_not_confused_with_another_of_the_same_hash_and_version() {
    let mut stripe = empty_stripe(MAX_ROWS);
    let [a, b] = ["a", "b"].map(|sk| Key::new("pk", sk));
    let at = locate(&stripe, a);
    // A commit gives all its locks the same version.
    let [lock_a, lock_b] = [a, b].map(|key| {
        let removed = &mut RemovedRows::new();
        let lock = stripe.create_or_refresh_lock(&at, key, 0, 1, || version(1), removed);
        lock.expect("the stripe has capacity")
    });
    let row = |lock: &Lock| lock.row_in(1).map_or(NO_ROW, |row| row.number);
    let (row_a, row_b) = (row(&lock_a), row(&lock_b));
    assert_ne!(row_a, row_b);
    for expected in [row_a, row_b, NO_ROW] {
        assert_eq!(
            stripe.find_unchanged_lock(&at, expected, &lock_a, 0),
            Some(row_a)
        );
        assert_eq!(
            stripe.find_unchanged_lock(&at, expected, &lock_b, 0),
            Some(row_b)
        );
    }
    for (key, deleted, left) in [(a, &lock_a, Some(&lock_b)), (b, &lock_b, None)] {
        assert!(stripe.remove(&at, key.bytes()).is_some());
        let unchanged = |lock| stripe.find_unchanged_lock(&at, row(lock), lock, 0);
        assert_eq!(unchanged(deleted), None);
        assert!(left.is_none_or(|left| unchanged(left).is_some()));
    }
}

#[test]
fn partitions_with_colliding_tags_are_kept_apart() {
    // So many that most of them share their seven-bit tag in the table with others.
    const PARTITIONS: u32 = 2_000;
    let mut stripe = empty_stripe(MAX_ROWS);
    for number in 0..PARTITIONS {
        put(&mut stripe, Item::new(format!("{number}"), "sk", number));
    }
    for number in (0..PARTITIONS).step_by(2) {
        assert_eq!(remove(&mut stripe, Key::new(&format!("{number}"), "sk")), 1);
    }
    stripe.validate();
    for number in 0..2 * PARTITIONS {
        let exists = number < PARTITIONS && number % 2 == 1;
        let expected = if exists { vec![number] } else { vec![] };
        let query = Query::new(format!("{number}"));
        assert_eq!(select_all(&mut stripe, &query, 0), expected);
    }
}

#[test]
fn a_lock_is_found_after_its_row_was_given_to_another_key() {
    let mut stripe = empty_stripe(MAX_ROWS);
    let first = get_lock(&mut stripe, "lock").expect("the stripe has capacity");
    let row = |lock: &Lock| lock.row_in(1).map_or(NO_ROW, |row| row.number);
    remove(&mut stripe, first.key());
    put(&mut stripe, Item::new("pk", "item", 1));
    let second = get_lock(&mut stripe, "lock").expect("the stripe has capacity");
    assert_ne!(row(&first), row(&second), "the item has the row");
    let at = locate(&stripe, first.key());
    // Both have the same key and version, as two locks of a database never have.
    assert_eq!(
        stripe.find_unchanged_lock(&at, row(&first), &first, 0),
        Some(row(&second))
    );
    remove(&mut stripe, second.key());
    assert_eq!(
        stripe.find_unchanged_lock(&at, row(&first), &first, 0),
        None
    );
    assert_eq!(
        stripe.find_unchanged_lock(&at, row(&second), &second, 0),
        None
    );
}

#[test]
fn a_row_that_was_in_a_late_block_of_one_partition_can_be_the_first_of_another() {
    const ITEMS: u32 = 2_000;
    let mut stripe = empty_stripe(MAX_ROWS);
    let sk = |number: u32| format!("{number:04}");
    for number in 0..ITEMS {
        put(&mut stripe, Item::new("large", sk(number), number));
    }
    remove(&mut stripe, Key::new("large", &sk(ITEMS - 1)));
    // The first of these has its row.
    for number in 0..ITEMS {
        put(&mut stripe, Item::new("other", sk(number), number));
    }
    stripe.validate();
    assert_eq!(remove(&mut stripe, Key::new("other", &sk(0))), 1);
    stripe.validate();
}

#[test]
fn the_first_item_of_a_partition_can_be_removed_before_the_others() {
    let mut stripe = empty_stripe(MAX_ROWS);
    let numbers: HashMap<&str, u32> = [("a", 1), ("b", 2), ("c", 3)].into();
    for (sk, number) in &numbers {
        put(&mut stripe, Item::new("pk", *sk, *number));
    }
    for (first, left) in [("a", vec![2, 3]), ("b", vec![3]), ("c", vec![])] {
        remove(&mut stripe, Key::new("pk", first));
        stripe.validate();
        assert_eq!(select_all(&mut stripe, &Query::new("pk"), 0), left);
    }
}

#[test]
fn a_row_takes_24_bytes_whatever_the_data() {
    assert!(size_of::<Row<Entry<Box<u64>>>>() <= 24);
    assert!(size_of::<Row<Entry<[u8; 4_096]>>>() <= 24);
    assert!(size_of::<Row<Entry<()>>>() <= 24);
}

#[test]
fn the_stripe_depends_on_the_upper_half_of_the_hash_only_and_on_enough_bits() {
    for stripes in (0..=16).map(|bits| 1 << bits) {
        // Consecutive upper halves visit every stripe once.
        let upper = (0..stripes as u64).map(|upper| upper << 32);
        let visited: HashSet<usize> = upper.map(|hash| stripe_of(hash, stripes)).collect();
        assert_eq!(visited, (0..stripes).collect());
    }
    for bit in 0..64 {
        let hash = 0x0123_4567_89ab_cdef_u64;
        let changed = stripe_of(hash, 1 << 16) != stripe_of(hash ^ 1 << bit, 1 << 16);
        assert_eq!(changed, (32..48).contains(&bit), "bit {bit}");
    }
}

/// Every hasher has a random seed. With a few seeds the stripes are filled unevenly, because the hash
/// of short keys is not random enough for a binomial distribution: up to 3 of 1,000 hashers in a
/// process were outside the bounds below. Even if 100 were, less than one run in 10^14 would fail.
#[test]
fn partitions_are_distributed_over_all_stripes() {
    const HASHERS: usize = 64;
    const STRIPES: usize = 8;
    const SHARE: usize = 250;
    let is_even = |hasher: &KeyHasher| {
        let mut counts = [0; STRIPES];
        for number in 0..SHARE * STRIPES {
            let hash = hasher.hash_partition(number.to_string().as_bytes());
            counts[stripe_of(hash, STRIPES)] += 1;
        }
        let share = SHARE / 4..=SHARE * 2;
        counts.iter().all(|count| share.contains(count))
    };
    let hashers = (0..HASHERS).map(|_| KeyHasher::default());
    let even = hashers.filter(is_even).count();
    assert!(even >= HASHERS / 2, "{even} of {HASHERS} are even");
}
