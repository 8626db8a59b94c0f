//! Tests of the cache, ported from the TypeScript package that this crate is based on. Its other tests
//! are cases of the conformance suite.

use crate::common::data;
use atomic_db::{AtomicDb, Error, Item, Key, LruCache, MemoryDb, Query};
use std::slice::from_ref;

const KEY: Key<'static> = Key::new("user", "1");

fn item(sk: impl AsRef<str>, name: &str) -> Item<String> {
    Item::new("user", sk, name.to_owned())
}

fn names(items: &[Option<Item<String>>]) -> Vec<Option<&str>> {
    items
        .iter()
        .map(|item| item.as_ref()?.data().map(String::as_str))
        .collect()
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
fn get_many_is_answered_from_the_cache_until_a_write_through_it() {
    let db = LruCache::new(MemoryDb::new(), 100);
    let keys = ["1", "2", "3"].map(|sk| Key::new("user", sk));
    let all = |name: &str| keys.map(|key| item(key.sk, name));
    let read = || db.get_many(&keys).unwrap();
    db.inner().set(&all("old")).unwrap();
    assert_eq!(names(&read()), [Some("old"); 3]);
    db.inner().set(&all("bypassing the cache")).unwrap();
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
    db.inner().set(&[item("1", "bypassing the cache")]).unwrap();
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
fn queries_and_streams_bypass_the_cache() {
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
