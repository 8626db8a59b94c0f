//! `DynamoDb` with injected faults: lost, delayed, refused and stale requests and responses. Commits have
//! a file of their own.

use super::behind_proxy::{
    COMMIT, ITEM, LOCK, TIMEOUT, always, for_first, item, new_db_behind_proxy, new_table_builder,
    stored_value, with_short_timeouts, within_timeout,
};
use super::fault_proxy::{Fault, FaultProxy, Request};
use super::{START, dynamodb_error, server};
use atomic_db::testing::run_concurrently;
use atomic_db::{
    AtomicDb, AtomicDbExt, DynamoDb, DynamoDbError, Error, Item, Key, KeyBuf, Lock, ManualClock,
    Query, Retry,
};
use crossbeam_channel::bounded;
use std::time::Duration;

#[test]
fn unprocessed_items_are_retried() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let sks: Vec<String> = (0..60).map(|number| format!("{number:02}")).collect();
    let items: Vec<Item<u64>> = (0..)
        .zip(&sks)
        .map(|(n, sk)| Item::new("many", sk, n))
        .collect();
    let keys: Vec<Key<'_>> = sks.iter().map(|sk| Key::new("many", sk)).collect();
    let partly = |request: &Request| match request.index % 4 {
        0 => Fault::ProcessOnly(0),
        1 => Fault::ProcessOnly(20),
        2 => Fault::ProcessOnly(1),
        _ => Fault::None,
    };
    proxy.set_rule_for("BatchWriteItem", partly);
    db.set(&items).unwrap();
    proxy.set_rule_for("BatchGetItem", partly);
    let found = db.get_many(&keys).unwrap();
    assert!(found.into_iter().eq(items.iter().cloned().map(Some)));
    proxy.set_rule_for("BatchWriteItem", partly);
    db.delete(&keys[1..]).unwrap();
    assert_eq!(db.query(&Query::new("many")).unwrap(), items[..1]);
}

#[test]
fn a_batch_without_progress_times_out() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    proxy.set_rule(always(Fault::ProcessOnly(0)));
    for error in [
        within_timeout(|| db.set(&[item(1)])).unwrap_err(),
        within_timeout(|| db.delete(&[ITEM])).unwrap_err(),
        within_timeout(|| db.get_many(&[ITEM]))
            .map(drop)
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        assert!(matches!(
            dynamodb_error(&error),
            DynamoDbError::Throttled { .. }
        ));
    }
}

#[test]
fn reads_are_retried_until_they_get_a_response() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    db.set(&[item(1)]).unwrap();
    for fault in [
        Fault::DropRequest,
        Fault::DropResponse,
        Fault::TruncateResponse,
        Fault::BlackholeResponse,
        Fault::DelayRequest(Duration::from_millis(50)),
        Fault::Error(500, "InternalServerError"),
        Fault::Error(400, "ThrottlingException"),
    ] {
        proxy.set_rule(for_first(1, fault.clone()));
        assert_eq!(
            within_timeout(|| db.get(ITEM)).unwrap(),
            Some(item(1)),
            "{fault:?}"
        );
        assert_eq!(
            within_timeout(|| db.get_many(&[ITEM])).unwrap(),
            [Some(item(1))],
            "{fault:?}"
        );
        assert_eq!(
            within_timeout(|| db.query(&Query::new("pk"))).unwrap(),
            [item(1)],
            "{fault:?}"
        );
        proxy.set_rule(for_first(1, fault.clone()));
        within_timeout(|| db.set(&[item(1)])).unwrap();
    }
    proxy.set_rule(always(Fault::BlackholeRequest));
    for error in [
        within_timeout(|| db.get(ITEM)).map(drop).unwrap_err(),
        within_timeout(|| db.get_many(&[ITEM]))
            .map(drop)
            .unwrap_err(),
        within_timeout(|| db.query(&Query::new("pk")))
            .map(drop)
            .unwrap_err(),
        within_timeout(|| db.get_lock(LOCK)).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        assert!(matches!(
            dynamodb_error(&error),
            DynamoDbError::NoResponse(_)
        ));
    }
    let error = within_timeout(|| db.set(&[item(2)])).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
}

#[test]
fn denied_requests_are_reported_without_a_retry() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    for code in [
        "AccessDeniedException",
        "ExpiredTokenException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
    ] {
        proxy.set_rule(always(Fault::Error(400, code)));
        let lock = Lock::new(
            LOCK,
            "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
            u64::MAX,
        );
        for error in [
            db.get(ITEM).map(drop),
            db.get_many(&[ITEM]).map(drop),
            db.get_lock(LOCK).map(drop),
            db.set(&[item(1)]),
            db.delete(&[ITEM]),
            db.set_atomic(&[item(1)], &[lock]).map(drop),
            db.query(&Query::new("pk")).map(drop),
        ]
        .map(Result::unwrap_err)
        {
            assert!(matches!(error, Error::Backend(_)), "{error:?}");
            match dynamodb_error(&error) {
                DynamoDbError::AccessDenied { code: reported, .. } => assert_eq!(reported, code),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(proxy.operations().len(), 7, "a request was retried");
    }
}

#[test]
fn a_stopped_server_is_unavailable_and_nothing_is_written() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let lock = db.get_lock(LOCK).unwrap();
    drop(proxy);
    for error in [
        within_timeout(|| db.get(ITEM)).map(drop),
        within_timeout(|| db.get_many(&[ITEM])).map(drop),
        within_timeout(|| db.get_lock(LOCK)).map(drop),
        within_timeout(|| db.set(&[item(1)])),
        within_timeout(|| db.delete(&[ITEM])),
        within_timeout(|| db.set_atomic(&[item(1)], &[lock])).map(drop),
        within_timeout(|| db.query(&Query::new("pk"))).map(drop),
        within_timeout(|| {
            server::builder_for_table::<u64>("http://127.0.0.1:1", "table")
                .timeout(TIMEOUT)
                .create_table(true)
                .open()
        })
        .map(drop),
    ]
    .map(Result::unwrap_err)
    {
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        assert!(matches!(
            dynamodb_error(&error),
            DynamoDbError::NoResponse(_)
        ));
    }
}

#[test]
fn lock_creation_is_retried_until_it_gets_a_response() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let faults = [
        Fault::DropResponse,
        Fault::BlackholeResponse,
        Fault::DropRequest,
        Fault::Error(500, "InternalServerError"),
        Fault::Error(400, "TransactionConflictException"),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        proxy.set_rule_for("PutItem", for_first(1, fault.clone()));
        let sk = format!("lock {number}");
        let lock = within_timeout(|| db.get_lock(Key::new("pk", &sk))).unwrap();
        assert_eq!(db.get_lock(Key::new("pk", &sk)).unwrap(), lock, "{fault:?}");
        db.set_atomic(&[item(1)], &[lock]).unwrap();
    }
}

/// A delayed request that creates a lock may arrive after a retry created it and the lock was deleted.
/// It must not bring back the version that the caller holds.
#[test]
fn a_delayed_lock_creation_uses_a_version_of_its_own() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let (hold, released) = bounded(0);
    proxy.set_rule_for("PutItem", for_first(1, Fault::HoldDelivery(released)));
    let before = proxy.completed();
    let lock = db.get_lock(LOCK).unwrap();
    db.delete(&[LOCK]).unwrap();
    drop(hold);
    // Two reads, two puts and a deletion. The first put is completed last.
    assert!(proxy.wait_for_completed(before + 5));
    let late = db.get_lock(LOCK).unwrap();
    assert_ne!(late.version(), lock.version());
    match db.set_atomic(&[item(1)], &[lock]) {
        Err(Error::RaceCondition { keys }) => assert_eq!(keys, [KeyBuf::from(LOCK)]),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        proxy.requests_for("PutItem").len(),
        2,
        "the delayed request created the lock"
    );
}

#[test]
fn transactions_and_fresh_reads_never_see_stale_data() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let proxy = FaultProxy::new(endpoint);
    let eventual = new_table_builder(&proxy)
        .consistent_reads(false)
        .open()
        .unwrap();
    proxy.set_rule(always(Fault::StaleRead));
    eventual.set(&[item(1)]).unwrap();
    assert_eq!(eventual.get(ITEM).unwrap(), Some(item(1)));
    assert_eq!(eventual.get_many(&[ITEM]).unwrap(), [Some(item(1))]);
    let query = Query::new("pk");
    let fresh = query.clone().fresh();
    assert_eq!(eventual.query(&query).unwrap(), [item(1)]);
    for count in 2..=10 {
        let body = if count % 2 == 0 {
            increment
        } else {
            increment_by_query
        };
        eventual.transact(body).unwrap();
        assert_eq!(stored_value(&eventual), Some(count));
        assert_eq!(
            eventual.get(ITEM).unwrap(),
            Some(item(1)),
            "the proxy replays the first response"
        );
        assert_eq!(eventual.query(&query).unwrap(), [item(1)]);
        assert_eq!(eventual.query(&fresh).unwrap(), [item(count)]);
        assert_eq!(eventual.page(&fresh, None).unwrap().items, [item(count)]);
        let many = eventual.get_many_fresh(&[ITEM]).unwrap();
        assert_eq!(many, [Some(item(count))]);
        let locks = eventual.get_locks(&[LOCK, LOCK]).unwrap();
        assert_eq!(locks, vec![eventual.get_lock(LOCK).unwrap(); 2]);
    }

    let strong = new_table_builder(&proxy).open().unwrap();
    proxy.set_rule(always(Fault::StaleRead));
    for count in 1..=10 {
        strong.transact(increment).unwrap();
        assert_eq!(strong.get(ITEM).unwrap(), Some(item(count)));
        assert_eq!(strong.get_many(&[ITEM]).unwrap(), [Some(item(count))]);
        assert_eq!(strong.query(&Query::new("pk")).unwrap(), [item(count)]);
    }
}

fn increment(tx: &mut atomic_db::Transaction<'_, DynamoDb<u64>>) -> atomic_db::Result<()> {
    tx.lock(LOCK)?;
    let count = tx.get(ITEM)?.and_then(Item::into_data).unwrap_or(0);
    tx.set(item(count + 1))
}

/// As [`increment`], with the other reads of a transaction. They agree without another writer.
fn increment_by_query(tx: &mut atomic_db::Transaction<'_, DynamoDb<u64>>) -> atomic_db::Result<()> {
    tx.lock_all(&[LOCK])?;
    let found = tx.query(&Query::new("pk"))?;
    assert_eq!(tx.get_many(&[ITEM])?, [found.first().cloned()]);
    let count = found.first().and_then(Item::data).unwrap_or(&0);
    tx.set(item(count + 1))
}

/// Increments from several threads while about one request in four has a fault. Reads are stale
/// whenever they may be.
#[test]
fn increments_are_applied_once_under_random_faults() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let proxy = FaultProxy::new(endpoint);
    let db = server::builder::<u64>(&proxy.endpoint(), ManualClock::new(START))
        .timeout(Duration::from_secs(5))
        .attempt_timeout(Duration::from_millis(400))
        .open()
        .unwrap();
    let mut bits: u64 = 1;
    proxy.set_rule(move |request| {
        // Marsaglia's xorshift64.
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        let is_commit = request.operation == COMMIT;
        match bits % 32 {
            0 => Fault::DropRequest,
            1 | 2 => Fault::DropResponse,
            3 => Fault::TruncateResponse,
            4 => Fault::BlackholeResponse,
            5 => Fault::DelayDelivery(Duration::from_millis(bits >> 32 & 127)),
            6 => Fault::DelayRequest(Duration::from_millis(bits >> 32 & 31)),
            7 => Fault::Error(500, "InternalServerError"),
            8 => Fault::Error(400, "ThrottlingException"),
            9 if is_commit => {
                Fault::CancelTransaction(vec![("None", None), ("TransactionConflict", None)])
            }
            _ => Fault::StaleRead,
        }
    });
    let retry = Retry::new()
        .attempts(1_000)
        .backoff(Duration::from_millis(2), Duration::from_millis(50));
    let outcomes = run_concurrently(4, |_| {
        let (mut succeeded, mut unknown) = (0, 0);
        for _ in 0..15 {
            match db.transact_with(&retry, increment) {
                Ok(()) => succeeded += 1,
                Err(Error::OutcomeUnknown(_)) => unknown += 1,
                Err(Error::Unavailable(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        (succeeded, unknown)
    });
    let succeeded: u64 = outcomes.iter().map(|outcome| outcome.0).sum();
    let unknown: u64 = outcomes.iter().map(|outcome| outcome.1).sum();
    proxy.set_rule(always(Fault::None));
    let count = stored_value(&db).unwrap();
    let summary = format!("{succeeded} succeeded, {unknown} unknown, counted {count}");
    println!("{summary}");
    assert!(
        (succeeded..=succeeded + unknown).contains(&count),
        "{summary}"
    );
    assert!(succeeded >= 50, "too few increments succeeded: {summary}");
}

/// Another process may enable TTL between the description of a table and the request to enable it.
/// The emulators accept the second request. AWS refuses it, in one of several ways.
#[test]
fn processes_that_enable_ttl_at_the_same_time_all_open() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    const UPDATE: &str = "UpdateTimeToLive";
    const INVALID: &str = "ValidationException";
    let already_enabled = Fault::ErrorWithMessage(400, INVALID, "TimeToLive is already enabled");
    let twice = "Time to live has been modified multiple times within a fixed interval";
    let refusals = [
        already_enabled.clone(),
        Fault::ErrorWithMessage(400, INVALID, twice),
        Fault::Error(400, "ResourceInUseException"),
        Fault::Error(400, "LimitExceededException"),
    ];
    let proxy = FaultProxy::new(endpoint);
    let open = |table: &str| {
        let builder = server::builder_for_table(&proxy.endpoint(), table);
        within_timeout(|| with_short_timeouts(builder).create_table(true).open())
    };
    let unknown = Fault::ErrorWithMessage(400, INVALID, "a new message");
    for refusal in refusals.iter().chain([&unknown]) {
        // Another process was faster.
        let table = server::unique_table_name();
        let other = server::builder_for_table::<u64>(endpoint, table.as_str());
        let mut other = Some(other.create_table(true));
        let fault = refusal.clone();
        proxy.set_rule_for(UPDATE, move |_| {
            other.take().map(|other| other.open().unwrap());
            fault.clone()
        });
        open(&table).unwrap_or_else(|error| panic!("{refusal:?}: {error:?}"));
        assert_eq!(proxy.requests_for(UPDATE).len(), 1, "{refusal:?}");
        assert_eq!(proxy.requests_for("DescribeTimeToLive").len(), 2);
    }
    for refusal in refusals {
        // The description is not up to date: TTL is requested again.
        proxy.set_rule_for(UPDATE, for_first(1, refusal.clone()));
        open(&server::unique_table_name()).unwrap_or_else(|error| panic!("{refusal:?}: {error:?}"));
        assert_eq!(proxy.requests_for(UPDATE).len(), 2);
    }
    // Until the timeout.
    proxy.set_rule_for(UPDATE, always(already_enabled));
    let error = open(&server::unique_table_name()).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(proxy.requests_for(UPDATE).len() > 2, "too few retries");

    // Any other refusal is final.
    proxy.set_rule_for(UPDATE, always(unknown));
    let error = open(&server::unique_table_name()).unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    assert_eq!(proxy.requests_for(UPDATE).len(), 1);
}
