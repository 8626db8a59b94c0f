//! Scenarios with transactions, as in `scenarios`. "T4" and the like are the rules of transactions in
//! `docs/design.md`.

use super::checker::{Db, FrozenClock, run_both, thread};
use atomic_db::{AtomicDbExt, Error, Item, Key, Query, Result, Retry};

const A: Key<'static> = Key::new("pk", "a");
const B: Key<'static> = Key::new("pk", "b");
const LOCK: Key<'static> = Key::new("pk", "lock");
/// Another partition, with a lock of its own.
const C: Key<'static> = Key::new("other", "c");
const OTHER_LOCK: Key<'static> = Key::new("other", "lock");

fn item(key: Key<'_>, data: u64) -> Item<u64> {
    Item::at(key, data)
}

fn data(item: Option<Item<u64>>) -> Option<u64> {
    item.and_then(Item::into_data)
}

fn get<D: Db>(db: &D, key: Key<'_>) -> Option<u64> {
    data(db.get(key).unwrap())
}

/// Pauses take no time, so that a checker need not wait.
fn retry() -> Retry {
    Retry::new().clock(FrozenClock)
}

/// Writes the same value to both items, under their lock.
fn write_pair<D: Db>(db: &D, value: u64) {
    let written = db.transact_with(&retry(), |tx| {
        tx.lock(LOCK)?;
        tx.set(item(A, value))?;
        tx.set(item(B, value))
    });
    written.unwrap();
}

/// What a body returns is based on one state (T4), whether it is a result or an error.
enum Seen {
    Pair([Option<u64>; 2]),
    Db(Error),
}

impl From<Error> for Seen {
    fn from(error: Error) -> Self {
        Seen::Db(error)
    }
}

fn race_reader<D: Db>(db: D, read: impl Fn(&D) -> Result<[Option<u64>; 2], Seen>) {
    write_pair(&db, 1);
    let writing = db.clone();
    run_both(
        move || write_pair(&writing, 2),
        || {
            let [a, b] = match read(&db) {
                Ok(pair) | Err(Seen::Pair(pair)) => pair,
                Err(Seen::Db(error)) => panic!("a transaction failed: {error:?}"),
            };
            assert_eq!(a, b, "a transaction returned two states");
        },
    );
}

pub(crate) fn a_result_of_a_transaction_rests_on_one_state<D: Db>(db: D) {
    race_reader(db, |db| {
        db.try_transact_with(&retry(), |tx| {
            tx.check(LOCK)?;
            Ok([data(tx.get(A)?), data(tx.get(B)?)])
        })
    });
}

pub(crate) fn an_error_of_a_body_rests_on_one_state<D: Db>(db: D) {
    race_reader(db, |db| {
        db.try_transact_with(&retry(), |tx| {
            tx.lock(LOCK)?;
            Err(Seen::Pair([data(tx.get(A)?), data(tx.get(B)?)]))
        })
    });
}

/// The same by a query and a read.
pub(crate) fn an_error_after_a_query_rests_on_one_state<D: Db>(db: D) {
    race_reader(db, |db| {
        db.try_transact_with(&retry(), |tx| {
            tx.check(LOCK)?;
            let found = tx.query(&Query::new("pk").limit(1))?;
            Err(Seen::Pair([
                data(found.into_iter().next()),
                data(tx.get(B)?),
            ]))
        })
    });
}

/// Attempts that lost a race run again with fresh data (T2, T5).
pub(crate) fn transactions_lose_no_update<D: Db>(db: D) {
    fn add<D: Db>(db: &D) {
        let added = db.transact_with(&retry(), |tx| {
            tx.lock(LOCK)?;
            let count = data(tx.get(A)?).unwrap_or(0);
            tx.set(item(A, count + 1))
        });
        added.unwrap();
    }
    let other = db.clone();
    run_both(move || add(&other), || add(&db));
    assert_eq!(get(&db, A), Some(2), "an update was lost");
}

pub(crate) fn update_loses_no_update<D: Db>(db: D) {
    fn add<D: Db>(db: &D) {
        let added = db.update(A, LOCK, |count| Some(count.copied().unwrap_or(0) + 1));
        added.unwrap();
    }
    let other = db.clone();
    run_both(move || add(&other), || add(&db));
    assert_eq!(get(&db, A), Some(2), "an update was lost");
}

/// A read of an own write returns it, whatever another thread writes concurrently (T2).
pub(crate) fn a_transaction_reads_its_own_writes_during_another_commit<D: Db>(db: D) {
    write_pair(&db, 1);
    let writing = db.clone();
    let mut observed = None;
    run_both(
        move || write_pair(&writing, 2),
        || {
            let read = db.transact_with(&retry(), |tx| {
                tx.lock(LOCK)?;
                tx.set(item(A, 3))?;
                let found = tx.query(&Query::new("pk"))?;
                let [a, b] = [0, 1].map(|place| found[place].data().copied());
                assert_eq!(a, Some(3), "a query did not return an own write");
                tx.set(item(B, 3))?;
                Ok(b)
            });
            observed = read.unwrap();
        },
    );
    let left = [get(&db, A), get(&db, B)];
    // The transaction came last if it observed the other one.
    let last = if observed == Some(2) { 3 } else { 2 };
    assert_eq!(
        left,
        [Some(last); 2],
        "the transaction observed {observed:?}"
    );
}

/// Each transaction creates an item if a query of the other's partition finds none: a write skew.
pub(crate) fn one_of_two_transactions_finds_the_phantom<D: Db>(db: D) {
    // Both locks exist, so that neither transaction creates one.
    db.get_locks(&[LOCK, OTHER_LOCK]).unwrap();
    let create = |db: &D, check: Key<'static>, lock: Key<'static>, key: Key<'static>| {
        let created = db.transact_with(&retry(), |tx| {
            tx.check(check)?;
            tx.lock(lock)?;
            let is_free = tx.query(&Query::new(check.pk))?.is_empty();
            if is_free {
                tx.create(item(key, 1))?;
            }
            Ok(is_free)
        });
        created.unwrap()
    };
    let other = db.clone();
    let first = thread::spawn(move || create(&other, OTHER_LOCK, LOCK, A));
    let second = create(&db, LOCK, OTHER_LOCK, C);
    let first = first.join().unwrap();
    assert!(
        first != second,
        "of two transactions {} found no item",
        u8::from(first) + u8::from(second)
    );
}

/// A transaction that has used its attempts wrote nothing (T7).
pub(crate) fn an_exhausted_transaction_wrote_nothing<D: Db>(db: D) {
    write_pair(&db, 1);
    let writing = db.clone();
    run_both(
        move || write_pair(&writing, 2),
        || {
            let tried = db.transact_with(&retry().attempts(1), |tx| {
                tx.lock(LOCK)?;
                tx.set(item(A, 3))?;
                tx.create(item(Key::new("pk", "new"), 3))
            });
            let created = get(&db, Key::new("pk", "new"));
            match tried {
                Ok(()) => assert_eq!(created, Some(3)),
                Err(Error::RetriesExhausted { attempts: 1, .. }) => {
                    let left = [get(&db, A), created];
                    assert_eq!(left, [Some(2), None], "an exhausted transaction wrote");
                }
                Err(error) => panic!("{error:?}"),
            }
        },
    );
}
