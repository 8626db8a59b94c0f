//! What is explored: two or three threads at a handful of calls each, and what must hold afterwards.
//! Every body runs on the library's databases, where it must hold, and on one of the planted ones,
//! where it must not.

use super::{Db, both, pks, thread};
use atomic_db::{AtomicDb, Batch, Clock, Error, Item, Key, Lock, ManualClock, Query};

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

/// Whether a commit was done; anything but a race is a failure.
fn done<T: std::fmt::Debug>(outcome: atomic_db::Result<T>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(Error::RaceCondition { .. } | Error::AlreadyExists { .. }) => false,
        Err(error) => panic!("{error:?}"),
    }
}

fn write<D: Db>(db: &D, keys: [Key<'_>; 2], value: u64) {
    let [one, other] = keys.map(|key| item(key, value));
    db.commit(&Batch::new().set(one).set(other)).unwrap();
}

/// Two commits that write the same two items, each naming them in its own order: both end, and both
/// items are there of one of them.
fn two_commits_meet<D: Db>(db: D, mine: [String; 2], theirs: [String; 2]) {
    let other = db.clone();
    both(
        move || write(&other, theirs.each_ref().map(|pk| Key::new(pk, "a")), 1),
        || write(&db, mine.each_ref().map(|pk| Key::new(pk, "a")), 2),
    );
    let [one, two] = get_pair(&db, mine.each_ref().map(|pk| Key::new(pk, "a")));
    assert!(
        one.is_some() && one == two,
        "half a commit: {one:?}, {two:?}"
    );
}

/// Two commits that take two stripes.
pub(crate) fn commits_over_the_same_stripes_are_whole<D: Db>(db: D) {
    let [[p, _], [q, _]] = pks();
    two_commits_meet(db, [p.clone(), q.clone()], [p, q]);
}

/// Two commits that name the stripes in opposite orders: neither waits for the other for ever.
pub(crate) fn commits_that_take_the_stripes_in_opposite_orders_end<D: Db>(db: D) {
    let [[p, _], [q, _]] = pks();
    two_commits_meet(db, [p.clone(), q.clone()], [q, p]);
}

/// Two commits over two partitions of one stripe, which each takes once.
pub(crate) fn a_commit_with_two_keys_in_one_stripe_ends<D: Db>(db: D) {
    let [[p, q], _] = pks();
    two_commits_meet(db, [p.clone(), q.clone()], [q, p]);
}

/// `get_many` over two stripes sees all of a commit or nothing, whatever is at hand in a cache.
pub(crate) fn get_many_sees_a_commit_whole<D: Db>(db: D) {
    let [[p, _], [q, _]] = pks();
    write(&db, [Key::new(&p, "a"), Key::new(&q, "a")], 1);
    let (other_p, other_q, other) = (p.clone(), q.clone(), db.clone());
    both(
        move || {
            write(
                &other,
                [Key::new(&other_p, "a"), Key::new(&other_q, "a")],
                2,
            )
        },
        || {
            for _ in 0..2 {
                let [one, two] = get_pair(&db, [Key::new(&q, "a"), Key::new(&p, "a")]);
                assert_eq!(one, two, "get_many saw half a commit");
            }
        },
    );
}

/// A query sees all of a commit or nothing.
pub(crate) fn a_query_sees_a_commit_whole<D: Db>(db: D) {
    write(&db, [A, B], 1);
    let other = db.clone();
    both(
        move || write(&other, [A, B], 2),
        || {
            let items = db.query(&Query::new("pk")).unwrap();
            let [one, two] = [0, 1].map(|place| items[place].data().copied());
            assert_eq!(one, two, "a query saw half a commit");
        },
    );
}

/// Two callers that ask for a lock which is not there get the same one.
pub(crate) fn both_get_the_same_new_lock<D: Db>(db: D) {
    let other = db.clone();
    let asked = thread::spawn(move || other.get_lock(LOCK).unwrap());
    let lock = db.get_lock(LOCK).unwrap();
    assert_eq!(asked.join().unwrap(), lock, "two locks were made of one");
    assert_eq!(db.get_lock(LOCK).unwrap(), lock);
}

/// Of two commits under the same version, one succeeds, and its items are there.
pub(crate) fn of_two_commits_one_succeeds<D: Db>(db: D) {
    let lock = db.get_lock(LOCK).unwrap();
    let (other, held) = (db.clone(), lock.clone());
    let commit =
        |db: &D, lock: Lock, value| done(db.set_atomic(&[item(A, value), item(B, value)], &[lock]));
    let first = thread::spawn(move || commit(&other, held, 1));
    let second = commit(&db, lock, 2);
    let first = first.join().unwrap();
    assert!(
        first != second,
        "of two commits {} succeeded",
        u8::from(first) * 2
    );
    let winner = if first { 1 } else { 2 };
    assert_eq!(
        get_pair(&db, [A, B]),
        [Some(winner); 2],
        "a loser's write is there"
    );
}

/// Of two creations of the same item, one succeeds.
pub(crate) fn of_two_creations_one_succeeds<D: Db>(db: D) {
    let other = db.clone();
    let create = |db: &D, value| done(db.commit(&Batch::new().create(item(A, value))));
    let first = thread::spawn(move || create(&other, 1));
    let second = create(&db, 2);
    let first = first.join().unwrap();
    assert!(first != second, "both or neither created one item");
    assert_eq!(get(&db, A), Some(if first { 1 } else { 2 }));
}

/// Of two commits that each check the lock which the other renews, at most one succeeds.
pub(crate) fn commits_that_check_each_others_lock_do_not_both_succeed<D: Db>(db: D) {
    let [[p, _], [q, _]] = pks();
    let [one, two] = [&p, &q].map(|pk| db.get_lock(Key::new(pk, "lock")).unwrap());
    let (other, locked, checked) = (db.clone(), one.clone(), two.clone());
    let first = thread::spawn(move || {
        done(other.commit(&Batch::new().lock(locked).check(checked).set(item(A, 1))))
    });
    let second = done(db.commit(&Batch::new().lock(two).check(one).set(item(B, 1))));
    let first = first.join().unwrap();
    assert!(
        first != second,
        "both or neither of two commits that exclude each other"
    );
}

/// Two threads each add one, trying again after a race: the sum is two.
pub(crate) fn updates_are_not_lost<D: Db>(db: D) {
    fn add<D: Db>(db: &D) {
        loop {
            let lock = db.get_lock(LOCK).unwrap();
            let count = data(db.get_fresh(A).unwrap()).unwrap_or(0);
            if done(db.set_atomic(&[item(A, count + 1)], &[lock])) {
                return;
            }
        }
    }
    let other = db.clone();
    both(move || add(&other), || add(&db));
    assert_eq!(get(&db, A), Some(2), "an update was lost");
}

/// A commit meets the deletion of its lock: it is before it or loses, and no later one succeeds.
pub(crate) fn a_deleted_lock_fails_its_holder<D: Db>(db: D) {
    let lock = db.get_lock(LOCK).unwrap();
    let (other, held) = (db.clone(), lock.clone());
    let commit = thread::spawn(move || other.set_atomic(&[item(A, 1)], &[held]));
    db.delete(&[LOCK]).unwrap();
    let outcome = commit.join().unwrap();
    let renewed = outcome.as_ref().map_or(lock.version(), |version| *version);
    let committed = done(outcome);
    assert_eq!(get(&db, A), committed.then_some(1));
    assert!(
        !done(db.set_atomic(&[item(A, 2)], &[lock.clone()])),
        "a deleted lock was honoured"
    );
    let anew = db.get_lock(LOCK).unwrap();
    assert!(anew.version() > renewed, "a version came back");
    assert!(
        !done(db.set_atomic(&[item(A, 2)], &[lock.with_version(renewed)])),
        "an old lock was honoured"
    );
}

/// A stream meets a commit: what is there throughout is yielded once, and in order.
pub(crate) fn a_stream_meets_a_commit<D: Db>(db: D) {
    write(&db, [A, B], 1);
    let other = db.clone();
    both(
        move || {
            let batch = Batch::new()
                .set(item(A, 2))
                .create(item(Key::new("pk", "aa"), 2));
            other.commit(&batch).unwrap();
        },
        || {
            let streamed: Vec<_> = db.stream(Query::new("pk")).map(Result::unwrap).collect();
            let sks: Vec<&str> = streamed.iter().map(Item::sk).collect();
            assert!(sks == ["a", "b"] || sks == ["a", "aa", "b"], "{sks:?}");
        },
    );
}

/// A commit meets a refresh of its lock, which fails nobody.
pub(crate) fn a_refresh_fails_nobody<D: Db>(db: D, clock: ManualClock) {
    let lock = db.get_lock(LOCK).unwrap();
    clock.set(lock.ttl() - 10);
    let (other, held) = (db.clone(), lock.clone());
    let commit = thread::spawn(move || done(other.set_atomic(&[item(A, 1)], &[held])));
    let refreshed = db.get_lock(LOCK).unwrap();
    assert!(refreshed.ttl() > lock.ttl());
    assert!(commit.join().unwrap(), "a refresh failed a commit");
    let now = db.get_lock(LOCK).unwrap();
    assert!(now.ttl() == refreshed.ttl() && now.version() > lock.version());
}

/// A commit meets the expiry of its lock: it is in time or loses, and is whole.
pub(crate) fn a_lock_that_expires_fails_its_holder_or_not<D: Db>(db: D, clock: ManualClock) {
    let lock = db.get_lock(LOCK).unwrap();
    let (other, held) = (db.clone(), lock.clone());
    let commit = thread::spawn(move || {
        let outcome = other.set_atomic(&[item(A, 1), item(B, 1)], &[held]);
        outcome.as_ref().ok().copied().filter(|_| done(outcome))
    });
    clock.set(lock.ttl() + 1);
    let anew = db.get_lock(LOCK).unwrap();
    assert_ne!(anew.version(), lock.version(), "an expired lock came back");
    let renewed = commit.join().unwrap();
    assert_eq!(
        get_pair(&db, [A, B]),
        [renewed.map(|_| 1); 2],
        "half a commit"
    );
    for stale in [Some(lock.version()), renewed].into_iter().flatten() {
        assert!(!done(
            db.set_atomic(&[item(A, 2)], &[lock.clone().with_version(stale)])
        ));
    }
    assert!(done(db.set_atomic(&[item(A, 2)], &[anew])));
}

/// A read of an item that expires meets its replacement: the new one is never taken for the old.
pub(crate) fn an_item_that_expires_is_replaced<D: Db>(db: D, clock: ManualClock) {
    let now = clock.epoch_seconds();
    db.set(&[item(A, 1).expires_at(now)]).unwrap();
    let other = db.clone();
    both(
        move || {
            other.set(&[item(A, 2)]).unwrap();
            clock.set(now + 1);
        },
        || {
            let seen = get(&db, A);
            assert!(
                seen.is_some(),
                "there was an item at every time, and it was not seen"
            );
        },
    );
    assert_eq!(get(&db, A), Some(2), "a live item went with an expired one");
}

/// A purge meets a replacement, a creation and a lock made where something has expired.
pub(crate) fn a_purge_meets_everything<D: Db>(
    db: D,
    clock: ManualClock,
    purge: impl FnOnce() + Send + 'static,
) {
    let now = clock.epoch_seconds();
    let [a, b, c] = [A, B, Key::new("pk", "c")].map(|key| item(key, 1).expires_at(now));
    db.set(&[a, b, c]).unwrap();
    clock.set(now + 1);
    both(purge, || {
        db.set(&[item(A, 2)]).unwrap();
        assert!(
            done(db.commit(&Batch::new().create(item(B, 2)))),
            "what expired is in the way"
        );
        let lock = db.get_lock(Key::new("pk", "c")).unwrap();
        assert!(
            done(db.commit(&Batch::new().lock(lock))),
            "a live lock was purged"
        );
    });
    assert_eq!(
        get_pair(&db, [A, B]),
        [Some(2); 2],
        "a live item was purged"
    );
    assert_eq!(db.query(&Query::new("pk")).unwrap().len(), 2);
}

/// Three commits, each over two of three locks and items: no deadlock, and no update lost.
pub(crate) fn three_threads_commit<D: Db>(db: D) {
    let [[p, _], [q, r]] = pks();
    let keys = [p, q, r];
    let commit = |db: &D, one: &str, two: &str| {
        let locks = [one, two].map(|pk| db.get_lock(Key::new(pk, "lock")).unwrap());
        let counts = get_pair(db, [Key::new(one, "a"), Key::new(two, "a")]);
        let [one, two] = [(one, counts[0]), (two, counts[1])]
            .map(|(pk, count)| item(Key::new(pk, "a"), count.unwrap_or(0) + 1));
        u64::from(done(db.set_atomic(&[one, two], &locks)))
    };
    let threads = [(0, 1), (1, 2)].map(|(one, two)| {
        let (db, keys) = (db.clone(), keys.clone());
        thread::spawn(move || commit(&db, &keys[one], &keys[two]))
    });
    let mine = commit(&db, &keys[2], &keys[0]);
    let done: u64 = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    let sum: u64 = keys
        .iter()
        .filter_map(|pk| get(&db, Key::new(pk, "a")))
        .sum();
    assert_eq!(sum, 2 * (done + mine), "an update was lost");
}

/// After everything, what a cache answers is what the database holds; twice, for the first may fill.
fn agrees<D: Db>(db: &D, expected: Option<u64>) {
    for _ in 0..2 {
        assert_eq!(
            get(db, A),
            expected,
            "the cache is not what the database holds"
        );
    }
    assert_eq!(data(db.get_fresh(A).unwrap()), expected);
}

/// Puts an item where a cache does not have it at hand.
fn uncached<D: Db>(db: &D) {
    db.set(&[item(A, 1)]).unwrap();
    // A write that loses leaves its keys uncached.
    assert!(!done(db.commit(&Batch::new().create(item(A, 9)))));
}

/// A fill meets a set.
pub(crate) fn a_fill_meets_a_set<D: Db>(db: D) {
    uncached(&db);
    let other = db.clone();
    both(
        move || assert!(get(&other, A).is_some()),
        || db.set(&[item(A, 2)]).unwrap(),
    );
    agrees(&db, Some(2));
}

/// A fill meets a commit.
pub(crate) fn a_fill_meets_a_commit<D: Db>(db: D) {
    uncached(&db);
    let lock = db.get_lock(LOCK).unwrap();
    let other = db.clone();
    both(
        move || assert!(get(&other, A).is_some()),
        || assert!(done(db.set_atomic(&[item(A, 2)], &[lock]))),
    );
    agrees(&db, Some(2));
}

/// A fill meets a deletion.
pub(crate) fn a_fill_meets_a_delete<D: Db>(db: D) {
    uncached(&db);
    let other = db.clone();
    both(
        move || {
            get(&other, A);
        },
        || db.delete(&[A]).unwrap(),
    );
    agrees(&db, None);
}

/// A fill meets a write that fails, which is never seen.
pub(crate) fn a_fill_meets_a_write_that_fails<D: Db>(db: D) {
    uncached(&db);
    let other = db.clone();
    both(
        move || assert_eq!(get(&other, A), Some(1), "a write that failed was seen"),
        || assert!(!done(db.commit(&Batch::new().create(item(A, 2))))),
    );
    agrees(&db, Some(1));
}

/// A fill meets two writes one after the other, of which it may have seen the first.
pub(crate) fn a_fill_meets_two_writes<D: Db>(db: D) {
    uncached(&db);
    let other = db.clone();
    both(
        move || {
            let first = get(&other, A);
            assert!(get(&other, A) >= first, "a read went back");
        },
        || {
            db.set(&[item(A, 2)]).unwrap();
            db.set(&[item(A, 3)]).unwrap();
        },
    );
    agrees(&db, Some(3));
}

/// Two writers of one key: nobody knows who comes last but the database, and the cache agrees.
pub(crate) fn two_writers_of_one_key_agree_with_the_database<D: Db>(db: D) {
    let other = db.clone();
    both(
        move || other.set(&[item(A, 1)]).unwrap(),
        || db.set(&[item(A, 2)]).unwrap(),
    );
    let held = data(db.get_fresh(A).unwrap());
    agrees(&db, held);
}

/// Two fills of one key meet a set: the one that ends first must not let the other one through.
pub(crate) fn two_fills_meet_a_set<D: Db>(db: D) {
    uncached(&db);
    let fills =
        [db.clone(), db.clone()].map(|db| thread::spawn(move || assert!(get(&db, A).is_some())));
    db.set(&[item(A, 2)]).unwrap();
    for fill in fills {
        fill.join().unwrap();
    }
    agrees(&db, Some(2));
}

/// A fill meets a set and an eviction, which takes the entry away in between.
pub(crate) fn a_fill_meets_a_set_and_an_eviction<D: Db>(db: D) {
    uncached(&db);
    let (filling, evicting) = (db.clone(), db.clone());
    let fill = thread::spawn(move || assert!(get(&filling, A).is_some()));
    let evict = thread::spawn(move || evicting.set(&[item(B, 1)]).unwrap());
    db.set(&[item(A, 2)]).unwrap();
    fill.join().unwrap();
    evict.join().unwrap();
    agrees(&db, Some(2));
    assert_eq!(get(&db, B), Some(1));
}

/// A fill meets an invalidation that follows a write round the cache: the next read sees it.
pub(crate) fn a_fill_meets_an_invalidation<D: Db>(
    db: D,
    inner: impl AtomicDb<Data = u64>,
    invalidate: impl FnOnce(),
) {
    uncached(&db);
    let other = db.clone();
    both(
        move || {
            get(&other, A);
        },
        || {
            inner.set(&[item(A, 2)]).unwrap();
            invalidate();
        },
    );
    agrees(&db, Some(2));
}
