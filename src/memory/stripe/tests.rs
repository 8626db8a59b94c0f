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
            let pk = self.rows[rows[0] as usize].key().0;
            assert_eq!(partition.hash, self.hasher.hash_partition(pk) as u32);
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
                assert_eq!(held.key().0, pk);
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
    let mut at = Address::new(hasher, Key::from(key).bytes(), 1);
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
        .filter(|((pk, sk), _)| *pk == query.pk && sk.starts_with(&*query.prefix))
        .filter(|((_, sk), _)| {
            after.is_none_or(|after| match query.reverse {
                false => *sk > after,
                true => *sk < after,
            })
        })
        .filter_map(|(_, held)| held.live_item(now))
        .collect();
    if query.reverse {
        items.reverse();
    }
    let more = items.len() > max;
    items.truncate(max);
    (items, more)
}

/// Takes what the stripe removed out of the model, which must have held exactly that; returns
/// it.
fn take(model: &mut Model, removed: RemovedRows<usize>) -> Vec<Held> {
    let held = removed.values().iter().map(|row| match row {
        Row::Item { item, .. } => Held::Item(item.clone()),
        Row::Lock { lock, .. } => Held::Lock(Lock::clone(lock)),
        Row::Vacant { .. } => panic!("a vacant row was removed"),
    });
    let held: Vec<Held> = held.collect();
    for held in &held {
        let key = match held {
            Held::Item(item) => item.key(),
            Held::Lock(lock) => lock.key(),
        };
        let known = model.keys().copied().find(|known| key == Key::from(*known));
        let known = known.and_then(|known| model.remove(&known));
        assert_eq!(known.as_ref(), Some(held));
    }
    held
}

proptest! {
    #[test]
    fn a_stripe_does_what_an_ordered_map_of_items_and_locks_does(steps in steps()) {
        let hasher = KeyHasher::default();
        let mut stripe = Stripe::new(hasher.clone(), 0, MAX_ROWS);
        let mut model = Model::new();
        let mut now = 1_000_000;
        for (number, step) in steps.into_iter().enumerate() {
            let mut removed = RemovedRows::new();
            match step {
                Step::Put(key, ttl) => {
                    let item = Item::new(key.0, key.1, number);
                    let item = ttl.map_or(item.clone(), |ttl| item.expires_at(now + ttl));
                    let there = model.contains_key(&key);
                    removed.extend(stripe.put(&colliding(&hasher, key), item.clone()));
                    prop_assert_eq!(take(&mut model, removed).len(), usize::from(there));
                    model.insert(key, Held::Item(item));
                }
                Step::Remove(key) => {
                    let there = model.contains_key(&key);
                    removed.extend(stripe.remove(&colliding(&hasher, key), key.into()));
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
                    let lasting = stripe.lasting_lock(&at, &key.into(), now);
                    let found = stripe.lock(&at, key.into(), now, mint, &mut removed);
                    if let Some(lasting) = lasting {
                        prop_assert_eq!(&found, &Ok(lasting));
                        prop_assert!(!minted);
                    }
                    for held in take(&mut model, removed) {
                        prop_assert!(!held.is_live(now), "{:?} was live", held);
                    }
                    let expected = match model.get(&key) {
                        Some(held) if !held.is_live(now) => panic!("{held:?} has expired"),
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
                        model.insert(key, Held::Lock(asked.with_version(version(number))));
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
                    let hash = hasher.hash_partition(query.pk.as_bytes());
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
                    match stripe.likely_item(&at) {
                        Likely::Item(item) if item.key() == Key::from(key) => {
                            prop_assert_eq!(Some(item), expected);
                        }
                        Likely::Nothing => prop_assert_eq!(None, expected),
                        // Another key has the hash, which says nothing of this one.
                        Likely::Item(item) => {
                            let mut keys = model.keys();
                            prop_assert!(keys.any(|other| item.key() == Key::from(*other)));
                        }
                        Likely::Unclear => {
                            let held = model.values();
                            prop_assert!(held.into_iter().any(|held| held.live_item(0).is_none()));
                        }
                    }
                }
            }
        }
    }
}

fn address<T>(stripe: &Stripe<T>, key: Key<'_>) -> Address {
    Address::new(&stripe.hasher, key.bytes(), 1)
}

fn put(stripe: &mut Stripe<u32>, item: Item<u32>) -> usize {
    let at = address(stripe, item.key());
    stripe.put(&at, item).iter().count()
}

fn remove(stripe: &mut Stripe<u32>, key: Key<'_>) -> usize {
    let at = address(stripe, key);
    stripe.remove(&at, key).iter().count()
}

fn lock(stripe: &mut Stripe<u32>, sk: &str) -> Result<Lock, NoLock> {
    let key = Key::new("pk", sk);
    let at = address(stripe, key);
    stripe.lock(&at, key, 0, || version(1), &mut RemovedRows::new())
}

fn empty(max_rows: usize) -> Stripe<u32> {
    Stripe::new(KeyHasher::default(), 0, max_rows)
}

/// What `query` selects of it without a limit.
fn all(stripe: &mut Stripe<u32>, query: &Query, now: u64) -> Vec<u32> {
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
            0 => item.expires_at(u64::from(number % 100)),
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
    put(&mut stripe, Item::new("other", "a", 1).expires_at(5));
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

    assert_eq!(
        stripe.remove_expired(6, usize::MAX, &mut RemovedRows::new()),
        1
    );
    assert!(lock(&mut stripe, "another").is_ok());
    stripe.validate();
}

#[test]
fn a_lock_is_not_taken_for_another_with_its_hash_and_its_version() {
    let mut stripe = empty(MAX_ROWS);
    let [a, b] = ["a", "b"].map(|sk| Key::new("pk", sk));
    let at = address(&stripe, a);
    // As a commit leaves two locks that it renews.
    let [lock_a, lock_b] = [a, b].map(|key| {
        let made = stripe.lock(&at, key, 0, || version(1), &mut RemovedRows::new());
        made.expect("there is room")
    });
    assert_ne!(
        stripe.unchanged(&at, &lock_a, 0),
        stripe.unchanged(&at, &lock_b, 0)
    );
    for (key, gone, left) in [(a, &lock_a, Some(&lock_b)), (b, &lock_b, None)] {
        assert!(stripe.remove(&at, key).is_some());
        assert_eq!(stripe.unchanged(&at, gone, 0), None);
        assert!(left.is_none_or(|left| stripe.unchanged(&at, left, 0).is_some()));
    }
}

#[test]
fn a_partition_is_not_taken_for_another() {
    // So many that a table's own short hashes are shared all over.
    const PARTITIONS: u32 = 2_000;
    let mut stripe = empty(MAX_ROWS);
    for number in 0..PARTITIONS {
        put(&mut stripe, Item::new(format!("{number}"), "sk", number));
    }
    for number in (0..PARTITIONS).step_by(2) {
        assert_eq!(remove(&mut stripe, Key::new(&format!("{number}"), "sk")), 1);
    }
    stripe.validate();
    for number in 0..2 * PARTITIONS {
        let there = number < PARTITIONS && number % 2 == 1;
        let expected = if there { vec![number] } else { vec![] };
        let query = Query::new(format!("{number}"));
        assert_eq!(all(&mut stripe, &query, 0), expected);
    }
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

#[test]
fn partitions_fall_to_all_stripes_by_bits_that_the_tables_do_not_use() {
    let hasher = KeyHasher::default();
    let mut counts = [0; 8];
    for number in 0..8_000 {
        let hash = hasher.hash_partition(format!("{number}").as_bytes());
        let stripe = stripe_of(hash, counts.len());
        counts[stripe] += 1;
        assert_eq!(stripe_of(hash ^ 0xffff_ffff, counts.len()), stripe);
        assert_eq!(stripe_of(hash, 1), 0);
    }
    // A thousand each, give or take seven standard deviations.
    assert!(
        counts.iter().all(|count| (800..1_200).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn a_spread_hash_holds_all_of_it_in_its_lower_and_in_its_upper_half() {
    for hash in [0, 1, 0x8000_0000, 0x1234_5678, u32::MAX] {
        let spread = spread(hash);
        assert_eq!((spread as u32, (spread >> 32) as u32), (hash, hash));
    }
}
