//! Guarantees 9 to 14 on a single thread, and failed commits as later reads see them (guarantees 11
//! and 20).

use super::fixture::{Database, Fixture};
use super::support::{
    Must, assert_data, assert_invalid, assert_race, data, found, item, key, number,
};
use crate::{AtomicDbExt, Batch, Error, Item, KeyBuf, Lock, Query, Version};

/// Guarantee 9: `set` checks nothing and replaces items. For a repeated key the last one wins.
pub fn set_replaces_items_and_the_last_of_a_repeated_key_wins<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "a", 1)]).must("set");
    db.set(&[item("pk", "a", 2), item("pk", "b", 1), item("pk", "a", 3)])
        .must("set");
    assert_data(db, ("pk", "a"), Some("3"), "after set of 2 and then 3");
    assert_eq!(found(db, &Query::new("pk")), ["a", "b"], "after a set");
    db.set(&[Item::without_data("pk", "a")]).must("set");
    let bare = db
        .get(key("pk", "a"))
        .must("get")
        .expect("get returns an item that was replaced by one without data");
    assert_eq!(bare.data(), None, "set left the data of the replaced item");

    // More items than a backend writes with one request; the repeats are far apart.
    let items: Vec<Item<String>> = (0..130)
        .map(|number| item("many", &format!("{:03}", number % 100), number))
        .collect();
    db.set(&items).must("set");
    let queried = db.query(&Query::new("many")).must("query").len();
    assert_eq!(queried, 100, "the number of items after set of 100 keys");
    assert_data(db, ("many", "029"), Some("129"), "after set of 29 and 129");
    assert_data(db, ("many", "030"), Some("30"), "after set of 30");
}

/// Guarantee 9: `delete` removes whatever is stored at its keys, item or lock, and nothing else.
/// Repeated keys and keys where nothing is stored are allowed.
pub fn delete_removes_items_and_locks<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[
        item("pk", "a", ""),
        item("pk", "b", ""),
        item("pk", "c", ""),
    ])
    .must("set");
    let lock = db.get_lock(key("pk", "lock")).must("get_lock");
    let keys = ["a", "none", "c", "lock", "a"].map(|sk| key("pk", sk));
    db.delete(&keys).must("delete");
    assert_data(db, ("pk", "a"), None, "after delete");
    assert_eq!(
        found(db, &Query::new("pk")),
        ["b"],
        "after delete of others"
    );
    assert_race(db.commit(&Batch::new().lock(lock)), &[("pk", "lock")]);
    db.delete(&[key("none", "none")]).must("delete");

    let sks: Vec<String> = (0..130).map(|number| format!("{number:03}")).collect();
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("many", sk, "")).collect();
    db.set(&items).must("set");
    let keys: Vec<_> = sks.iter().skip(1).map(|sk| key("many", sk)).collect();
    db.delete(&keys).must("delete");
    assert_eq!(
        found(db, &Query::new("many")),
        ["000"],
        "after delete of 129 of 130 items"
    );
}

/// Guarantee 10: empty input succeeds and does nothing.
pub fn empty_input_succeeds_and_does_nothing<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[]).expect("set of no items");
    db.delete(&[]).expect("delete of no keys");
    db.set_atomic(&[], &[])
        .expect("set_atomic of no items under no locks");
    db.commit(&Batch::new()).expect("an empty commit");
    assert_eq!(db.get_many(&[]).must("get_many"), [], "get_many of no keys");
    assert_eq!(
        found(db, &Query::new("pk")),
        [""; 0],
        "after calls without keys or items"
    );
    let lock = db.get_lock(key("pk", "lock")).must("get_lock");
    let version = db
        .set_atomic(&[], &[lock])
        .expect("set_atomic of no items under a lock");
    assert_eq!(
        db.get_lock(key("pk", "lock")).must("get_lock").version(),
        version,
        "the lock has another version than set_atomic returned"
    );
}

/// Guarantees 10 and 24: `set_atomic` with items and no lock is `InvalidInput`. Nothing is written.
pub fn set_atomic_with_items_and_no_lock_is_invalid<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    assert_invalid(
        db.set_atomic(&[item("pk", "a", "")], &[]),
        "set_atomic with an item and no lock",
    );
    assert_data(db, ("pk", "a"), None, "after an invalid set_atomic");
}

/// Guarantees 10 and 11: a batch without locks is all or nothing. It checks only that the items that
/// it creates do not exist.
pub fn a_batch_without_locks_is_all_or_nothing<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "old", ""), item("pk", "existing", "")])
        .must("set");
    let batch = Batch::new()
        .set(item("pk", "a", ""))
        .create(item("pk", "b", ""))
        .delete(("pk", "old"));
    db.commit(&batch).must("commit");
    assert_eq!(
        found(db, &Query::new("pk")),
        ["a", "b", "existing"],
        "after the commits"
    );
    let batch = Batch::new()
        .set(item("pk", "c", ""))
        .create(item("pk", "existing", "new"))
        .delete(("pk", "a"));
    let outcome = db.commit(&batch);
    assert!(
        matches!(outcome, Err(Error::AlreadyExists { .. })),
        "creating an existing item returned {outcome:?}"
    );
    assert_eq!(
        found(db, &Query::new("pk")),
        ["a", "b", "existing"],
        "a part of a failed commit was written"
    );
}

/// Guarantee 11: a commit writes its whole batch, over several partitions, under one lock or
/// several.
pub fn a_commit_writes_the_whole_batch<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let deleted = db.get_lock(key("locks", "deleted")).must("get_lock");
    db.set(&[item("p0", "old", ""), item("p1", "set", "old")])
        .must("set");
    let mut batch = Batch::new()
        .lock(db.get_lock(key("locks", "a")).must("get_lock"))
        .lock(db.get_lock(key("other", "b")).must("get_lock"))
        .check(db.get_lock(key("locks", "c")).must("get_lock"))
        .delete(("p0", "old"))
        .delete(("p0", "none"))
        .delete(("locks", "deleted"));
    for number in 0..20 {
        let pk = format!("p{}", number % 7);
        batch = batch.create(item(&pk, &format!("{number}"), number));
    }
    db.commit(&batch.set(item("p1", "set", "new")))
        .must("commit");
    for number in 0..20 {
        let (pk, sk) = (format!("p{}", number % 7), number.to_string());
        assert_data(db, (&pk, &sk), Some(&sk), "after a commit that creates it");
    }
    assert_data(db, ("p0", "old"), None, "after a commit that deletes it");
    assert_data(
        db,
        ("p1", "set"),
        Some("new"),
        "after a commit that sets it",
    );
    assert_race(
        db.commit(&Batch::new().lock(deleted)),
        &[("locks", "deleted")],
    );

    let lock = db.get_lock(key("locks", "a")).must("get_lock");
    db.set_atomic(
        &[item("p1", "set", "newer"), item("p2", "set", "new")],
        &[lock],
    )
    .must("set_atomic");
    assert_data(db, ("p1", "set"), Some("newer"), "after set_atomic");
    assert_data(db, ("p2", "set"), Some("new"), "after set_atomic");
}

/// Guarantee 11: a commit that fails writes nothing: no item, no deletion, no version of a lock.
pub fn a_failed_commit_writes_nothing<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("p1", "existing", "old"), item("p2", "existing", "old")])
        .must("set");
    let unchanged = db.get_lock(key("locks", "unchanged")).must("get_lock");
    let stale = db.get_lock(key("locks", "stale")).must("get_lock");
    db.set_atomic(&[], &[stale.clone()]).must("set_atomic");
    type Failure = fn(Batch<String>, Lock) -> Batch<String>;
    let failures: [Failure; 3] = [
        |batch, stale| batch.lock(stale),
        |batch, stale| batch.check(stale),
        |batch, _| batch.create(item("p2", "existing", "new")),
    ];
    for add_failure in failures {
        let batch = Batch::new()
            .lock(unchanged.clone())
            .set(item("p1", "existing", "new"))
            .set(item("p0", "new", "new"))
            .create(item("p3", "new", "new"))
            .delete(("p1", "none"));
        let outcome = db.commit(&add_failure(batch, stale.clone()));
        assert!(
            outcome.is_err(),
            "a commit that must fail returned {outcome:?}"
        );
        let when = "after a failed commit";
        assert_data(db, ("p1", "existing"), Some("old"), when);
        assert_data(db, ("p2", "existing"), Some("old"), when);
        assert_data(db, ("p0", "new"), None, when);
        assert_eq!(found(db, &Query::new("p3")), [""; 0], "{when}");
        let lock = db.get_lock(key("locks", "unchanged")).must("get_lock");
        assert_eq!(
            lock.version(),
            unchanged.version(),
            "a failed commit changed the version of a lock"
        );
    }
    let outcome = db.commit(&Batch::new().lock(stale).delete(("p1", "existing")));
    assert_race(outcome, &[("locks", "stale")]);
    let when = "after a failed commit that deletes it";
    assert_data(db, ("p1", "existing"), Some("old"), when);
    db.set_atomic(&[item("p1", "existing", "new")], &[unchanged])
        .expect("a commit under a lock that failed commits have left unchanged");
}

/// Guarantees 11 and 20: later reads never return what a failed commit would have written.
pub fn reads_never_return_the_items_of_a_failed_commit<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lock = db.get_lock(key("pk", "lock")).must("get_lock");
    let stale = lock.clone();
    db.set_atomic(&[item("pk", "a", "committed")], &[lock])
        .must("set_atomic");
    let batches = [
        Batch::new()
            .lock(stale.clone())
            .set(item("pk", "a", "failed")),
        Batch::new().create(item("pk", "a", "failed")),
        Batch::new().check(stale).delete(("pk", "a")),
    ];
    for batch in batches.iter().cycle().take(9) {
        let before = "before a commit that fails";
        assert_data(db, ("pk", "a"), Some("committed"), before);
        let outcome = db.commit(batch);
        assert!(
            outcome.is_err(),
            "a commit that must fail returned {outcome:?}"
        );
        // A single `get`, because another read could repair a cache.
        let read = db.get(key("pk", "a")).must("get");
        assert_eq!(
            data(read).as_deref(),
            Some("committed"),
            "get after the commit of {batch:?} failed"
        );
    }
}

/// Guarantee 11: `create` requires that no live item exists at its key. It replaces a lock there
/// (guarantee 4).
pub fn create_requires_that_no_live_item_exists<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let create = |data| db.commit(&Batch::new().create(item("pk", "a", data)));
    create("first").must("create");
    match create("second") {
        Err(Error::AlreadyExists { key }) => {
            assert_eq!(key, KeyBuf::new("pk", "a"), "the error names another key");
        }
        other => panic!("creating an existing item returned {other:?}"),
    }
    assert_data(db, ("pk", "a"), Some("first"), "after a failed create");
    db.delete(&[key("pk", "a")]).must("delete");
    create("third").must("create");
    assert_data(db, ("pk", "a"), Some("third"), "after delete and create");

    let lock = db.get_lock(key("pk", "lock")).must("get_lock");
    db.commit(&Batch::new().create(item("pk", "lock", "")))
        .expect("an item can be created in place of a lock");
    assert_data(db, ("pk", "lock"), Some(""), "created in place of a lock");
    assert_race(db.commit(&Batch::new().lock(lock)), &[("pk", "lock")]);
}

/// Guarantees 8 and 11: a transaction reads under its locks, sees every completed write, and commits
/// all or nothing. A transaction whose body fails writes nothing.
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
            .must("transact");
        assert_eq!(count, turn, "transaction {turn} read an older value");
    }
    let failed = db.transact(|tx| {
        tx.lock(("pk", "lock"))?;
        tx.set(item("pk", "count", 99))?;
        tx.delete(("log", "1"))?;
        Err::<(), Error>(Error::InvalidInput("the body's own".into()))
    });
    assert_invalid(failed, "a body that fails with InvalidInput");
    let when = "after a transaction whose body failed";
    assert_data(db, ("pk", "count"), Some("3"), when);
    assert_eq!(found(db, &Query::new("log")), ["1", "2", "3"], "{when}");
}

/// Guarantee 12: `RaceCondition` names exactly the locks that changed, in the order of the batch:
/// its locks, then its checks.
pub fn a_race_condition_names_exactly_the_locks_that_changed<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let locks = ["a", "b", "c", "d", "e"].map(|sk| db.get_lock(key("locks", sk)).must("get_lock"));
    let [a, b, c, d, e] = locks.clone();
    db.set_atomic(&[], &[b.clone()]).must("set_atomic");
    db.delete(&[key("locks", "d")]).must("delete");
    let never_stored = Lock::new(("locks", "never"), Version::from_u128(7), u64::MAX);
    let batch = Batch::new()
        .lock(d)
        .lock(a)
        .lock(b)
        .check(c)
        .check(never_stored);
    assert_race(
        db.commit(&batch.set(item("pk", "a", ""))),
        &[("locks", "d"), ("locks", "b"), ("locks", "never")],
    );
    let other_version = e.clone().with_version(Version::from_u128(7));
    assert_race(
        db.set_atomic(&[item("pk", "a", "")], &[other_version]),
        &[("locks", "e")],
    );
    db.set_atomic(&[item("pk", "a", "")], &[e])
        .must("set_atomic");
    assert_race(
        db.set_atomic(&[item("pk", "a", "")], &locks),
        &[("locks", "b"), ("locks", "d"), ("locks", "e")],
    );
}

/// Guarantee 12: every lock of a commit gets one new version, which is returned. Its checks keep
/// theirs.
pub fn a_commit_gives_its_locks_one_new_version_and_keeps_that_of_its_checks<D: Database>(
    fixture: &Fixture<D>,
) {
    let db = &*fixture.db;
    let [a, b, c] = ["a", "b", "c"].map(|sk| db.get_lock(key("locks", sk)).must("get_lock"));
    let batch = Batch::new()
        .lock(a.clone())
        .lock(b.clone())
        .check(c.clone());
    let version = db.commit(&batch).must("commit");
    for old in [&a, &b, &c] {
        assert_ne!(version, old.version(), "a version was used twice");
    }
    let now = ["a", "b", "c"].map(|sk| db.get_lock(key("locks", sk)).must("get_lock").version());
    assert_eq!(
        now,
        [version, version, c.version()],
        "the versions of two locks and a check after their commit"
    );
    assert_ne!(a.version(), b.version(), "a version was used twice");
}

/// Guarantee 12: a lock with the version that a commit returned can be used for the next commit,
/// without another read.
pub fn a_renewed_lock_can_be_used_for_the_next_commit<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let mut lock = db.get_lock(key("pk", "lock")).must("get_lock");
    for turn in 0..5 {
        let version = db
            .set_atomic(&[item("pk", "a", turn)], &[lock.clone()])
            .expect("a commit under the version that the previous one returned");
        assert_race(
            db.set_atomic(&[item("pk", "a", "stale")], &[lock.clone()]),
            &[("pk", "lock")],
        );
        lock = lock.with_version(version);
        assert_eq!(
            db.get_lock(key("pk", "lock")).must("get_lock"),
            lock,
            "get_lock differs from the lock with the version that the commit returned"
        );
    }
    assert_data(db, ("pk", "a"), Some("4"), "after the last commit");
}

/// Guarantees 12 and 13: a check requires an unchanged lock. Commits that check the same version do
/// not conflict.
pub fn a_check_requires_an_unchanged_lock<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lock = db.get_lock(key("pk", "lock")).must("get_lock");
    let checking = Batch::new()
        .check(lock.clone())
        .set(item("pk", "a", "checked"));
    db.commit(&checking).expect("the first commit with a check");
    db.commit(&checking)
        .expect("the second commit with the same check");
    db.set_atomic(&[item("pk", "a", "locked")], &[lock.clone()])
        .expect("a commit under a lock that others have checked");
    assert_race(db.commit(&checking), &[("pk", "lock")]);
    assert_race(db.commit(&Batch::new().check(lock)), &[("pk", "lock")]);
    let when = "after a commit with a stale check";
    assert_data(db, ("pk", "a"), Some("locked"), when);
}

/// Guarantee 12: of two commits that each check the lock that the other one renews, at most one
/// succeeds. This prevents write skew.
pub fn checks_prevent_write_skew<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let [a, b] = ["a", "b"].map(|sk| db.get_lock(key("locks", sk)).must("get_lock"));
    let first = Batch::new()
        .lock(a.clone())
        .check(b.clone())
        .set(item("pk", "1", ""));
    let second = Batch::new().lock(b).check(a).set(item("pk", "2", ""));
    db.commit(&first).must("commit");
    assert_race(db.commit(&second), &[("locks", "a")]);
    assert_eq!(
        found(db, &Query::new("pk")),
        ["1"],
        "after one of two commits failed"
    );
}

/// Guarantee 12: where a lock changed and an item to be created exists, the error is
/// `RaceCondition`.
pub fn a_race_condition_is_reported_before_an_existing_item<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lock = db.get_lock(key("locks", "a")).must("get_lock");
    let batch = Batch::new().create(item("pk", "a", "")).lock(lock.clone());
    db.set_atomic(&[item("pk", "a", "")], &[lock])
        .must("set_atomic");
    assert_race(db.commit(&batch), &[("locks", "a")]);
}

/// Guarantees 14 and 24: a key appears at most once in a batch, and a lock's key is not an item's
/// key in it. Otherwise the commit is `InvalidInput`, and nothing is written.
pub fn a_key_appears_at_most_once_in_a_batch<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lock = db.get_lock(key("pk", "a")).must("get_lock");
    type Add<'a> = &'a dyn Fn(Batch<String>) -> Batch<String>;
    let additions: [(&str, Add<'_>); 5] = [
        ("lock", &|batch| batch.lock(lock.clone())),
        ("check", &|batch| batch.check(lock.clone())),
        ("set", &|batch| batch.set(item("pk", "a", ""))),
        ("create", &|batch| batch.create(item("pk", "a", ""))),
        ("delete", &|batch| batch.delete(("pk", "a"))),
    ];
    for (first, add_first) in additions {
        for (second, add_second) in additions {
            // Other keys stand between the two: few, and more than a linear search is used for.
            for padding in [0, 1, 20] {
                let mut batch = add_first(Batch::new());
                for number in 0..padding {
                    batch = batch.set(item("padding", &format!("{number}"), ""));
                }
                let what = format!("a commit of one key as {first} and as {second}");
                assert_invalid(db.commit(&add_second(batch)), &what);
            }
        }
    }
    let repeated = [item("pk", "b", 1), item("pk", "b", 2)];
    assert_invalid(
        db.set_atomic(&repeated, &[lock.clone()]),
        "set_atomic of two items with one key",
    );
    let at_the_lock = [item("pk", "a", 1)];
    assert_invalid(
        db.set_atomic(&at_the_lock, &[lock.clone()]),
        "set_atomic of an item with the key of its lock",
    );
    let locks = [lock.clone(), lock.clone()];
    assert_invalid(
        db.set_atomic(&[item("pk", "b", 1)], &locks),
        "set_atomic under two locks with one key",
    );
    let when = "after invalid commits";
    assert_eq!(found(db, &Query::new("pk")), [""; 0], "{when}");
    assert_eq!(found(db, &Query::new("padding")), [""; 0], "{when}");
    assert_eq!(db.get_lock(key("pk", "a")).must("get_lock"), lock, "{when}");
}
