//! Tests of the conformance suite: a database with one fault fails the case for the guarantee that
//! the fault breaks, and passes the whole suite without it. Every case finds a fault.

use crate::common::{Call, HookedDb, Moment, assert_all_found};
use atomic_db::testing::{Capabilities, cases, check, suite};
use atomic_db::{Error, ManualClock, MemoryDb};
use atomic_db_test_support::faulty_db::{Fault, FaultyCache, FaultyDb};
use std::collections::{HashMap, HashSet};
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! findings {
    ($($fault:ident: $($case:literal),*;)*) => {
        /// Faults, and the cases that find them.
        const FINDINGS: &[(Fault, &[&str])] = &[$((Fault::$fault, &[$($case),*])),*];
    };
}

findings! {
    JoinedKeys: "keys_are_pairs_and_are_never_joined";
    LateKeyRefusal: "odd_keys_are_ordinary_or_refused_before_anything_is_written";
    DatalessItemDropped: "items_are_read_back_as_written";
    MergedRepeats: "get_many_returns_results_in_the_order_asked";
    TruncatedGetMany: "get_many_accepts_any_number_of_keys";
    ExclusiveTtl: "point_reads_return_an_item_until_its_ttl_has_passed";
    ExpiredItemInQuery: "queries_return_an_item_until_its_ttl_has_passed";
    ExpiredItemBlocksCreate: "expired_items_do_not_block_create_or_get_lock";
    LockInQuery: "reads_never_return_locks";
    OrderByLength: "queries_are_in_byte_order_either_way";
    PrefixAnywhere: "queries_honour_the_prefix";
    InclusiveRangeEnd: "queries_honour_the_range";
    InclusiveAfter: "queries_honour_after_and_limit";
    LimitCountsHidden: "the_limit_counts_returned_items";
    LimitOverflow: "extreme_queries_do_not_panic";
    LastPageLost: "pages_are_contiguous_and_do_not_overlap";
    OffsetPaging: "streams_yield_items_present_throughout_exactly_once";
    StreamEndsAfterPage: "streams_yield_the_items_of_a_query";
    StreamNotFused: "streams_are_fused";
    StreamHoldsMutex: "the_loop_body_of_a_stream_may_call_any_method";
    StaleGetFresh: "transactions_read_fresh_data_and_commit_all_or_nothing";
    TornGetMany: "get_many_is_a_snapshot";
    ChunkedGetMany: "get_many_is_a_snapshot";
    TornQuery: "a_query_is_a_snapshot";
    PagedQuery: "a_query_is_a_snapshot";
    FirstRepeatWins: "set_replaces_items_and_the_last_of_a_repeated_key_wins";
    DeleteLeavesLocks:
        "delete_removes_items_and_locks",
        "commits_under_a_deleted_expired_or_replaced_lock_fail";
    EmptyInputRefused: "empty_input_succeeds_and_does_nothing";
    UnguardedSetAtomic: "set_atomic_with_items_and_no_lock_is_invalid";
    PartialApply: "a_failed_commit_writes_nothing", "a_batch_without_locks_is_all_or_nothing";
    DroppedCommitDeletes: "a_commit_writes_the_whole_batch";
    CheckThenAct:
        "one_of_several_concurrent_commits_under_one_version_succeeds",
        "one_of_several_concurrent_creates_of_an_item_succeeds",
        "no_update_is_lost",
        "transfers_preserve_the_total";
    IgnoredChecks:
        "a_check_requires_an_unchanged_lock",
        "checks_prevent_write_skew";
    RenewedChecks:
        "a_commit_gives_its_locks_one_new_version_and_keeps_that_of_its_checks",
        "concurrent_commits_that_only_check_a_lock_all_succeed";
    WrongVersionReturned: "a_renewed_lock_can_be_used_for_the_next_commit";
    UnderreportedConflict: "a_race_condition_names_exactly_the_locks_that_changed";
    ExistsBeforeConflict: "a_race_condition_is_reported_before_an_existing_item";
    CreateReplaces: "create_requires_that_no_live_item_exists";
    RepeatedKeyInBatch: "a_key_appears_at_most_once_in_a_batch";
    LockReplacesItem: "a_key_holds_an_item_or_a_lock_never_both";
    MergedLocks: "get_locks_returns_the_locks_in_the_order_asked";
    DuplicateLock: "concurrent_callers_of_get_lock_get_the_same_lock";
    RefreshChangesVersion: "a_refresh_extends_a_lock_and_keeps_its_version";
    ExpiredLockCommits: "commits_under_a_lock_succeed_until_its_ttl_has_passed";
    CommitExtendsLock: "a_commit_does_not_extend_a_lock";
    RevivedLock: "get_lock_creates_a_lock_that_lives_for_24_hours";
    RestartedVersion: "versions_are_never_reused";
    JoinedCacheKeys: "keys_are_pairs_and_are_never_joined";
    ExpiredEntry: "point_reads_return_an_item_until_its_ttl_has_passed";
    MissedInvalidation: "reads_see_every_completed_write";
    FailedWriteCached: "reads_never_return_the_items_of_a_failed_commit";
    LateFill:
        "reads_that_start_after_a_write_never_return_an_older_value",
        "reads_never_return_older_values_while_commits_conflict";
}

suite! { a_database_without_a_fault: |clock| FaultyDb::new(Fault::None, clock) }
suite! {
    a_cache_without_a_fault: |clock: ManualClock| {
        FaultyCache::new(FaultyDb::new(Fault::None, clock.clone()), Fault::None, clock)
    }
}

// The case that finds the fault would fail if it were not left out.
suite! {
    a_database_with_a_fault_whose_case_is_left_out: |clock| {
        FaultyDb::new(Fault::InclusiveRangeEnd, clock)
    },
    Capabilities::new(),
    without: [queries_honour_the_range]
}

#[test]
fn every_fault_fails_the_case_for_the_guarantee_that_it_breaks() {
    let cases: HashMap<&str, _> = cases::<FaultyCache<FaultyDb<String>>>()
        .into_iter()
        .map(|case| (case.name, case.run))
        .collect();
    let pairs = FINDINGS
        .iter()
        .flat_map(|(fault, names)| names.iter().map(move |name| (*fault, *name)));
    let pairs: Vec<(Fault, &'static str)> = pairs.collect();
    assert_all_found(&pairs, |fault, name| {
        let make = move |clock| FaultyCache::with_fault(fault, clock);
        catch_unwind(|| check(cases[name], make, Capabilities::new())).is_err()
    });
}

#[test]
fn every_case_finds_a_fault() {
    let finding: HashSet<&str> = FINDINGS
        .iter()
        .flat_map(|(_, names)| *names)
        .copied()
        .collect();
    let cases = cases::<MemoryDb<String>>();
    let all: HashSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(finding, all);
}

#[test]
fn a_case_names_the_call_that_failed() {
    let failing = |clock| {
        let db = MemoryDb::<String>::builder().clock(clock).build();
        HookedDb::new(db, |call, moment| match (call, moment) {
            (Call::Query, Moment::Before) => Err(Error::Unavailable("broken".into())),
            _ => Ok(()),
        })
    };
    let case = atomic_db::testing::queries_honour_the_prefix;
    let panic = catch_unwind(|| check(case, failing, Capabilities::new())).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(
        text.contains("query failed") && text.contains("broken"),
        "{text}"
    );
}

#[test]
fn check_calls_the_factory_once_for_each_case() {
    let made = Arc::new(AtomicU64::new(0));
    let all = cases::<MemoryDb<String>>();
    for case in all.iter().take(3) {
        let made = Arc::clone(&made);
        let make = move |clock| {
            made.fetch_add(1, Ordering::Relaxed);
            MemoryDb::builder().clock(clock).build()
        };
        check(case.run, make, Capabilities::new());
    }
    assert_eq!(made.load(Ordering::Relaxed), 3);
}
