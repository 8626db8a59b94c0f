//! Scans of a table: their requests, and injected faults.

use super::fault_proxy::{Fault, FaultProxy};
use super::{START, dynamodb_error, server};
use atomic_db::{AtomicDb, DynamoDb, DynamoDbError, Error, Item, Key, ManualClock, Scan};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Returns a new table behind a proxy, or `None` without a server. Reads on the handle are eventually
/// consistent.
fn new_db<T: Serialize + DeserializeOwned>() -> Option<(DynamoDb<T>, FaultProxy)> {
    let proxy = FaultProxy::new(server::endpoint()?);
    let db = server::builder(&proxy.endpoint(), ManualClock::new(START)).consistent_reads(false);
    let db = db.open().unwrap();
    proxy.set_rule(|_| Fault::None);
    Some((db, proxy))
}

/// Five pages of four items, each with 256 KiB including its key and the names of its attributes.
fn five_pages() -> Vec<Item<String>> {
    let data = "x".repeat((256 << 10) - 17);
    let item = |number| Item::new("pk", format!("{number:05}"), data.clone());
    (0..20).map(item).collect()
}

#[test]
fn a_scan_reads_few_pages_ahead_and_stops_when_it_is_dropped() {
    let Some((db, proxy)) = new_db::<String>() else {
        return;
    };
    let items = five_pages();
    db.set(&items).unwrap();
    proxy.set_rule(|_| Fault::None);
    let requests = || proxy.requests_for("Scan");
    let before = proxy.completed();
    let mut scan = db.scan();
    assert_eq!(requests().len(), 0, "an unused scan sent a request");
    let found: Vec<_> = scan.by_ref().take(2).map(Result::unwrap).collect();
    assert_eq!(found, items[..2]);
    let is_ahead = proxy.wait_for_completed(before + 2);
    assert!(is_ahead, "no page was fetched ahead");
    let deadline = Instant::now() + Duration::from_millis(300);
    while Instant::now() < deadline {
        assert!(
            requests().len() <= 2,
            "{} pages were read",
            requests().len()
        );
        std::thread::yield_now();
    }
    drop(scan);
    assert!(requests().len() <= 2, "the dropped scan went on");

    proxy.set_rule(|_| Fault::None);
    let found: Vec<_> = db.scan().map(Result::unwrap).collect();
    assert_eq!(found, items);
    let requests = requests();
    assert!(requests.len() >= 5, "{} pages", requests.len());
    // Also on a handle whose other reads are eventually consistent.
    let is_consistent = |body: &serde_json::Value| body["ConsistentRead"] == true;
    assert!(requests.iter().all(|request| is_consistent(&request.body)));
}

#[test]
fn a_scan_repeats_requests_that_failed() {
    let Some((db, proxy)) = new_db::<String>() else {
        return;
    };
    let items = five_pages();
    db.set(&items).unwrap();
    for fault in [
        Fault::DropRequest,
        Fault::TruncateResponse,
        Fault::Error(500, "InternalServerError"),
        Fault::Error(400, "ThrottlingException"),
        Fault::Error(400, "ProvisionedThroughputExceededException"),
    ] {
        proxy.set_rule_for("Scan", {
            let fault = fault.clone();
            // Every other request fails, among them the first one.
            move |request| match request.index % 2 {
                0 => fault.clone(),
                _ => Fault::None,
            }
        });
        let found: Vec<_> = db.scan().map(Result::unwrap).collect();
        assert!(found == items, "{fault:?}: {} items", found.len());
    }
}

#[test]
fn a_scan_yields_an_error_once_after_the_items_before_it() {
    let Some((db, proxy)) = new_db::<String>() else {
        return;
    };
    let items = five_pages();
    db.set(&items).unwrap();
    // The third page cannot be read.
    proxy.set_rule_for("Scan", |request| match request.index {
        2 => Fault::Error(400, "AccessDeniedException"),
        _ => Fault::None,
    });
    let mut scan = db.scan();
    let found: Vec<_> = scan.by_ref().take(8).map(Result::unwrap).collect();
    assert_eq!(found, items[..8]);
    let error = scan.next().unwrap().unwrap_err();
    assert!(matches!(
        dynamodb_error(&error),
        DynamoDbError::AccessDenied { .. }
    ));
    for _ in 0..3 {
        assert!(scan.next().is_none(), "a scan went on after an error");
    }
}

#[test]
fn a_scan_ends_at_a_row_that_cannot_be_decoded() {
    let Some((db, _proxy)) = new_db::<u32>() else {
        return;
    };
    let number = |sk: &str| Item::new("pk", sk, 7);
    db.set(&[number("a"), number("b"), number("d")]).unwrap();
    let texts = db.with_data::<String>();
    texts
        .set(&[Item::new("pk", "c", "seven".to_owned())])
        .unwrap();
    let mut scan = db.scan();
    let found: Vec<_> = scan.by_ref().take(2).map(Result::unwrap).collect();
    assert_eq!(found, [number("a"), number("b")]);
    match scan.next() {
        Some(Err(Error::Codec { key, .. })) => assert_eq!(key, Key::new("pk", "c")),
        other => panic!("{other:?}"),
    }
    assert!(scan.next().is_none(), "a scan went on after an error");

    // A handle that can read all rows scans the whole table.
    let values = db.with_data::<serde_json::Value>();
    let sks: BTreeSet<String> = values
        .scan()
        .map(|item| item.unwrap().sk().to_owned())
        .collect();
    assert_eq!(sks, ["a", "b", "c", "d"].map(str::to_owned).into());
}
