//! Commits with injected faults: each is applied once, or not at all, and its outcome is reported.

use super::behind_proxy::{
    COMMIT, ITEM, LOCK, always, for_first, full_text, item, new_db_behind_proxy, stored_value,
    with_short_timeouts, within_timeout,
};
use super::fault_proxy::{Fault, FaultProxy, MESSAGE};
use super::{dynamodb_error, server};
use atomic_db::{AtomicDb, Batch, DynamoDb, DynamoDbError, Error, Item, Key, KeyBuf};
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
