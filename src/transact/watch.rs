//! What is noted about a transaction while it runs, to report it when it has ended.

use super::retry::Policy;
use crate::observe::notify;
use crate::stopwatch::Stopwatch;
use crate::{ConflictEvent, Error, ErrorKind, KeyBuf, Observer, TransactionEnd, TransactionEvent};
use std::time::Duration;

/// The steps of a transaction that are worth noting. A transaction that is not observed uses
/// [`Unwatched`], which compiles to nothing.
pub(super) trait Watch {
    /// An attempt ended in `race`, and the pause before the next one begins.
    fn lost(&mut self, race: &Error);

    /// The pause has ended. The transaction has `waited` for its turns so far.
    fn paused(&mut self, waited: Duration);

    /// The transaction has succeeded. It `waited` for its turns.
    fn succeeded(&mut self, waited: Duration);

    /// The transaction has failed with an error of the database, which is returned.
    fn failed(&mut self, error: Error, waited: Duration) -> Error;

    /// The transaction has failed with an error of the closure.
    fn closure_failed(&mut self, waited: Duration);
}

pub(super) struct Unwatched;

impl Watch for Unwatched {
    #[inline(always)]
    fn lost(&mut self, _: &Error) {}

    #[inline(always)]
    fn paused(&mut self, _: Duration) {}

    #[inline(always)]
    fn succeeded(&mut self, _: Duration) {}

    #[inline(always)]
    fn failed(&mut self, error: Error, _: Duration) -> Error {
        error
    }

    #[inline(always)]
    fn closure_failed(&mut self, _: Duration) {}
}

/// The observers of a transaction: that of the database, and that of its `Retry`.
#[derive(Clone, Copy)]
pub(super) struct Observers<'a> {
    pub(super) of_db: Option<&'a dyn Observer>,
    pub(super) of_retry: Option<&'a dyn Observer>,
}

impl Observers<'_> {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.of_db.is_none() && self.of_retry.is_none()
    }

    fn notify(&self, call: impl Fn(&dyn Observer)) {
        for observer in [self.of_db, self.of_retry].into_iter().flatten() {
            notify(|| call(observer));
        }
    }
}

/// Notes the steps of an observed transaction, and reports it when it is dropped.
pub(super) struct Watched<'a> {
    observers: Observers<'a>,
    policy: &'a Policy,
    stopwatch: Stopwatch,
    /// The number of attempts that ended in a conflict.
    lost_attempts: u32,
    lost_locks: Vec<KeyBuf>,
    /// The beginning of the pause that is not over.
    pause: Option<Stopwatch>,
    paused: Duration,
    waited: Duration,
    /// A transaction without a noted end has panicked.
    end: TransactionEnd,
    error: Option<ErrorKind>,
}

impl<'a> Watched<'a> {
    pub(super) fn new(observers: Observers<'a>, policy: &'a Policy) -> Self {
        Watched {
            observers,
            policy,
            stopwatch: Stopwatch::start(policy.clock()),
            lost_attempts: 0,
            lost_locks: Vec::new(),
            pause: None,
            paused: Duration::ZERO,
            waited: Duration::ZERO,
            end: TransactionEnd::Panicked,
            error: None,
        }
    }
}

impl Watch for Watched<'_> {
    #[cold]
    fn lost(&mut self, race: &Error) {
        self.lost_attempts = self.lost_attempts.saturating_add(1);
        let locks = match race {
            Error::RaceCondition { keys } => keys.as_slice(),
            _ => &[],
        };
        for lock in locks {
            if !self.lost_locks.contains(lock) {
                self.lost_locks.push(lock.clone());
            }
        }
        let event = ConflictEvent {
            attempt: self.lost_attempts,
            locks,
        };
        self.observers
            .notify(|observer| observer.on_conflict(&event));
        self.pause = Some(Stopwatch::start(self.policy.clock()));
    }

    #[cold]
    fn paused(&mut self, waited: Duration) {
        if let Some(pause) = self.pause.take() {
            let waited_now = waited.saturating_sub(self.waited);
            let passed = pause.elapsed(self.policy.clock());
            self.paused += passed.saturating_sub(waited_now);
        }
        self.waited = waited;
    }

    fn succeeded(&mut self, waited: Duration) {
        self.waited = waited;
        self.end = match self.lost_attempts {
            0 => TransactionEnd::FirstAttempt,
            _ => TransactionEnd::Recovered,
        };
    }

    fn failed(&mut self, error: Error, waited: Duration) -> Error {
        self.waited = waited;
        self.end = match error {
            Error::RetriesExhausted { .. } => TransactionEnd::Exhausted,
            _ => TransactionEnd::Failed,
        };
        self.error = Some(ErrorKind::from(&error));
        error
    }

    fn closure_failed(&mut self, waited: Duration) {
        self.waited = waited;
        self.end = TransactionEnd::Failed;
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        // The last attempt of an exhausted transaction was lost, and is counted already.
        let is_last_lost = self.end == TransactionEnd::Exhausted;
        let event = TransactionEvent {
            end: self.end,
            attempts: self.lost_attempts.saturating_add(u32::from(!is_last_lost)),
            lost_locks: &self.lost_locks,
            waited: self.waited,
            paused: self.paused,
            duration: self.stopwatch.elapsed(self.policy.clock()),
            error: self.error,
        };
        self.observers
            .notify(|observer| observer.on_transaction(&event));
    }
}
