//! Guarantees 1 to 4 and 8, on a single thread.

use super::fixture::{Database, Fixture};
use super::support::{
    Must, assert_data, assert_invalid, assert_race, data, found, item, key, read,
};
use crate::{Batch, Clock, Error, Item, Key, Query, Result};

/// Guarantee 1: keys are pairs, never joined. Two keys that are the same text when they are joined
/// with a separator are different keys.
pub fn keys_are_pairs_and_are_never_joined<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for separator in ["", ":", "/", "#", "|", "-", ".", ",", "\u{1}", "\u{1f}"] {
        let joined = format!("b{separator}c");
        let left = format!("a{separator}b");
        let when = format!("after writing two keys that {separator:?} joins to one text");
        db.set(&[item("a", &joined, "right"), item(&left, "c", "left")])
            .must("set");
        assert_data(db, ("a", &joined), Some("right"), &when);
        assert_data(db, (&left, "c"), Some("left"), &when);
        assert_eq!(found(db, &Query::new(left.as_str())), ["c"], "{when}");
        db.delete(&[key(&left, "c")]).must("delete");
        assert_data(db, ("a", &joined), Some("right"), &when);
    }
}

/// Guarantees 1, 23 and 24: odd keys are ordinary, or refused with `InvalidInput` or
/// `LimitExceeded` before anything is written. No call panics.
pub fn odd_keys_are_ordinary_or_refused_before_anything_is_written<D: Database>(
    fixture: &Fixture<D>,
) {
    let db = &*fixture.db;
    let long = "k".repeat(3_000);
    let odd = [
        "",
        " ",
        "\0",
        "a\0b",
        "/",
        "#",
        "..",
        "%",
        "\"",
        "'",
        "\\",
        "\n",
        "\u{7f}",
        "é",
        "e\u{301}",
        "日本語",
        "🦀",
        "\u{fffd}",
        "\u{10ffff}",
        &long,
    ];
    let pairs = odd
        .iter()
        .flat_map(|odd| [("pk", *odd), (*odd, "sk"), (*odd, *odd)]);
    for (pk, sk) in pairs {
        let key = Key::new(pk, sk);
        match db.set(&[item(pk, sk, "odd")]) {
            Ok(()) => {
                assert_data(db, (pk, sk), Some("odd"), "after set");
                let queried = found(db, &Query::new(pk));
                assert!(
                    queried.iter().any(|other| other == sk),
                    "{key} is missing from a query of its partition: {queried:?}"
                );
                db.delete(&[key]).must("delete");
                assert_data(db, (pk, sk), None, "after delete");
                let lock = db.get_lock(key).must("get_lock");
                assert_eq!(lock.key(), key, "get_lock returned a lock of another key");
                db.commit(&Batch::new().lock(lock)).must("commit");
            }
            Err(Error::InvalidInput(_) | Error::LimitExceeded { .. }) => {
                let batch = Batch::new()
                    .set(item("whole", "batch", ""))
                    .set(item(pk, sk, ""));
                assert_refused(db.commit(&batch).map(drop), key);
                assert_refused(db.set(&[item("whole", "set", ""), item(pk, sk, "")]), key);
                assert_refused(db.get_lock(key).map(drop), key);
                assert_eq!(
                    found(db, &Query::new("whole")),
                    [""; 0],
                    "{key} was refused after another item had been written"
                );
            }
            Err(error) => panic!("{key} is refused with {error:?}"),
        }
    }
}

fn assert_refused(outcome: Result<()>, key: Key<'_>) {
    let refused = matches!(
        outcome,
        Err(Error::InvalidInput(_) | Error::LimitExceeded { .. })
    );
    assert!(
        refused,
        "{key} is refused by `set` and not by every other call: {outcome:?}"
    );
}

/// Guarantee 2: `get_many` and `get_many_fresh` return results in the order asked, repeats included,
/// and `None` where there is no item.
pub fn get_many_returns_results_in_the_order_asked<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[
        item("a", "1", "a1"),
        item("b", "1", "b1"),
        item("a", "2", "a2"),
    ])
    .must("set");
    let keys = [
        ("b", "1"),
        ("a", "2"),
        ("a", "none"),
        ("a", "1"),
        ("b", "1"),
        ("none", "1"),
        ("b", "1"),
    ];
    // The second call may be answered from a cache.
    for call in ["get_many", "get_many", "get_many_fresh"] {
        let keys = keys.map(Key::from);
        let results = if call == "get_many" {
            db.get_many(&keys)
        } else {
            db.get_many_fresh(&keys)
        };
        let results = results.unwrap_or_else(|error| panic!("{call} failed: {error}"));
        let results: Vec<Option<String>> = results.into_iter().map(data).collect();
        let expected = [
            Some("b1"),
            Some("a2"),
            None,
            Some("a1"),
            Some("b1"),
            None,
            Some("b1"),
        ];
        let expected = expected.map(|data| data.map(str::to_owned));
        assert_eq!(results, expected, "get_many of {keys:?}");
    }
}

/// Guarantee 2: `get_many` accepts any number of keys, even more than the backend reads with one
/// request.
pub fn get_many_accepts_any_number_of_keys<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let sks: Vec<String> = (0..250).map(|number| format!("{number:03}")).collect();
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, sk)).collect();
    db.set(&items).must("set");
    let mut keys: Vec<Key<'_>> = sks.iter().rev().map(|sk| key("pk", sk)).collect();
    keys.insert(100, key("pk", "none"));
    keys.push(keys[7]);
    for keys in [&keys[..], &keys[..1]] {
        let results = db.get_many(keys).must("get_many");
        assert_eq!(results.len(), keys.len(), "the number of results");
        for (position, (result, key)) in results.into_iter().zip(keys).enumerate() {
            let expected = (key.sk != "none").then(|| key.sk.to_owned());
            assert_eq!(
                data(result),
                expected,
                "result {position} of get_many, for {key}"
            );
        }
    }
}

/// Guarantee 3: an expired item (`now > ttl`) is not visible to `get`, `get_fresh` and `get_many`.
/// Until then it is.
pub fn point_reads_return_an_item_until_its_ttl_has_passed<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let now = clock.epoch_seconds();
    db.set(&[
        item("pk", "ten", "").expires_at(now + 10),
        item("pk", "now", "").expires_at(now),
        item("pk", "past", "").expires_at(now - 1),
        item("pk", "epoch", "").expires_at(0),
        item("pk", "without", ""),
        item("pk", "max", "").expires_at(u64::MAX),
    ])
    .must("set");
    let assert_visible = |sks: &[&str], visible: bool| {
        for sk in sks {
            let passed = clock.epoch_seconds() - now;
            let when = format!("{passed} s after it was written");
            assert_data(db, ("pk", sk), visible.then_some(""), &when);
        }
    };
    assert_visible(&["now", "ten", "without", "max"], true);
    assert_visible(&["past", "epoch"], false);
    clock.set(now + 1);
    assert_visible(&["now"], false);
    clock.set(now + 10);
    assert_visible(&["ten"], true);
    clock.set(now + 11);
    assert_visible(&["ten"], false);
    assert_visible(&["without", "max"], true);

    // A new ttl replaces the old one.
    db.set(&[item("pk", "again", "").expires_at(now + 20)])
        .must("set");
    assert_visible(&["again"], true);
    db.set(&[item("pk", "again", "").expires_at(now + 40)])
        .must("set");
    clock.set(now + 21);
    assert_data(db, ("pk", "again"), Some(""), "after its previous ttl");
    db.set(&[item("pk", "again", "")]).must("set");
    clock.set(now + 41);
    assert_data(db, ("pk", "again"), Some(""), "after its previous ttl");
}

/// Guarantee 3: an expired item (`now > ttl`) is not visible to `query`, `page` and `stream`. Until
/// then it is.
pub fn queries_return_an_item_until_its_ttl_has_passed<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let now = clock.epoch_seconds();
    for number in 0..20 {
        let sk = format!("{number:02}");
        db.set(&[item("pk", &sk, "").expires_at(now + number % 4)])
            .must("set");
    }
    for passed in 0..5 {
        clock.set(now + passed);
        let live = (0..20).filter(|number| number % 4 >= passed);
        let live: Vec<String> = live.map(|number| format!("{number:02}")).collect();
        let query = Query::new("pk");
        assert_eq!(found(db, &query), live, "{passed} s later");
        let reversed: Vec<String> = live.iter().rev().cloned().collect();
        assert_eq!(
            found(db, &query.reverse()),
            reversed,
            "{passed} s later, in reverse"
        );
    }
}

/// Guarantee 3: an expired item does not exist for `create` and `get_lock` either.
pub fn expired_items_do_not_block_create_or_get_lock<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let ttl = clock.epoch_seconds() + 5;
    db.set(&[
        item("pk", "a", "old").expires_at(ttl),
        item("pk", "b", "old").expires_at(ttl),
    ])
    .must("set");
    clock.set(ttl + 1);
    db.commit(&Batch::new().create(item("pk", "a", "new")))
        .expect("an item can be created in place of an expired one");
    assert_data(db, ("pk", "a"), Some("new"), "after create");
    let lock = db
        .get_lock(key("pk", "b"))
        .expect("a lock can be created in place of an expired item");
    db.commit(&Batch::new().lock(lock)).must("commit");
    assert_eq!(
        found(db, &Query::new("pk")),
        ["a"],
        "after a lock has replaced an expired item"
    );
}

/// Guarantee 4: reads never return locks.
pub fn reads_never_return_locks<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for sk in ["a-lock", "b-lock", "z-lock"] {
        db.get_lock(key("pk", sk)).must("get_lock");
    }
    assert_eq!(
        found(db, &Query::new("pk")),
        [""; 0],
        "a query returns locks"
    );
    db.set(&[item("pk", "b", "")]).must("set");
    assert_eq!(
        read(db, "pk", "a-lock"),
        None,
        "a point read returns a lock"
    );
    for query in [
        Query::new("pk"),
        Query::new("pk").reverse(),
        Query::new("pk").prefix("b"),
    ] {
        assert_eq!(found(db, &query), ["b"], "a query returns locks: {query:?}");
    }
}

/// Guarantee 4: a key holds an item or a lock, never both. `get_lock` where a live item exists is
/// `InvalidInput`; writing an item over a lock replaces it, and commits under that lock fail.
pub fn a_key_holds_an_item_or_a_lock_never_both<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "a", "stored")]).must("set");
    assert_invalid(
        db.get_lock(key("pk", "a")),
        "get_lock at the key of an item",
    );
    assert_data(db, ("pk", "a"), Some("stored"), "after get_lock");
    db.delete(&[key("pk", "a")]).must("delete");
    db.get_lock(key("pk", "a")).must("get_lock");

    let replaced = db.get_lock(key("pk", "lock")).must("get_lock");
    db.set(&[item("pk", "lock", "an item")]).must("set");
    assert_data(db, ("pk", "lock"), Some("an item"), "written over a lock");
    assert_eq!(
        found(db, &Query::new("pk")),
        ["lock"],
        "an item at a former lock's key"
    );
    assert_race(
        db.set_atomic(&[item("pk", "b", "")], &[replaced]),
        &[("pk", "lock")],
    );
    assert_invalid(
        db.get_lock(key("pk", "lock")),
        "get_lock at the key of an item that replaced a lock",
    );
}

/// Guarantee 8: a read returns an item as the completed write left it, with its data, whatever the
/// size, and its ttl. An item without data is an item.
pub fn items_are_read_back_as_written<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let large = "0123456789".repeat(20_000);
    for data in [
        "",
        " ",
        "null",
        "\"quoted\"",
        "line\nfeed",
        "\0",
        "日本語 🦀",
        &large,
    ] {
        let ttl = fixture.clock.epoch_seconds() + 60;
        let written = item("pk", "sk", data).expires_at(ttl);
        db.set(&[written.clone()]).must("set");
        let read = db.get(key("pk", "sk")).must("get");
        let read = read.expect("get returns the item that was written");
        assert_eq!(read, written, "get returns another item than was written");
        assert_eq!(read.ttl(), Some(ttl), "the ttl of an item that was read");
        assert_eq!(
            db.query(&Query::new("pk")).must("query"),
            [written],
            "query returns another item than was written"
        );
    }
    let bare = Item::without_data("pk", "bare");
    db.set(&[bare.clone()]).must("set");
    let read = db.get(key("pk", "bare")).must("get");
    assert_eq!(read, Some(bare), "an item without data");
}

/// Guarantees 8 and 19: reads see every write that completed before the call, whichever way it was
/// made, even where a cache had the previous value.
pub fn reads_see_every_completed_write<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let assert_reads = |expected: Option<&str>, when: &str| {
        // The second time, a cache may answer.
        for _ in 0..2 {
            assert_data(db, ("pk", "a"), expected, when);
            let queried = found(db, &Query::new("pk").prefix("a"));
            assert_eq!(queried.len(), usize::from(expected.is_some()), "{when}");
        }
    };
    assert_reads(None, "in an empty database");
    db.set(&[item("pk", "a", "set")]).must("set");
    assert_reads(Some("set"), "after set");
    let lock = db.get_lock(key("pk", "lock")).must("get_lock");
    let version = db
        .set_atomic(&[item("pk", "a", "set_atomic")], &[lock.clone()])
        .must("set_atomic");
    assert_reads(Some("set_atomic"), "after set_atomic");
    let batch = Batch::new().lock(lock.with_version(version));
    db.commit(&batch.set(item("pk", "a", "committed")))
        .must("commit");
    assert_reads(Some("committed"), "after a commit that sets it");
    db.commit(&Batch::new().delete(("pk", "a"))).must("commit");
    assert_reads(None, "after a commit that deletes it");
    db.commit(&Batch::new().create(item("pk", "a", "created")))
        .must("commit");
    assert_reads(Some("created"), "after a commit that creates it");
    db.delete(&[key("pk", "a")]).must("delete");
    assert_reads(None, "after delete");

    // The new ttl is earlier than the one that a cache knows.
    let now = clock.epoch_seconds();
    db.set(&[item("pk", "a", "long").expires_at(now + 100)])
        .must("set");
    assert_reads(Some("long"), "after set with a ttl");
    db.set(&[item("pk", "a", "short").expires_at(now + 1)])
        .must("set");
    assert_reads(Some("short"), "after set with an earlier ttl");
    clock.set(now + 2);
    assert_reads(None, "after the earlier ttl");
}
