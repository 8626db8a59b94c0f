//! `DynamoDb` against AWS's own DynamoDB Local.

#[path = "../support/dynamodb_local.rs"]
mod local;

use atomic_db::conformance::{Capabilities, check};
use atomic_db::{DynamoDb, LruCache, ManualClock};

/// A new table with the defaults, for tests that live by a clock of their own.
fn table<T>(endpoint: &str, clock: ManualClock) -> DynamoDb<T> {
    local::builder(endpoint, clock).open().unwrap()
}

/// One test for each behaviour of the conformance suite, as `suite!` makes them, but that it is
/// skipped where there is no server.
macro_rules! tests_with_server {
    (($make:expr) $($case:ident)*) => {$(
        #[test]
        fn $case() {
            if let Some(endpoint) = super::local::endpoint() {
                let make = |clock| ($make)(endpoint, clock);
                check(
                    atomic_db::conformance::$case,
                    make,
                    Capabilities::new().without_snapshots(),
                );
            }
        }
    )*};
}

mod conformance {
    use super::*;
    atomic_db::__conformance_cases! { [tests_with_server] (table::<String>) }
}

mod conformance_behind_a_cache {
    use super::*;
    atomic_db::__conformance_cases! {
        [tests_with_server]
        (|endpoint: &str, clock: ManualClock| {
            let db = table(endpoint, clock.clone());
            LruCache::builder(db).capacity(20).clock(clock).build()
        })
    }
}
