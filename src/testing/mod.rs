//! The behaviour that every database must show, as a suite for the tests of your own.
//!
//! Three lines in your tests make one `#[test]` of each behaviour, so that one failure does not
//! hide the rest:
//!
//! ```
//! use atomic_db::MemoryDb;
//!
//! atomic_db::testing::suite! {
//!     my_database: |clock| MemoryDb::builder().clock(clock).build()
//! }
//! # fn main() {}
//! ```
//!
//! The factory is called once for each test and makes a fresh, empty database that holds [`String`]s
//! and lives by the clock it is given. Wrappers and trait objects are databases like any other.
//! A database that cannot do all there is says so:
//!
//! ```
//! # use atomic_db::MemoryDb;
//! use atomic_db::testing::{Capabilities, suite};
//!
//! suite! {
//!     my_database: |clock| MemoryDb::builder().clock(clock).build(),
//!     Capabilities::new().without_snapshots()
//! }
//! # fn main() {}
//! ```
//!
//! Each function of this module is one behaviour; its documentation gives the promise, in the words
//! of [`AtomicDb`]. They panic where the promise is broken. The races among them run for a fraction
//! of a second each, so they find a broken promise very probably and not surely. The module may
//! gain functions in any release, as promises gain cases.

// That it panics is what each function here is for.
#![allow(clippy::missing_panics_doc)]

mod locks;
mod races;
mod reading;
mod threads;
mod writing;

pub use crate::testing_suite as suite;
pub use locks::*;
pub use races::*;
pub use reading::*;
pub use threads::{run_concurrently, with_timeout};
pub use writing::*;

use crate::sync::Arc;
use crate::{AtomicDb, Item, Key, ManualClock, Query, Result};
use std::fmt;
use std::time::{Duration, Instant};

/// What can be put to the test: a database of strings that threads can share.
pub trait Database: AtomicDb<Data = String> + Send + Sync + 'static {}

impl<D: AtomicDb<Data = String> + Send + Sync + 'static> Database for D {}

/// What a database can do besides the promises that all of them keep. The default is everything.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    snapshots: bool,
}

impl Capabilities {
    /// All there is.
    #[must_use]
    pub fn new() -> Self {
        Capabilities { snapshots: true }
    }

    /// One `query` or one `get_many` need not see one instant.
    #[must_use]
    pub fn without_snapshots(mut self) -> Self {
        self.snapshots = false;
        self
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Capabilities::new()
    }
}

/// A database under test: fresh, empty, and the only one on its clock.
pub struct Fixture<D> {
    db: Arc<D>,
    clock: ManualClock,
    capabilities: Capabilities,
}

impl<D: Database> Fixture<D> {
    /// Puts the database that `make` makes to the test.
    pub fn new(make: impl FnOnce(ManualClock) -> D, capabilities: Capabilities) -> Self {
        // In 2033: a store that deletes by real time what has expired must find nothing to delete
        // that the test's clock still lets live.
        let clock = ManualClock::new(2_000_000_000);
        Fixture {
            db: Arc::new(make(clock.clone())),
            clock,
            capabilities,
        }
    }
}

impl<D> fmt::Debug for Fixture<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture")
            .field("clock", &self.clock)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

/// One behaviour, as a value.
pub struct Case<D> {
    /// The name of its function.
    pub name: &'static str,
    /// The function.
    pub run: fn(&Fixture<D>),
}

impl<D> fmt::Debug for Case<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish()
    }
}

/// Runs one behaviour on a fresh database. It fails as well if it hangs for two minutes.
///
/// # Panics
///
/// If the database breaks the promise.
pub fn check<D: Database>(
    case: fn(&Fixture<D>),
    make: impl FnOnce(ManualClock) -> D,
    capabilities: Capabilities,
) {
    let fixture = Fixture::new(make, capabilities);
    with_timeout(Duration::from_secs(120), move |_| case(&fixture));
}

/// Calls a macro with the name of every behaviour.
#[doc(hidden)]
#[macro_export]
macro_rules! __testing_cases {
    ([$($callback:tt)*] $arguments:tt) => {
        $($callback)*! { $arguments
            // Reading
            keys_are_pairs_and_are_never_joined
            odd_keys_are_ordinary_or_refused_before_anything_is_written
            items_are_read_back_as_written
            get_many_returns_results_in_the_order_asked
            get_many_accepts_any_number_of_keys
            point_reads_return_an_item_until_its_ttl_has_passed
            queries_return_an_item_until_its_ttl_has_passed
            expired_items_do_not_block_create_or_get_lock
            reads_never_return_locks
            queries_are_in_byte_order_either_way
            queries_honour_the_prefix
            queries_honour_after_and_limit
            the_limit_counts_returned_items
            pages_are_contiguous_and_do_not_overlap
            streams_yield_the_items_of_a_query
            streams_are_fused
            the_loop_body_of_a_stream_may_call_any_method
            streams_yield_items_present_throughout_exactly_once
            extreme_queries_do_not_panic
            // Writing
            set_replaces_items_and_the_last_of_a_repeated_key_wins
            delete_removes_items_and_locks
            empty_input_succeeds_and_does_nothing
            set_atomic_with_items_and_no_lock_is_invalid
            a_batch_without_locks_is_all_or_nothing
            a_commit_writes_the_whole_batch
            a_failed_commit_writes_nothing
            a_race_condition_names_exactly_the_locks_that_changed
            a_commit_gives_its_locks_one_new_version_and_keeps_that_of_its_checks
            a_renewed_lock_can_be_used_for_the_next_commit
            a_check_requires_an_unchanged_lock
            checks_prevent_write_skew
            create_requires_that_no_live_item_exists
            a_race_condition_is_reported_before_an_existing_item
            a_key_appears_at_most_once_in_a_batch
            reads_see_every_completed_write
            reads_never_return_the_items_of_a_failed_commit
            transactions_read_fresh_data_and_commit_all_or_nothing
            // Locks
            get_lock_creates_a_lock_that_lives_for_24_hours
            a_key_holds_an_item_or_a_lock_never_both
            a_refresh_extends_a_lock_and_keeps_its_version
            commits_under_a_lock_succeed_until_its_ttl_has_passed
            a_commit_does_not_extend_a_lock
            commits_under_a_deleted_expired_or_replaced_lock_fail
            versions_are_never_reused
            // Races
            concurrent_callers_of_get_lock_get_the_same_lock
            one_of_several_concurrent_commits_under_one_version_succeeds
            one_of_several_concurrent_creates_of_an_item_succeeds
            concurrent_commits_that_only_check_a_lock_all_succeed
            no_update_is_lost
            transfers_preserve_the_total
            get_many_is_a_snapshot
            a_query_is_a_snapshot
            reads_that_start_after_a_write_never_return_an_older_value
            reads_never_return_older_values_while_commits_conflict
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __testing_tests {
    (($make:expr, $capabilities:expr) $($case:ident)*) => {$(
        #[test]
        fn $case() {
            $crate::testing::check($crate::testing::$case, $make, $capabilities);
        }
    )*};
}

/// Makes a module of tests, one for each behaviour, for the databases that a factory makes. See
/// [`testing`](crate::testing).
#[doc(hidden)]
#[macro_export]
macro_rules! testing_suite {
    ($suite:ident: $make:expr $(,)?) => {
        $crate::testing_suite! { $suite: $make, $crate::testing::Capabilities::new() }
    };
    ($suite:ident: $make:expr, $capabilities:expr $(,)?) => {
        mod $suite {
            #[allow(unused_imports)]
            use super::*;
            $crate::__testing_cases! { [$crate::__testing_tests] ($make, $capabilities) }
        }
    };
}

macro_rules! list {
    (() $($case:ident)*) => {
        /// Every behaviour, for who would rather loop than have tests made.
        #[must_use]
        pub fn cases<D: Database>() -> Vec<Case<D>> {
            vec![$(Case { name: stringify!($case), run: $case }),*]
        }
    };
}

__testing_cases! { [list] () }

/// How long a race is run for: some rounds at least, and then for a fraction of a second, so that a
/// fast database is run through thousands and a slow one is not waited for.
struct Rounds {
    at_least: u32,
    end: Instant,
}

impl Rounds {
    fn new(at_least: u32) -> Self {
        Rounds {
            at_least,
            end: Instant::now() + Duration::from_millis(150),
        }
    }
}

impl Iterator for Rounds {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let left = self.at_least.checked_sub(1);
        self.at_least = left.unwrap_or(0);
        (left.is_some() || Instant::now() < self.end).then_some(self.at_least)
    }
}

fn item(pk: &str, sk: &str, data: impl ToString) -> Item<String> {
    Item::new(pk, sk, data.to_string())
}

fn key<'a>(pk: &'a str, sk: &'a str) -> Key<'a> {
    Key::new(pk, sk)
}

/// What an item holds, by value.
fn held(item: Option<Item<String>>) -> Option<String> {
    item.and_then(Item::into_data)
}

/// What the item at a key holds, the way every point read sees it; they must agree.
fn read<D: Database>(db: &D, pk: &str, sk: &str) -> Option<String> {
    let key = Key::new(pk, sk);
    let get = held(db.get(key).unwrap());
    assert_eq!(
        held(db.get_fresh(key).unwrap()),
        get,
        "get_fresh of {key} differs from get"
    );
    let many = db.get_many(&[key]).unwrap();
    assert_eq!(many.len(), 1);
    assert_eq!(
        held(many.into_iter().next().flatten()),
        get,
        "get_many of {key} differs from get"
    );
    get
}

/// The sort keys of what `query` asks for, the way every query sees it; they must agree.
fn found<D: Database>(db: &D, query: &Query) -> Vec<String> {
    let queried = sort_keys(&db.query(query).unwrap());
    let streamed: Result<Vec<_>> = db.stream(query.clone()).collect();
    assert_eq!(
        sort_keys(&streamed.unwrap()),
        queried,
        "stream differs from query: {query:?}"
    );
    assert_eq!(
        paged(db, query),
        queried,
        "the pages differ from query: {query:?}"
    );
    queried
}

/// The sort keys of `query` put together from pages, counting down its limit.
fn paged<D: Database>(db: &D, query: &Query) -> Vec<String> {
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let left = query.limit.map(|limit| limit - found.len());
        let rest = match left {
            Some(0) => return found,
            Some(left) => query.clone().limit(left),
            None => query.clone(),
        };
        let page = db.page(&rest, after.as_deref()).unwrap();
        found.extend(sort_keys(&page.items));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

fn sort_keys(items: &[Item<String>]) -> Vec<String> {
    items.iter().map(|item| item.sk().to_owned()).collect()
}

fn number(item: Option<Item<String>>) -> u64 {
    held(item).map_or(0, |text| text.parse().unwrap())
}
