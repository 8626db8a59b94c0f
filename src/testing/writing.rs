//! Promises 8 to 13, and 18 and 19 for a single thread: what writes do.

use super::{Database, Fixture, found, held, item, key, number, read};
use crate::{AtomicDbExt, Batch, Clock, Error, Item, KeyBuf, Lock, Query, Version};

fn assert_lost<T: std::fmt::Debug>(outcome: crate::Result<T>, expected: &[&str]) {
    match outcome {
        Err(Error::RaceCondition { keys }) => {
            let keys: Vec<&str> = keys.iter().map(KeyBuf::sk).collect();
            assert_eq!(keys, expected, "other locks are named than those that lost");
        }
        other => panic!("a commit under a lock that was changed ended in {other:?}"),
    }
}

fn assert_invalid<T: std::fmt::Debug>(outcome: crate::Result<T>, what: &str) {
    match outcome {
        Err(Error::InvalidInput(text)) => assert!(!text.is_empty(), "{what}: no word of why"),
        other => panic!("{what} ended in {other:?}"),
    }
}

/// `set` replaces what is there; of a repeated key, the last one stands.
pub fn set_replaces_items_and_the_last_of_a_repeated_key_wins<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "a", 1)]).unwrap();
    db.set(&[item("pk", "a", 2), item("pk", "b", 1), item("pk", "a", 3)])
        .unwrap();
    assert_eq!(read(db, "pk", "a").as_deref(), Some("3"));
    assert_eq!(found(db, &Query::new("pk")), ["a", "b"]);
    db.set(&[Item::without_data("pk", "a")]).unwrap();
    let bare = db
        .get(key("pk", "a"))
        .unwrap()
        .expect("an item without data is there");
    assert_eq!(bare.data(), None);

    // More than a store takes at once, with repeats far apart.
    let items: Vec<Item<String>> = (0..130)
        .map(|number| item("many", &format!("{:03}", number % 100), number))
        .collect();
    db.set(&items).unwrap();
    assert_eq!(db.query(&Query::new("many")).unwrap().len(), 100);
    assert_eq!(read(db, "many", "029").as_deref(), Some("129"));
    assert_eq!(read(db, "many", "030").as_deref(), Some("30"));
}

/// `delete` removes what is there, item or lock, and nothing else; repeats and absent keys are fine.
pub fn delete_removes_items_and_locks<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[
        item("pk", "a", ""),
        item("pk", "b", ""),
        item("pk", "c", ""),
    ])
    .unwrap();
    let lock = db.get_lock(key("pk", "lock")).unwrap();
    let keys = ["a", "none", "c", "lock", "a"].map(|sk| key("pk", sk));
    db.delete(&keys).unwrap();
    assert_eq!(read(db, "pk", "a"), None);
    assert_eq!(found(db, &Query::new("pk")), ["b"]);
    assert_lost(db.commit(&Batch::new().lock(lock)), &["lock"]);
    db.delete(&[key("none", "none")]).unwrap();

    let sks: Vec<String> = (0..130).map(|number| format!("{number:03}")).collect();
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("many", sk, "")).collect();
    db.set(&items).unwrap();
    let keys: Vec<_> = sks.iter().skip(1).map(|sk| key("many", sk)).collect();
    db.delete(&keys).unwrap();
    assert_eq!(found(db, &Query::new("many")), ["000"]);
}

/// Empty input is a success that does nothing.
pub fn empty_input_succeeds_and_does_nothing<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[]).unwrap();
    db.delete(&[]).unwrap();
    db.set_atomic(&[], &[]).unwrap();
    db.commit(&Batch::new()).unwrap();
    assert_eq!(db.get_many(&[]).unwrap(), []);
    assert_eq!(found(db, &Query::new("pk")), [""; 0]);
    let lock = db.get_lock(key("pk", "lock")).unwrap();
    let version = db.set_atomic(&[], &[lock]).unwrap();
    assert_eq!(db.get_lock(key("pk", "lock")).unwrap().version(), version);
}

/// `set_atomic` with items and no lock is `InvalidInput`, and writes nothing.
pub fn set_atomic_with_items_and_no_lock_is_invalid<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    assert_invalid(
        db.set_atomic(&[item("pk", "a", "")], &[]),
        "set_atomic without a lock",
    );
    assert_eq!(read(db, "pk", "a"), None);
}

/// A batch without locks is written whole, and checks nothing but its creations.
pub fn a_batch_without_locks_is_all_or_nothing<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "old", ""), item("pk", "there", "")])
        .unwrap();
    let batch = Batch::new()
        .set(item("pk", "a", ""))
        .create(item("pk", "b", ""))
        .delete(("pk", "old"));
    db.commit(&batch).unwrap();
    assert_eq!(found(db, &Query::new("pk")), ["a", "b", "there"]);
    let batch = Batch::new()
        .set(item("pk", "c", ""))
        .create(item("pk", "there", "new"))
        .delete(("pk", "a"));
    assert!(matches!(
        db.commit(&batch),
        Err(Error::AlreadyExists { .. })
    ));
    assert_eq!(
        found(db, &Query::new("pk")),
        ["a", "b", "there"],
        "half a batch was written"
    );
}

/// A commit writes all that it was given, over several partitions, under one lock or several.
pub fn a_commit_writes_the_whole_batch<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let gone = db.get_lock(key("locks", "gone")).unwrap();
    db.set(&[item("p0", "old", ""), item("p1", "set", "old")])
        .unwrap();
    let mut batch = Batch::new()
        .lock(db.get_lock(key("locks", "a")).unwrap())
        .lock(db.get_lock(key("other", "b")).unwrap())
        .check(db.get_lock(key("locks", "c")).unwrap())
        .delete(("p0", "old"))
        .delete(("p0", "none"))
        .delete(("locks", "gone"));
    for number in 0..20 {
        let pk = format!("p{}", number % 7);
        batch = batch.create(item(&pk, &format!("{number}"), number));
    }
    db.commit(&batch.set(item("p1", "set", "new"))).unwrap();
    for number in 0..20 {
        let pk = format!("p{}", number % 7);
        assert_eq!(
            read(db, &pk, &format!("{number}")),
            Some(number.to_string())
        );
    }
    assert_eq!(read(db, "p0", "old"), None);
    assert_eq!(read(db, "p1", "set").as_deref(), Some("new"));
    assert_lost(db.commit(&Batch::new().lock(gone)), &["gone"]);

    let lock = db.get_lock(key("locks", "a")).unwrap();
    db.set_atomic(
        &[item("p1", "set", "newer"), item("p2", "set", "new")],
        &[lock],
    )
    .unwrap();
    assert_eq!(read(db, "p1", "set").as_deref(), Some("newer"));
    assert_eq!(read(db, "p2", "set").as_deref(), Some("new"));
}

/// A commit that loses writes nothing: no item, no deletion, no lock's version.
pub fn a_failed_commit_writes_nothing<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("p1", "there", "old"), item("p2", "there", "old")])
        .unwrap();
    let good = db.get_lock(key("locks", "good")).unwrap();
    let stale = db.get_lock(key("locks", "stale")).unwrap();
    db.set_atomic(&[], &[stale.clone()]).unwrap();
    type Lose = fn(Batch<String>, Lock) -> Batch<String>;
    let losing: [Lose; 3] = [
        |batch, stale| batch.lock(stale),
        |batch, stale| batch.check(stale),
        |batch, _| batch.create(item("p2", "there", "new")),
    ];
    for lose in losing {
        let batch = Batch::new()
            .lock(good.clone())
            .set(item("p1", "there", "new"))
            .set(item("p0", "new", "new"))
            .create(item("p3", "new", "new"))
            .delete(("p1", "none"));
        let outcome = db.commit(&lose(batch, stale.clone()));
        assert!(
            outcome.is_err(),
            "a commit that cannot succeed did: {outcome:?}"
        );
        assert_eq!(
            read(db, "p1", "there").as_deref(),
            Some("old"),
            "half a commit was written"
        );
        assert_eq!(
            read(db, "p2", "there").as_deref(),
            Some("old"),
            "half a commit was written"
        );
        assert_eq!(read(db, "p0", "new"), None, "half a commit was written");
        assert_eq!(
            found(db, &Query::new("p3")),
            [""; 0],
            "half a commit was written"
        );
        let lock = db.get_lock(key("locks", "good")).unwrap();
        assert_eq!(
            lock.version(),
            good.version(),
            "a commit that lost renewed a lock"
        );
    }
    let outcome = db.commit(&Batch::new().lock(stale).delete(("p1", "there")));
    assert_lost(outcome, &["stale"]);
    assert_eq!(
        read(db, "p1", "there").as_deref(),
        Some("old"),
        "half a commit was written"
    );
    db.set_atomic(&[item("p1", "there", "new")], &[good])
        .unwrap();
}

/// `RaceCondition` names exactly the locks that lost, in the order of the batch: locks, then checks.
pub fn a_race_condition_names_exactly_the_locks_that_changed<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let locks = ["a", "b", "c", "d", "e"].map(|sk| db.get_lock(key("locks", sk)).unwrap());
    let [a, b, c, d, e] = locks.clone();
    db.set_atomic(&[], &[b.clone()]).unwrap();
    db.delete(&[key("locks", "d")]).unwrap();
    let never = Lock::new(("locks", "never"), Version::from_u128(7), u64::MAX);
    let batch = Batch::new().lock(d).lock(a).lock(b).check(c).check(never);
    assert_lost(
        db.commit(&batch.set(item("pk", "a", ""))),
        &["d", "b", "never"],
    );
    let other_version = e.clone().with_version(Version::from_u128(7));
    assert_lost(
        db.set_atomic(&[item("pk", "a", "")], &[other_version]),
        &["e"],
    );
    db.set_atomic(&[item("pk", "a", "")], &[e]).unwrap();
    assert_lost(
        db.set_atomic(&[item("pk", "a", "")], &locks),
        &["b", "d", "e"],
    );
}

/// A commit gives all its locks one new version, which it returns, and leaves its checks alone.
pub fn a_commit_gives_its_locks_one_new_version_and_keeps_that_of_its_checks<D: Database>(
    fixture: &Fixture<D>,
) {
    let db = &*fixture.db;
    let [a, b, c] = ["a", "b", "c"].map(|sk| db.get_lock(key("locks", sk)).unwrap());
    let batch = Batch::new()
        .lock(a.clone())
        .lock(b.clone())
        .check(c.clone());
    let version = db.commit(&batch).unwrap();
    for old in [&a, &b, &c] {
        assert_ne!(version, old.version(), "a version was handed out twice");
    }
    let now = ["a", "b", "c"].map(|sk| db.get_lock(key("locks", sk)).unwrap().version());
    assert_eq!(now, [version, version, c.version()]);
    assert_ne!(a.version(), b.version(), "a version was handed out twice");
}

/// A lock as a commit left it, with the version that the commit returned, can be committed under.
pub fn a_renewed_lock_can_be_used_for_the_next_commit<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let mut lock = db.get_lock(key("pk", "lock")).unwrap();
    for turn in 0..5 {
        let version = db
            .set_atomic(&[item("pk", "a", turn)], &[lock.clone()])
            .unwrap();
        assert_lost(
            db.set_atomic(&[item("pk", "a", "stale")], &[lock.clone()]),
            &["lock"],
        );
        lock = lock.with_version(version);
        assert_eq!(db.get_lock(key("pk", "lock")).unwrap(), lock);
    }
    assert_eq!(read(db, "pk", "a").as_deref(), Some("4"));
}

/// A check demands that its lock is unchanged, and fails nobody.
pub fn a_check_requires_an_unchanged_lock<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lock = db.get_lock(key("pk", "lock")).unwrap();
    let checking = Batch::new()
        .check(lock.clone())
        .set(item("pk", "a", "checked"));
    db.commit(&checking).unwrap();
    db.commit(&checking).unwrap();
    db.set_atomic(&[item("pk", "a", "locked")], &[lock.clone()])
        .unwrap();
    assert_lost(db.commit(&checking), &["lock"]);
    assert_lost(db.commit(&Batch::new().check(lock)), &["lock"]);
    assert_eq!(read(db, "pk", "a").as_deref(), Some("locked"));
}

/// Of two commits that each check the lock that the other renews, at most one succeeds: what each
/// read under its check would not hold any more (no write skew).
pub fn checks_prevent_write_skew<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let [a, b] = ["a", "b"].map(|sk| db.get_lock(key("locks", sk)).unwrap());
    let first = Batch::new()
        .lock(a.clone())
        .check(b.clone())
        .set(item("pk", "1", ""));
    let second = Batch::new().lock(b).check(a).set(item("pk", "2", ""));
    db.commit(&first).unwrap();
    assert_lost(db.commit(&second), &["a"]);
    assert_eq!(found(db, &Query::new("pk")), ["1"]);
}

/// `create` demands that no live item is there; a lock there is replaced, as by any item.
pub fn create_requires_that_no_live_item_exists<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let creating = |data| db.commit(&Batch::new().create(item("pk", "a", data)));
    creating("first").unwrap();
    match creating("second") {
        Err(Error::AlreadyExists { key }) => assert_eq!(key, KeyBuf::new("pk", "a")),
        other => panic!("creating an item that is there ended in {other:?}"),
    }
    assert_eq!(read(db, "pk", "a").as_deref(), Some("first"));
    db.delete(&[key("pk", "a")]).unwrap();
    creating("third").unwrap();
    assert_eq!(read(db, "pk", "a").as_deref(), Some("third"));

    let lock = db.get_lock(key("pk", "lock")).unwrap();
    db.commit(&Batch::new().create(item("pk", "lock", "")))
        .unwrap();
    assert_eq!(read(db, "pk", "lock").as_deref(), Some(""));
    assert_lost(db.commit(&Batch::new().lock(lock)), &["lock"]);
}

/// Where a lock has lost and an item exists, the race is told: what was read no longer holds.
pub fn a_race_condition_is_reported_before_an_existing_item<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lock = db.get_lock(key("locks", "a")).unwrap();
    let batch = Batch::new().create(item("pk", "a", "")).lock(lock.clone());
    db.set_atomic(&[item("pk", "a", "")], &[lock]).unwrap();
    assert_lost(db.commit(&batch), &["a"]);
}

/// A key appears at most once in a batch, in whatever way: otherwise `InvalidInput`, and nothing
/// was written.
pub fn a_key_appears_at_most_once_in_a_batch<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lock = db.get_lock(key("pk", "a")).unwrap();
    let ways: [&dyn Fn(Batch<String>) -> Batch<String>; 5] = [
        &|batch| batch.lock(lock.clone()),
        &|batch| batch.check(lock.clone()),
        &|batch| batch.set(item("pk", "a", "")),
        &|batch| batch.create(item("pk", "a", "")),
        &|batch| batch.delete(("pk", "a")),
    ];
    for (first, one) in ways.iter().enumerate() {
        for (second, other) in ways.iter().enumerate() {
            // With other keys between, and with enough of them for any way of looking.
            for padding in [0, 1, 20] {
                let mut batch = one(Batch::new());
                for number in 0..padding {
                    batch = batch.set(item("padding", &format!("{number}"), ""));
                }
                let what = format!("a batch with one key as kinds {first} and {second}");
                assert_invalid(db.commit(&other(batch)), &what);
            }
        }
    }
    let twice = [item("pk", "b", 1), item("pk", "b", 2)];
    assert_invalid(
        db.set_atomic(&twice, &[lock.clone()]),
        "set_atomic of one key twice",
    );
    let locked = [item("pk", "a", 1)];
    assert_invalid(
        db.set_atomic(&locked, &[lock.clone()]),
        "set_atomic of a lock's key",
    );
    let locks = [lock.clone(), lock.clone()];
    assert_invalid(
        db.set_atomic(&[item("pk", "b", 1)], &locks),
        "set_atomic under a lock twice",
    );
    assert_eq!(found(db, &Query::new("pk")), [""; 0]);
    assert_eq!(found(db, &Query::new("padding")), [""; 0]);
    assert_eq!(db.get_lock(key("pk", "a")).unwrap(), lock);
}

/// A read that starts after a write has finished sees it, whichever way it was written, and also
/// what was at hand in a cache before.
pub fn reads_see_every_completed_write<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let is = |expected: Option<&str>| {
        // Twice: a cache answers the second time.
        for _ in 0..2 {
            assert_eq!(read(db, "pk", "a").as_deref(), expected);
        }
    };
    is(None);
    db.set(&[item("pk", "a", "set")]).unwrap();
    is(Some("set"));
    let lock = db.get_lock(key("pk", "lock")).unwrap();
    let version = db
        .set_atomic(&[item("pk", "a", "set_atomic")], &[lock.clone()])
        .unwrap();
    is(Some("set_atomic"));
    let batch = Batch::new().lock(lock.with_version(version));
    db.commit(&batch.set(item("pk", "a", "committed"))).unwrap();
    is(Some("committed"));
    db.commit(&Batch::new().delete(("pk", "a"))).unwrap();
    is(None);
    db.commit(&Batch::new().create(item("pk", "a", "created")))
        .unwrap();
    is(Some("created"));
    db.delete(&[key("pk", "a")]).unwrap();
    is(None);

    // A shorter life than the one that was at hand.
    let now = clock.epoch_seconds();
    db.set(&[item("pk", "a", "long").expires_at(now + 100)])
        .unwrap();
    is(Some("long"));
    db.set(&[item("pk", "a", "short").expires_at(now + 1)])
        .unwrap();
    is(Some("short"));
    clock.set(now + 2);
    is(None);
}

/// What a commit that lost would have written is not seen by later reads.
pub fn reads_never_return_the_items_of_a_failed_commit<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lock = db.get_lock(key("pk", "lock")).unwrap();
    let stale = lock.clone();
    db.set_atomic(&[item("pk", "a", "won")], &[lock]).unwrap();
    let losing = [
        Batch::new()
            .lock(stale.clone())
            .set(item("pk", "a", "lost")),
        Batch::new().create(item("pk", "a", "lost")),
        Batch::new().check(stale).delete(("pk", "a")),
    ];
    for batch in losing.iter().cycle().take(9) {
        assert_eq!(read(db, "pk", "a").as_deref(), Some("won"));
        let outcome = db.commit(batch);
        assert!(
            outcome.is_err(),
            "a commit that cannot succeed did: {outcome:?}"
        );
        let there = db.get(key("pk", "a")).unwrap();
        assert_eq!(
            held(there).as_deref(),
            Some("won"),
            "{batch:?} lost and is seen"
        );
    }
}

/// A transaction reads under its locks, computes and commits; one that fails writes nothing.
pub fn transactions_read_fresh_data_and_commit_all_or_nothing<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for turn in 1..=3 {
        let count = db
            .transact(|tx| {
                tx.lock(("pk", "lock"))?;
                let count = number(tx.get(("pk", "count"))?) + 1;
                tx.set(item("pk", "count", count))?;
                tx.create(item("log", &count.to_string(), ""))?;
                Ok(count)
            })
            .unwrap();
        assert_eq!(count, turn);
    }
    let failed = db.transact(|tx| {
        tx.lock(("pk", "lock"))?;
        tx.set(item("pk", "count", 99))?;
        tx.delete(("log", "1"))?;
        Err::<(), Error>(Error::InvalidInput("the body's own".into()))
    });
    assert_invalid(failed, "a body that failed");
    assert_eq!(read(db, "pk", "count").as_deref(), Some("3"));
    assert_eq!(found(db, &Query::new("log")), ["1", "2", "3"]);
}
