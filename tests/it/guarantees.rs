//! Guarantees of the memory database and the cache that the conformance suite leaves out: their page
//! size, trait objects, inputs of any size, and `Debug`.

use crate::common::{data, sks};
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Error, Item, Key, LruCache, ManualClock, MemoryDb, Query, Result,
    Version,
};
use std::slice::from_ref;
use std::sync::Arc;

#[test]
fn a_stream_continues_after_the_items_ahead_of_it_are_deleted() {
    let db = MemoryDb::new();
    let items: Vec<Item<()>> = (0..600)
        .map(|number| Item::new("pk", format!("{number:03}"), ()))
        .collect();
    db.set(&items).unwrap();
    let mut stream = db.stream(Query::new("pk"));
    assert_eq!(stream.next().unwrap().unwrap().sk(), "000");
    let keys: Vec<Key<'_>> = items[..590].iter().map(Item::key).collect();
    db.delete(&keys).unwrap();
    let rest: Vec<Item<()>> = stream.by_ref().collect::<Result<_>>().unwrap();
    // The rest of the buffered page, and the ten items that are left.
    assert_eq!(rest.len() % 256, (255 + 10) % 256);
    assert_eq!(rest.last().unwrap().sk(), "599");
    assert!(stream.next().is_none() && stream.next().is_none());
}

#[test]
fn limit_and_after_hold_across_any_number_of_pages() {
    let db = MemoryDb::new();
    let sk = |number: usize| format!("{number:04}");
    let items: Vec<Item<()>> = (0..1_000)
        .map(|number| Item::new("pk", sk(number), ()))
        .collect();
    db.set(&items).unwrap();
    for limit in [0, 1, 255, 256, 257, 512, 999, 1_000, 1_001, usize::MAX] {
        let query = Query::new("pk").limit(limit);
        let expected: Vec<String> = (0..limit.min(1_000)).map(sk).collect();
        let streamed: Vec<_> = db.stream(query.clone()).collect::<Result<_>>().unwrap();
        assert_eq!(sks(&streamed), expected, "a limit of {limit}");
        assert_eq!(sks(&db.query(&query).unwrap()), expected);
        let page = db.page(&query, None).unwrap();
        assert!(page.items.len() <= limit);

        let after = query.reverse().after(sk(600)).prefix("0");
        let expected: Vec<String> = (0..600).rev().take(limit).map(sk).collect();
        let streamed: Vec<_> = db.stream(after.clone()).collect::<Result<_>>().unwrap();
        assert_eq!(sks(&streamed), expected, "a limit of {limit}, reversed");
        assert_eq!(sks(&db.query(&after).unwrap()), expected);
    }
}

/// Makes every call of a database.
fn call_all_methods(db: impl AtomicDb<Data = u32>) {
    let key = Key::new("pk", "a");
    db.set(&[Item::new("pk", "a", 1), Item::new("pk", "b", 2)])
        .unwrap();
    assert_eq!(data(&db, key), Some(1));
    assert!(db.get_fresh(key).unwrap().is_some());
    assert_eq!(db.get_many(&[key, key]).unwrap().len(), 2);
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    let version = db
        .set_atomic(&[Item::new("pk", "c", 3)], from_ref(&lock))
        .unwrap();
    let batch = Batch::new()
        .lock(lock.clone().with_version(version))
        .delete(key);
    db.commit(&batch).unwrap();
    assert!(db.commit(&batch).unwrap_err().is_race_condition());
    assert_eq!(sks(&db.query(&Query::new("pk")).unwrap()), ["b", "c"]);
    let page = db.page(&Query::new("pk").limit(1), None).unwrap();
    assert_eq!(page.next.as_deref(), Some("b"));
    let streamed: Vec<_> = db.stream(Query::new("pk")).collect::<Result<_>>().unwrap();
    assert_eq!(sks(&streamed), ["b", "c"]);
    db.delete(&[Key::new("pk", "b"), Key::new("pk", "c"), lock.key()])
        .unwrap();
    assert!(db.query(&Query::new("pk")).unwrap().is_empty());
}

#[test]
fn trait_objects_are_databases_behind_any_pointer() {
    type Object = dyn AtomicDb<Data = u32> + Send + Sync;
    let db = MemoryDb::new();
    call_all_methods(db.clone());
    call_all_methods(&db);
    call_all_methods(Box::new(db.clone()) as Box<Object>);
    call_all_methods(Arc::new(db.clone()) as Arc<Object>);
    call_all_methods(&db as &Object);
    call_all_methods(Arc::new(Box::new(&db as &Object)));
    let cached: Arc<Object> = Arc::new(LruCache::new(db.clone(), 10));
    call_all_methods(Arc::clone(&cached));
    call_all_methods(LruCache::new(cached, 10));

    let object: &Object = &db;
    object.set(&[Item::new("pk", "a", 1)]).unwrap();
    // Through a reference to the reference, because `stream` requires a sized type.
    assert_eq!(AtomicDb::stream(&object, Query::new("pk")).count(), 1);
    fn assert_is_handle<D: Clone + Send + Sync + std::fmt::Debug + 'static>(_: &D) {}
    assert_is_handle(&db);
    assert_is_handle(&LruCache::new(db, 1));
}

#[test]
fn a_repeated_key_is_reported_before_a_conflict() {
    let db = MemoryDb::new();
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    let stale = lock.clone().with_version(Version::from_u128(0));
    let batch = Batch::new()
        .lock(stale)
        .set(Item::new("pk", "a", 1))
        .delete(("pk", "a"));
    for db in [
        &db as &dyn AtomicDb<Data = i32>,
        &LruCache::new(db.clone(), 10),
    ] {
        let outcome = db.commit(&batch);
        assert!(
            matches!(outcome, Err(Error::InvalidInput(_))),
            "{outcome:?}"
        );
    }
    assert!(db.is_empty());
    assert_eq!(db.get_lock(lock.key()).unwrap(), lock);
}

#[test]
fn no_input_is_too_large_for_the_memory_database() {
    for stripes in [0, 1, 3, usize::MAX] {
        let clock = ManualClock::new(u64::MAX);
        clock.advance(std::time::Duration::MAX);
        let builder = MemoryDb::builder().stripes(stripes).clock(clock.clone());
        let db = LruCache::builder(builder.build())
            .capacity(usize::MAX)
            .clock(clock.clone())
            .build();
        let long = "x".repeat(1 << 20);
        for (pk, sk) in [
            ("", ""),
            ("\0", "\u{10ffff}"),
            (long.as_str(), ""),
            ("", long.as_str()),
        ] {
            let key = Key::new(pk, sk);
            db.set(&[Item::new(pk, sk, 1).expires_at(u64::MAX)])
                .unwrap();
            assert_eq!(data(&db, key), Some(1));
            let query = Query::new(pk).prefix(sk).limit(usize::MAX);
            assert!(!db.query(&query).unwrap().is_empty());
            db.page(&query, Some(&long)).unwrap();
            db.delete(&[key]).unwrap();
            let lock = db.get_lock(key).unwrap();
            assert_eq!(lock.ttl(), u64::MAX);
            assert_eq!(db.get_lock(key).unwrap(), lock);
            let version = db.set_atomic(&[], from_ref(&lock)).unwrap();
            assert!(version > lock.version());
        }
        assert_eq!(db.inner().purge_expired(), 0);
        assert!(db.inner().is_empty());
        clock.set(0);
        let lock = db.get_lock(Key::new("", "")).unwrap();
        assert_eq!(lock.ttl(), u64::MAX);
    }
}

#[test]
fn a_capacity_hint_of_any_size_is_accepted() {
    for capacity in [usize::MAX, usize::MAX / 2] {
        let db = MemoryDb::builder().capacity(capacity).build();
        db.set(&[Item::new("pk", "sk", 1)]).unwrap();
        assert_eq!(db.len(), 1);
    }
}

#[test]
fn debug_of_handles_shows_their_settings_but_no_data() {
    let cache = LruCache::new(MemoryDb::builder().stripes(4).build(), 10);
    cache
        .set(&[Item::new("account", "balance", "secret")])
        .unwrap();
    let shown = format!("{cache:?}");
    assert!(
        shown.contains("LruCache") && shown.contains("MemoryDb") && shown.contains("stripes: 4")
    );
    let transaction = cache.transact(|tx| {
        tx.lock(("account", "lock"))?;
        tx.set(Item::new("account", "balance", "secret"))?;
        Ok(format!("{tx:?}"))
    });
    let transaction = transaction.unwrap();
    assert!(
        transaction.contains(r#"("account", "lock")"#),
        "{transaction}"
    );
    assert!(
        transaction.contains(r#"("account", "balance")"#),
        "{transaction}"
    );
    for shown in [shown, transaction] {
        assert!(!shown.contains("secret"), "{shown}");
    }
}
