//! The primitives that threads meet at, named in one place.
//!
//! No database or wrapper names a mutex or an atomic of its own, so that a model checker can be put
//! under all of them here: `--cfg loom` and `--cfg shuttle` do so. Otherwise the locks are
//! `parking_lot`'s: they cannot be poisoned, so a panic in a caller's code leaves every database
//! usable. `--cfg perturb` makes them slow at random, so that threads overlap in more ways.

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::Ordering;
pub(crate) use std::thread;

#[cfg(not(any(loom, shuttle)))]
pub(crate) use {parking_lot::MutexGuard, std::sync::atomic::AtomicU64};

#[cfg(not(any(loom, shuttle, perturb)))]
pub(crate) use parking_lot::Mutex;

#[cfg(perturb)]
pub(crate) use perturb::Mutex;

#[cfg(all(feature = "redb", not(any(loom, shuttle))))]
pub(crate) use {parking_lot::RwLock, waiting::Condvar};

#[cfg(all(feature = "redb", any(loom, shuttle)))]
pub(crate) use model::{Condvar, RwLock};

#[cfg(loom)]
pub(crate) use {
    loom::sync::{MutexGuard, atomic::AtomicU64},
    model::Mutex,
};

#[cfg(shuttle)]
pub(crate) use {
    model::Mutex,
    shuttle::sync::{MutexGuard, atomic::AtomicU64},
};

/// The model checkers' mutexes, in the shape of `parking_lot`'s.
#[cfg(any(loom, shuttle))]
mod model {
    #[cfg(loom)]
    use loom::sync as checked;
    #[cfg(shuttle)]
    use shuttle::sync as checked;
    use std::sync::PoisonError;

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

    #[cfg(feature = "redb")]
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(checked::Condvar);

    #[cfg(feature = "redb")]
    impl Condvar {
        pub(crate) fn wait<'a, T>(
            &self,
            guard: checked::MutexGuard<'a, T>,
        ) -> checked::MutexGuard<'a, T> {
            self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }
    }
}

/// `parking_lot`'s condition variable, in the shape of the model checkers'.
#[cfg(all(feature = "redb", not(any(loom, shuttle))))]
mod waiting {
    use parking_lot::MutexGuard;

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(crate) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(&mut guard);
            guard
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }
    }
}

/// A `parking_lot` mutex whose users dawdle before they take it.
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

    /// One time in 64 a pause of up to 63 microseconds, one time in four a yield.
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
