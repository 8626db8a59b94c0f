//! Scenarios: two or three threads that make a handful of calls each, and the assertions that hold
//! afterwards. Each runs on the library's databases, where it must pass, and on a database with a
//! seeded bug, where it must fail.

use super::checker::{Db, pks, run_both, thread};
use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, Lock, ManualClock, Query, Result, Version,
};

pub(crate) const A: Key<'static> = Key::new("pk", "a");
const B: Key<'static> = Key::new("pk", "b");
const LOCK: Key<'static> = Key::new("pk", "lock");

fn item(key: Key<'_>, data: u64) -> Item<u64> {
    Item::new(key.pk, key.sk, data)
}

fn data(item: Option<Item<u64>>) -> Option<u64> {
    item.and_then(Item::into_data)
}

fn get<D: Db>(db: &D, key: Key<'_>) -> Option<u64> {
    data(db.get(key).unwrap())
}

fn get_pair<D: Db>(db: &D, keys: [Key<'_>; 2]) -> [Option<u64>; 2] {
    let mut items = db.get_many(&keys).unwrap().into_iter();
    [(); 2].map(|()| data(items.next().unwrap()))
}

/// Returns whether a commit succeeded. Panics at an error that is not a rejection.
fn committed<T>(outcome: Result<T>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(Error::RaceCondition { .. } | Error::AlreadyExists { .. }) => false,
        Err(error) => panic!("{error:?}"),
    }
}

fn create<D: Db>(db: &D, key: Key<'_>, value: u64) -> bool {
    committed(db.commit(&Batch::new().create(item(key, value))))
}

fn write_pair<D: Db>(db: &D, keys: [Key<'_>; 2], value: u64) {
    let [one, other] = keys.map(|key| item(key, value));
    db.commit(&Batch::new().set(one).set(other)).unwrap();
}

/// The keys of one item in each partition.
fn keys(pks: &[String; 2]) -> [Key<'_>; 2] {
    pks.each_ref().map(|pk| Key::new(pk, "a"))
}

/// Two commits write the same two items, each in its own order of keys. Both end, and the items are
/// those of one commit.
fn race_two_commits<D: Db>(db: D, mine: [String; 2], theirs: [String; 2]) {
    let other = db.clone();
    run_both(
        move || write_pair(&other, keys(&theirs), 1),
        || write_pair(&db, keys(&mine), 2),
    );
    let [one, two] = get_pair(&db, keys(&mine));
    assert!(
        one.is_some() && one == two,
        "part of a commit: {one:?}, {two:?}"
    );
}

pub(crate) fn commits_over_two_stripes_are_atomic<D: Db>(db: D) {
    let [[p, _], [q, _]] = pks();
    race_two_commits(db, [p.clone(), q.clone()], [p, q]);
}

pub(crate) fn commits_with_keys_in_opposite_orders_do_not_deadlock<D: Db>(db: D) {
    let [[p, _], [q, _]] = pks();
    race_two_commits(db, [p.clone(), q.clone()], [q, p]);
}

pub(crate) fn a_commit_with_two_keys_in_one_stripe_does_not_deadlock<D: Db>(db: D) {
    let [[p, q], _] = pks();
    race_two_commits(db, [p.clone(), q.clone()], [q, p]);
}

/// `get_many` over two stripes races with a commit, whether keys are cached or not.
pub(crate) fn get_many_is_a_snapshot<D: Db>(db: D) {
    let [[p, _], [q, _]] = pks();
    let mut pks = [p, q];
    write_pair(&db, keys(&pks), 1);
    let (other, theirs) = (db.clone(), pks.clone());
    pks.reverse();
    run_both(
        move || write_pair(&other, keys(&theirs), 2),
        || {
            for _ in 0..2 {
                let [one, two] = get_pair(&db, keys(&pks));
                assert_eq!(one, two, "get_many saw a part of a commit");
            }
        },
    );
}

pub(crate) fn a_query_is_a_snapshot<D: Db>(db: D) {
    write_pair(&db, [A, B], 1);
    let other = db.clone();
    run_both(
        move || write_pair(&other, [A, B], 2),
        || {
            let items = db.query(&Query::new("pk")).unwrap();
            let [one, two] = [0, 1].map(|place| items[place].data().copied());
            assert_eq!(one, two, "a query saw a part of a commit");
        },
    );
}

pub(crate) fn concurrent_callers_get_the_same_new_lock<D: Db>(db: D) {
    let other = db.clone();
    let theirs = thread::spawn(move || other.get_lock(LOCK).unwrap());
    let lock = db.get_lock(LOCK).unwrap();
    assert_eq!(theirs.join().unwrap(), lock, "one lock was created twice");
    assert_eq!(db.get_lock(LOCK).unwrap(), lock);
}

/// The items are those of the commit that succeeded.
pub(crate) fn one_of_two_commits_under_a_version_succeeds<D: Db>(db: D) {
    let lock = db.get_lock(LOCK).unwrap();
    let (other, same) = (db.clone(), lock.clone());
    let commit = |db: &D, lock: Lock, value| {
        committed(db.set_atomic(&[item(A, value), item(B, value)], &[lock]))
    };
    let first = thread::spawn(move || commit(&other, same, 1));
    let second = commit(&db, lock, 2);
    let first = first.join().unwrap();
    assert!(
        first != second,
        "of two commits {} succeeded",
        u8::from(first) * 2
    );
    let winner = if first { 1 } else { 2 };
    let pair = get_pair(&db, [A, B]);
    assert_eq!(pair, [Some(winner); 2], "a rejected commit wrote");
}

pub(crate) fn one_of_two_creations_succeeds<D: Db>(db: D) {
    let other = db.clone();
    let first = thread::spawn(move || create(&other, A, 1));
    let second = create(&db, A, 2);
    let first = first.join().unwrap();
    assert!(
        first != second,
        "of two creations {} succeeded",
        u8::from(first) * 2
    );
    assert_eq!(get(&db, A), Some(if first { 1 } else { 2 }));
}

/// Each commit checks the lock that the other one renews.
pub(crate) fn commits_that_check_each_others_lock_do_not_both_succeed<D: Db>(db: D) {
    let [[p, _], [q, _]] = pks();
    let [one, two] = [&p, &q].map(|pk| db.get_lock(Key::new(pk, "lock")).unwrap());
    let (other, locked, checked) = (db.clone(), one.clone(), two.clone());
    let first = thread::spawn(move || {
        committed(other.commit(&Batch::new().lock(locked).check(checked).set(item(A, 1))))
    });
    let second = committed(db.commit(&Batch::new().lock(two).check(one).set(item(B, 1))));
    let first = first.join().unwrap();
    assert!(
        first != second,
        "of two commits {} succeeded",
        u8::from(first) * 2
    );
}

/// Two threads each add one, and retry after a conflict.
pub(crate) fn updates_are_not_lost<D: Db>(db: D) {
    fn add<D: Db>(db: &D) {
        loop {
            let lock = db.get_lock(LOCK).unwrap();
            let count = data(db.get_fresh(A).unwrap()).unwrap_or(0);
            if committed(db.set_atomic(&[item(A, count + 1)], &[lock])) {
                return;
            }
        }
    }
    let other = db.clone();
    run_both(move || add(&other), || add(&db));
    assert_eq!(get(&db, A), Some(2), "an update was lost");
}

/// A commit races with the deletion of its lock. It succeeds before the deletion, or fails; every
/// later commit under the lock fails.
pub(crate) fn commits_under_a_deleted_lock_fail<D: Db>(db: D) {
    let lock = db.get_lock(LOCK).unwrap();
    let (other, same) = (db.clone(), lock.clone());
    let commit = thread::spawn(move || other.set_atomic(&[item(A, 1)], &[same]));
    db.delete(&[LOCK]).unwrap();
    let outcome = commit.join().unwrap();
    let last = outcome.as_ref().map_or(lock.version(), Version::clone);
    assert_eq!(get(&db, A), committed(outcome).then_some(1));
    let commit = |lock: Lock| committed(db.set_atomic(&[item(A, 2)], &[lock]));
    assert!(
        !commit(lock.clone()),
        "a commit under a deleted lock succeeded"
    );
    let new = db.get_lock(LOCK).unwrap();
    assert!(new.version() > last, "a version was reused");
    assert!(
        !commit(lock.with_version(last)),
        "a commit under an old version succeeded"
    );
}

/// The items that are present throughout are yielded once, and in order.
pub(crate) fn a_stream_yields_each_item_once_during_a_commit<D: Db>(db: D) {
    write_pair(&db, [A, B], 1);
    let other = db.clone();
    run_both(
        move || {
            let new = item(Key::new("pk", "aa"), 2);
            let batch = Batch::new().set(item(A, 2)).create(new);
            other.commit(&batch).unwrap();
        },
        || {
            let items: Vec<_> = db.stream(Query::new("pk")).map(Result::unwrap).collect();
            let sks: Vec<&str> = items.iter().map(Item::sk).collect();
            assert!(sks == ["a", "b"] || sks == ["a", "aa", "b"], "{sks:?}");
        },
    );
}

pub(crate) fn a_refresh_does_not_fail_a_commit<D: Db>(db: D, clock: ManualClock) {
    let lock = db.get_lock(LOCK).unwrap();
    clock.set(lock.ttl() - 10);
    let (other, same) = (db.clone(), lock.clone());
    let commit = thread::spawn(move || committed(other.set_atomic(&[item(A, 1)], &[same])));
    let refreshed = db.get_lock(LOCK).unwrap();
    assert!(refreshed.ttl() > lock.ttl());
    assert!(commit.join().unwrap(), "a refresh caused a conflict");
    let now = db.get_lock(LOCK).unwrap();
    assert!(now.ttl() == refreshed.ttl() && now.version() > lock.version());
}

/// A commit races with the expiry of its lock: all of it is written, or nothing. Neither version of
/// the expired lock is valid afterwards.
pub(crate) fn a_commit_is_atomic_while_its_lock_expires<D: Db>(db: D, clock: ManualClock) {
    let lock = db.get_lock(LOCK).unwrap();
    let (other, same) = (db.clone(), lock.clone());
    let commit = thread::spawn(move || {
        let outcome = other.set_atomic(&[item(A, 1), item(B, 1)], &[same]);
        let version = outcome.as_ref().ok().copied();
        version.filter(|_| committed(outcome))
    });
    clock.set(lock.ttl() + 1);
    let new = db.get_lock(LOCK).unwrap();
    assert_ne!(
        new.version(),
        lock.version(),
        "an expired lock kept its version"
    );
    let renewed = commit.join().unwrap();
    let pair = get_pair(&db, [A, B]);
    assert_eq!(pair, [renewed.map(|_| 1); 2], "part of a commit");
    for stale in [Some(lock.version()), renewed].into_iter().flatten() {
        let stale = lock.clone().with_version(stale);
        assert!(!committed(db.set_atomic(&[item(A, 2)], &[stale])));
    }
    assert!(committed(db.set_atomic(&[item(A, 2)], &[new])));
}

pub(crate) fn an_item_that_is_replaced_before_it_expires_is_always_visible<D: Db>(
    db: D,
    clock: ManualClock,
) {
    let now = clock.epoch_seconds();
    db.set(&[item(A, 1).expires_at(now)]).unwrap();
    let other = db.clone();
    run_both(
        move || {
            other.set(&[item(A, 2)]).unwrap();
            clock.set(now + 1);
        },
        || {
            assert!(
                get(&db, A).is_some(),
                "a read missed an item that was live throughout"
            );
        },
    );
    assert_eq!(
        get(&db, A),
        Some(2),
        "a live item was removed with an expired one"
    );
}

/// A purge races with a replacement, a creation and a new lock, all at keys of expired items.
pub(crate) fn a_purge_keeps_replaced_items_and_new_locks<D: Db>(
    db: D,
    clock: ManualClock,
    purge: impl FnOnce() + Send + 'static,
) {
    let now = clock.epoch_seconds();
    let [a, b, c] = [A, B, Key::new("pk", "c")].map(|key| item(key, 1).expires_at(now));
    db.set(&[a, b, c]).unwrap();
    clock.set(now + 1);
    run_both(purge, || {
        db.set(&[item(A, 2)]).unwrap();
        assert!(create(&db, B, 2), "an expired item blocked a creation");
        let lock = db.get_lock(Key::new("pk", "c")).unwrap();
        let commit = db.commit(&Batch::new().lock(lock));
        assert!(committed(commit), "a live lock was purged");
    });
    assert_eq!(
        get_pair(&db, [A, B]),
        [Some(2); 2],
        "a live item was purged"
    );
    assert_eq!(db.query(&Query::new("pk")).unwrap().len(), 2);
}

/// Three commits, each over two of three locks and items.
pub(crate) fn three_threads_lose_no_update<D: Db>(db: D) {
    let [[p, _], [q, r]] = pks();
    let pks = [p, q, r];
    let add_one = |db: &D, one: &str, two: &str| {
        let locks = [one, two].map(|pk| db.get_lock(Key::new(pk, "lock")).unwrap());
        let counts = get_pair(db, [Key::new(one, "a"), Key::new(two, "a")]);
        let [one, two] = [(one, counts[0]), (two, counts[1])]
            .map(|(pk, count)| item(Key::new(pk, "a"), count.unwrap_or(0) + 1));
        u64::from(committed(db.set_atomic(&[one, two], &locks)))
    };
    let threads = [(0, 1), (1, 2)].map(|(one, two)| {
        let (db, pks) = (db.clone(), pks.clone());
        thread::spawn(move || add_one(&db, &pks[one], &pks[two]))
    });
    let mut commits = add_one(&db, &pks[2], &pks[0]);
    for thread in threads {
        commits += thread.join().unwrap();
    }
    let counts = pks.iter().filter_map(|pk| get(&db, Key::new(pk, "a")));
    assert_eq!(counts.sum::<u64>(), 2 * commits, "an update was lost");
}

/// Asserts that the cache and the database have this value. The first read may fill the cache.
fn assert_cached_value<D: Db>(db: &D, expected: Option<u64>) {
    for _ in 0..2 {
        assert_eq!(get(db, A), expected, "the cache differs from the database");
    }
    assert_eq!(data(db.get_fresh(A).unwrap()), expected);
}

/// Writes an item that is not cached afterwards.
fn set_uncached<D: Db>(db: &D) {
    db.set(&[item(A, 1)]).unwrap();
    // The keys of a failed write are not cached (guarantee 20).
    assert!(!create(db, A, 9));
}

/// Runs `read`, which may fill a cache, concurrently with `write`.
fn race_fill<D: Db>(db: &D, read: impl FnOnce(&D) + Send + 'static, write: impl FnOnce(&D)) {
    let other = db.clone();
    run_both(move || read(&other), || write(db));
}

fn read_something<D: Db>(db: &D) {
    assert!(get(db, A).is_some());
}

pub(crate) fn a_fill_races_with_a_set<D: Db>(db: D) {
    set_uncached(&db);
    race_fill(&db, read_something, |db| db.set(&[item(A, 2)]).unwrap());
    assert_cached_value(&db, Some(2));
}

pub(crate) fn a_fill_races_with_a_commit<D: Db>(db: D) {
    set_uncached(&db);
    let lock = db.get_lock(LOCK).unwrap();
    let commit = |db: &D| assert!(committed(db.set_atomic(&[item(A, 2)], &[lock])));
    race_fill(&db, read_something, commit);
    assert_cached_value(&db, Some(2));
}

pub(crate) fn a_fill_races_with_a_deletion<D: Db>(db: D) {
    set_uncached(&db);
    let read = |db: &D| {
        get(db, A);
    };
    race_fill(&db, read, |db| db.delete(&[A]).unwrap());
    assert_cached_value(&db, None);
}

pub(crate) fn a_fill_races_with_a_failing_write<D: Db>(db: D) {
    set_uncached(&db);
    let read = |db: &D| assert_eq!(get(db, A), Some(1), "a failed write was visible");
    race_fill(&db, read, |db| assert!(!create(db, A, 2)));
    assert_cached_value(&db, Some(1));
}

pub(crate) fn a_fill_races_with_two_writes<D: Db>(db: D) {
    set_uncached(&db);
    let read = |db: &D| {
        let first = get(db, A);
        assert!(get(db, A) >= first, "a read returned an older value");
    };
    race_fill(&db, read, |db| {
        db.set(&[item(A, 2)]).unwrap();
        db.set(&[item(A, 3)]).unwrap();
    });
    assert_cached_value(&db, Some(3));
}

/// Only the database knows the order of the two writes.
pub(crate) fn after_two_writers_the_cache_agrees_with_the_database<D: Db>(db: D) {
    let other = db.clone();
    run_both(
        move || other.set(&[item(A, 1)]).unwrap(),
        || db.set(&[item(A, 2)]).unwrap(),
    );
    let stored = data(db.get_fresh(A).unwrap());
    assert_cached_value(&db, stored);
}

/// The fill that ends first must not make the other one valid.
pub(crate) fn two_fills_race_with_a_set<D: Db>(db: D) {
    set_uncached(&db);
    let fills = [db.clone(), db.clone()].map(|db| thread::spawn(move || read_something(&db)));
    db.set(&[item(A, 2)]).unwrap();
    for fill in fills {
        fill.join().unwrap();
    }
    assert_cached_value(&db, Some(2));
}

/// The eviction removes the entry between the fill and the set.
pub(crate) fn a_fill_races_with_a_set_and_an_eviction<D: Db>(db: D) {
    set_uncached(&db);
    let (filling, evicting) = (db.clone(), db.clone());
    let fill = thread::spawn(move || read_something(&filling));
    let evict = thread::spawn(move || evicting.set(&[item(B, 1)]).unwrap());
    db.set(&[item(A, 2)]).unwrap();
    fill.join().unwrap();
    evict.join().unwrap();
    assert_cached_value(&db, Some(2));
    assert_eq!(get(&db, B), Some(1));
}

/// The next read after the invalidation sees the write.
pub(crate) fn a_fill_races_with_a_bypassing_write_and_an_invalidation<D: Db>(
    db: D,
    inner: impl AtomicDb<Data = u64>,
    invalidate: impl FnOnce(),
) {
    set_uncached(&db);
    race_fill(
        &db,
        |db| {
            get(db, A);
        },
        |_| {
            inner.set(&[item(A, 2)]).unwrap();
            invalidate();
        },
    );
    assert_cached_value(&db, Some(2));
}
