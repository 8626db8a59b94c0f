//! Concurrent batches, and retries during an outage.

use super::behind_proxy::{
    ITEM, always, for_first, item, new_db_behind_proxy, stored_value, within_timeout,
};
use super::fault_proxy::{Fault, FaultProxy, Request};
use super::{START, dynamodb_error, server};
use atomic_db::testing::run_concurrently;
use atomic_db::{AtomicDb, Batch, DynamoDbError, Error, Item, Key, ManualClock};
use std::time::Duration;

const MAX_CONCURRENT: usize = 8;

fn until_all_are_in_flight(request: &Request) -> Fault {
    if request.index < MAX_CONCURRENT {
        Fault::AwaitInFlight(MAX_CONCURRENT)
    } else {
        Fault::None
    }
}

#[test]
fn batches_are_sent_concurrently() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let proxy = FaultProxy::new(endpoint);
    // A long timeout, because the proxy would also count a retry.
    let builder = server::builder(&proxy.endpoint(), ManualClock::new(START));
    let db = builder
        .timeout(Duration::from_secs(60))
        .attempt_timeout(Duration::from_secs(60))
        .open()
        .unwrap();
    let sks: Vec<String> = (0..2_000).map(|number| format!("{number:04}")).collect();
    let keys: Vec<Key<'_>> = sks.iter().map(|sk| Key::new("many", sk)).collect();
    let items: Vec<Item<u64>> = (0..)
        .zip(&keys)
        .map(|(number, key)| Item::at(*key, number))
        .collect();
    proxy.set_rule(until_all_are_in_flight);
    db.set(&items[..500]).unwrap();
    assert_eq!(proxy.operations(), ["BatchWriteItem"; 20]);
    assert_eq!(proxy.peak_in_flight(), MAX_CONCURRENT);
    proxy.set_rule(until_all_are_in_flight);
    let found = db.get_many(&keys).unwrap();
    assert_eq!(proxy.operations(), ["BatchGetItem"; 20]);
    assert_eq!(proxy.peak_in_flight(), MAX_CONCURRENT);
    let expected = items
        .iter()
        .map(|item| (item.data() < Some(&500)).then(|| item.clone()));
    assert!(found.into_iter().eq(expected));
    proxy.set_rule(until_all_are_in_flight);
    db.delete(&keys[..500]).unwrap();
    assert_eq!(proxy.operations(), ["BatchWriteItem"; 20]);
    assert_eq!(proxy.peak_in_flight(), MAX_CONCURRENT);
    assert!(db.get_many(&keys).unwrap().iter().all(Option::is_none));
}

/// No request of a failed write is under way after the call has returned.
#[test]
fn a_failed_write_sends_no_further_batch_and_waits_for_those_in_flight() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let items: Vec<Item<u64>> = (0..1_000)
        .map(|number| Item::new("many", format!("{number:04}"), number))
        .collect();
    let fail_first = |error: Fault, others: Fault| {
        move |request: &Request| {
            if request.index == 0 {
                error.clone()
            } else {
                others.clone()
            }
        }
    };
    let denied = || Fault::Error(400, "AccessDeniedException");
    let delayed = || Fault::DelayRequest(Duration::from_millis(200));
    proxy.set_rule(fail_first(denied(), delayed()));
    let before = proxy.completed();
    let error = within_timeout(|| db.set(&items)).unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    let sent = proxy.operations().len();
    assert!(sent <= 2 * MAX_CONCURRENT, "{sent} batches");
    assert!(proxy.wait_for_completed(before + sent));
    assert_eq!(proxy.operations().len(), sent);

    // DynamoDB rejects one batch as invalid, and the others are written.
    proxy.set_rule(fail_first(
        Fault::Error(400, "ValidationException"),
        delayed(),
    ));
    let error = within_timeout(|| db.set(&items)).unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    let invalid = Fault::Error(400, "ValidationException");
    proxy.set_rule(always(invalid));
    let error = within_timeout(|| db.set(&items)).unwrap_err();
    assert!(matches!(error, Error::InvalidInput(_)), "{error:?}");

    // The outcome of the others is unknown, whatever happened to the first.
    proxy.set_rule(fail_first(denied(), Fault::BlackholeResponse));
    let error = within_timeout(|| db.set(&items)).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
}

/// Up to 21 requests a call were seen.
#[test]
fn an_outage_does_not_multiply_requests() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    for fault in [
        Fault::Error(500, "InternalServerError"),
        Fault::Error(400, "ThrottlingException"),
    ] {
        const THREADS: usize = 8;
        const CALLS: usize = 50;
        proxy.set_rule(always(fault));
        run_concurrently(THREADS, |_| {
            for _ in 0..CALLS {
                let error = within_timeout(|| db.get(ITEM)).unwrap_err();
                assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
            }
        });
        let requests = proxy.operations().len();
        assert!(requests <= 2 * THREADS * CALLS + 150, "{requests} requests");
    }
    let outcome = within_timeout(|| db.commit(&Batch::new().set(item(1))));
    assert!(outcome.is_err());
    // One lost response is still resolved, and the server's recovery is noticed.
    proxy.set_rule(for_first(1, Fault::DropResponse));
    db.commit(&Batch::new().set(item(2))).unwrap();
    assert_eq!(stored_value(&db), Some(2));
    for _ in 0..20 {
        db.get(ITEM).unwrap();
    }
    proxy.set_rule(for_first(4, Fault::Error(500, "InternalServerError")));
    db.get(ITEM).unwrap();
    assert_eq!(proxy.operations().len(), 5);
}

/// Conflicts do not spend the retry budget: the server works.
#[test]
fn conflicts_are_retried_even_if_the_retry_budget_is_spent() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    proxy.set_rule(always(Fault::Error(500, "InternalServerError")));
    run_concurrently(8, |_| {
        for _ in 0..20 {
            db.get(ITEM).unwrap_err();
        }
    });
    let conflict = Fault::CancelTransaction(vec![("TransactionConflict", None)]);
    proxy.set_rule(for_first(5, conflict));
    within_timeout(|| db.commit(&Batch::new().set(item(1)))).unwrap();
    let conflict = Fault::CancelTransaction(vec![("TransactionConflict", None)]);
    proxy.set_rule(always(conflict));
    let error = within_timeout(|| db.commit(&Batch::new().set(item(1)))).unwrap_err();
    assert!(matches!(
        dynamodb_error(&error),
        DynamoDbError::TransactionConflict { .. }
    ));
    assert!(proxy.operations().len() > 4, "too few retries");
}
