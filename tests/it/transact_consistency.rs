//! Transactions cannot lose an update, and do not report an error that rests on a state that never
//! existed.

use crate::common::{Call, HookedDb, Moment, data};
use atomic_db::testing::run_concurrently;
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Error, Item, Key, LruCache, ManualClock, MemoryDb, Query, Result,
    Retry,
};
use proptest::option::weighted;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEY: Key<'static> = Key::new("account", "balance");
const OTHER: Key<'static> = Key::new("account", "name");
const LOCK: Key<'static> = Key::new("account", "lock");

fn item(data: u32) -> Item<u32> {
    Item::at(KEY, data)
}

/// Commits under `LOCK`.
fn interfere(db: &impl AtomicDb<Data = u32>) {
    let lock = db.get_lock(LOCK).unwrap();
    db.set_atomic(&[Item::new("noise", "", 0)], &[lock])
        .unwrap();
}

fn bump(data: Option<Item<u32>>) -> Item<u32> {
    item(data.and_then(Item::into_data).unwrap_or(0) + 1)
}

#[test]
fn a_transaction_that_reads_and_writes_without_a_lock_is_refused() {
    type Body = fn(&mut atomic_db::Transaction<'_, MemoryDb<u32>>) -> Result<()>;
    let refused: [Body; 5] = [
        |tx| {
            let old = tx.get(KEY)?;
            tx.set(bump(old))
        },
        |tx| {
            let old = tx.get_many(&[KEY])?.remove(0);
            tx.set(bump(old))
        },
        |tx| {
            tx.query(&Query::new("account"))?;
            tx.create(Item::at(OTHER, 1))
        },
        |tx| {
            tx.set(item(1))?;
            tx.get(OTHER).map(drop)
        },
        |tx| {
            tx.get(OTHER)?;
            tx.delete(KEY)
        },
    ];
    for (number, body) in refused.into_iter().enumerate() {
        let db = MemoryDb::new();
        let mut runs = 0;
        let error = db.transact(|tx| {
            runs += 1;
            body(tx)
        });
        let error = error.unwrap_err();
        assert!(matches!(error, Error::InvalidInput(_)), "{number}: {error}");
        assert!(error.to_string().contains("account"), "{error}");
        assert_eq!((runs, db.len()), (1, 0), "{number}");
    }
    // Each of these is safe.
    let accepted: [Body; 5] = [
        |tx| tx.get(KEY).map(drop),
        |tx| tx.set(item(1)),
        |tx| {
            tx.set(item(1))?;
            tx.get(KEY).map(drop)
        },
        |tx| {
            tx.check(LOCK)?;
            let old = tx.get(KEY)?;
            tx.set(bump(old))
        },
        |tx| {
            tx.lock(LOCK)?;
            let old = tx.get(KEY)?;
            tx.set(bump(old))
        },
    ];
    for body in accepted {
        MemoryDb::new().transact(body).unwrap();
    }
}

#[test]
fn increments_without_a_lock_never_succeed_silently() {
    let db = MemoryDb::new();
    run_concurrently(4, |_| {
        for _ in 0..100 {
            let outcome = db.transact(|tx| {
                let old = tx.get(KEY)?;
                tx.set(bump(old))
            });
            assert!(matches!(outcome, Err(Error::InvalidInput(_))));
        }
    });
    assert_eq!(data(&db, KEY), None);
}

#[test]
fn a_lock_after_a_read_of_any_kind_is_refused() {
    type Body = fn(&mut atomic_db::Transaction<'_, MemoryDb<u32>>) -> Result<()>;
    let reads: [Body; 4] = [
        |tx| tx.get(KEY).map(drop),
        |tx| tx.get_many(&[KEY, OTHER]).map(drop),
        |tx| tx.query(&Query::new("account")).map(drop),
        // A read of an own write is a read of data, too.
        |tx| {
            tx.set(item(1))?;
            tx.get(KEY).map(drop)
        },
    ];
    let locks: [Body; 4] = [
        |tx| tx.lock(LOCK).map(drop),
        |tx| tx.check(LOCK).map(drop),
        |tx| tx.lock_all(&[LOCK]).map(drop),
        |tx| tx.check_all(&[LOCK]).map(drop),
    ];
    for read in reads {
        for lock in locks {
            let db = MemoryDb::new();
            let outcome = db.transact(|tx| {
                read(tx)?;
                lock(tx)
            });
            assert!(matches!(outcome, Err(Error::InvalidInput(_))));
            assert_eq!(data(&db, KEY), None);
        }
    }
}

#[test]
fn a_lock_is_not_downgraded_by_a_check() {
    let db = MemoryDb::new();
    let before = db.get_lock(LOCK).unwrap();
    db.transact(|tx| {
        tx.lock(LOCK)?;
        tx.check(LOCK)?;
        tx.check_all(&[LOCK])?;
        tx.set(item(1))
    })
    .unwrap();
    assert_ne!(db.get_lock(LOCK).unwrap().version(), before.version());
}

#[test]
fn a_result_is_returned_only_if_the_locks_are_unchanged_even_without_writes() {
    type Lock = fn(&mut atomic_db::Transaction<'_, MemoryDb<u32>>) -> Result<()>;
    let locks: [Lock; 2] = [|tx| tx.lock(LOCK).map(drop), |tx| tx.check(LOCK).map(drop)];
    for lock in locks {
        let db = MemoryDb::new();
        let mut runs = 0;
        let seen = db.transact(|tx| {
            runs += 1;
            lock(tx)?;
            if runs == 1 {
                interfere(&db);
            }
            Ok(runs)
        });
        assert_eq!(seen.unwrap(), 2);
    }
}

#[test]
fn a_transaction_that_only_checks_does_not_change_the_lock() {
    let db = MemoryDb::<u32>::new();
    let before = db.get_lock(LOCK).unwrap();
    db.transact(|tx| {
        tx.check(LOCK)?;
        tx.get_many(&[KEY, OTHER]).map(drop)
    })
    .unwrap();
    assert_eq!(db.get_lock(LOCK).unwrap().version(), before.version());
}

/// Runs a transaction whose body fails with `Backend("body")` on its first run, after `reads` and an
/// interfering commit between them. Returns the number of runs and the outcome.
fn fail_once(
    db: &(impl AtomicDb<Data = u32> + Clone),
    read: impl Fn(&mut dyn FnMut(usize) -> Result<()>) -> Result<()>,
) -> (u32, Result<()>) {
    let mut runs = 0;
    let outcome = db.transact(|tx| {
        runs += 1;
        tx.lock(LOCK)?;
        if runs > 1 {
            return Ok(());
        }
        read(&mut |reads| {
            for _ in 0..reads {
                tx.get(KEY)?;
            }
            Ok(())
        })?;
        Err(Error::Backend("body".into()))
    });
    (runs, outcome)
}

fn is_of_body(outcome: &Result<()>) -> bool {
    matches!(outcome, Err(Error::Backend(source)) if source.to_string() == "body")
}

#[test]
fn an_error_after_two_reads_under_a_changed_lock_runs_the_body_again() {
    let db = MemoryDb::new();
    let (runs, outcome) = fail_once(&db, |get| {
        get(1)?;
        interfere(&db);
        get(1)
    });
    assert_eq!((runs, outcome.is_ok()), (2, true));
}

#[test]
fn an_error_that_rests_on_one_point_in_time_is_returned_at_once() {
    let db = MemoryDb::new();
    for reads in [0, 1] {
        let (runs, outcome) = fail_once(&db, |get| {
            interfere(&db);
            get(reads)
        });
        assert_eq!((runs, is_of_body(&outcome)), (1, true), "{reads} reads");
    }
    // The locks are unchanged, so both reads saw one state.
    let (runs, outcome) = fail_once(&db, |get| get(2));
    assert_eq!((runs, is_of_body(&outcome)), (1, true));
}

#[test]
fn an_error_is_returned_at_once_after_a_failed_call_of_the_transaction() {
    let fails = AtomicBool::new(false);
    let fails: &'static AtomicBool = Box::leak(Box::new(fails));
    let db = HookedDb::new(MemoryDb::new(), move |call, moment| {
        match (call, moment, fails.load(Ordering::Relaxed)) {
            (Call::GetFresh, Moment::Before, true) => Err(Error::Unavailable("down".into())),
            _ => Ok(()),
        }
    });
    let mut runs = 0;
    let outcome: Result<()> = db.transact(|tx| {
        runs += 1;
        tx.lock(LOCK)?;
        tx.get(KEY)?;
        tx.get(OTHER)?;
        interfere(&db.inner);
        fails.store(true, Ordering::Relaxed);
        tx.get(KEY).map(drop)
    });
    assert!(matches!(outcome, Err(Error::Unavailable(_))));
    assert_eq!(runs, 1);
}

#[test]
fn an_error_is_returned_if_the_locks_cannot_be_read_again() {
    let db = HookedDb::new(MemoryDb::new(), |call, moment| match (call, moment) {
        (Call::GetLocks, Moment::Before) => Err(Error::Unavailable("down".into())),
        _ => Ok(()),
    });
    let (runs, outcome) = fail_once(&db, |get| {
        get(1)?;
        interfere(&db.inner);
        get(1)
    });
    assert_eq!((runs, is_of_body(&outcome)), (1, true));
}

#[test]
fn a_violated_invariant_is_never_reported_while_writers_preserve_it() {
    let db = MemoryDb::new();
    let account = |number: usize| format!("account#{number}");
    for number in 0..4 {
        db.set_one(Item::new(account(number), "balance", 25_u32))
            .unwrap();
    }
    let stop = AtomicBool::new(false);
    let audits = AtomicU32::new(0);
    run_concurrently(4, |number| {
        if number > 0 {
            while !stop.load(Ordering::Relaxed) {
                let (from, to) = (account(number), account((number + 1) % 4));
                db.transact(|tx| {
                    tx.lock(LOCK)?;
                    let paid = tx.get((&from, "balance"))?.and_then(Item::into_data);
                    let other = tx.get((&to, "balance"))?.and_then(Item::into_data);
                    let (paid, other) = (paid.unwrap_or(0), other.unwrap_or(0));
                    let moved = paid.min(1);
                    tx.set(Item::new(&from, "balance", paid - moved))?;
                    tx.set(Item::new(&to, "balance", other + moved))
                })
                .unwrap();
            }
            return;
        }
        for _ in 0..300 {
            let audit = db.transact(|tx| {
                tx.check(LOCK)?;
                let mut total = 0;
                for number in 0..4 {
                    let balance = tx.get((&account(number), "balance"))?;
                    total += balance.and_then(Item::into_data).unwrap_or(0);
                }
                if total == 100 {
                    Ok(())
                } else {
                    Err(Error::Backend(format!("the total is {total}").into()))
                }
            });
            audits.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = audit {
                stop.store(true, Ordering::Relaxed);
                panic!("a false error: {error:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(audits.into_inner(), 300);
}

#[test]
fn lock_all_returns_the_locks_in_order_and_reads_the_missing_ones_with_one_call() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&calls);
    let db = HookedDb::new(MemoryDb::<u32>::new(), move |call, moment| {
        if let Moment::Before = moment {
            recorded.lock().unwrap().push(call);
        }
        Ok(())
    });
    let [a, b, c] = ["a", "b", "c"].map(|sk| Key::new("locks", sk));
    db.transact(|tx| {
        let first = tx.lock(b)?;
        let locks = tx.lock_all(&[c, b, a, c])?;
        assert_eq!(
            locks.iter().map(|lock| lock.key()).collect::<Vec<_>>(),
            [c, b, a, c]
        );
        assert_eq!((&locks[1], &locks[0]), (&first, &locks[3]));
        assert_eq!(tx.check_all(&[a, b])?, [locks[2].clone(), first]);
        assert!(tx.lock_all::<Key<'_>>(&[])?.is_empty());
        tx.set(item(1))
    })
    .unwrap();
    assert_eq!(
        *calls.lock().unwrap(),
        [Call::GetLock, Call::GetLocks, Call::Commit]
    );
    // All of them were locked, so all have the new version.
    let versions = db.get_locks(&[a, b, c]).unwrap();
    assert!(
        versions
            .windows(2)
            .all(|two| two[0].version() == two[1].version())
    );
}

#[test]
fn get_many_sees_own_writes_and_reads_the_others_with_one_call() {
    let cache = LruCache::new(MemoryDb::new(), 10);
    cache.set(&[item(1), Item::at(OTHER, 2)]).unwrap();
    cache.get_many(&[KEY, OTHER]).unwrap();
    // The cache is stale now, and the transaction must not use it.
    cache.inner().set(&[Item::at(OTHER, 3)]).unwrap();
    let new = Key::new("account", "new");
    let gone = Key::new("account", "gone");
    cache.set_one(Item::at(gone, 9)).unwrap();
    cache
        .transact(|tx| {
            tx.lock(LOCK)?;
            tx.set(item(10))?;
            tx.create(Item::at(new, 11))?;
            tx.delete(gone)?;
            let found = tx.get_many(&[OTHER, KEY, gone, new, OTHER, Key::new("no", "")])?;
            let found: Vec<Option<u32>> = found
                .into_iter()
                .map(|item| item.and_then(Item::into_data))
                .collect();
            assert_eq!(found, [Some(3), Some(10), None, Some(11), Some(3), None]);
            Ok(())
        })
        .unwrap();
}

#[derive(Clone, Debug)]
enum Write {
    Set,
    Create,
    Delete,
}

proptest! {
    #![proptest_config(crate::reference_model::config())]

    #[test]
    fn queries_of_a_transaction_merge_its_own_writes(
        stored in proptest::collection::btree_set("[ab]{1,3}", 0..12),
        writes in proptest::collection::vec(
            ("[ab]{1,3}", prop_oneof![Just(Write::Set), Just(Write::Create), Just(Write::Delete)]),
            0..8,
        ),
        prefix in prop_oneof![3 => Just(String::new()), 1 => "[ab]{1,2}"],
        start in weighted(0.2, "[ab]{0,2}"),
        end in weighted(0.2, "[ab]{0,2}"),
        after in weighted(0.2, "[ab]{0,3}"),
        limit in weighted(0.7, 0..8_usize),
        reverse in any::<bool>(),
    ) {
        use std::ops::Bound;
        let db = MemoryDb::new();
        let mut model = BTreeMap::new();
        for sk in &stored {
            db.set_one(Item::new("p", sk, 0_u32)).unwrap();
            model.insert(sk.clone(), 0);
        }
        let bound = |sk: Option<String>| sk.map_or(Bound::Unbounded, Bound::Included);
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let mut query = Query::new("p").prefix(&prefix).range((bound(start), end));
        query.limit = limit;
        query.after = after;
        query.reverse = reverse;
        db.transact(|tx| {
            tx.lock(LOCK)?;
            for (number, (sk, write)) in (1..).zip(&writes) {
                let item = Item::new("p", sk, number);
                match write {
                    Write::Set => tx.set(item)?,
                    // Where an item exists, the commit would fail.
                    Write::Create if model.contains_key(sk) => continue,
                    Write::Create => tx.create(item)?,
                    Write::Delete => match tx.delete(("p", sk)) {
                        // An item that the transaction creates cannot be deleted by it.
                        Err(Error::InvalidInput(_)) => continue,
                        other => other?,
                    },
                }
                match write {
                    Write::Delete => model.remove(sk),
                    _ => model.insert(sk.clone(), number),
                };
            }
            let found: Vec<(String, u32)> = tx
                .query(&query)?
                .into_iter()
                .map(|item| (item.sk().to_owned(), *item.data().unwrap()))
                .collect();
            let mut expected: Vec<(String, u32)> = model
                .clone()
                .into_iter()
                .filter(|(sk, _)| query.matches(("p", sk)))
                .collect();
            if reverse {
                expected.reverse();
            }
            expected.truncate(limit.unwrap_or(usize::MAX));
            assert_eq!(found, expected);
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn update_counts_exactly_from_many_threads() {
    let db: Box<dyn AtomicDb<Data = u32> + Send + Sync> = Box::new(MemoryDb::new());
    run_concurrently(4, |_| {
        for _ in 0..250 {
            db.update(KEY, LOCK, |count| Some(count.copied().unwrap_or(0) + 1))
                .unwrap();
        }
    });
    assert_eq!(data(&db, KEY), Some(1_000));
}

#[test]
fn update_keeps_the_expiry_and_returns_the_item_that_it_leaves() {
    let clock = ManualClock::new(1_000);
    let db = MemoryDb::builder().clock(clock.clone()).build();
    db.set_one(item(1).expires_in(Duration::from_secs(60), &clock))
        .unwrap();
    let left = db.update(KEY, LOCK, |old| old.map(|old| old + 1)).unwrap();
    assert_eq!(left, Some(item(2).expires_at(1_060)));
    assert_eq!(db.get(KEY).unwrap(), left);
    clock.set(1_061);
    // The item has expired, so the next one is new.
    let left = db.update(KEY, LOCK, |old| {
        assert_eq!(old, None);
        Some(7)
    });
    assert_eq!(left.unwrap(), Some(item(7)));
}

#[test]
fn update_to_none_deletes_and_writes_nothing_if_nothing_was_stored() {
    let db = MemoryDb::new();
    let before = db.get_lock(LOCK).unwrap();
    assert_eq!(db.update(KEY, LOCK, |_| None).unwrap(), None);
    assert_eq!(
        db.get_lock(LOCK).unwrap(),
        before,
        "nothing had to be written"
    );
    db.set_one(item(1)).unwrap();
    assert_eq!(db.update(KEY, LOCK, |_| None).unwrap(), None);
    assert_eq!(data(&db, KEY), None);
    assert_ne!(db.get_lock(LOCK).unwrap(), before);
}

#[test]
fn update_with_one_key_for_item_and_lock_is_refused_before_anything_is_written() {
    let db = MemoryDb::<u32>::new();
    let outcome = db.update(KEY, KEY, |_| Some(1));
    assert!(matches!(outcome, Err(Error::InvalidInput(_))));
    assert!(db.create(item(1)).is_ok(), "a lock or an item was left");
}

#[test]
fn try_update_returns_the_error_of_its_closure_and_retries_after_a_conflict() {
    #[derive(Debug, PartialEq)]
    struct Overdrawn;
    impl From<Error> for Overdrawn {
        fn from(error: Error) -> Self {
            panic!("{error}")
        }
    }
    let db = MemoryDb::new();
    db.set_one(item(5)).unwrap();
    let pay = |amount: u32| {
        db.try_update(KEY, LOCK, |balance| {
            let rest = balance.copied().unwrap_or(0).checked_sub(amount);
            rest.map(Some).ok_or(Overdrawn)
        })
    };
    assert_eq!(pay(6), Err(Overdrawn));
    assert_eq!(pay(3).unwrap().and_then(Item::into_data), Some(2));

    let mut runs = 0;
    db.update(KEY, LOCK, |balance| {
        runs += 1;
        if runs <= 3 {
            interfere(&db);
        }
        balance.copied()
    })
    .unwrap();
    assert_eq!(runs, 4);
}

#[test]
fn the_pause_still_grows_after_many_attempts() {
    let clock = crate::common::RecordingClock::default();
    let retry = Retry::new()
        .attempts(80)
        .deadline(Duration::MAX)
        .backoff(Duration::from_nanos(1), Duration::from_secs(1))
        .clock(clock.clone());
    let db = MemoryDb::new();
    let outcome = db.transact_with(&retry, |tx| {
        tx.lock(LOCK)?;
        interfere(&db);
        tx.set(item(1))
    });
    assert!(matches!(
        outcome,
        Err(Error::RetriesExhausted { attempts: 80, .. })
    ));
    let late = clock.take_pauses().split_off(40);
    // By chance all of them are below a tenth of the ceiling once in 10^39 runs.
    assert!(
        late.iter().any(|pause| *pause > Duration::from_millis(100)),
        "{late:?}"
    );
}

#[test]
fn a_batch_collects_and_extends_by_items() {
    let db = MemoryDb::new();
    let mut batch: Batch<u32> = [item(1)].into_iter().collect();
    batch.extend([Item::at(OTHER, 2)]);
    db.commit(&batch).unwrap();
    assert_eq!((data(&db, KEY), data(&db, OTHER)), (Some(1), Some(2)));
}
