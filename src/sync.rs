//! Synchronization primitives, re-exported so that a model checker can replace them.
//!
//! Databases and wrappers import mutexes and atomics from here only. `--cfg loom` and `--cfg shuttle`
//! replace them with those of the model checkers. Otherwise the mutexes are `parking_lot`'s: they are
//! never poisoned, so a database stays usable after a panic in a caller's code. `--cfg perturb` adds
//! random delays to them, so that threads overlap in more ways.

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::Ordering;
pub(crate) use std::thread;

#[cfg(not(any(loom, shuttle)))]
pub(crate) use {parking_lot::MutexGuard, std::sync::atomic::AtomicU64};

#[cfg(not(any(loom, shuttle, perturb)))]
pub(crate) use parking_lot::Mutex;

#[cfg(perturb)]
pub(crate) use perturb::Mutex;

#[cfg(not(any(loom, shuttle)))]
pub(crate) use {condvar::Condvar, std::thread::ThreadId};

#[cfg(any(loom, shuttle))]
pub(crate) use model::{Condvar, Mutex};

#[cfg(loom)]
pub(crate) use loom::{
    sync::{MutexGuard, atomic::AtomicU64},
    thread::ThreadId,
};

#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{MutexGuard, atomic::AtomicU64},
    thread::ThreadId,
};

#[cfg(all(feature = "redb", not(any(loom, shuttle))))]
pub(crate) use parking_lot::RwLock;

#[cfg(all(feature = "redb", any(loom, shuttle)))]
pub(crate) use model::RwLock;

/// Returns the identity of the calling thread.
pub(crate) fn current_thread() -> ThreadId {
    #[cfg(loom)]
    use loom::thread;
    #[cfg(shuttle)]
    use shuttle::thread;
    thread::current().id()
}

/// The model checkers' primitives, with the interface of `parking_lot`'s.
#[cfg(any(loom, shuttle))]
mod model {
    #[cfg(loom)]
    use loom::sync as checked;
    #[cfg(shuttle)]
    use shuttle::sync as checked;
    use std::sync::PoisonError;
    use std::time::Duration;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(checked::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(checked::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> checked::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[cfg(feature = "redb")]
    #[derive(Debug)]
    pub(crate) struct RwLock<T>(checked::RwLock<T>);

    #[cfg(feature = "redb")]
    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            RwLock(checked::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> checked::RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn write(&self) -> checked::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(checked::Condvar);

    impl Condvar {
        #[cfg(feature = "redb")]
        pub(crate) fn wait<'a, T>(
            &self,
            guard: checked::MutexGuard<'a, T>,
        ) -> checked::MutexGuard<'a, T> {
            self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
        }

        /// Waits as `wait` does, or, under shuttle, times out at random. Loom has no time, so a thread
        /// that is never notified is a deadlock there.
        pub(crate) fn wait_for<'a, T>(
            &self,
            guard: checked::MutexGuard<'a, T>,
            _: Duration,
        ) -> (checked::MutexGuard<'a, T>, bool) {
            #[cfg(shuttle)]
            if shuttle::rand::Rng::r#gen(&mut shuttle::rand::thread_rng()) {
                return (guard, true);
            }
            let guard = self.0.wait(guard);
            (guard.unwrap_or_else(PoisonError::into_inner), false)
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }
    }
}

/// `parking_lot`'s condition variable, with the interface of the model checkers'.
#[cfg(not(any(loom, shuttle)))]
mod condvar {
    use parking_lot::MutexGuard;
    use std::time::Duration;

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        #[cfg(feature = "redb")]
        pub(crate) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(&mut guard);
            guard
        }

        /// Waits until a notification, or for at most `duration`. Returns `true` if that has passed.
        pub(crate) fn wait_for<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            duration: Duration,
        ) -> (MutexGuard<'a, T>, bool) {
            let timed_out = self.0.wait_for(&mut guard, duration).timed_out();
            (guard, timed_out)
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }
    }
}

/// Runs `body` on all interleavings with at most `PREEMPTIONS` preemptions.
#[cfg(all(test, loom))]
pub(crate) fn explore(body: impl Fn() + Send + Sync + 'static) {
    let preemptions = std::env::var("PREEMPTIONS").map_or(2, |bound| bound.parse().unwrap());
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = Some(preemptions);
    checker.check(body);
}

/// Runs `body` on `SHUTTLE_ITERS` random schedules and as many PCT schedules.
#[cfg(all(test, shuttle))]
pub(crate) fn explore(body: impl Fn() + Send + Sync + 'static) {
    let schedules = std::env::var("SHUTTLE_ITERS").map_or(1_000, |count| count.parse().unwrap());
    let body = Arc::new(body);
    let random = Arc::clone(&body);
    shuttle::check_random(move || random(), schedules);
    shuttle::check_pct(move || body(), schedules, 3);
}

/// A `parking_lot` mutex with random delays before it is locked.
#[cfg(perturb)]
mod perturb {
    use std::cell::Cell;
    use std::time::Duration;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(parking_lot::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> parking_lot::MutexGuard<'_, T> {
            perturb();
            self.0.lock()
        }
    }

    thread_local! {
        static STATE: Cell<u64> = Cell::new(crate::random::random_u64() | 1);
    }

    /// Pauses for up to 63 microseconds one time in 64, and yields one time in four.
    fn perturb() {
        let random = STATE.with(|state| {
            // Marsaglia's xorshift64.
            let mut bits = state.get();
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            state.set(bits);
            bits
        });
        if random % 64 == 0 {
            std::thread::sleep(Duration::from_micros(random >> 32 & 63));
        } else if random % 4 == 0 {
            std::thread::yield_now();
        }
    }
}
