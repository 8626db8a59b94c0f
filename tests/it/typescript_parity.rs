//! What the TypeScript package that this crate follows tests of itself, retold.

use crate::common::{data, sks};
use atomic_db::{AtomicDb, Error, Item, Key, LruCache, MemoryDb, Query};
use std::slice::from_ref;

const KEY: Key<'static> = Key::new("user", "1");

fn item(sk: impl AsRef<str>, name: &str) -> Item<String> {
    Item::new("user", sk, name.to_owned())
}

fn names(found: &[Option<Item<String>>]) -> Vec<Option<&str>> {
    found
        .iter()
        .map(|item| item.as_ref()?.data().map(String::as_str))
        .collect()
}

#[test]
fn an_item_is_written_read_replaced_and_deleted() {
    let db = MemoryDb::new();
    assert_eq!(data(&db, KEY), None);
    db.set(&[item("1", "Ada")]).unwrap();
    assert_eq!(data(&db, KEY).as_deref(), Some("Ada"));
    db.set(&[item("1", "Bob")]).unwrap();
    assert_eq!(data(&db, KEY).as_deref(), Some("Bob"));
    db.delete(&[KEY]).unwrap();
    assert_eq!(data(&db, KEY), None);
    db.delete(&[KEY]).unwrap();
}

#[test]
fn many_items_are_written_read_in_order_and_deleted_at_once() {
    let db = MemoryDb::new();
    db.set(&[item("1", "Ada"), item("2", "Bob"), item("4", "Dora")])
        .unwrap();
    let keys = ["4", "1", "3", "2"].map(|sk| Key::new("user", sk));
    let found = db.get_many(&keys).unwrap();
    assert_eq!(
        names(&found),
        [Some("Dora"), Some("Ada"), None, Some("Bob")]
    );
    db.delete(&keys[..3]).unwrap();
    let left = db.get_many(&keys).unwrap();
    assert_eq!(names(&left), [None, None, None, Some("Bob")]);
}

#[test]
fn a_query_finds_the_items_with_its_prefix() {
    let db = MemoryDb::new();
    db.set(&["a:1", "a:2", "b:1"].map(|sk| item(sk, sk)))
        .unwrap();
    let found = |prefix| db.query(&Query::new("user").prefix(prefix)).unwrap();
    assert_eq!(sks(&found("a:")), ["a:1", "a:2"]);
    assert_eq!(sks(&found("")), ["a:1", "a:2", "b:1"]);
    assert_eq!(sks(&found("c:")), [""; 0]);
}

#[test]
fn of_two_operations_on_the_same_lock_one_succeeds() {
    let db = MemoryDb::new();
    let lock_key = Key::new("user", "lock");
    let lock = db.get_lock(lock_key).unwrap();
    db.set_atomic(&[item("1", "nobody")], from_ref(&lock))
        .unwrap();
    assert!(matches!(
        db.set_atomic(&[item("1", "too late")], &[lock]),
        Err(Error::RaceCondition { .. })
    ));

    let read = [
        ("Ada", db.get_lock(lock_key).unwrap()),
        ("Bob", db.get_lock(lock_key).unwrap()),
    ];
    assert_eq!(read[0].1, read[1].1);
    let outcomes = std::thread::scope(|scope| {
        let operations = read.map(|(name, lock)| {
            let db = &db;
            scope.spawn(move || (name, db.set_atomic(&[item("1", name)], &[lock])))
        });
        operations.map(|operation| operation.join().unwrap())
    });
    let won = |(_, outcome): &&(&str, atomic_db::Result<_>)| outcome.is_ok();
    let winners: Vec<&str> = outcomes.iter().filter(won).map(|(name, _)| *name).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    for (_, outcome) in &outcomes {
        if let Err(error) = outcome {
            assert!(
                matches!(error, Error::RaceCondition { keys } if *keys == [lock_key.to_buf()]),
                "{error:?}"
            );
        }
    }
    assert_eq!(data(&db, KEY).as_deref(), Some(winners[0]));
}

#[test]
fn a_stream_yields_the_items_in_order() {
    let db = MemoryDb::new();
    db.set(&["3", "1", "2"].map(|sk| item(sk, sk))).unwrap();
    let items: Vec<Item<String>> = db
        .stream(Query::new("user"))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(sks(&items), ["1", "2", "3"]);
}

#[test]
fn a_large_batch_is_read_with_missing_ones_in_between_and_deleted() {
    let db = MemoryDb::new();
    let sk = |number: usize| format!("{number:03}");
    let items: Vec<_> = (0..50).map(|number| item(sk(2 * number), "x")).collect();
    db.set(&items).unwrap();
    let sks: Vec<String> = (0..100).map(sk).collect();
    let keys: Vec<Key<'_>> = sks.iter().map(|sk| Key::new("user", sk)).collect();
    let found = db.get_many(&keys).unwrap();
    assert_eq!(found.len(), 100);
    for (number, found) in found.iter().enumerate() {
        let expected = (number % 2 == 0).then(|| &items[number / 2]);
        assert_eq!(found.as_ref(), expected);
    }
    db.delete(&keys).unwrap();
    assert!(db.get_many(&keys).unwrap().iter().all(Option::is_none));
    assert!(db.is_empty());
}

#[test]
fn a_cache_of_two_fills_hits_and_evicts_the_least_recently_used() {
    let db = LruCache::new(MemoryDb::new(), 2);
    let keys = ["key1", "key2", "key3"].map(|sk| Key::new("user", sk));
    db.inner()
        .set(&keys.map(|key| item(key.sk, key.sk)))
        .unwrap();
    let counts = || {
        let stats = db.stats();
        (stats.hits, stats.misses, stats.evictions)
    };
    let read = |key: Key<'_>| assert_eq!(data(&db, key).as_deref(), Some(key.sk));
    read(keys[0]);
    assert_eq!(counts(), (0, 1, 0));
    read(keys[0]);
    assert_eq!(counts(), (1, 1, 0));
    read(keys[1]);
    read(keys[2]);
    assert_eq!(counts(), (1, 3, 1));
    read(keys[0]);
    assert_eq!(counts(), (1, 4, 2));
    read(keys[2]);
    assert_eq!(counts(), (2, 4, 2));
    assert_eq!(db.stats().entries, 2);
}

#[test]
fn a_cached_get_many_answers_from_the_cache_until_it_is_written_through_it() {
    let db = LruCache::new(MemoryDb::new(), 100);
    let keys = ["1", "2", "3"].map(|sk| Key::new("user", sk));
    let all = |name: &str| keys.map(|key| item(key.sk, name));
    let read = || db.get_many(&keys).unwrap();
    db.inner().set(&all("old")).unwrap();
    assert_eq!(names(&read()), [Some("old"); 3]);
    db.inner().set(&all("behind its back")).unwrap();
    assert_eq!(names(&read()), [Some("old"); 3]);
    db.set(&[item("2", "new")]).unwrap();
    assert_eq!(names(&read()), [Some("old"), Some("new"), Some("old")]);
    let stats = db.stats();
    assert_eq!((stats.hits, stats.misses), (6, 3));
}

#[test]
fn a_set_through_the_cache_is_cached_and_written() {
    let db = LruCache::new(MemoryDb::new(), 100);
    db.set(&[item("1", "Ada")]).unwrap();
    db.inner().set(&[item("1", "behind its back")]).unwrap();
    assert_eq!(data(&db, KEY).as_deref(), Some("Ada"));
    db.set(&[item("1", "Bob")]).unwrap();
    assert_eq!(data(&db, KEY).as_deref(), Some("Bob"));
    assert_eq!(data(db.inner(), KEY).as_deref(), Some("Bob"));
    assert_eq!(db.stats().misses, 0);
}

#[test]
fn an_atomic_write_through_the_cache_is_cached_and_written() {
    let db = LruCache::new(MemoryDb::new(), 100);
    db.set(&[item("1", "Ada")]).unwrap();
    let lock = db.get_lock(Key::new("user", "lock")).unwrap();
    db.set_atomic(&[item("1", "Bob")], from_ref(&lock)).unwrap();
    assert_eq!(data(&db, KEY).as_deref(), Some("Bob"));
    assert_eq!(data(db.inner(), KEY).as_deref(), Some("Bob"));

    let stale = db.set_atomic(&[item("1", "Cy")], &[lock]);
    assert!(matches!(stale, Err(Error::RaceCondition { .. })));
    assert_eq!(data(&db, KEY).as_deref(), Some("Bob"));
    assert_eq!(data(db.inner(), KEY).as_deref(), Some("Bob"));
}

#[test]
fn queries_and_streams_go_past_the_cache() {
    let db = LruCache::new(MemoryDb::new(), 100);
    db.set(&[item("1", "old")]).unwrap();
    db.inner()
        .set(&[item("1", "new"), item("2", "new")])
        .unwrap();
    let queried = db.query(&Query::new("user")).unwrap();
    let streamed: Vec<Item<String>> = db
        .stream(Query::new("user"))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(queried, [item("1", "new"), item("2", "new")]);
    assert_eq!(streamed, queried);
    assert_eq!(data(&db, KEY).as_deref(), Some("old"));
}
