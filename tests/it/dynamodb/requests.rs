//! Which requests each call sends, and which calls send none.

use super::fault_proxy::{Fault, FaultProxy};
use super::{START, new_db_or_skip, server};
use atomic_db::{AtomicDb, Batch, DynamoDb, Error, Item, Key, Lock, ManualClock, Query, Version};
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};

const KIB: usize = 1_024;

/// Returns a new table behind a proxy that records its requests, or `None` without a server.
fn new_recorded_db<T: DeserializeOwned>() -> Option<(DynamoDb<T>, FaultProxy)> {
    let proxy = FaultProxy::new(server::endpoint()?);
    // Long timeouts, because the proxy would also record a retry.
    let db = server::builder(&proxy.endpoint(), ManualClock::new(START))
        .timeout(Duration::from_secs(120))
        .attempt_timeout(Duration::from_secs(60));
    let db = db.open().unwrap();
    proxy.set_rule(|_| Fault::None);
    Some((db, proxy))
}

fn numbered_items(count: usize, data: &str) -> Vec<Item<String>> {
    let item = |number| Item::new("pk", format!("{number:05}"), data.to_owned());
    (0..count).map(item).collect()
}

#[test]
fn a_commit_under_a_renewed_lock_is_one_request() {
    let Some((db, proxy)) = new_recorded_db() else {
        return;
    };
    let mut lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    assert_eq!(proxy.operations(), ["GetItem", "PutItem"]);
    proxy.set_rule(|_| Fault::None);
    for data in 0..3 {
        let item = Item::new("pk", "item", data);
        let version = db.set_atomic(&[item], &[lock.clone()]).unwrap();
        lock = lock.with_version(version);
    }
    assert_eq!(proxy.operations(), ["TransactWriteItems"; 3]);
    proxy.set_rule(|_| Fault::None);
    assert_eq!(db.get_lock(Key::new("pk", "lock")).unwrap(), lock);
    assert_eq!(proxy.operations(), ["GetItem"]);
}

#[test]
fn a_thousand_keys_are_read_in_at_most_twelve_requests() {
    let Some((db, proxy)) = new_recorded_db() else {
        return;
    };
    db.set(&numbered_items(900, "")).unwrap();
    let sks: Vec<String> = (0..1_000).map(|number| format!("{number:05}")).collect();
    let mut keys: Vec<Key<'_>> = sks.iter().map(|sk| Key::new("pk", sk)).collect();
    // Repeated keys are requested once.
    keys.extend_from_within(..500);
    proxy.set_rule(|_| Fault::None);
    let found = db.get_many(&keys).unwrap();
    assert_eq!(found.iter().flatten().count(), 900 + 500);
    let requests = proxy.operations();
    assert!(requests.len() <= 12, "{requests:?}");
}

/// The items exceed the 16 MB of one response, so the server itself leaves keys unprocessed.
#[test]
fn get_many_requests_keys_again_that_exceed_one_response() {
    let Some((db, proxy)) = new_recorded_db() else {
        return;
    };
    let items = numbered_items(70, &"x".repeat(300_000));
    db.set(&items).unwrap();
    let keys: Vec<Key<'_>> = items.iter().map(Item::key).collect();
    proxy.set_rule(|_| Fault::None);
    let found = db.get_many(&keys).unwrap();
    assert!(found.into_iter().eq(items.into_iter().map(Some)));
    assert_eq!(proxy.requests_for("BatchGetItem").len(), 2);
}

#[test]
fn empty_calls_send_no_requests() {
    let Some((db, proxy)) = new_recorded_db::<String>() else {
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

/// Guarantee 24.
#[test]
fn invalid_input_is_refused_before_any_request() {
    let Some((db, proxy)) = new_recorded_db::<String>() else {
        return;
    };
    let item = |pk: &str, sk: &str| Item::new(pk, sk, String::new());
    let long_pk = "k".repeat(2_049);
    let long_sk = "k".repeat(1_025);
    for (pk, sk) in [("", "sk"), ("pk", ""), (&*long_pk, "sk"), ("pk", &*long_sk)] {
        let (key, valid) = (Key::new(pk, sk), item("pk", "valid"));
        let lock = Lock::new(key, Version::from_u128(1), u64::MAX);
        for outcome in [
            db.get(key).map(drop),
            db.get_fresh(key).map(drop),
            db.get_many(&[valid.key(), key]).map(drop),
            db.get_lock(key).map(drop),
            db.set(&[valid.clone(), item(pk, sk)]),
            db.delete(&[valid.key(), key]),
            db.commit(&Batch::new().set(item(pk, sk))).map(drop),
            db.commit(&Batch::new().create(item(pk, sk))).map(drop),
            db.commit(&Batch::new().delete(key)).map(drop),
            db.commit(&Batch::new().check(lock.clone())).map(drop),
            db.set_atomic(&[valid], &[lock]).map(drop),
        ] {
            match outcome {
                Err(Error::InvalidInput(text)) => assert!(text.contains("empty"), "{text}"),
                Err(Error::LimitExceeded { limit, actual, .. }) => {
                    assert!([(2_048, 2_049), (1_024, 1_025)].contains(&(limit, actual)));
                }
                other => panic!("{key}: {other:?}"),
            }
        }
    }
    for outcome in [
        db.query(&Query::new("")).map(drop),
        db.query(&Query::new(long_pk.as_str())).map(drop),
        db.query(&Query::new("pk").prefix(long_sk.as_str()))
            .map(drop),
        db.page(&Query::new("pk"), Some(&long_sk)).map(drop),
    ] {
        assert!(matches!(
            outcome,
            Err(Error::InvalidInput(_) | Error::LimitExceeded { .. })
        ));
    }
    let mut stream = db.stream(Query::new(""));
    assert!(matches!(stream.next(), Some(Err(Error::InvalidInput(_)))));
    assert!(stream.next().is_none());

    let assert_exceeds = |outcome: atomic_db::Result<()>, expected: usize, given: usize| {
        let Err(Error::LimitExceeded { limit, actual, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!((limit, actual), (expected, given));
    };
    let locks = (0..100).fold(Batch::new(), |batch, number| {
        let key = ("locks", number.to_string());
        batch.lock(Lock::new(key, Version::from_u128(number), u64::MAX))
    });
    assert_exceeds(db.commit(&locks.set(item("pk", "a"))).map(drop), 100, 101);
    // "pk" + "pk", "sk" + "a", "data" and two quotes are 13 bytes more than the text.
    let large = Item::new("pk", "a", "x".repeat(400 * KIB - 12));
    assert_exceeds(db.set(&[large.clone()]), 400 * KIB, 400 * KIB + 1);
    let outcome = db.commit(&Batch::new().set(large));
    assert_exceeds(outcome.map(drop), 400 * KIB, 400 * KIB + 1);
    let data = "x".repeat(380 * KIB);
    let large = (0..12).fold(Batch::new(), |batch, number| {
        batch.set(Item::new("pk", format!("{number:02}"), data.clone()))
    });
    let size = 12 * (380 * KIB + 14);
    assert_exceeds(db.commit(&large).map(drop), 4 * KIB * KIB, size);
    let repeated = Batch::new().set(item("pk", "a")).delete(("pk", "a"));
    assert!(matches!(db.commit(&repeated), Err(Error::InvalidInput(_))));
    assert_eq!(proxy.operations(), [""; 0]);
}

#[test]
fn input_at_the_limits_is_written() {
    let Some(db) = new_db_or_skip::<String>() else {
        return;
    };
    let long_key = Item::new("p".repeat(2_048), "s".repeat(1_024), String::new());
    db.set(&[long_key.clone()]).unwrap();
    assert_eq!(db.get(long_key.key()).unwrap(), Some(long_key));
    let large = Item::new("pk", "a", "x".repeat(400 * KIB - 13));
    db.commit(&Batch::new().set(large.clone())).unwrap();
    db.set(&[large.clone()]).unwrap();
    assert_eq!(db.get(large.key()).unwrap(), Some(large));
    let items = numbered_items(100, "");
    db.commit(&items.into_iter().fold(Batch::new(), Batch::create))
        .unwrap();
    let data = "x".repeat(380 * KIB);
    let large = (0..10).fold(Batch::new(), |batch, number| {
        batch.set(Item::new("large", format!("{number:02}"), data.clone()))
    });
    db.commit(&large).unwrap();
    assert_eq!(db.query(&Query::new("large")).unwrap().len(), 10);
}

#[test]
fn data_that_cannot_be_encoded_is_refused() {
    // JSON only has text as keys.
    let Some((db, proxy)) = new_recorded_db::<std::collections::BTreeMap<Vec<u8>, u8>>() else {
        return;
    };
    let item = Item::new("pk", "a", [(vec![1], 2)].into());
    for outcome in [
        db.set(&[item.clone()]),
        db.commit(&Batch::new().set(item)).map(drop),
    ] {
        match outcome {
            Err(Error::Codec { key, .. }) => assert_eq!(key.sk(), "a"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(proxy.operations(), [""; 0]);
}

/// Guarantee 6.
#[test]
fn a_stream_reads_few_pages_ahead_and_stops_when_it_is_dropped() {
    let Some((db, proxy)) = new_recorded_db() else {
        return;
    };
    // Keys, names and quotes are 17 bytes, so each item has 256 KiB and four are a page of exactly
    // 1 MiB. Servers differ in whether a page includes an item that crosses this limit.
    const PER_PAGE: usize = 4;
    const PAGES: usize = 25;
    const AHEAD: usize = 2;
    let items = numbered_items(PAGES * PER_PAGE, &"x".repeat(256 * KIB - 17));
    db.set(&items).unwrap();
    let queries = || proxy.requests_for("Query").len();

    // The caller stops for a while after ten pages. The stream must not run far ahead.
    proxy.set_rule(|_| Fault::None);
    let mut stream = db.stream(Query::new("pk"));
    assert_eq!(queries(), 0, "an unused stream sent a request");
    let before = proxy.completed();
    for item in &items[..10 * PER_PAGE] {
        assert_eq!(stream.next().unwrap().unwrap(), *item);
    }
    assert!(proxy.wait_for_completed(before + 10));
    let deadline = Instant::now() + Duration::from_millis(500);
    while Instant::now() < deadline {
        assert!(queries() <= 10 + AHEAD, "{} pages were read", queries());
        std::thread::yield_now();
    }
    drop(stream);
    let after_drop = queries();

    // Nor does it run ahead of a caller that reads everything.
    proxy.set_rule(|_| Fault::None);
    for (number, item) in db.stream(Query::new("pk")).enumerate() {
        assert_eq!(item.unwrap(), items[number]);
        let needed = number / PER_PAGE + 1;
        let read = queries();
        assert!(read <= needed + AHEAD, "{read} pages for item {number}");
    }
    assert!(queries() >= PAGES, "{} pages", queries());
    assert!(after_drop < PAGES, "the dropped stream went on");

    // With a limit, the stream knows that one page is enough.
    proxy.set_rule(|_| Fault::None);
    assert_eq!(db.stream(Query::new("pk").limit(3)).count(), 3);
    assert_eq!(queries(), 1);
}

/// DynamoDB counts hidden rows towards the limit of a request.
#[test]
fn hidden_rows_do_not_cost_a_request_each() {
    let Some((db, proxy)) = new_recorded_db::<String>() else {
        return;
    };
    let expired: Vec<Item<String>> = (0..60)
        .map(|number| Item::new("pk", format!("a{number:02}"), String::new()).expires_at(START - 1))
        .collect();
    db.set(&expired).unwrap();
    let lock = db.get_lock(Key::new("pk", "a-lock")).unwrap();
    db.set(&[Item::new("pk", "z", String::new())]).unwrap();
    proxy.set_rule(|_| Fault::None);
    let page = db.page(&Query::new("pk").limit(1), None).unwrap();
    assert_eq!(page.items.len(), 1);
    assert!(proxy.operations().len() <= 5, "{:?}", proxy.operations());
    assert_eq!(db.get_lock(lock.key()).unwrap(), lock);
}
