//! `DynamoDb` with injected faults: lost, delayed, refused and stale requests and responses.

use super::behind_proxy::{
    COMMIT, ITEM, LOCK, TIMEOUT, always, for_first, full_text, item, new_db_behind_proxy,
    new_table_builder, stored_value, with_short_timeouts, within_timeout,
};
use super::fault_proxy::{Fault, FaultProxy, MESSAGE, Request};
use super::{START, dynamodb_error, server};
use atomic_db::testing::run_concurrently;
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, DynamoDb, DynamoDbError, Error, Item, Key, KeyBuf, Lock,
    ManualClock, Query, Retry,
};
use crossbeam_channel::bounded;
use serde_json::json;
use std::time::Duration;

#[test]
fn a_commit_with_a_lost_response_is_applied_once() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let mut lock = db.get_lock(LOCK).unwrap();
    let faults = [
        Fault::DropResponse,
        Fault::TruncateResponse,
        Fault::BlackholeResponse,
        Fault::DropRequest,
        Fault::BlackholeRequest,
        Fault::DelayDelivery(Duration::from_millis(20)),
        Fault::Error(500, "InternalServerError"),
        Fault::Error(503, "ServiceUnavailable"),
        Fault::Error(400, "ThrottlingException"),
        Fault::Error(400, "ProvisionedThroughputExceededException"),
        Fault::Error(400, "RequestLimitExceeded"),
        Fault::Error(400, "TransactionInProgressException"),
        Fault::CancelTransaction(vec![("TransactionConflict", None), ("None", None)]),
        Fault::CancelTransaction(vec![("None", None), ("TransactionConflict", None)]),
        Fault::CancelTransaction(vec![("None", None), ("ThrottlingError", None)]),
        Fault::CancelTransaction(vec![
            ("ProvisionedThroughputExceeded", None),
            ("None", None),
        ]),
    ];
    for (data, fault) in (0..).zip(faults) {
        proxy.set_rule_for(COMMIT, for_first(1, fault.clone()));
        let version = within_timeout(|| db.set_atomic(&[item(data)], &[lock.clone()]));
        let version = version.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        lock = lock.with_version(version);
        let requests = proxy.requests_for(COMMIT);
        assert_eq!(requests.len(), 2, "{fault:?}");
        assert_eq!(requests[0].body, requests[1].body, "{fault:?}: two commits");
        assert!(requests[0].body["ClientRequestToken"].is_string());
        assert_eq!(stored_value(&db), Some(data), "{fault:?}");
        assert_eq!(db.get_lock(LOCK).unwrap(), lock, "{fault:?}");
    }
}

#[test]
fn a_commit_without_any_response_is_resolved_by_its_lock() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    for fault in [Fault::DropResponse, Fault::BlackholeResponse] {
        let lock = db.get_lock(LOCK).unwrap();
        proxy.set_rule_for(COMMIT, always(fault));
        let version = within_timeout(|| db.set_atomic(&[item(7)], &[lock.clone()])).unwrap();
        assert_eq!(db.get_lock(LOCK).unwrap(), lock.with_version(version));
        assert_eq!(stored_value(&db), Some(7));
        // Without a lock, it cannot be resolved.
        let outcome = within_timeout(|| db.commit(&Batch::new().set(item(8))));
        assert!(
            matches!(outcome, Err(Error::OutcomeUnknown(_))),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_commit_that_cannot_be_resolved_has_an_unknown_outcome() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let lock = db.get_lock(LOCK).unwrap();
    for fault in [
        Fault::DropRequest,
        Fault::BlackholeRequest,
        Fault::Error(500, "InternalServerError"),
        Fault::Error(400, "TransactionInProgressException"),
    ] {
        proxy.set_rule_for(COMMIT, always(fault.clone()));
        let outcome = within_timeout(|| db.set_atomic(&[item(1)], &[lock.clone()]));
        let error = outcome.unwrap_err();
        assert!(
            matches!(error, Error::OutcomeUnknown(_)),
            "{fault:?}: {error:?}"
        );
        assert!(!error.is_retryable());
        assert_eq!(stored_value(&db), None, "{fault:?}");
    }
    // Reading the lock back fails, too.
    let mut fault = Fault::DropResponse;
    proxy.set_rule(move |_| std::mem::replace(&mut fault, Fault::BlackholeRequest));
    let outcome = within_timeout(|| db.set_atomic(&[item(1)], &[lock.clone()]));
    assert!(
        matches!(outcome, Err(Error::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    proxy.set_rule(always(Fault::None));
    assert_eq!(stored_value(&db), Some(1), "the commit was applied");
}

#[test]
fn a_commit_that_is_always_throttled_writes_nothing() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let lock = db.get_lock(LOCK).unwrap();
    for fault in [
        Fault::Error(400, "ThrottlingException"),
        Fault::CancelTransaction(vec![("None", None), ("ThrottlingError", None)]),
        Fault::CancelTransaction(vec![
            ("TransactionConflict", None),
            ("ProvisionedThroughputExceeded", None),
        ]),
    ] {
        proxy.set_rule_for(COMMIT, always(fault.clone()));
        let error = within_timeout(|| db.set_atomic(&[item(1)], &[lock.clone()])).unwrap_err();
        assert!(
            matches!(error, Error::Unavailable(_)),
            "{fault:?}: {error:?}"
        );
        let source = dynamodb_error(&error);
        assert!(
            matches!(source, DynamoDbError::Throttled { .. }),
            "{source:?}"
        );
        assert!(proxy.requests_for(COMMIT).len() > 2, "too few retries");
        assert_eq!(stored_value(&db), None);
    }
}

#[test]
fn persistent_conflicts_name_the_contended_locks() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let [a, b, c] = ["a", "b", "c"].map(|sk| db.get_lock(Key::new("locks", sk)).unwrap());
    let batch = Batch::new().lock(a).lock(b).check(c).set(item(1));
    let cancelled = |codes: [&'static str; 4]| {
        Fault::CancelTransaction(codes.map(|code| (code, None)).to_vec())
    };
    const CONFLICT: &str = "TransactionConflict";
    let fault = cancelled(["None", CONFLICT, CONFLICT, CONFLICT]);
    proxy.set_rule_for(COMMIT, always(fault));
    match within_timeout(|| db.commit(&batch)) {
        Err(Error::RaceCondition { keys }) => {
            assert_eq!(keys, [KeyBuf::new("locks", "b"), KeyBuf::new("locks", "c")]);
        }
        other => panic!("{other:?}"),
    }
    // Only an item is contended, so there is no lock to name.
    let fault = cancelled(["None", "None", "None", CONFLICT]);
    proxy.set_rule_for(COMMIT, always(fault));
    let error = within_timeout(|| db.commit(&batch)).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(matches!(
        dynamodb_error(&error),
        DynamoDbError::TransactionConflict { .. }
    ));
    proxy.set_rule(always(Fault::None));
    db.commit(&batch).unwrap();
}

#[test]
fn each_cancellation_reason_maps_to_its_error() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let [a, b] = ["a", "b"].map(|sk| db.get_lock(Key::new("locks", sk)).unwrap());
    let batch = Batch::new()
        .lock(a)
        .check(b)
        .set(item(1))
        .create(Item::new("pk", "new", 1));
    let cancelled = |codes: [&'static str; 4]| {
        let codes = codes.map(|code| (code, None)).to_vec();
        proxy.set_rule_for(COMMIT, always(Fault::CancelTransaction(codes)));
        let outcome = within_timeout(|| db.commit(&batch));
        (outcome.unwrap_err(), proxy.requests_for(COMMIT).len())
    };
    const FAILED: &str = "ConditionalCheckFailed";
    let locks = [KeyBuf::new("locks", "a"), KeyBuf::new("locks", "b")];

    match cancelled([FAILED, FAILED, "None", FAILED]) {
        (Error::RaceCondition { keys }, 1) => assert_eq!(keys, locks),
        other => panic!("{other:?}"),
    }
    match cancelled(["TransactionConflict", FAILED, "ThrottlingError", FAILED]) {
        (Error::RaceCondition { keys }, 1) => assert_eq!(keys, locks[1..]),
        other => panic!("{other:?}"),
    }
    match cancelled(["TransactionConflict", "None", "None", FAILED]) {
        (Error::AlreadyExists { key }, 1) => assert_eq!(key, KeyBuf::new("pk", "new")),
        other => panic!("{other:?}"),
    }
    for code in ["ValidationError", "ItemCollectionSizeLimitExceeded"] {
        match cancelled(["TransactionConflict", "None", code, "None"]) {
            (Error::InvalidInput(text), 1) => {
                assert!(text.contains(r#"("pk", "item")"#), "{text}");
                assert!(text.contains(code) && text.contains(MESSAGE), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    let (error, requests) = cancelled(["AccessDenied", "None", "None", "None"]);
    assert!(
        matches!(dynamodb_error(&error), DynamoDbError::AccessDenied { .. }),
        "{error:?}"
    );
    assert_eq!(requests, 1);
    let (error, requests) = cancelled(["None", "None", "SomethingNew", "None"]);
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    assert_eq!(requests, 1);
    assert_eq!(stored_value(&db), None);
}

/// DynamoDB remembers a token for ten minutes. A retry after that finds the lock changed, and only its
/// version shows that the commit itself changed it.
#[test]
fn a_lock_with_the_version_of_the_commit_means_success() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let lock = db.get_lock(LOCK).unwrap();
    proxy.set_rule_for(COMMIT, move |request| {
        let values = &request.body["TransactItems"][0]["Update"]["ExpressionAttributeValues"];
        let row = json!({"pk": {"S": "pk"}, "sk": {"S": "lock"}, "version": values[":new"]});
        Fault::CancelTransaction(vec![("ConditionalCheckFailed", Some(row)), ("None", None)])
    });
    let version = db.set_atomic(&[item(1)], &[lock]).unwrap();
    let request = &proxy.requests_for(COMMIT)[0];
    let values = &request.body["TransactItems"][0]["Update"]["ExpressionAttributeValues"];
    assert_eq!(values[":new"], json!({"S": version.to_string()}));
}

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

/// A delayed request that creates an item may arrive after a retry was refused and the existing item was
/// deleted. The commit happens then, so it must not have been refused.
#[test]
fn a_creation_is_not_refused_while_an_earlier_request_is_under_way() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let lock = db.get_lock(LOCK).unwrap();
    for batch in [
        Batch::new().create(item(2)),
        Batch::new().create(item(2)).lock(lock),
    ] {
        db.set(&[item(1)]).unwrap();
        let (hold, released) = bounded(0);
        proxy.set_rule_for(COMMIT, for_first(1, Fault::HoldDelivery(released)));
        let before = proxy.completed();
        let error = within_timeout(|| db.commit(&batch)).unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
        assert!(full_text(&error).contains("exists"), "{error:?}");
        assert_eq!(stored_value(&db), Some(1));
        db.delete(&[ITEM]).unwrap();
        let requests = proxy.operations().len();
        drop(hold);
        assert!(proxy.wait_for_completed(before + requests));
        assert_eq!(stored_value(&db), Some(2), "the delayed request arrived");
    }
}

#[test]
fn a_creation_in_doubt_is_resolved_as_soon_as_possible() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let proxy = FaultProxy::new(endpoint);
    let table = server::unique_table_name();
    let open = |endpoint: &str| {
        let builder = server::builder_for_table(endpoint, table.as_str());
        with_short_timeouts(builder.create_table(true))
            .open()
            .unwrap()
    };
    let (other, db): (DynamoDb<u64>, DynamoDb<u64>) = (open(endpoint), open(&proxy.endpoint()));
    db.set(&[item(1)]).unwrap();
    // The existing item is deleted while the commit is retried.
    proxy.set_rule_for(COMMIT, move |request| match request.index {
        0 => Fault::DropRequest,
        1 => Fault::None,
        _ => {
            other.delete(&[ITEM]).unwrap();
            Fault::None
        }
    });
    within_timeout(|| db.commit(&Batch::new().create(item(2)))).unwrap();
    assert_eq!(proxy.requests_for(COMMIT).len(), 3);
    assert_eq!(stored_value(&db), Some(2));

    // A lock never gets its version back, so a conflict is final.
    proxy.set_rule(always(Fault::None));
    let lock = db.get_lock(LOCK).unwrap();
    db.set_atomic(&[], &[lock.clone()]).unwrap();
    proxy.set_rule_for(COMMIT, for_first(1, Fault::DropRequest));
    let batch = Batch::new().create(item(3)).lock(lock);
    match within_timeout(|| db.commit(&batch)) {
        Err(Error::RaceCondition { keys }) => assert_eq!(keys, [KeyBuf::from(LOCK)]),
        other => panic!("{other:?}"),
    }
    assert_eq!(proxy.requests_for(COMMIT).len(), 2);
    // Without doubt, so is an existing item.
    proxy.set_rule_for(
        COMMIT,
        for_first(1, Fault::Error(400, "ThrottlingException")),
    );
    match within_timeout(|| db.commit(&Batch::new().create(item(3)))) {
        Err(Error::AlreadyExists { key }) => assert_eq!(key, KeyBuf::from(ITEM)),
        other => panic!("{other:?}"),
    }
    assert_eq!(proxy.requests_for(COMMIT).len(), 2);
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
