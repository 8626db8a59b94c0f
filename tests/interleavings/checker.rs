//! Runs a scenario under loom or shuttle.

use atomic_db::{AtomicDb, Clock};
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[cfg(loom)]
pub(crate) use loom::thread;
#[cfg(shuttle)]
pub(crate) use shuttle::thread;

/// A database that a scenario runs on.
pub(crate) trait Db: AtomicDb<Data = u64> + Clone + Send + 'static {}

impl<D: AtomicDb<Data = u64> + Clone + Send + 'static> Db for D {}

/// A clock that never moves. It has no lock, so it adds no schedules.
#[derive(Clone, Debug)]
pub(crate) struct FrozenClock;

impl Clock for FrozenClock {
    fn now(&self) -> Duration {
        Duration::from_secs(1_000_000)
    }

    fn sleep(&self, _: Duration) {}
}

/// Two partition keys of each of two stripes. Under the checkers the library's hash is not seeded,
/// and this is how it chooses a stripe.
pub(crate) fn pks() -> [[String; 2]; 2] {
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

/// Runs `scenario` under the checker's schedules, and prints the number of executions.
pub(crate) fn explore(
    name: &str,
    preemptions: Option<usize>,
    scenario: impl Fn() + Send + Sync + 'static,
) {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&executions);
    let counted = move || {
        count.fetch_add(1, Ordering::Relaxed);
        scenario();
    };
    run(preemptions, counted);
    println!("{name}: {} executions", executions.load(Ordering::Relaxed));
}

/// Parses an environment variable.
fn number_from_env(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text}")),
    )
}

/// Runs all schedules, or all with as many preemptions as `PREEMPTIONS`, or else `preemptions`.
#[cfg(loom)]
fn run(preemptions: Option<usize>, scenario: impl Fn() + Send + Sync + 'static) {
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound =
        preemptions.map(|bound| number_from_env("PREEMPTIONS").unwrap_or(bound));
    checker.check(scenario);
}

/// Runs random and PCT schedules.
#[cfg(shuttle)]
fn run(_: Option<usize>, scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = Arc::new(scenario);
    let again = Arc::clone(&scenario);
    shuttle::check_random(move || again(), schedules());
    shuttle::check_pct(move || scenario(), schedules(), 3);
}

#[cfg(shuttle)]
pub(crate) fn schedules() -> usize {
    number_from_env("SHUTTLE_ITERS").unwrap_or(2_000)
}

/// Runs `other` on a thread of its own, and `this` concurrently on this one.
pub(crate) fn run_both(other: impl FnOnce() + Send + 'static, this: impl FnOnce()) {
    let other = thread::spawn(other);
    this();
    other.join().unwrap();
}
