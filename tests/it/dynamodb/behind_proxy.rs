//! The setup of tests with faults: a table behind a fault proxy, short timeouts, one item and one lock.

use super::fault_proxy::{Fault, FaultProxy, Request};
use super::{START, server};
use atomic_db::{AtomicDb, DynamoDb, DynamoDbBuilder, Error, Item, Key, ManualClock};
use std::time::{Duration, Instant};

pub(crate) const TIMEOUT: Duration = Duration::from_millis(2_500);
pub(crate) const ATTEMPT: Duration = Duration::from_millis(700);

/// How much longer than its timeout a call may take on a busy machine.
pub(crate) const LEEWAY: Duration = Duration::from_millis(2_500);

/// Returns a new table behind a proxy, with short timeouts, or `None` without a server.
pub(crate) fn new_db_behind_proxy() -> Option<(DynamoDb<u64>, FaultProxy)> {
    let proxy = FaultProxy::new(server::endpoint()?);
    let db = new_table_builder(&proxy).open().unwrap();
    Some((db, proxy))
}

/// Creates a table with the default timeouts and returns a builder for it with short ones.
pub(crate) fn new_table_builder(proxy: &FaultProxy) -> DynamoDbBuilder<u64> {
    let table = server::unique_table_name();
    let builder = server::builder_for_table::<u64>(&proxy.endpoint(), table.as_str());
    builder.create_table(true).open().unwrap();
    with_short_timeouts(server::builder_for_table(&proxy.endpoint(), table))
}

pub(crate) fn with_short_timeouts(builder: DynamoDbBuilder<u64>) -> DynamoDbBuilder<u64> {
    builder
        .clock(ManualClock::new(START))
        .timeout(TIMEOUT)
        .attempt_timeout(ATTEMPT)
}

pub(crate) const LOCK: Key<'static> = Key::new("pk", "lock");
pub(crate) const ITEM: Key<'static> = Key::new("pk", "item");

pub(crate) fn item(data: u64) -> Item<u64> {
    Item::new(ITEM.pk, ITEM.sk, data)
}

pub(crate) fn stored_value(db: &DynamoDb<u64>) -> Option<u64> {
    db.get_fresh(ITEM).unwrap().and_then(Item::into_data)
}

/// Returns the outcome of `call`, and asserts that it took little longer than its timeout.
pub(crate) fn within_timeout<R>(call: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let outcome = call();
    let elapsed = start.elapsed();
    assert!(elapsed < TIMEOUT + LEEWAY, "a call took {elapsed:?}");
    outcome
}

/// Injects the fault into the first requests of each operation.
pub(crate) fn for_first(
    count: usize,
    fault: Fault,
) -> impl FnMut(&Request) -> Fault + Send + 'static {
    move |request| {
        if request.index < count {
            fault.clone()
        } else {
            Fault::None
        }
    }
}

pub(crate) fn always(fault: Fault) -> impl FnMut(&Request) -> Fault + Send + 'static {
    for_first(usize::MAX, fault)
}

pub(crate) const COMMIT: &str = "TransactWriteItems";

/// Returns the texts of an error and its sources, joined.
pub(crate) fn full_text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
