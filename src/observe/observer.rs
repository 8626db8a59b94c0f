//! The trait `Observer`, and how it is called.

use super::event::{CallEvent, ConflictEvent, TransactionEvent};
use crate::sync::Arc;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Receives the calls, conflicts and transactions of a database, for logs and metrics.
///
/// Each method does nothing by default, so an implementation has only those that it needs.
/// [`Counters`](crate::Counters) is a ready-made observer. An observer is shared by threads, if the
/// database is.
///
/// - [`Observed`](crate::Observed) reports every call on a handle, and every transaction.
/// - [`Retry::observer`](crate::Retry::observer) reports the transactions that use this policy, on any
///   database.
///
/// A method runs on the thread of the caller, after the call and before its result is returned, so it
/// should be quick. No mutex of this crate is held, so it may call a database (guarantee 22). A call of
/// the observed handle itself is reported as well, so such an observer must prevent endless recursion.
///
/// If a method panics, the panic is caught, and the call returns its result as it would have without an
/// observer. With `panic = "abort"`, it ends the process.
///
/// ```
/// use atomic_db::{AtomicDbExt, CallEvent, MemoryDb, Observed, Observer, TransactionEvent};
/// use std::time::Duration;
///
/// struct Log;
///
/// impl Observer for Log {
///     fn on_call(&self, call: &CallEvent<'_>) {
///         if call.duration > Duration::from_millis(100) || call.error.is_some() {
///             eprintln!("{} took {:?}: {:?}", call.operation, call.duration, call.error);
///         }
///     }
///
///     fn on_transaction(&self, transaction: &TransactionEvent<'_>) {
///         if transaction.attempts > 1 {
///             eprintln!("{} attempts, lost {:?}", transaction.attempts, transaction.lost_locks);
///         }
///     }
/// }
///
/// let db = Observed::new(MemoryDb::<u32>::new(), Log);
/// db.update(("page#1", "visits"), ("page#1", "lock"), |visits| {
///     Some(visits.copied().unwrap_or(0) + 1)
/// })?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
pub trait Observer {
    /// Is called after each call, with its result. For a stream or scan, it is called once: when the
    /// iterator has ended, at its first error, or when it is dropped before.
    fn on_call(&self, call: &CallEvent<'_>) {
        let _ = call;
    }

    /// Is called after each attempt of a transaction that ended in a conflict.
    fn on_conflict(&self, conflict: &ConflictEvent<'_>) {
        let _ = conflict;
    }

    /// Is called after each transaction: `transact`, `update`, and their variants.
    fn on_transaction(&self, transaction: &TransactionEvent<'_>) {
        let _ = transaction;
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[deny(clippy::missing_trait_methods)]
        impl<O: Observer + ?Sized> Observer for $pointer {
            fn on_call(&self, call: &CallEvent<'_>) {
                (**self).on_call(call);
            }

            fn on_conflict(&self, conflict: &ConflictEvent<'_>) {
                (**self).on_conflict(conflict);
            }

            fn on_transaction(&self, transaction: &TransactionEvent<'_>) {
                (**self).on_transaction(transaction);
            }
        }
    )*};
}

forward!(&O, Box<O>, Arc<O>);

/// Calls an observer. A panic of it does not reach the caller.
pub(crate) fn notify(call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        // Dropping the payload may panic again.
        std::mem::forget(panic);
    }
}
