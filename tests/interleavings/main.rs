//! The databases under model checkers, which run a body under every schedule there can be (loom) or
//! under very many of them (shuttle). The locks of the library are the checker's here; everything
//! else is the library as it is.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test --release --target-dir target/loom --test model
//! RUSTFLAGS="--cfg shuttle" cargo test --release --target-dir target/shuttle --test model
//! ```
//!
//! Each test prints how many executions it went through.
#![cfg(any(loom, shuttle))]

#[cfg(shuttle)]
mod histories;
mod scenarios;
mod seeded_bugs;

use atomic_db::{AtomicDb, Clock, LruCache, ManualClock, MemoryDb};
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[cfg(loom)]
use loom::{sync::Mutex, thread};
#[cfg(shuttle)]
use shuttle::{sync::Mutex, thread};

/// What a body is run on.
trait Db: AtomicDb<Data = u64> + Clone + Send + 'static {}

impl<D: AtomicDb<Data = u64> + Clone + Send + 'static> Db for D {}

/// A clock that never moves, and so is no place where threads can meet.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Duration {
        Duration::from_secs(1_000_000)
    }

    fn sleep(&self, _: Duration) {}
}

fn memory(clock: impl Clock + 'static) -> MemoryDb<u64> {
    MemoryDb::builder().stripes(2).clock(clock).build()
}

fn cached(clock: Arc<dyn Clock>, capacity: usize) -> LruCache<MemoryDb<u64>> {
    let db = MemoryDb::builder()
        .stripes(1)
        .clock(Arc::clone(&clock))
        .build();
    LruCache::builder(db)
        .capacity(capacity)
        .clock(clock)
        .build()
}

/// Two partition keys of each of two stripes: the hash is fixed here, and this is how it chooses.
fn pks() -> [[String; 2]; 2] {
    let in_stripe = |stripe: u64| {
        let names = (0..).map(|number| format!("p{number}"));
        let mut names = names.filter(|name| {
            let mut hasher = DefaultHasher::new();
            hasher.write(name.as_bytes());
            (hasher.finish() >> 32) & 1 == stripe
        });
        [names.next().unwrap(), names.next().unwrap()]
    };
    [in_stripe(0), in_stripe(1)]
}

/// Runs `body` under all schedules, or all with few preemptions, or many; and says how many.
fn explore(name: &str, preemptions: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&executions);
    let counted = move || {
        count.fetch_add(1, Ordering::Relaxed);
        body();
    };
    run(preemptions, counted);
    println!("{name}: {} executions", executions.load(Ordering::Relaxed));
}

/// `PREEMPTIONS` goes before the few that a body of three threads is given, for long runs.
#[cfg(loom)]
fn run(preemptions: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let asked = std::env::var("PREEMPTIONS").ok().map(|text| {
        text.parse()
            .expect("PREEMPTIONS is a number of preemptions")
    });
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = preemptions.map(|few| asked.unwrap_or(few));
    checker.check(body);
}

#[cfg(shuttle)]
fn run(_: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let iterations = std::env::var("SHUTTLE_ITERS").map_or(2_000, |text| {
        text.parse()
            .expect("SHUTTLE_ITERS is a number of schedules")
    });
    let body = Arc::new(body);
    let again = Arc::clone(&body);
    shuttle::check_random(move || again(), iterations);
    shuttle::check_pct(move || body(), iterations, 3);
}

/// Runs two bodies at once.
fn both(one: impl FnOnce() + Send + 'static, other: impl FnOnce()) {
    let one = thread::spawn(one);
    other();
    one.join().unwrap();
}

macro_rules! model {
    ($($name:ident($make:expr);)*) => {$(
        #[test]
        fn $name() {
            explore(stringify!($name), None, || scenarios::$name($make));
        }
    )*};
}

mod memory_db {
    use super::*;

    model! {
        commits_over_the_same_stripes_are_whole(memory(Still));
        commits_that_take_the_stripes_in_opposite_orders_end(memory(Still));
        a_commit_with_two_keys_in_one_stripe_ends(memory(Still));
        get_many_sees_a_commit_whole(memory(Still));
        a_query_sees_a_commit_whole(memory(Still));
        both_get_the_same_new_lock(memory(Still));
        of_two_commits_one_succeeds(memory(Still));
        of_two_creations_one_succeeds(memory(Still));
        commits_that_check_each_others_lock_do_not_both_succeed(memory(Still));
        updates_are_not_lost(memory(Still));
        a_deleted_lock_fails_its_holder(memory(Still));
        a_stream_meets_a_commit(memory(Still));
    }

    macro_rules! timed {
        ($($name:ident;)*) => {$(
            #[test]
            fn $name() {
                explore(stringify!($name), None, || {
                    let clock = ManualClock::new(1_000_000);
                    scenarios::$name(memory(clock.clone()), clock);
                });
            }
        )*};
    }

    timed! {
        a_refresh_fails_nobody;
        a_lock_that_expires_fails_its_holder_or_not;
        an_item_that_expires_is_replaced;
    }

    #[test]
    fn a_purge_meets_everything() {
        explore("a_purge_meets_everything", None, || {
            let clock = ManualClock::new(1_000_000);
            let db = memory(clock.clone());
            scenarios::a_purge_meets_everything(db.clone(), clock, move || {
                db.purge_expired();
            });
        });
    }

    #[test]
    fn three_threads_commit_over_overlapping_stripes() {
        let name = "three_threads_commit_over_overlapping_stripes";
        explore(name, Some(3), || {
            scenarios::three_threads_commit(memory(Still))
        });
    }
}

mod lru_cache {
    use super::*;

    fn cache_of(capacity: usize) -> LruCache<MemoryDb<u64>> {
        cached(Arc::new(Still), capacity)
    }

    model! {
        a_fill_meets_a_set(cache_of(4));
        a_fill_meets_a_commit(cache_of(4));
        a_fill_meets_a_delete(cache_of(4));
        a_fill_meets_a_write_that_fails(cache_of(4));
        a_fill_meets_two_writes(cache_of(4));
        two_writers_of_one_key_agree_with_the_database(cache_of(4));
        get_many_sees_a_commit_whole(cache_of(4));
        updates_are_not_lost(cache_of(4));
    }

    #[test]
    fn two_fills_meet_a_set() {
        let name = "two_fills_meet_a_set";
        explore(name, Some(3), || {
            scenarios::two_fills_meet_a_set(cache_of(4))
        });
    }

    #[test]
    fn a_fill_meets_a_set_and_an_eviction() {
        let name = "a_fill_meets_a_set_and_an_eviction";
        explore(name, Some(3), || {
            scenarios::a_fill_meets_a_set_and_an_eviction(cache_of(1))
        });
    }

    #[test]
    fn a_fill_meets_an_invalidation_after_a_write_round_the_cache() {
        let name = "a_fill_meets_an_invalidation_after_a_write_round_the_cache";
        explore(name, None, || {
            let cache = cache_of(4);
            let inner = cache.inner().clone();
            let invalidated = cache.clone();
            let invalidate = move || invalidated.invalidate(scenarios::A);
            scenarios::a_fill_meets_an_invalidation(cache, inner, invalidate);
        });
    }

    #[test]
    fn an_entry_that_expires_is_not_answered() {
        explore("an_entry_that_expires_is_not_answered", None, || {
            let clock = ManualClock::new(1_000_000);
            scenarios::an_item_that_expires_is_replaced(cached(Arc::new(clock.clone()), 4), clock);
        });
    }
}
