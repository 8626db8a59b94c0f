//! Mutexes, and the windows of race conditions.

#[cfg(loom)]
pub(super) use loom::sync::{Mutex, MutexGuard};
#[cfg(shuttle)]
pub(super) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(any(loom, shuttle)))]
pub(super) use std::sync::{Mutex, MutexGuard};

use std::sync::atomic::{AtomicU64, Ordering};

/// A pause between two critical sections that should be one, until other threads have made calls.
///
/// The count of calls is the standard library's under the model checkers, too: it decides nothing,
/// and theirs would add schedules.
#[derive(Default)]
pub(super) struct RaceWindow {
    calls: AtomicU64,
}

impl RaceWindow {
    pub(super) fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for about four calls of other threads.
    pub(super) fn wait(&self) {
        #[cfg(shuttle)]
        shuttle::thread::yield_now();
        // Loom switches threads at every lock.
        #[cfg(not(any(loom, shuttle)))]
        {
            let before = self.calls.load(Ordering::Relaxed);
            for _ in 0..100 {
                std::thread::yield_now();
                if self.calls.load(Ordering::Relaxed) > before + 4 {
                    return;
                }
            }
        }
    }
}
