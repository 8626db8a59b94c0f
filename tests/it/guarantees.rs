//! The rest of what the memory database and the cache promise: snapshots, streams, batches, trait
//! objects, versions as text, and inputs of any size.

use crate::common::{data, sks};
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Error, Item, Key, Lock, LruCache, ManualClock, MemoryDb, Query,
    Result, Retry, Version,
};
use std::collections::{BTreeSet, HashMap};
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const ACCOUNTS: usize = 5;
const MONEY: u64 = 1_000;

/// Moves money between accounts, each in a partition of its own and again in that of the bank,
/// while others sum them up.
fn every_reader_sees_all_the_money(name: &str, db: &(impl AtomicDb<Data = u64> + Sync)) {
    let pks: Vec<String> = (0..ACCOUNTS).map(|number| format!("{number}")).collect();
    let key = |number: usize| Key::new(&pks[number], "balance");
    let accounts: Vec<Key<'_>> = (0..ACCOUNTS).map(key).collect();
    let ledger = |number: usize, money| {
        [
            Item::new(&pks[number], "balance", money),
            Item::new("bank", &pks[number], money),
        ]
    };
    for number in 0..ACCOUNTS {
        db.set(&ledger(number, MONEY)).unwrap();
    }
    let total = |items: &[Item<u64>]| items.iter().filter_map(|item| item.data()).sum::<u64>();
    let retry = Retry::new().attempts(u32::MAX);
    let transfer = |from: usize, to: usize| {
        db.transact_with(&retry, |tx| {
            for number in [from, to] {
                tx.lock(Key::new(&pks[number], "lock"))?;
            }
            let mut read = |number| Ok(tx.get(key(number))?.and_then(Item::into_data).unwrap_or(0));
            let (poorer, richer): (u64, u64) = (read(from)?, read(to)?);
            let amount = poorer.min(7);
            for item in ledger(from, poorer - amount)
                .into_iter()
                .chain(ledger(to, richer + amount))
            {
                tx.set(item)?;
            }
            Ok(())
        })
        .unwrap();
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                let many = db.get_many(&accounts).unwrap();
                let many: Vec<Item<u64>> = many.into_iter().map(Option::unwrap).collect();
                assert_eq!(total(&many), MONEY * ACCOUNTS as u64, "{name}: get_many");
                let all = db.query(&Query::new("bank")).unwrap();
                assert_eq!(total(&all), MONEY * ACCOUNTS as u64, "{name}: query");
                let page = db.page(&Query::new("bank").reverse(), None).unwrap();
                assert_eq!(total(&page.items), MONEY * ACCOUNTS as u64, "{name}: page");
                rounds += 1;
            }
        });
        let writers: Vec<_> = (1..3)
            .map(|step| {
                let transfer = &transfer;
                scope.spawn(move || {
                    (0..200).for_each(|round| {
                        transfer(round % ACCOUNTS, (round + step) % ACCOUNTS);
                    });
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}

#[test]
fn in_memory_one_read_of_many_items_sees_one_instant() {
    for stripes in [1, 2, 64] {
        let db = MemoryDb::builder().stripes(stripes).build();
        every_reader_sees_all_the_money(&format!("{stripes} stripes"), &db);
    }
}

#[test]
fn through_the_cache_one_read_of_many_items_sees_one_instant() {
    for (capacity, shards) in [(0, 1), (1, 1), (3, 1), (4, 4), (100, 1), (100, 8)] {
        let db = LruCache::builder(MemoryDb::new())
            .capacity(capacity)
            .shards(shards)
            .build();
        every_reader_sees_all_the_money(&format!("capacity {capacity}, {shards} shards"), &db);
    }
}

#[test]
fn a_loop_may_write_to_the_partition_that_it_streams() {
    for reverse in [false, true] {
        let db = MemoryDb::builder().stripes(1).build();
        let sk = |number: i32| format!("{number:05}");
        // Several pages of them, with odd numbers left free.
        let items: Vec<Item<i32>> = (0..700)
            .map(|number| Item::new("pk", sk(2 * number), 2 * number))
            .collect();
        db.set(&items).unwrap();
        let query = Query::new("pk");
        let query = if reverse { query.reverse() } else { query };
        let mut seen = Vec::new();
        for item in db.stream(query) {
            let number = item.unwrap().into_data().unwrap();
            seen.push(number);
            // Ahead, behind and at the place itself.
            db.set(&[
                Item::new("pk", sk(number + 1), number + 1),
                Item::new("pk", sk((number - 1).max(0)), (number - 1).max(0)),
            ])
            .unwrap();
            let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
            let here = db.get(Key::new("pk", &sk(number))).unwrap();
            db.set_atomic(&here.into_iter().collect::<Vec<_>>(), &[lock])
                .unwrap();
            if number % 6 == 0 {
                db.delete(&[Key::new("pk", &sk(number))]).unwrap();
            }
            db.query(&Query::new("pk").limit(3)).unwrap();
        }
        let unique: BTreeSet<i32> = seen.iter().copied().collect();
        assert_eq!(unique.len(), seen.len(), "an item was yielded twice");
        let even: Vec<i32> = unique
            .into_iter()
            .filter(|number| number % 2 == 0)
            .collect();
        let present: Vec<i32> = (0..700).map(|number| 2 * number).collect();
        assert_eq!(even, present, "an item that was there is missing");
        match reverse {
            false => assert!(seen.is_sorted()),
            true => assert!(seen.iter().rev().is_sorted()),
        }
    }
}

#[test]
fn a_stream_goes_on_where_its_partition_is_deleted_ahead_of_it() {
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
    // The page at hand, and what is left after it.
    assert_eq!(rest.len() % 256, (255 + 10) % 256);
    assert_eq!(rest.last().unwrap().sk(), "599");
    assert!(stream.next().is_none() && stream.next().is_none());
}

#[test]
fn limits_and_beginnings_hold_over_any_number_of_pages() {
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

/// Every call through a trait object in a pointer of one kind.
fn exercise(db: impl AtomicDb<Data = u32>) {
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
fn trait_objects_are_databases_in_any_pointer() {
    type Object = dyn AtomicDb<Data = u32> + Send + Sync;
    let db = MemoryDb::new();
    exercise(db.clone());
    exercise(&db);
    exercise(Box::new(db.clone()) as Box<Object>);
    exercise(Arc::new(db.clone()) as Arc<Object>);
    exercise(&db as &Object);
    exercise(Arc::new(Box::new(&db as &Object)));
    let cached: Arc<Object> = Arc::new(LruCache::new(db.clone(), 10));
    exercise(Arc::clone(&cached));
    exercise(LruCache::new(cached, 10));

    let object: &Object = &db;
    object.set(&[Item::new("pk", "a", 1)]).unwrap();
    // A reference to the reference, since `stream` is no method of the object itself.
    assert_eq!(AtomicDb::stream(&object, Query::new("pk")).count(), 1);
    fn is_a_handle<D: Clone + Send + Sync + std::fmt::Debug + 'static>(_: &D) {}
    is_a_handle(&db);
    is_a_handle(&LruCache::new(db, 1));
}

#[test]
fn a_key_that_comes_twice_in_a_batch_is_refused() {
    let db = MemoryDb::new();
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    let item = || Item::new("pk", "a", 1);
    let at_lock = || Item::new("pk", "lock", 1);
    let batch = Batch::new;
    let refused = [
        batch().lock(lock.clone()).lock(lock.clone()),
        batch().lock(lock.clone()).check(lock.clone()),
        batch().check(lock.clone()).check(lock.clone()),
        batch().lock(lock.clone()).set(at_lock()),
        batch().check(lock.clone()).create(at_lock()),
        batch().lock(lock.clone()).delete(("pk", "lock")),
        batch().set(item()).set(item()),
        batch().set(item()).create(item()),
        batch().set(item()).delete(("pk", "a")),
        batch().create(item()).create(item()),
        batch().create(item()).delete(("pk", "a")),
        batch().delete(("pk", "a")).delete(("pk", "a")),
        // Among many others, and with a lock that would lose besides.
        batch()
            .lock(lock.clone().with_version(Version::from_u128(0)))
            .set(Item::new("pk", "b", 1))
            .set(item())
            .set(Item::new("pk", "", 1))
            .delete(("pk", "a")),
    ];
    for batch in refused {
        for db in [
            &db as &dyn AtomicDb<Data = i32>,
            &LruCache::new(db.clone(), 10),
        ] {
            let outcome = db.commit(&batch);
            assert!(matches!(outcome, Err(Error::InvalidInput(_))), "{batch:?}");
        }
        assert!(batch.validate().is_err());
        assert!(db.is_empty());
    }
    let twice = db.set_atomic(&[item(), item()], from_ref(&lock));
    assert!(matches!(twice, Err(Error::InvalidInput(_))));
    let twice = db.set_atomic(&[item()], &[lock.clone(), lock.clone()]);
    assert!(matches!(twice, Err(Error::InvalidInput(_))));
    let unguarded = db.set_atomic(&[item()], &[]);
    assert!(matches!(unguarded, Err(Error::InvalidInput(_))));
    db.set_atomic(&[], &[]).unwrap();
    assert_eq!(db.get_lock(lock.key()).unwrap(), lock);

    // Keys that look alike joined are two.
    db.commit(
        &batch()
            .set(Item::new("a:b", "c", 1))
            .set(Item::new("a", "b:c", 1))
            .set(Item::new("a:", "bc", 1)),
    )
    .unwrap();
    assert_eq!(db.len(), 3);
}

#[test]
fn a_creation_that_fails_leaves_the_whole_batch_unwritten() {
    let db = MemoryDb::new();
    db.set(&[Item::new("pk", "there", 1)]).unwrap();
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    let outcome = db.commit(
        &Batch::new()
            .lock(lock.clone())
            .set(Item::new("other", "a", 1))
            .create(Item::new("pk", "new", 1))
            .create(Item::new("pk", "there", 2))
            .delete(("pk", "there too")),
    );
    assert!(matches!(
        outcome,
        Err(Error::AlreadyExists { key }) if key == Key::new("pk", "there")
    ));
    assert_eq!(db.len(), 1);
    assert_eq!(db.get_lock(lock.key()).unwrap(), lock);
}

#[test]
fn a_version_as_text_comes_back_and_keeps_the_order() {
    let bits: Vec<u128> = (0..128)
        .flat_map(|shift| [1_u128 << shift, (1 << shift) - 1, u128::MAX >> shift])
        .collect();
    let mut versions: Vec<Version> = bits.into_iter().map(Version::from_u128).collect();
    versions.sort();
    versions.dedup();
    let texts: Vec<String> = versions.iter().map(Version::to_string).collect();
    assert!(texts.is_sorted());
    for (version, text) in versions.iter().zip(&texts) {
        assert_eq!(text.len(), 26);
        assert_eq!(text.parse::<Version>().unwrap(), *version);
        assert_eq!(text.to_lowercase().parse::<Version>().unwrap(), *version);
        assert_eq!(Version::from_u128(version.as_u128()), *version);
    }
    assert_eq!(texts[0], "0".repeat(26));
    assert_eq!(texts[texts.len() - 1], format!("7{}", "Z".repeat(25)));
    assert_eq!(format!("{:>30}", versions[0]).len(), 30);
}

#[test]
fn text_that_is_no_version_is_refused() {
    let good = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    assert!(good.parse::<Version>().is_ok());
    let mut bad: Vec<String> = vec![
        String::new(),
        good[1..].into(),
        format!("{good}0"),
        format!(" {}", &good[1..]),
        "é".repeat(13),
        format!("{}é", &good[..24]),
        format!("8{}", &good[1..]),
        format!("Z{}", &good[1..]),
    ];
    for letter in "ILOUilou-_+\0".chars() {
        for place in [0, 1, 25] {
            let mut text = good.to_owned();
            text.replace_range(place..=place, &letter.to_string());
            bad.push(text);
        }
    }
    for text in bad {
        let refused = text.parse::<Version>();
        assert!(matches!(refused, Err(Error::InvalidInput(_))), "{text:?}");
    }
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
fn a_capacity_of_any_size_is_no_more_than_a_wish() {
    for capacity in [usize::MAX, usize::MAX / 2] {
        let db = MemoryDb::builder().capacity(capacity).build();
        db.set(&[Item::new("pk", "sk", 1)]).unwrap();
        assert_eq!(db.len(), 1);
    }
}

#[test]
fn many_keys_are_read_in_the_order_asked_with_their_repeats() {
    let db = LruCache::new(MemoryDb::builder().stripes(2).build(), 50);
    let names: Vec<String> = (0..300).map(|number| format!("{}", number % 100)).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key::new(name, name)).collect();
    let mut there = HashMap::new();
    for (number, key) in keys.iter().enumerate().take(100).step_by(2) {
        db.set(&[Item::new(key.pk, key.sk, number)]).unwrap();
        there.insert(*key, number);
    }
    for _ in 0..3 {
        let found = db.get_many(&keys).unwrap();
        let found: Vec<Option<usize>> = found
            .into_iter()
            .map(|item| item.and_then(Item::into_data))
            .collect();
        let expected: Vec<Option<usize>> = keys.iter().map(|key| there.get(key).copied()).collect();
        assert_eq!(found, expected);
        assert_eq!(db.inner().get_many(&keys).unwrap().len(), 300);
    }
    assert_eq!(db.get_many(&[]).unwrap(), []);
}

#[test]
fn a_key_holds_an_item_or_a_lock() {
    let db = MemoryDb::new();
    let key = Key::new("pk", "both");
    let lock = db.get_lock(key).unwrap();
    assert_eq!(db.get(key).unwrap(), None);
    assert_eq!(db.get_many(&[key]).unwrap(), [None]);
    assert_eq!(db.query(&Query::new("pk")).unwrap(), []);
    assert_eq!(db.len(), 0);
    db.set(&[Item::new("pk", "both", 1)]).unwrap();
    assert!(matches!(db.get_lock(key), Err(Error::InvalidInput(_))));
    assert!(db.set_atomic(&[], from_ref(&lock)).is_err());
    db.delete(&[key]).unwrap();
    assert!(db.set_atomic(&[], from_ref(&lock)).is_err());
    let anew = db.get_lock(key).unwrap();
    assert!(anew.version() > lock.version());
    let foreign = Lock::new(key, lock.version(), anew.ttl());
    assert!(
        db.set_atomic(&[], &[foreign])
            .unwrap_err()
            .is_race_condition()
    );
}

#[test]
fn handles_show_how_they_are_set_up_and_none_of_the_data() {
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
