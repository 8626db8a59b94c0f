//! `DynamoDb` while its requests and answers are lost, late, refused or old.

use super::fault_proxy::{Fault, Proxy, Request};
use super::server;
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, DynamoDb, DynamoDbBuilder, DynamoDbError, Error, Item, Key,
    KeyBuf, Lock, ManualClock, Query, Retry,
};
use crossbeam_channel::bounded;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_millis(2_500);
const ATTEMPT: Duration = Duration::from_millis(700);

/// What a call may take beyond its timeout, on a machine that has other things to do.
const LEEWAY: Duration = Duration::from_millis(2_500);

/// A new table behind a proxy, with little patience. `None` where there is no server.
fn behind_a_proxy() -> Option<(DynamoDb<u64>, Proxy)> {
    let proxy = Proxy::before(server::endpoint()?);
    let db = impatient(&proxy).open().unwrap();
    Some((db, proxy))
}

/// A builder for a new table, which has been created with more patience.
fn impatient(proxy: &Proxy) -> DynamoDbBuilder<u64> {
    let table = server::unique_table_name();
    let patient = server::builder_for_table::<u64>(&proxy.endpoint(), table.as_str());
    patient.create_table(true).open().unwrap();
    server::builder_for_table(&proxy.endpoint(), table)
        .clock(ManualClock::new(2_000_000_000))
        .timeout(TIMEOUT)
        .attempt_timeout(ATTEMPT)
}

const LOCK: Key<'static> = Key::new("pk", "lock");
const ITEM: Key<'static> = Key::new("pk", "item");

fn item(data: u64) -> Item<u64> {
    Item::new(ITEM.pk, ITEM.sk, data)
}

fn value(db: &DynamoDb<u64>) -> Option<u64> {
    db.get_fresh(ITEM).unwrap().and_then(Item::into_data)
}

/// The outcome of `call`, which must end by its timeout, more or less.
fn in_time<R>(call: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let outcome = call();
    let took = began.elapsed();
    assert!(took < TIMEOUT + LEEWAY, "a call took {took:?}");
    outcome
}

fn source(error: &Error) -> Option<&DynamoDbError> {
    match error {
        Error::Backend(source) | Error::Unavailable(source) | Error::OutcomeUnknown(source) => {
            source.downcast_ref()
        }
        _ => None,
    }
}

/// Each fault for the first few requests of an operation, and none after them.
fn at_first(times: usize, fault: Fault) -> impl FnMut(&Request) -> Fault + Send + 'static {
    move |request| match request.number < times {
        true => fault.clone(),
        false => Fault::None,
    }
}

fn always(fault: Fault) -> impl FnMut(&Request) -> Fault + Send + 'static {
    at_first(usize::MAX, fault)
}

const COMMIT: &str = "TransactWriteItems";

#[test]
fn a_commit_whose_answer_is_lost_is_done_once() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    let mut lock = db.get_lock(LOCK).unwrap();
    for (turn, fault) in [
        Fault::LoseAnswer,
        Fault::HalfAnswer,
        Fault::SwallowAnswer,
        Fault::LoseRequest,
        Fault::SwallowRequest,
        Fault::DeliverLate(Duration::from_millis(20)),
        Fault::Error(500, "InternalServerError"),
        Fault::Error(503, "ServiceUnavailable"),
        Fault::Error(400, "ThrottlingException"),
        Fault::Error(400, "ProvisionedThroughputExceededException"),
        Fault::Error(400, "RequestLimitExceeded"),
        Fault::Error(400, "TransactionInProgressException"),
        Fault::Cancel(vec![("TransactionConflict", None), ("None", None)]),
        Fault::Cancel(vec![("None", None), ("TransactionConflict", None)]),
        Fault::Cancel(vec![("None", None), ("ThrottlingError", None)]),
        Fault::Cancel(vec![
            ("ProvisionedThroughputExceeded", None),
            ("None", None),
        ]),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.set_for(COMMIT, at_first(1, fault.clone()));
        let turn = turn as u64;
        let version = in_time(|| db.set_atomic(&[item(turn)], &[lock.clone()]));
        let version = version.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        lock = lock.with_version(version);
        let requests = proxy.requests_of(COMMIT);
        assert_eq!(requests.len(), 2, "{fault:?}");
        assert_eq!(requests[0].body, requests[1].body, "{fault:?}: two commits");
        assert!(requests[0].body["ClientRequestToken"].is_string());
        assert_eq!(value(&db), Some(turn), "{fault:?}");
        assert_eq!(db.get_lock(LOCK).unwrap(), lock, "{fault:?}");
    }
}

#[test]
fn a_commit_whose_answers_are_all_lost_is_settled_by_its_lock() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    for fault in [Fault::LoseAnswer, Fault::SwallowAnswer] {
        let lock = db.get_lock(LOCK).unwrap();
        proxy.set_for(COMMIT, always(fault));
        let version = in_time(|| db.set_atomic(&[item(7)], &[lock.clone()])).unwrap();
        assert_eq!(db.get_lock(LOCK).unwrap(), lock.with_version(version));
        assert_eq!(value(&db), Some(7));
        // Without a lock, there is nothing to settle it by.
        let outcome = in_time(|| db.commit(&Batch::new().set(item(8))));
        assert!(
            matches!(outcome, Err(Error::OutcomeUnknown(_))),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_commit_of_which_nothing_is_heard_is_of_unknown_outcome() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    let lock = db.get_lock(LOCK).unwrap();
    for fault in [
        Fault::LoseRequest,
        Fault::SwallowRequest,
        Fault::Error(500, "InternalServerError"),
        Fault::Error(400, "TransactionInProgressException"),
    ] {
        proxy.set_for(COMMIT, always(fault.clone()));
        let outcome = in_time(|| db.set_atomic(&[item(1)], &[lock.clone()]));
        let error = outcome.unwrap_err();
        assert!(
            matches!(error, Error::OutcomeUnknown(_)),
            "{fault:?}: {error:?}"
        );
        assert!(!error.is_retryable());
        assert_eq!(value(&db), None, "{fault:?}");
    }
    // Nor is anything heard of the lock.
    let first = Arc::new(AtomicU64::new(0));
    proxy.set(move |_| match first.fetch_add(1, Ordering::SeqCst) {
        0 => Fault::LoseAnswer,
        _ => Fault::SwallowRequest,
    });
    let outcome = in_time(|| db.set_atomic(&[item(1)], &[lock.clone()]));
    assert!(
        matches!(outcome, Err(Error::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    proxy.set(always(Fault::None));
    assert_eq!(value(&db), Some(1), "it did happen");
}

#[test]
fn a_commit_that_is_throttled_for_good_wrote_nothing() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    let lock = db.get_lock(LOCK).unwrap();
    for fault in [
        Fault::Error(400, "ThrottlingException"),
        Fault::Cancel(vec![("None", None), ("ThrottlingError", None)]),
        Fault::Cancel(vec![
            ("TransactionConflict", None),
            ("ProvisionedThroughputExceeded", None),
        ]),
    ] {
        proxy.set_for(COMMIT, always(fault.clone()));
        let error = in_time(|| db.set_atomic(&[item(1)], &[lock.clone()])).unwrap_err();
        assert!(
            matches!(error, Error::Unavailable(_)),
            "{fault:?}: {error:?}"
        );
        let source = source(&error);
        assert!(
            matches!(source, Some(DynamoDbError::Throttled { .. })),
            "{source:?}"
        );
        assert!(proxy.requests_of(COMMIT).len() > 2, "it gave up early");
        assert_eq!(value(&db), None);
    }
}

#[test]
fn a_commit_that_meets_others_for_good_names_the_locks_that_they_are_at() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    let [a, b, c] = ["a", "b", "c"].map(|sk| db.get_lock(Key::new("locks", sk)).unwrap());
    let batch = Batch::new().lock(a).lock(b).check(c).set(item(1));
    let conflicts = |places: [bool; 4]| {
        Fault::Cancel(
            places
                .map(|conflict| match conflict {
                    true => ("TransactionConflict", None),
                    false => ("None", None),
                })
                .to_vec(),
        )
    };
    proxy.set_for(COMMIT, always(conflicts([false, true, true, true])));
    match in_time(|| db.commit(&batch)) {
        Err(Error::RaceCondition { keys }) => {
            assert_eq!(keys, [KeyBuf::new("locks", "b"), KeyBuf::new("locks", "c")]);
        }
        other => panic!("{other:?}"),
    }
    // No lock was in the way, so none can be said to have lost.
    proxy.set_for(COMMIT, always(conflicts([false, false, false, true])));
    let error = in_time(|| db.commit(&batch)).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(matches!(
        source(&error),
        Some(DynamoDbError::TransactionConflict { .. })
    ));
    proxy.set(always(Fault::None));
    db.commit(&batch).unwrap();
}

#[test]
fn each_reason_of_a_cancellation_means_what_it_says() {
    let Some((db, proxy)) = behind_a_proxy() else {
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
        proxy.set_for(COMMIT, always(Fault::Cancel(codes)));
        let outcome = in_time(|| db.commit(&batch));
        (outcome.unwrap_err(), proxy.requests_of(COMMIT).len())
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
                assert!(
                    text.contains(code) && text.contains("as the test wants"),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    let (error, requests) = cancelled(["AccessDenied", "None", "None", "None"]);
    assert!(
        matches!(source(&error), Some(DynamoDbError::AccessDenied { .. })),
        "{error:?}"
    );
    assert_eq!(requests, 1);
    let (error, requests) = cancelled(["None", "None", "SomethingNew", "None"]);
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    assert_eq!(requests, 1);
    assert_eq!(value(&db), None);
}

/// Ten minutes after its first request, a commit's token is forgotten, and what it did looks like
/// what somebody else did.
#[test]
fn a_lock_that_has_the_commits_own_version_did_not_lose() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    let lock = db.get_lock(LOCK).unwrap();
    proxy.set_for(COMMIT, move |request| {
        let values = &request.body["TransactItems"][0]["Update"]["ExpressionAttributeValues"];
        let row = json!({"pk": {"S": "pk"}, "sk": {"S": "lock"}, "version": values[":new"]});
        Fault::Cancel(vec![("ConditionalCheckFailed", Some(row)), ("None", None)])
    });
    let version = db.set_atomic(&[item(1)], &[lock]).unwrap();
    let request = &proxy.requests_of(COMMIT)[0];
    let values = &request.body["TransactItems"][0]["Update"]["ExpressionAttributeValues"];
    assert_eq!(values[":new"], json!({"S": version.to_string()}));
}

#[test]
fn unprocessed_rests_are_sent_again() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    let sks: Vec<String> = (0..60).map(|number| format!("{number:02}")).collect();
    let items: Vec<Item<u64>> = (0..)
        .zip(&sks)
        .map(|(n, sk)| Item::new("many", sk, n))
        .collect();
    let keys: Vec<Key<'_>> = sks.iter().map(|sk| Key::new("many", sk)).collect();
    let some = |request: &Request| match request.number % 4 {
        // Nothing, most, one, everything.
        0 => Fault::Only(0),
        1 => Fault::Only(20),
        2 => Fault::Only(1),
        _ => Fault::None,
    };
    proxy.set_for("BatchWriteItem", some);
    db.set(&items).unwrap();
    proxy.set_for("BatchGetItem", some);
    let answers = db.get_many(&keys).unwrap();
    let answers: Vec<u64> = answers
        .into_iter()
        .flatten()
        .filter_map(Item::into_data)
        .collect();
    assert_eq!(answers, (0..60).collect::<Vec<u64>>());
    proxy.set_for("BatchWriteItem", some);
    db.delete(&keys[1..]).unwrap();
    assert_eq!(db.query(&Query::new("many")).unwrap(), items[..1]);
}

#[test]
fn a_batch_of_which_nothing_is_ever_done_ends() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    proxy.set(always(Fault::Only(0)));
    for error in [
        in_time(|| db.set(&[item(1)])).unwrap_err(),
        in_time(|| db.delete(&[ITEM])).unwrap_err(),
        in_time(|| db.get_many(&[ITEM])).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        assert!(matches!(
            source(&error),
            Some(DynamoDbError::Throttled { .. })
        ));
    }
}

#[test]
fn reads_are_repeated_until_they_are_answered() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    db.set(&[item(1)]).unwrap();
    for fault in [
        Fault::LoseRequest,
        Fault::LoseAnswer,
        Fault::HalfAnswer,
        Fault::SwallowAnswer,
        Fault::Delay(Duration::from_millis(50)),
        Fault::Error(500, "InternalServerError"),
        Fault::Error(400, "ThrottlingException"),
    ] {
        let each_first = || at_first(1, fault.clone());
        proxy.set(each_first());
        assert_eq!(
            in_time(|| db.get(ITEM)).unwrap(),
            Some(item(1)),
            "{fault:?}"
        );
        assert_eq!(
            in_time(|| db.get_many(&[ITEM])).unwrap(),
            [Some(item(1))],
            "{fault:?}"
        );
        assert_eq!(
            in_time(|| db.query(&Query::new("pk"))).unwrap(),
            [item(1)],
            "{fault:?}"
        );
        proxy.set(each_first());
        in_time(|| db.set(&[item(1)])).unwrap();
    }
    proxy.set(always(Fault::SwallowRequest));
    for error in [
        in_time(|| db.get(ITEM)).map(drop).unwrap_err(),
        in_time(|| db.get_many(&[ITEM])).map(drop).unwrap_err(),
        in_time(|| db.query(&Query::new("pk")))
            .map(drop)
            .unwrap_err(),
        in_time(|| db.get_lock(LOCK)).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        assert!(matches!(source(&error), Some(DynamoDbError::NoResponse(_))));
    }
    let error = in_time(|| db.set(&[item(2)])).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
}

#[test]
fn what_is_denied_is_told_at_once() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    for code in [
        "AccessDeniedException",
        "ExpiredTokenException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
    ] {
        proxy.set(always(Fault::Error(400, code)));
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
            match source(&error) {
                Some(DynamoDbError::AccessDenied { code: told, .. }) => assert_eq!(told, code),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(proxy.operations().len(), 7, "a request was repeated");
    }
}

#[test]
fn a_server_that_has_stopped_is_unavailable_and_nothing_was_written() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    let lock = db.get_lock(LOCK).unwrap();
    drop(proxy);
    for error in [
        in_time(|| db.get(ITEM)).map(drop),
        in_time(|| db.get_many(&[ITEM])).map(drop),
        in_time(|| db.get_lock(LOCK)).map(drop),
        in_time(|| db.set(&[item(1)])),
        in_time(|| db.delete(&[ITEM])),
        in_time(|| db.set_atomic(&[item(1)], &[lock])).map(drop),
        in_time(|| db.query(&Query::new("pk"))).map(drop),
        in_time(|| {
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
        assert!(matches!(source(&error), Some(DynamoDbError::NoResponse(_))));
    }
}

#[test]
fn a_lock_whose_making_is_not_answered_is_made_all_the_same() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    for (turn, fault) in [
        Fault::LoseAnswer,
        Fault::SwallowAnswer,
        Fault::LoseRequest,
        Fault::Error(500, "InternalServerError"),
        Fault::Error(400, "TransactionConflictException"),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.set_for("PutItem", at_first(1, fault.clone()));
        let sk = format!("lock {turn}");
        let lock = in_time(|| db.get_lock(Key::new("pk", &sk))).unwrap();
        assert_eq!(db.get_lock(Key::new("pk", &sk)).unwrap(), lock, "{fault:?}");
        db.set_atomic(&[item(1)], &[lock]).unwrap();
    }
}

/// A request to make a lock that arrives after its lock was made by another one and deleted must
/// not bring back what somebody still holds.
#[test]
fn a_lock_that_is_made_late_has_a_version_of_its_own() {
    let Some((db, proxy)) = behind_a_proxy() else {
        return;
    };
    let (hold, told) = bounded(0);
    proxy.set_for("PutItem", at_first(1, Fault::DeliverWhen(told)));
    let before = proxy.done();
    let lock = db.get_lock(LOCK).unwrap();
    db.delete(&[LOCK]).unwrap();
    drop(hold);
    // Two reads, two puts and a deletion; the first put is the last to be done.
    assert!(proxy.wait_until_done(before + 5));
    let late = db.get_lock(LOCK).unwrap();
    assert_ne!(late.version(), lock.version());
    match db.set_atomic(&[item(1)], &[lock]) {
        Err(Error::RaceCondition { keys }) => assert_eq!(keys, [KeyBuf::from(LOCK)]),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        proxy.requests_of("PutItem").len(),
        2,
        "it was the late one that made the lock"
    );
}

#[test]
fn reads_that_decide_never_see_old_answers() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let proxy = Proxy::before(endpoint);
    let eventual = impatient(&proxy).consistent_reads(false).open().unwrap();
    proxy.set(always(Fault::Old));
    eventual.set(&[item(1)]).unwrap();
    assert_eq!(eventual.get(ITEM).unwrap(), Some(item(1)));
    assert_eq!(eventual.get_many(&[ITEM]).unwrap(), [Some(item(1))]);
    assert_eq!(eventual.query(&Query::new("pk")).unwrap(), [item(1)]);
    for count in 2..=10 {
        // Locks and fresh reads see everything all the same.
        eventual.transact(increment).unwrap();
        assert_eq!(value(&eventual), Some(count));
        assert_eq!(
            eventual.get(ITEM).unwrap(),
            Some(item(1)),
            "the proxy answers as of old"
        );
    }

    let strong = impatient(&proxy).open().unwrap();
    proxy.set(always(Fault::Old));
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

/// Counts from several threads while about one request in four suffers something.
#[test]
fn no_update_is_lost_or_doubled_whatever_becomes_of_the_requests() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let proxy = Proxy::before(endpoint);
    let db = server::builder::<u64>(&proxy.endpoint(), ManualClock::new(2_000_000_000))
        .timeout(Duration::from_secs(5))
        .attempt_timeout(Duration::from_millis(400))
        .open()
        .unwrap();
    let drawn = AtomicU64::new(1);
    proxy.set(move |request| {
        // Marsaglia's xorshift64.
        let mut bits = drawn.load(Ordering::SeqCst);
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        drawn.store(bits, Ordering::SeqCst);
        let commits = request.operation == COMMIT;
        match bits % 32 {
            0 => Fault::LoseRequest,
            1 | 2 => Fault::LoseAnswer,
            3 => Fault::HalfAnswer,
            4 => Fault::SwallowAnswer,
            5 => Fault::DeliverLate(Duration::from_millis(bits >> 32 & 127)),
            6 => Fault::Delay(Duration::from_millis(bits >> 32 & 31)),
            7 => Fault::Error(500, "InternalServerError"),
            8 => Fault::Error(400, "ThrottlingException"),
            9 if commits => Fault::Cancel(vec![("None", None), ("TransactionConflict", None)]),
            _ => Fault::Old,
        }
    });
    let retry = Retry::new()
        .attempts(1_000)
        .backoff(Duration::from_millis(2), Duration::from_millis(50));
    let counted: Vec<(u64, u64)> = thread::scope(|scope| {
        let count = || {
            let (mut done, mut unknown) = (0, 0);
            for _ in 0..15 {
                match db.transact_with(&retry, increment) {
                    Ok(()) => done += 1,
                    Err(Error::OutcomeUnknown(_)) => unknown += 1,
                    Err(Error::Unavailable(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            (done, unknown)
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let (done, unknown) = counted
        .into_iter()
        .fold((0, 0), |sum, some| (sum.0 + some.0, sum.1 + some.1));
    proxy.set(always(Fault::None));
    let count = value(&db).unwrap();
    println!("{done} done, {unknown} unknown, counted {count}");
    assert!(
        (done..=done + unknown).contains(&count),
        "{done} done, {unknown} unknown, counted {count}"
    );
    assert!(done >= 50, "faults kept it from counting: {done}");
}
