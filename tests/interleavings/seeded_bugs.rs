//! Checks that each scenario detects a seeded bug, and passes on the same database without it.

use super::checker::{FrozenClock, explore};
use super::{scenarios, transactions};
use atomic_db::{Clock, ManualClock};
use atomic_db_test_support::faulty_db::{Fault, FaultyCache, FaultyDb};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

fn database(fault: Fault, clock: impl Clock + 'static) -> Arc<FaultyDb<u64>> {
    let db = FaultyDb::new(fault, clock);
    // Pages of one item, so that a commit can come between two of them.
    Arc::new(db.with_stripes(2).with_page_size(1))
}

fn cache(fault: Fault) -> Arc<FaultyCache<Arc<FaultyDb<u64>>>> {
    let inner = database(Fault::None, FrozenClock);
    Arc::new(FaultyCache::new(inner, fault, FrozenClock))
}

/// Checks that `scenario` fails with `fault`, and passes without a fault.
fn check(fault: Fault, scenario: impl Fn(Fault) + Send + Sync + Copy + 'static) {
    let without = move || scenario(Fault::None);
    explore(&format!("without {fault:?}"), Some(2), without);
    let with = move || explore(&format!("with {fault:?}"), Some(2), move || scenario(fault));
    let found = catch_unwind(AssertUnwindSafe(with)).is_err();
    assert!(found, "{fault:?} was not found");
}

macro_rules! finds {
    ($make:expr; $($fault:ident in $($scenario:ident),*;)*) => {$($(
        #[test]
        fn $scenario() {
            check(Fault::$fault, |fault| scenarios::$scenario($make(fault)));
        }
    )*)*};
}

mod in_a_database {
    use super::*;

    finds! { |fault| database(fault, FrozenClock);
        TornCommit in commits_over_two_stripes_are_atomic;
        TornGetMany in get_many_is_a_snapshot;
        TornQuery in a_query_is_a_snapshot;
        OffsetPaging in a_stream_yields_each_item_once_during_a_commit;
        DuplicateLock in concurrent_callers_get_the_same_new_lock;
        CheckThenAct in
            one_of_two_commits_under_a_version_succeeds,
            one_of_two_creations_succeeds,
            commits_that_check_each_others_lock_do_not_both_succeed,
            updates_are_not_lost,
            three_threads_lose_no_update;
        RestartedVersion in commits_under_a_deleted_lock_fail;
    }

    macro_rules! finds_in_transactions {
        ($($fault:ident in $($scenario:ident),*;)*) => {$($(
            #[test]
            fn $scenario() {
                check(Fault::$fault, |fault| {
                    transactions::$scenario(database(fault, FrozenClock));
                });
            }
        )*)*};
    }

    finds_in_transactions! {
        StaleGetLocks in
            a_result_of_a_transaction_rests_on_one_state,
            an_error_of_a_body_rests_on_one_state,
            an_error_after_a_query_rests_on_one_state;
        CheckThenAct in transactions_lose_no_update, update_loses_no_update;
        TornCommit in a_transaction_reads_its_own_writes_during_another_commit;
        IgnoredChecks in one_of_two_transactions_finds_the_phantom;
        PartialApply in an_exhausted_transaction_wrote_nothing;
    }

    // Loom ends the process at a deadlock.
    #[cfg(shuttle)]
    finds! { |fault| database(fault, FrozenClock);
        UnorderedStripes in commits_with_keys_in_opposite_orders_do_not_deadlock;
        StripeLockedTwice in a_commit_with_two_keys_in_one_stripe_does_not_deadlock;
    }

    macro_rules! finds_with_clock {
        ($($fault:ident in $scenario:ident;)*) => {$(
            #[test]
            fn $scenario() {
                check(Fault::$fault, |fault| {
                    let clock = ManualClock::new(1_000_000);
                    scenarios::$scenario(database(fault, clock.clone()), clock);
                });
            }
        )*};
    }

    finds_with_clock! {
        RefreshChangesVersion in a_refresh_does_not_fail_a_commit;
        RevivedLock in a_commit_is_atomic_while_its_lock_expires;
        LateClockRead in an_item_that_is_replaced_before_it_expires_is_always_visible;
    }

    #[test]
    fn a_purge_keeps_replaced_items_and_new_locks() {
        check(Fault::PurgeByKey, |fault| {
            let clock = ManualClock::new(1_000_000);
            let db = database(fault, clock.clone());
            let purged = Arc::clone(&db);
            let purge = move || {
                purged.purge_expired();
            };
            scenarios::a_purge_keeps_replaced_items_and_new_locks(db, clock, purge);
        });
    }
}

mod in_a_cache {
    use super::*;

    finds! { cache;
        LateFill in
            a_fill_races_with_a_set,
            a_fill_races_with_a_commit,
            a_fill_races_with_a_deletion,
            a_fill_races_with_two_writes,
            two_fills_race_with_a_set,
            a_fill_races_with_a_set_and_an_eviction;
        CachedBeforeCommit in a_fill_races_with_a_failing_write;
        LastWriterCaches in after_two_writers_the_cache_agrees_with_the_database;
    }

    #[test]
    fn a_fill_races_with_a_bypassing_write_and_an_invalidation() {
        check(Fault::LateFill, |fault| {
            let cache = cache(fault);
            let (inner, invalidated) = (Arc::clone(cache.inner()), Arc::clone(&cache));
            let invalidate = move || invalidated.invalidate(scenarios::A);
            scenarios::a_fill_races_with_a_bypassing_write_and_an_invalidation(
                cache, inner, invalidate,
            );
        });
    }
}
