//! For the tests of other backends: the conformance suite, one test for each guarantee of
//! [`AtomicDb`](crate::AtomicDb); and the [history checker](history), which runs threads and decides
//! whether their calls were strictly serializable. For the tests of programs: [`FaultyDb`], which injects
//! faults ([how to use it](crate::_documentation::testing_your_code)).
//!
//! # The history checker
//!
//! ```
//! use atomic_db::MemoryDb;
//! use atomic_db::testing::{Workload, check_history};
//!
//! # /*
//! #[test]
//! # */
//! fn histories_are_strictly_serializable() {
//!     check_history(|clock| MemoryDb::builder().clock(clock).build(), &Workload::new()).unwrap();
//! }
//! # histories_are_strictly_serializable();
//! ```
//!
//! A failure names the anomaly and shows the calls that prove it. [`Recorder`] records a program of
//! your own instead of a [`Workload`].
//!
//! # The conformance suite
//!
//! Three lines in an integration test run it. They define a module with one `#[test]` for each case,
//! so that one failure does not hide the others:
//!
//! ```
//! use atomic_db::MemoryDb;
//!
//! atomic_db::testing::suite! {
//!     my_backend: |clock| MemoryDb::builder().clock(clock).build()
//! }
//! # fn main() {}
//! ```
//!
//! The closure is called once for each test. It is given a [`ManualClock`](crate::ManualClock) and
//! returns an empty database of [`String`]s that uses this clock. Wrappers and trait objects can be
//! tested as well. [`Capabilities`] leave out the guarantees that only some databases give:
//!
//! ```
//! # use atomic_db::MemoryDb;
//! use atomic_db::testing::{Capabilities, suite};
//!
//! suite! {
//!     my_backend: |clock| MemoryDb::builder().clock(clock).build(),
//!     Capabilities::new().without_snapshots()
//! }
//! # fn main() {}
//! ```
//!
//! A case that a backend cannot pass is left out by its name. It is then an ignored test, so that a test
//! run shows it:
//!
//! ```
//! # use atomic_db::MemoryDb;
//! use atomic_db::testing::{Capabilities, suite};
//!
//! suite! {
//!     my_backend: |clock| MemoryDb::builder().clock(clock).build(),
//!     Capabilities::new(),
//!     without: [queries_are_in_byte_order_either_way]
//! }
//! # fn main() {}
//! ```
//!
//! A database that implements [`Scan`](crate::Scan) runs [`scan_suite!`](scan_suite) as well, which takes
//! the same arguments and has the cases of that trait. A database without `Scan` leaves it out:
//!
//! ```
//! use atomic_db::MemoryDb;
//!
//! atomic_db::testing::scan_suite! {
//!     my_backend: |clock| MemoryDb::builder().clock(clock).build()
//! }
//! # fn main() {}
//! ```
//!
//! Each case is also a function of this module, which panics if the database breaks the guarantee.
//! Its documentation begins with the number of the guarantee in the contract of
//! [`AtomicDb`](crate::AtomicDb#contract). [`check`] runs one case, and [`cases`] and [`scan_cases`]
//! return all of them. A release may add cases.
//!
//! ## What it does not test
//!
//! - Cases with several threads run for a fraction of a second each. They detect a violation with
//!   high probability only.
//! - Errors of the backend, of which guarantees 6, 11, 20 and 23 speak: the suite injects no faults.
//!   [`FaultyDb`] injects them into the calls of a database, to test the code above it.
//! - Guarantee 6: that a stream buffers at most a page.
//! - Guarantee 21, which takes a second handle that bypasses the cache.
//! - Guarantee 22, except for the loop body of a stream: the suite stores strings, whose code cannot
//!   call a database.
//! - Guarantee 23 inside an async runtime.

// Every case panics if the database breaks the guarantee. The module documentation says so once.
#![allow(clippy::missing_panics_doc)]

mod faulty;
mod fixture;
pub mod history;
mod locks;
mod queries;
mod races;
mod reading;
mod scans;
mod support;
mod threads;
mod writing;

#[doc(inline)]
pub use crate::__testing_scan_suite as scan_suite;
#[doc(inline)]
pub use crate::__testing_suite as suite;
pub use faulty::{Fault, FaultRule, FaultyDb, Injection};
pub use fixture::{Capabilities, Case, Database, Fixture, check};
#[doc(inline)]
pub use history::{
    Anomaly, AnomalyKind, Evidence, History, Recorded, Recorder, Versions, Violation, Workload,
    check_history,
};
pub use locks::*;
pub use queries::*;
pub use races::*;
pub use reading::*;
pub use scans::*;
pub use threads::{run_concurrently, with_timeout};
pub use writing::*;

/// Calls a macro with its arguments and the names of all cases, sorted by guarantee.
#[doc(hidden)]
#[macro_export]
macro_rules! __testing_cases {
    ([$($callback:tt)*] $arguments:tt) => {
        $($callback)*! { $arguments
            // Reading: guarantees 1 to 8
            keys_are_pairs_and_are_never_joined
            odd_keys_are_ordinary_or_refused_before_anything_is_written
            get_many_returns_results_in_the_order_asked
            get_many_accepts_any_number_of_keys
            point_reads_return_an_item_until_its_ttl_has_passed
            queries_return_an_item_until_its_ttl_has_passed
            expired_items_do_not_block_create_or_get_lock
            reads_never_return_locks
            a_key_holds_an_item_or_a_lock_never_both
            queries_are_in_byte_order_either_way
            queries_honour_the_prefix
            queries_honour_the_range
            queries_honour_after_and_limit
            the_limit_counts_returned_items
            pages_are_contiguous_and_do_not_overlap
            streams_yield_the_items_of_a_query
            extreme_queries_do_not_panic
            streams_are_fused
            the_loop_body_of_a_stream_may_call_any_method
            streams_yield_items_present_throughout_exactly_once
            get_many_is_a_snapshot
            a_query_is_a_snapshot
            items_are_read_back_as_written
            reads_see_every_completed_write
            // Writing: guarantees 9 to 14
            set_replaces_items_and_the_last_of_a_repeated_key_wins
            delete_removes_items_and_locks
            empty_input_succeeds_and_does_nothing
            set_atomic_with_items_and_no_lock_is_invalid
            a_batch_without_locks_is_all_or_nothing
            a_commit_writes_the_whole_batch
            a_failed_commit_writes_nothing
            reads_never_return_the_items_of_a_failed_commit
            create_requires_that_no_live_item_exists
            transactions_read_fresh_data_and_commit_all_or_nothing
            one_of_several_concurrent_creates_of_an_item_succeeds
            a_race_condition_names_exactly_the_locks_that_changed
            a_commit_gives_its_locks_one_new_version_and_keeps_that_of_its_checks
            a_renewed_lock_can_be_used_for_the_next_commit
            a_check_requires_an_unchanged_lock
            checks_prevent_write_skew
            a_race_condition_is_reported_before_an_existing_item
            commits_under_a_lock_succeed_until_its_ttl_has_passed
            one_of_several_concurrent_commits_under_one_version_succeeds
            concurrent_commits_that_only_check_a_lock_all_succeed
            no_update_is_lost
            transfers_preserve_the_total
            a_key_appears_at_most_once_in_a_batch
            // Locks: guarantees 15 to 18
            get_lock_creates_a_lock_that_lives_for_24_hours
            get_locks_returns_the_locks_in_the_order_asked
            concurrent_callers_of_get_lock_get_the_same_lock
            a_refresh_extends_a_lock_and_keeps_its_version
            versions_are_never_reused
            commits_under_a_deleted_expired_or_replaced_lock_fail
            a_commit_does_not_extend_a_lock
            // Caching: guarantees 19 to 21
            reads_that_start_after_a_write_never_return_an_older_value
            reads_never_return_older_values_while_commits_conflict
        }
    };
}

/// Calls a macro with its arguments and the names of all cases of `Scan`.
#[doc(hidden)]
#[macro_export]
macro_rules! __testing_scan_cases {
    ([$($callback:tt)*] $arguments:tt) => {
        $($callback)*! { $arguments
            a_scan_yields_the_items_of_all_partitions
            a_scan_sees_every_completed_write
            a_scan_does_not_yield_locks
            a_scan_yields_an_item_until_its_ttl_has_passed
            scans_are_fused
            the_loop_body_of_a_scan_may_call_any_method
            a_scan_yields_items_present_throughout_exactly_once
            concurrent_writes_do_not_hide_or_repeat_items_in_a_scan
        }
    };
}

/// Defines one test for each case, with the macro that `__testing_left_out` defines.
#[doc(hidden)]
#[macro_export]
macro_rules! __testing_tests {
    (($make:expr, $capabilities:expr) $($case:ident)*) => {$(
        __testing_test! { $case ($make, $capabilities) }
    )*};
}

/// Defines a macro that defines the test of one case. Tests of the cases in the list are ignored.
#[doc(hidden)]
#[macro_export]
macro_rules! __testing_left_out {
    ($($left_out:ident)*) => {
        // A name that is not a case does not compile.
        $(const _: fn(&$crate::testing::Fixture<$crate::MemoryDb<String>>) =
            $crate::testing::$left_out;)*

        macro_rules! __testing_test {
            $(($left_out ($make:expr, $capabilities:expr)) => {
                #[test]
                #[ignore = "left out by the arguments of the suite"]
                fn $left_out() {
                    $crate::testing::check($crate::testing::$left_out, $make, $capabilities);
                }
            };)*
            ($case:ident ($make:expr, $capabilities:expr)) => {
                #[test]
                fn $case() {
                    $crate::testing::check($crate::testing::$case, $make, $capabilities);
                }
            };
        }
    };
}

/// Defines a module with one test for each case of the conformance suite, for the databases that a
/// closure creates. See [`testing`](crate::testing).
#[doc(hidden)]
#[macro_export]
macro_rules! __testing_suite {
    ($($arguments:tt)*) => {
        $crate::__testing_module! { __testing_cases $($arguments)* }
    };
}

/// Defines a module with one test for each case of `Scan`. See [`testing`](crate::testing).
#[doc(hidden)]
#[macro_export]
macro_rules! __testing_scan_suite {
    ($($arguments:tt)*) => {
        $crate::__testing_module! { __testing_scan_cases $($arguments)* }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __testing_module {
    ($cases:ident $suite:ident: $make:expr $(,)?) => {
        $crate::__testing_module! {
            $cases $suite: $make, $crate::testing::Capabilities::new()
        }
    };
    ($cases:ident $suite:ident: $make:expr, $capabilities:expr $(,)?) => {
        $crate::__testing_module! { $cases $suite: $make, $capabilities, without: [] }
    };
    (
        $cases:ident $suite:ident: $make:expr, $capabilities:expr,
        without: [$($left_out:ident),* $(,)?] $(,)?
    ) => {
        mod $suite {
            #[allow(unused_imports)]
            use super::*;
            $crate::__testing_left_out! { $($left_out)* }
            $crate::$cases! { [$crate::__testing_tests] ($make, $capabilities) }
        }
    };
}

macro_rules! define_cases {
    (() $($case:ident)*) => {
        /// Returns all cases, for callers that want to iterate over them.
        #[must_use]
        pub fn cases<D: Database>() -> Vec<Case<D>> {
            vec![$(Case { name: stringify!($case), run: $case }),*]
        }
    };
}

__testing_cases! { [define_cases] () }

macro_rules! define_scan_cases {
    (() $($case:ident)*) => {
        /// Returns all cases of [`Scan`](crate::Scan), for callers that want to iterate over them.
        #[must_use]
        pub fn scan_cases<D: Database + crate::Scan>() -> Vec<Case<D>> {
            vec![$(Case { name: stringify!($case), run: $case }),*]
        }
    };
}

__testing_scan_cases! { [define_scan_cases] () }
