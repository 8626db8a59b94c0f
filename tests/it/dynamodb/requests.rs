//! Which requests each call sends, and which calls send none.

use super::fault_proxy::{Fault, FaultProxy};
use super::{START, new_db_or_skip, server};
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, DynamoDb, Error, Item, Key, Lock, ManualClock, Query, Version,
};
use serde::de::DeserializeOwned;
use std::ops::Bound;
use std::time::{Duration, Instant};

const KIB: usize = 1_024;

/// Returns a new table behind a proxy that records its requests, or `None` without a server.
fn new_recorded_db<T: DeserializeOwned>() -> Option<(DynamoDb<T>, FaultProxy)> {
    new_recorded_db_with_clock(ManualClock::new(START))
}

fn new_recorded_db_with_clock<T: DeserializeOwned>(
    clock: ManualClock,
) -> Option<(DynamoDb<T>, FaultProxy)> {
    let proxy = FaultProxy::new(server::endpoint()?);
    // Long timeouts, because the proxy would also record a retry.
    let db = server::builder(&proxy.endpoint(), clock)
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

const LOCKS: [Key<'static>; 3] = [
    Key::new("a", "lock"),
    Key::new("b", "lock"),
    Key::new("c", "lock"),
];

#[test]
fn existing_locks_are_read_in_batches() {
    let Some((db, proxy)) = new_recorded_db::<u8>() else {
        return;
    };
    let locks = LOCKS.map(|key| db.get_lock(key).unwrap());
    proxy.set_rule(|_| Fault::None);
    assert_eq!(db.get_locks(&LOCKS).unwrap(), locks);
    assert_eq!(db.get_locks(&LOCKS[..1]).unwrap(), locks[..1]);
    let [a, b, c] = LOCKS;
    let [lock_a, lock_b, lock_c] = locks.clone();
    assert_eq!(
        db.get_locks(&[c, a, c, b, a]).unwrap(),
        [lock_c.clone(), lock_a.clone(), lock_c, lock_b, lock_a]
    );
    assert_eq!(proxy.operations(), ["BatchGetItem"; 3]);

    let sks: Vec<String> = (0..250).map(|number| format!("{number}")).collect();
    let keys: Vec<Key<'_>> = sks.iter().map(|sk| Key::new("many", sk)).collect();
    let created = db.get_locks(&keys).unwrap();
    proxy.set_rule(|_| Fault::None);
    assert_eq!(db.get_locks(&keys).unwrap(), created);
    assert_eq!(proxy.operations(), ["BatchGetItem"; 3]);
}

#[test]
fn missing_expired_and_expiring_locks_are_written_one_by_one() {
    let clock = ManualClock::new(START);
    let Some((db, proxy)) = new_recorded_db_with_clock::<u8>(clock.clone()) else {
        return;
    };
    let [expired, expiring, missing] = LOCKS;
    let old = db.get_lock(expired).unwrap();
    clock.set(START + 7_200);
    let expiring = db.get_lock(expiring).unwrap();
    let now = old.ttl() + 3_601;
    clock.set(now);
    let existing = db.get_lock(Key::new("d", "lock")).unwrap();
    proxy.set_rule(|_| Fault::None);
    let keys = [
        existing.key(),
        missing,
        expiring.key(),
        missing,
        expired,
        expiring.key(),
    ];
    let locks = db.get_locks(&keys).unwrap();
    assert_eq!(
        proxy.operations(),
        ["BatchGetItem", "PutItem", "UpdateItem", "PutItem"]
    );
    let found: Vec<Key<'_>> = locks.iter().map(Lock::key).collect();
    assert_eq!(found, keys);
    assert_eq!(locks[0], existing);
    assert_eq!(locks[1], locks[3]);
    assert_eq!(locks[2], locks[5]);
    // A refresh keeps the version (guarantee 16).
    assert_eq!(locks[2].version(), expiring.version());
    assert_ne!(locks[4].version(), old.version());
    assert!(locks.iter().all(|lock| lock.ttl() == now + Lock::LIFETIME));
    // They are the stored locks.
    db.set_atomic(&[], &[locks[0].clone(), locks[1].clone()])
        .unwrap();
    db.set_atomic(&[], &[locks[2].clone(), locks[4].clone()])
        .unwrap();
}

#[test]
fn an_item_at_the_key_of_one_lock_is_found_before_others_are_created() {
    let Some((db, proxy)) = new_recorded_db() else {
        return;
    };
    db.set(&[Item::new("c", "lock", 1)]).unwrap();
    proxy.set_rule(|_| Fault::None);
    match db.get_locks(&LOCKS) {
        Err(Error::InvalidInput(text)) => assert!(text.contains(r#"("c", "lock")"#), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(proxy.operations(), ["BatchGetItem"]);
}

/// Guarantee 15.
#[test]
fn locks_that_are_created_after_the_batch_was_read_are_returned() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let proxy = FaultProxy::new(endpoint);
    let name = server::unique_table_name();
    let open = |endpoint: &str| {
        let builder = server::builder_for_table::<u8>(endpoint, name.as_str());
        let builder = builder.create_table(true).clock(ManualClock::new(START));
        builder.open().unwrap()
    };
    let (other, db) = (open(endpoint), open(&proxy.endpoint()));
    let created = other.clone();
    proxy.set_rule_for("PutItem", move |_| {
        created.get_locks(&LOCKS).unwrap();
        Fault::None
    });
    let locks = db.get_locks(&LOCKS).unwrap();
    assert_eq!(
        proxy.operations(),
        ["BatchGetItem", "PutItem", "PutItem", "PutItem"]
    );
    assert_eq!(other.get_locks(&LOCKS).unwrap(), locks);
}

#[test]
fn a_transaction_under_three_locks_over_five_items_is_three_requests() {
    let Some((db, proxy)) = new_recorded_db() else {
        return;
    };
    let items = numbered_items(5, "old");
    let keys: Vec<Key<'_>> = items.iter().map(Item::key).collect();
    db.set(&items).unwrap();
    db.get_locks(&LOCKS).unwrap();
    proxy.set_rule(|_| Fault::None);
    db.transact(|tx| {
        tx.lock_all(&LOCKS)?;
        let found = tx.get_many(&keys)?;
        assert!(found.iter().all(Option::is_some));
        for key in &keys {
            tx.set(Item::new(key.pk, key.sk, "new".to_owned()))?;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(
        proxy.operations(),
        ["BatchGetItem", "BatchGetItem", "TransactWriteItems"]
    );
    assert!(
        db.query(&Query::new("pk"))
            .unwrap()
            .iter()
            .all(|item| item.data().is_some_and(|data| data == "new"))
    );
}

#[test]
fn a_range_reads_at_most_one_row_that_it_does_not_contain() {
    let Some((db, proxy)) = new_recorded_db() else {
        return;
    };
    let items = numbered_items(100, "");
    db.set(&items).unwrap();
    let query = || Query::new("pk");
    let excluded = |sk: &'static str| Bound::Excluded(sk);
    for (query, expected, scanned) in [
        (query().range("00010"..="00019"), 10..20, 10),
        // The end of the range is read.
        (query().range("00010".."00020"), 10..20, 11),
        (query().range("00010".."00020").reverse(), 10..20, 10),
        (
            query().range((excluded("00009"), excluded("00020"))),
            10..20,
            11,
        ),
        (query().range("00010"..="00010"), 10..11, 1),
        (query().range("00090"..), 90..100, 10),
        (
            query().range((excluded("00089"), Bound::Unbounded)),
            90..100,
            10,
        ),
        (query().range(.."00010"), 0..10, 10),
        (query().range(..="00009").reverse(), 0..10, 10),
        (query().prefix("0001"), 10..20, 10),
        (query().prefix("0001").range("00015"..), 15..20, 5),
        (query().prefix("0001").range("00015"..).reverse(), 15..20, 5),
        (query().prefix("0001").range("00000".."00015"), 10..15, 6),
        (query().prefix("0001").range("0".."1"), 10..20, 10),
        (query().range("00010"..="00019").after("00014"), 15..20, 5),
        (
            query().range("00010"..="00019").after("00014").reverse(),
            10..14,
            4,
        ),
        (query().range("00010"..="00019").after("00001"), 10..20, 10),
    ] {
        let mut expected = items[expected].to_vec();
        if query.reverse {
            expected.reverse();
        }
        proxy.set_rule(|_| Fault::None);
        assert_eq!(db.query(&query).unwrap(), expected, "{query:?}");
        assert_eq!(proxy.operations(), ["Query"], "{query:?}");
        assert_eq!(proxy.scanned_rows(), scanned, "{query:?}");
    }
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
    db.get_many_fresh(&[]).unwrap();
    db.get_locks(&[]).unwrap();
    db.commit(&Batch::new()).unwrap();
    db.set_atomic(&[], &[]).unwrap();
    db.query(&Query::new("pk").limit(0)).unwrap();
    db.page(&Query::new("pk").limit(0), None).unwrap();
    db.page(&Query::new("pk").prefix("a"), Some("b")).unwrap();
    drop(db.stream(Query::new("pk")));
    for nothing in [
        Query::new("pk").range("b".."a"),
        Query::new("pk").range("a".."a"),
        Query::new("pk").range(.."").reverse(),
        Query::new("pk").prefix("a").range("b"..),
        Query::new("pk").range("a".."b").after("b"),
        Query::new("pk").range("a".."b").reverse().after("a"),
    ] {
        assert_eq!(db.query(&nothing).unwrap(), []);
        assert_eq!(db.page(&nothing, None).unwrap().items, []);
        assert!(db.stream(nothing).next().is_none());
    }
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
            db.get_many_fresh(&[valid.key(), key]).map(drop),
            db.get_lock(key).map(drop),
            db.get_locks(&[valid.key(), key]).map(drop),
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
        db.query(&Query::new("pk").range(long_sk.as_str()..))
            .map(drop),
        db.query(&Query::new("pk").prefix("a").range(..&long_sk))
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

/// It used to be one request for every 17 rows.
#[test]
fn the_requests_for_few_items_behind_many_hidden_rows_are_logarithmic() {
    const HIDDEN: usize = 5_000;
    let Some((db, proxy)) = new_recorded_db::<String>() else {
        return;
    };
    let item = |number: usize| Item::new("pk", format!("{number:05}"), String::new());
    let expired: Vec<Item<String>> = (0..HIDDEN)
        .map(|number| item(number).expires_at(START - 1))
        .collect();
    db.set(&expired).unwrap();
    let live = item(HIDDEN);
    db.set(&[live.clone(), item(HIDDEN + 1)]).unwrap();
    let query = Query::new("pk").limit(1);
    proxy.set_rule(|_| Fault::None);
    let page = db.page(&query, None).unwrap();
    assert_eq!(page.items, [live.clone()]);
    let of_page = proxy.operations().len();
    assert_eq!(db.query(&query).unwrap(), [live]);
    let of_query = proxy.operations().len() - of_page;
    assert_eq!((of_page, of_query), (9, 9));

    // Items between hidden rows do not shrink the pages again.
    let mixed: Vec<Item<String>> = (0..HIDDEN).step_by(50).map(item).collect();
    db.set(&mixed).unwrap();
    proxy.set_rule(|_| Fault::None);
    assert_eq!(db.query(&query.limit(100)).unwrap(), mixed);
    let requests = proxy.operations().len();
    assert!(requests <= 8, "{requests}");
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
