//! A ready-made observer that counts.
//!
//! - `mod.rs`: [`Counters`], which receives the events.
//! - `histogram.rs`: the distribution of a number, in buckets.
//! - `hot_keys.rs`: the keys that occur most often.
//! - `snapshot.rs`: [`CountersSnapshot`] and its parts.
//! - `table.rs`: a snapshot as a table.
//!
//! Lock order: the mutex of each `HotKeys` is a leaf. No user code runs while it is held.

mod histogram;
mod hot_keys;
mod snapshot;
mod table;

pub use snapshot::{CountersSnapshot, HotLock, OperationStats, Quantiles, TransactionStats};

use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::{
    CallEvent, ConflictEvent, Error, ErrorKind, Observer, Operation, TransactionEnd,
    TransactionEvent,
};
use histogram::Histogram;
use hot_keys::HotKeys;
use std::fmt;
use std::time::Duration;

/// An [`Observer`] that counts calls, errors, conflicts and transactions, for a table that a person
/// reads.
///
/// This is a handle: clones share the counters, and each may be given to another database or
/// [`Retry`](crate::Retry). It has a fixed size, about 100 kilobytes. Counting locks nothing, except
/// that a conflict locks a mutex for a short time.
///
/// - Per operation: calls, keys, items, errors by kind, and the 50th and 99th percentile and the
///   maximum of the latency. Percentiles are at most 12.5 percent too high.
/// - Transactions: how many ended in which way, attempts per success, waits, pauses and durations.
/// - The locks with the most conflicts: of the attempts that transactions lost, and of commits that
///   failed. A lock with at least 1 of 64 conflicts is always among them.
///
/// ```
/// use atomic_db::{AtomicDbExt, Counters, MemoryDb, Observed};
///
/// let counters = Counters::new();
/// let db = Observed::new(MemoryDb::<u32>::new(), counters.clone());
/// for _ in 0..3 {
///     db.update(("page#1", "visits"), ("page#1", "lock"), |visits| {
///         Some(visits.copied().unwrap_or(0) + 1)
///     })?;
/// }
/// println!("{}", counters.snapshot());
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// The table of a run of eight threads, of which every second transaction is under one lock:
///
/// ```text
/// operation            calls        keys       items       p50       p99       max  errors
/// get_fresh              408         408         393    63.0ns   479.0ns   932.0ns
/// get_lock               408         408         408   111.0ns     1.2µs     2.4µs
/// commit                 408         816           0   383.0ns     3.6µs     4.9µs  race_condition 8
///
/// transactions         400: 394 at the first attempt, 6 recovered, 0 exhausted, 0 failed, 0 panicked
/// attempts             1.02 per success (p50 1, p99 2, max 4), 8 lost
/// waited for turns     p50 0.0ns, p99 21.0ms, max 28.3ms
/// paused               p50 0.0ns, p99 294.9µs, max 1.1ms
/// duration             p50 1.7ms, p99 23.1ms, max 30.2ms
///
/// attempts lost by transactions, per lock
///          8  ("bank", "lock")
///
/// commits failed with a race condition, per lock
///          8  ("bank", "lock")
/// ```
#[derive(Clone, Default)]
pub struct Counters {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    operations: [OperationCounters; Operation::ALL.len()],
    ends: [AtomicU64; TransactionEnd::ALL.len()],
    /// Of transactions that succeeded.
    attempts: Histogram,
    attempts_of_successes: AtomicU64,
    lost_attempts: AtomicU64,
    waited: Histogram,
    paused: Histogram,
    duration: Histogram,
    locks_of_attempts: Mutex<HotKeys>,
    locks_of_commits: Mutex<HotKeys>,
}

#[derive(Default)]
struct OperationCounters {
    keys: AtomicU64,
    items: AtomicU64,
    errors: [AtomicU64; ErrorKind::ALL.len()],
    /// In nanoseconds. It counts the calls as well.
    latency: Histogram,
}

impl Counters {
    /// Creates counters that are zero.
    #[must_use]
    pub fn new() -> Self {
        Counters::default()
    }

    /// Returns the counters since their creation. They are read one after another, so events that are
    /// counted at the same time may be in some of them and not in others.
    #[must_use]
    pub fn snapshot(&self) -> CountersSnapshot {
        let State {
            operations,
            ends,
            attempts,
            attempts_of_successes,
            lost_attempts,
            waited,
            paused,
            duration,
            locks_of_attempts,
            locks_of_commits,
        } = &*self.state;
        let stats = Operation::ALL.iter().zip(operations);
        let stats = stats.map(|(operation, counters)| counters.stats(*operation));
        let end = |end: TransactionEnd| ends[end as usize].load(Ordering::Relaxed);
        CountersSnapshot {
            operations: stats.filter(|stats| stats.calls > 0).collect(),
            transactions: TransactionStats {
                first_attempt: end(TransactionEnd::FirstAttempt),
                recovered: end(TransactionEnd::Recovered),
                exhausted: end(TransactionEnd::Exhausted),
                failed: end(TransactionEnd::Failed),
                panicked: end(TransactionEnd::Panicked),
                lost_attempts: lost_attempts.load(Ordering::Relaxed),
                attempts_of_successes: attempts_of_successes.load(Ordering::Relaxed),
                attempts: attempts.quantiles(|attempts| attempts),
                waited: waited.quantiles(Duration::from_nanos),
                paused: paused.quantiles(Duration::from_nanos),
                duration: duration.quantiles(Duration::from_nanos),
            },
            locks_of_attempts: locks_of_attempts.lock().most_frequent(),
            locks_of_commits: locks_of_commits.lock().most_frequent(),
        }
    }
}

impl OperationCounters {
    fn stats(&self, operation: Operation) -> OperationStats {
        let errors = ErrorKind::ALL.iter().zip(&self.errors);
        let errors = errors.map(|(kind, count)| (*kind, count.load(Ordering::Relaxed)));
        OperationStats {
            operation,
            calls: self.latency.count(),
            keys: self.keys.load(Ordering::Relaxed),
            items: self.items.load(Ordering::Relaxed),
            errors: errors.filter(|(_, count)| *count > 0).collect(),
            latency: self.latency.quantiles(Duration::from_nanos),
        }
    }
}

impl Observer for Counters {
    fn on_call(&self, call: &CallEvent<'_>) {
        let counters = &self.state.operations[call.operation as usize];
        add(&counters.keys, call.keys as u64);
        add(&counters.items, call.items as u64);
        counters.latency.record(nanos(call.duration));
        let Some(error) = call.error else {
            return;
        };
        add(&counters.errors[ErrorKind::from(error) as usize], 1);
        if let Error::RaceCondition { keys } = error {
            self.state.locks_of_commits.lock().add(keys);
        }
    }

    fn on_conflict(&self, conflict: &ConflictEvent<'_>) {
        add(&self.state.lost_attempts, 1);
        self.state.locks_of_attempts.lock().add(conflict.locks);
    }

    fn on_transaction(&self, transaction: &TransactionEvent<'_>) {
        let state = &self.state;
        add(&state.ends[transaction.end as usize], 1);
        if let TransactionEnd::FirstAttempt | TransactionEnd::Recovered = transaction.end {
            let attempts = u64::from(transaction.attempts);
            state.attempts.record(attempts);
            add(&state.attempts_of_successes, attempts);
        }
        state.waited.record(nanos(transaction.waited));
        state.paused.record(nanos(transaction.paused));
        state.duration.record(nanos(transaction.duration));
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Shows no counters; [`snapshot`](Counters::snapshot) returns them.
impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}
