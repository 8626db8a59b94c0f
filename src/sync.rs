//! The primitives that threads meet at, named in one place.
//!
//! No database or wrapper names a mutex or an atomic of its own, so that a model checker can be put
//! under all of them here: `--cfg loom` and `--cfg shuttle` do so. Otherwise the locks are
//! `parking_lot`'s: they cannot be poisoned, so a panic in a caller's code leaves every database
//! usable.

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::Ordering;
pub(crate) use std::thread;

#[cfg(not(any(loom, shuttle)))]
pub(crate) use {
    parking_lot::{Mutex, MutexGuard},
    std::sync::atomic::AtomicU64,
};

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
}
