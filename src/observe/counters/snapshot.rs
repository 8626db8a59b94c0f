//! A snapshot of the counters.

use crate::{ErrorKind, KeyBuf, Operation};
use std::time::Duration;

/// The state of [`Counters`](crate::Counters) at some time. `Display` prints it as a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CountersSnapshot {
    /// The operations that were called, in the order of [`Operation`].
    pub operations: Vec<OperationStats>,
    /// All transactions and updates.
    pub transactions: TransactionStats,
    /// The locks for which transactions lost the most attempts, the most frequent first. At most 64.
    pub locks_of_attempts: Vec<HotLock>,
    /// The locks that made the most calls of `commit` and `set_atomic` fail with a race condition, within
    /// transactions and without, the most frequent first. At most 64.
    pub locks_of_commits: Vec<HotLock>,
}

impl CountersSnapshot {
    /// Returns the counters of one operation, which are zero if it was not called.
    #[must_use]
    pub fn operation(&self, operation: Operation) -> OperationStats {
        let found = self
            .operations
            .iter()
            .find(|stats| stats.operation == operation);
        found.cloned().unwrap_or(OperationStats {
            operation,
            calls: 0,
            keys: 0,
            items: 0,
            errors: Vec::new(),
            latency: Quantiles::default(),
        })
    }
}

/// The calls of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct OperationStats {
    /// The operation.
    pub operation: Operation,
    /// The number of calls.
    pub calls: u64,
    /// The number of keys, items and locks in their arguments.
    pub keys: u64,
    /// The number of items or locks that they returned.
    pub items: u64,
    /// The number of errors of each kind that occurred.
    pub errors: Vec<(ErrorKind, u64)>,
    /// How long the calls took.
    pub latency: Quantiles<Duration>,
}

/// Transactions and updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TransactionStats {
    /// Those that succeeded at the first attempt.
    pub first_attempt: u64,
    /// Those that succeeded at a later attempt.
    pub recovered: u64,
    /// Those that ended in [`RetriesExhausted`](crate::Error::RetriesExhausted).
    pub exhausted: u64,
    /// Those that ended in another error.
    pub failed: u64,
    /// Those whose closure panicked.
    pub panicked: u64,
    /// The attempts that ended in a conflict, of all transactions.
    pub lost_attempts: u64,
    /// The attempts of all transactions that succeeded.
    pub attempts_of_successes: u64,
    /// The attempts of a transaction that succeeded.
    pub attempts: Quantiles<u64>,
    /// The time that a transaction waited for its turns.
    pub waited: Quantiles<Duration>,
    /// The time of the pauses of a transaction.
    pub paused: Quantiles<Duration>,
    /// The time that a transaction took.
    pub duration: Quantiles<Duration>,
}

impl TransactionStats {
    /// Returns the number of transactions.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.successes() + self.exhausted + self.failed + self.panicked
    }

    /// Returns the number of transactions that succeeded.
    #[must_use]
    pub fn successes(&self) -> u64 {
        self.first_attempt + self.recovered
    }

    /// Returns the mean number of attempts of a transaction that succeeded; zero if there is none.
    #[must_use]
    pub fn attempts_per_success(&self) -> f64 {
        match self.successes() {
            0 => 0.0,
            successes => self.attempts_of_successes as f64 / successes as f64,
        }
    }
}

/// Two percentiles and the maximum of a distribution. A percentile may be up to 12.5 percent too high;
/// the maximum is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Quantiles<T> {
    /// The median.
    pub p50: T,
    /// The 99th percentile.
    pub p99: T,
    /// The maximum.
    pub max: T,
}

/// A lock with many conflicts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HotLock {
    /// The key of the lock.
    pub key: KeyBuf,
    /// The number of its conflicts, which is never too low.
    pub count: u64,
    /// By how much `count` may be too high. Zero as long as at most 64 locks had a conflict.
    pub overcount: u64,
}
