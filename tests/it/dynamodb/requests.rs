//! What is sent for a call, and what never is.

use super::fault_proxy::{Fault, Proxy};
use super::server;
use super::{START, new_table};
use atomic_db::{AtomicDb, Batch, DynamoDb, Error, Item, Key, Lock, ManualClock, Query, Version};
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};

/// A new table behind a proxy that counts. `None` where there is no server.
fn counted<T: DeserializeOwned>() -> Option<(DynamoDb<T>, Proxy)> {
    let proxy = Proxy::before(server::endpoint()?);
    // With patience: a request that is repeated counts twice.
    let db = server::builder(&proxy.endpoint(), ManualClock::new(START))
        .timeout(Duration::from_secs(120))
        .attempt_timeout(Duration::from_secs(60));
    let db = db.open().unwrap();
    proxy.set(|_| Fault::None);
    Some((db, proxy))
}

fn numbered(count: usize) -> Vec<Item<String>> {
    let item = |number| Item::new("pk", format!("{number:05}"), String::new());
    (0..count).map(item).collect()
}

#[test]
fn a_commit_under_a_lock_that_was_handed_on_is_one_request() {
    let Some((db, proxy)) = counted() else {
        return;
    };
    let mut lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    assert_eq!(proxy.operations(), ["GetItem", "PutItem"]);
    proxy.set(|_| Fault::None);
    for turn in 0..3 {
        let item = Item::new("pk", "item", turn);
        let version = db.set_atomic(&[item], &[lock.clone()]).unwrap();
        lock = lock.with_version(version);
    }
    assert_eq!(proxy.operations(), ["TransactWriteItems"; 3]);
    proxy.set(|_| Fault::None);
    assert_eq!(db.get_lock(Key::new("pk", "lock")).unwrap(), lock);
    assert_eq!(proxy.operations(), ["GetItem"]);
}

#[test]
fn a_thousand_keys_are_read_in_at_most_twelve_requests() {
    let Some((db, proxy)) = counted() else {
        return;
    };
    db.set(&numbered(900)).unwrap();
    let sks: Vec<String> = (0..1_000).map(|number| format!("{number:05}")).collect();
    let mut keys: Vec<Key<'_>> = sks.iter().map(|sk| Key::new("pk", sk)).collect();
    // Repeats cost nothing.
    keys.extend_from_within(..500);
    proxy.set(|_| Fault::None);
    let answers = db.get_many(&keys).unwrap();
    assert_eq!(answers.iter().flatten().count(), 900 + 500);
    let requests = proxy.operations();
    assert!(requests.len() <= 12, "{requests:?}");
}

/// More than the 16 MB that one answer holds: the server itself leaves keys unread.
#[test]
fn large_items_are_read_in_as_many_answers_as_it_takes() {
    let Some((db, proxy)) = counted() else {
        return;
    };
    let large = "x".repeat(300_000);
    let items: Vec<Item<String>> = numbered(70)
        .iter()
        .map(|item| Item::new(item.pk(), item.sk(), large.clone()))
        .collect();
    db.set(&items).unwrap();
    let keys: Vec<Key<'_>> = items.iter().map(Item::key).collect();
    proxy.set(|_| Fault::None);
    let found = db.get_many(&keys).unwrap();
    assert!(found.into_iter().eq(items.into_iter().map(Some)));
    assert_eq!(proxy.requests_of("BatchGetItem").len(), 2);
}

#[test]
fn nothing_is_sent_for_nothing() {
    let Some((db, proxy)) = counted::<String>() else {
        return;
    };
    db.set(&[]).unwrap();
    db.delete(&[]).unwrap();
    db.get_many(&[]).unwrap();
    db.commit(&Batch::new()).unwrap();
    db.set_atomic(&[], &[]).unwrap();
    db.query(&Query::new("pk").limit(0)).unwrap();
    db.page(&Query::new("pk").limit(0), None).unwrap();
    db.page(&Query::new("pk").prefix("a"), Some("b")).unwrap();
    drop(db.stream(Query::new("pk")));
    assert_eq!(proxy.operations(), [""; 0]);
}

#[test]
fn bad_input_is_refused_before_anything_is_sent() {
    let Some((db, proxy)) = counted::<String>() else {
        return;
    };
    let item = |pk: &str, sk: &str| Item::new(pk, sk, String::new());
    let lock = |number: usize| {
        let key = ("locks", format!("{number}"));
        Lock::new(key, Version::from_u128(number as u128), u64::MAX)
    };
    let long_pk = "k".repeat(2_049);
    let long_sk = "k".repeat(1_025);
    for (pk, sk) in [("", "sk"), ("pk", ""), (&*long_pk, "sk"), ("pk", &*long_sk)] {
        let (key, good) = (Key::new(pk, sk), item("pk", "good"));
        let lock_there = Lock::new(key, Version::from_u128(1), u64::MAX);
        for refused in [
            db.get(key).map(drop),
            db.get_fresh(key).map(drop),
            db.get_many(&[good.key(), key]).map(drop),
            db.get_lock(key).map(drop),
            db.set(&[good.clone(), item(pk, sk)]),
            db.delete(&[good.key(), key]),
            db.commit(&Batch::new().set(item(pk, sk))).map(drop),
            db.commit(&Batch::new().create(item(pk, sk))).map(drop),
            db.commit(&Batch::new().delete(key)).map(drop),
            db.commit(&Batch::new().check(lock_there.clone())).map(drop),
            db.set_atomic(&[good], &[lock_there]).map(drop),
        ] {
            match refused {
                Err(Error::InvalidInput(text)) => assert!(text.contains("empty"), "{text}"),
                Err(Error::LimitExceeded {
                    limit: max,
                    actual: got,
                    ..
                }) => {
                    assert!([(2_048, 2_049), (1_024, 1_025)].contains(&(max, got)));
                }
                other => panic!("{key}: {other:?}"),
            }
        }
    }
    for refused in [
        db.query(&Query::new("")).map(drop),
        db.query(&Query::new(long_pk.as_str())).map(drop),
        db.query(&Query::new("pk").prefix(long_sk.as_str()))
            .map(drop),
        db.page(&Query::new("pk"), Some(&long_sk)).map(drop),
    ] {
        assert!(matches!(
            refused,
            Err(Error::InvalidInput(_) | Error::LimitExceeded { .. })
        ));
    }
    let mut stream = db.stream(Query::new(""));
    assert!(matches!(stream.next(), Some(Err(Error::InvalidInput(_)))));
    assert!(stream.next().is_none());

    let expect_limit = |outcome: atomic_db::Result<()>, limit: usize, given: usize| match outcome {
        Err(Error::LimitExceeded {
            limit: max,
            actual: got,
            ..
        }) => assert_eq!((max, got), (limit, given)),
        other => panic!("{other:?}"),
    };
    let hundred = (0..100).fold(Batch::new(), |batch, number| batch.lock(lock(number)));
    expect_limit(db.commit(&hundred.set(item("pk", "a"))).map(drop), 100, 101);
    let kib = 1_024;
    // "pk" + "pk", "sk" + "a", "data" and two quotes are 13 bytes besides the text.
    let large = Item::new("pk", "a", "x".repeat(400 * kib - 12));
    expect_limit(db.set(&[large.clone()]), 400 * kib, 400 * kib + 1);
    expect_limit(
        db.commit(&Batch::new().set(large)).map(drop),
        400 * kib,
        400 * kib + 1,
    );
    let data = "x".repeat(380 * kib);
    let many = (0..12).fold(Batch::new(), |batch, number| {
        batch.set(Item::new("pk", format!("{number:02}"), data.clone()))
    });
    expect_limit(
        db.commit(&many).map(drop),
        4 * kib * kib,
        12 * (380 * kib + 14),
    );
    let twice = Batch::new().set(item("pk", "a")).delete(("pk", "a"));
    assert!(matches!(db.commit(&twice), Err(Error::InvalidInput(_))));
    assert_eq!(proxy.operations(), [""; 0]);
}

#[test]
fn what_just_fits_is_written() {
    let Some(db) = new_table::<String>() else {
        return;
    };
    let kib = 1_024;
    let (pk, sk) = ("p".repeat(2_048), "s".repeat(1_024));
    let long = Item::new(pk, sk, String::new());
    db.set(&[long.clone()]).unwrap();
    assert_eq!(db.get(long.key()).unwrap(), Some(long));
    let large = Item::new("pk", "a", "x".repeat(400 * kib - 13));
    db.commit(&Batch::new().set(large.clone())).unwrap();
    db.set(&[large.clone()]).unwrap();
    assert_eq!(db.get(large.key()).unwrap(), Some(large));
    let all = numbered(100).into_iter().fold(Batch::new(), Batch::create);
    db.commit(&all).unwrap();
    let data = "x".repeat(380 * kib);
    let many = (0..10).fold(Batch::new(), |batch, number| {
        batch.set(Item::new("large", format!("{number:02}"), data.clone()))
    });
    db.commit(&many).unwrap();
    assert_eq!(db.query(&Query::new("large")).unwrap().len(), 10);
}

#[test]
fn data_that_cannot_be_encoded_is_refused() {
    // A key in JSON is text.
    let Some((db, proxy)) = counted::<std::collections::BTreeMap<Vec<u8>, u8>>() else {
        return;
    };
    let odd = Item::new("pk", "a", [(vec![1], 2)].into());
    for refused in [
        db.set(&[odd.clone()]),
        db.commit(&Batch::new().set(odd)).map(drop),
    ] {
        match refused {
            Err(Error::Codec { key, .. }) => assert_eq!(key.sk(), "a"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(proxy.operations(), [""; 0]);
}

#[test]
fn a_stream_holds_few_pages_and_stops_when_it_is_dropped() {
    let Some((db, proxy)) = counted() else {
        return;
    };
    // Four items are a page of exactly 1 MiB. Servers differ in whether a page includes an item that
    // crosses this limit.
    let large = "x".repeat(262_127);
    let items: Vec<Item<String>> = numbered(100)
        .iter()
        .map(|item| Item::new(item.pk(), item.sk(), large.clone()))
        .collect();
    db.set(&items).unwrap();

    // 25 pages. Somewhere on the way, the caller takes its time.
    let queries = || proxy.requests_of("Query").len();
    proxy.set(|_| Fault::None);
    let mut stream = db.stream(Query::new("pk"));
    assert_eq!(queries(), 0, "a stream that nobody reads was begun");
    let before = proxy.done();
    for item in &items[..40] {
        assert_eq!(stream.next().unwrap().unwrap(), *item);
    }
    let pages_read = 40_usize.div_ceil(4);
    assert!(proxy.wait_until_done(before + pages_read));
    let deadline = Instant::now() + Duration::from_millis(500);
    while Instant::now() < deadline {
        assert!(queries() <= pages_read + 2, "{} pages are there", queries());
        std::thread::yield_now();
    }
    drop(stream);
    let asked = queries();

    // All of it, while it is looked at how far ahead it runs.
    proxy.set(|_| Fault::None);
    for (number, item) in db.stream(Query::new("pk")).enumerate() {
        assert_eq!(item.unwrap(), items[number]);
        // A page holds four items, for five are more than a megabyte.
        assert!(
            queries() <= number / 3 + 3,
            "{} pages for item {number}",
            queries()
        );
    }
    assert!(queries() >= 25, "{}", queries());
    assert!(asked < 25, "a stream that was dropped went on");

    // What is wanted is known, so no page is fetched that is not.
    proxy.set(|_| Fault::None);
    assert_eq!(db.stream(Query::new("pk").limit(3)).count(), 3);
    assert_eq!(queries(), 1);
}

/// A limit in DynamoDB counts what it looks at.
#[test]
fn few_requests_find_what_lies_among_much_that_is_hidden() {
    let Some((db, proxy)) = counted::<String>() else {
        return;
    };
    let hidden: Vec<Item<String>> = (0..60)
        .map(|number| Item::new("pk", format!("a{number:02}"), String::new()).expires_at(START - 1))
        .collect();
    db.set(&hidden).unwrap();
    let lock = db.get_lock(Key::new("pk", "a-lock")).unwrap();
    db.set(&[Item::new("pk", "z", String::new())]).unwrap();
    proxy.set(|_| Fault::None);
    let page = db.page(&Query::new("pk").limit(1), None).unwrap();
    assert_eq!(page.items.len(), 1);
    assert!(proxy.operations().len() <= 5, "{:?}", proxy.operations());
    assert_eq!(db.get_lock(lock.key()).unwrap(), lock);
}
