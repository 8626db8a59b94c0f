//! The databases under model checkers. Loom runs a scenario under every schedule, or every schedule
//! with few preemptions; shuttle runs it under many. The library's locks are the checker's here;
//! everything else is the library as it is.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test --release --target-dir target/loom --test interleavings
//! RUSTFLAGS="--cfg shuttle" cargo test --release --target-dir target/shuttle --test interleavings
//! ```
//!
//! Each test prints its number of executions. `PREEMPTIONS` is loom's bound for three threads,
//! `SHUTTLE_ITERS` the number of shuttle's schedules.
#![cfg(any(loom, shuttle))]

mod checker;
#[cfg(shuttle)]
mod histories;
mod scenarios;
mod seeded_bugs;
mod transactions;

use atomic_db::{Clock, LruCache, ManualClock, MemoryDb};
use checker::{FrozenClock, explore};

fn memory(clock: impl Clock + 'static) -> MemoryDb<u64> {
    MemoryDb::builder().stripes(2).clock(clock).build()
}

fn cached(clock: impl Clock + Clone + 'static, capacity: usize) -> LruCache<MemoryDb<u64>> {
    let db = MemoryDb::builder().stripes(1).clock(clock.clone()).build();
    let builder = LruCache::builder(db).capacity(capacity);
    builder.clock(clock).build()
}

macro_rules! explore_from {
    ($module:ident; $preemptions:expr; $($scenario:ident($make:expr);)*) => {$(
        #[test]
        fn $scenario() {
            let scenario = || $module::$scenario($make);
            explore(stringify!($scenario), $preemptions, scenario);
        }
    )*};
}

macro_rules! explore {
    ($($scenarios:tt)*) => { explore_from! { scenarios; $($scenarios)* } };
}

macro_rules! explore_transactions {
    ($($scenarios:tt)*) => { explore_from! { transactions; $($scenarios)* } };
}

mod memory_db {
    use super::*;

    explore! { None;
        commits_over_two_stripes_are_atomic(memory(FrozenClock));
        commits_with_keys_in_opposite_orders_do_not_deadlock(memory(FrozenClock));
        a_commit_with_two_keys_in_one_stripe_does_not_deadlock(memory(FrozenClock));
        get_many_is_a_snapshot(memory(FrozenClock));
        a_query_is_a_snapshot(memory(FrozenClock));
        concurrent_callers_get_the_same_new_lock(memory(FrozenClock));
        one_of_two_commits_under_a_version_succeeds(memory(FrozenClock));
        one_of_two_creations_succeeds(memory(FrozenClock));
        commits_that_check_each_others_lock_do_not_both_succeed(memory(FrozenClock));
        updates_are_not_lost(memory(FrozenClock));
        commits_under_a_deleted_lock_fail(memory(FrozenClock));
        a_stream_yields_each_item_once_during_a_commit(memory(FrozenClock));
    }

    explore! { Some(3);
        three_threads_lose_no_update(memory(FrozenClock));
    }

    explore_transactions! { None;
        a_result_of_a_transaction_rests_on_one_state(memory(FrozenClock));
        an_error_of_a_body_rests_on_one_state(memory(FrozenClock));
        an_error_after_a_query_rests_on_one_state(memory(FrozenClock));
        transactions_lose_no_update(memory(FrozenClock));
        update_loses_no_update(memory(FrozenClock));
        a_transaction_reads_its_own_writes_during_another_commit(memory(FrozenClock));
        one_of_two_transactions_finds_the_phantom(memory(FrozenClock));
        an_exhausted_transaction_wrote_nothing(memory(FrozenClock));
    }

    macro_rules! explore_with_clock {
        ($($scenario:ident;)*) => {$(
            #[test]
            fn $scenario() {
                explore(stringify!($scenario), None, || {
                    let clock = ManualClock::new(1_000_000);
                    scenarios::$scenario(memory(clock.clone()), clock);
                });
            }
        )*};
    }

    explore_with_clock! {
        a_refresh_does_not_fail_a_commit;
        a_commit_is_atomic_while_its_lock_expires;
        an_item_that_is_replaced_before_it_expires_is_always_visible;
    }

    #[test]
    fn a_purge_keeps_replaced_items_and_new_locks() {
        explore("a_purge_keeps_replaced_items_and_new_locks", None, || {
            let clock = ManualClock::new(1_000_000);
            let db = memory(clock.clone());
            let purged = db.clone();
            let purge = move || {
                purged.purge_expired();
            };
            scenarios::a_purge_keeps_replaced_items_and_new_locks(db, clock, purge);
        });
    }
}

mod lru_cache {
    use super::*;

    explore! { None;
        a_fill_races_with_a_set(cached(FrozenClock, 4));
        a_fill_races_with_a_commit(cached(FrozenClock, 4));
        a_fill_races_with_a_deletion(cached(FrozenClock, 4));
        a_fill_races_with_a_failing_write(cached(FrozenClock, 4));
        a_fill_races_with_two_writes(cached(FrozenClock, 4));
        after_two_writers_the_cache_agrees_with_the_database(cached(FrozenClock, 4));
        get_many_is_a_snapshot(cached(FrozenClock, 4));
        updates_are_not_lost(cached(FrozenClock, 4));
    }

    explore_transactions! { None;
        an_error_of_a_body_rests_on_one_state(cached(FrozenClock, 4));
        transactions_lose_no_update(cached(FrozenClock, 4));
    }

    explore! { Some(3);
        two_fills_race_with_a_set(cached(FrozenClock, 4));
        a_fill_races_with_a_set_and_an_eviction(cached(FrozenClock, 1));
    }

    #[test]
    fn a_fill_races_with_a_bypassing_write_and_an_invalidation() {
        let name = "a_fill_races_with_a_bypassing_write_and_an_invalidation";
        explore(name, None, || {
            let cache = cached(FrozenClock, 4);
            let (inner, invalidated) = (cache.inner().clone(), cache.clone());
            let invalidate = move || invalidated.invalidate(scenarios::A);
            scenarios::a_fill_races_with_a_bypassing_write_and_an_invalidation(
                cache, inner, invalidate,
            );
        });
    }

    #[test]
    fn an_expired_entry_is_not_returned() {
        explore("an_expired_entry_is_not_returned", None, || {
            let clock = ManualClock::new(1_000_000);
            scenarios::an_item_that_is_replaced_before_it_expires_is_always_visible(
                cached(clock.clone(), 4),
                clock,
            );
        });
    }
}
