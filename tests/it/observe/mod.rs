//! Observers: what is reported, how often, and that an observer cannot change what a call returns.

mod callbacks;
mod calls;
mod counters;
mod suites;
mod transactions;

use atomic_db::{
    AtomicDb, AtomicDbExt, CallEvent, ConflictEvent, Error, ErrorKind, Item, Key, KeyBuf,
    ManualClock, Observer, Operation, Retry, Transaction, TransactionEnd, TransactionEvent,
};
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEY: Key<'static> = Key::new("pk", "count");
const LOCK: Key<'static> = Key::new("pk", "lock");

/// A call event, owned.
#[derive(Clone, Debug, PartialEq)]
struct SeenCall {
    operation: Operation,
    partition: Option<String>,
    keys: usize,
    items: usize,
    duration: Duration,
    error: Option<ErrorKind>,
}

/// A transaction event, owned.
#[derive(Clone, Debug, PartialEq)]
struct SeenTransaction {
    end: TransactionEnd,
    attempts: u32,
    lost_locks: Vec<KeyBuf>,
    waited: Duration,
    paused: Duration,
    duration: Duration,
    error: Option<ErrorKind>,
}

/// The number of a lost attempt, and its locks.
type SeenConflict = (u32, Vec<KeyBuf>);

/// Records all events. Clones share the record.
#[derive(Clone, Debug, Default)]
struct Recorder {
    calls: Arc<Mutex<Vec<SeenCall>>>,
    conflicts: Arc<Mutex<Vec<SeenConflict>>>,
    transactions: Arc<Mutex<Vec<SeenTransaction>>>,
}

impl Recorder {
    fn take_calls(&self) -> Vec<SeenCall> {
        mem::take(&mut self.calls.lock().unwrap())
    }

    fn take_conflicts(&self) -> Vec<SeenConflict> {
        mem::take(&mut self.conflicts.lock().unwrap())
    }

    fn take_transactions(&self) -> Vec<SeenTransaction> {
        mem::take(&mut self.transactions.lock().unwrap())
    }

    /// Returns the only transaction that was reported since the last call.
    fn take_transaction(&self) -> SeenTransaction {
        let mut seen = self.take_transactions();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

impl Observer for Recorder {
    fn on_call(&self, call: &CallEvent<'_>) {
        self.calls.lock().unwrap().push(SeenCall {
            operation: call.operation,
            partition: call.partition.map(str::to_owned),
            keys: call.keys,
            items: call.items,
            duration: call.duration,
            error: call.error.map(ErrorKind::from),
        });
    }

    fn on_conflict(&self, conflict: &ConflictEvent<'_>) {
        let seen = (conflict.attempt, conflict.locks.to_vec());
        self.conflicts.lock().unwrap().push(seen);
    }

    fn on_transaction(&self, transaction: &TransactionEvent<'_>) {
        self.transactions.lock().unwrap().push(SeenTransaction {
            end: transaction.end,
            attempts: transaction.attempts,
            lost_locks: transaction.lost_locks.to_vec(),
            waited: transaction.waited,
            paused: transaction.paused,
            duration: transaction.duration,
            error: transaction.error,
        });
    }
}

/// Commits under `LOCK` without a transaction, so that a transaction that has read it loses a race.
fn interfere(db: &impl AtomicDb<Data = u32>) {
    let lock = db.get_lock(LOCK).unwrap();
    db.set_atomic(&[], &[lock]).unwrap();
}

fn add_one(count: Option<&u32>) -> Option<u32> {
    Some(count.copied().unwrap_or(0) + 1)
}

/// Increments the item at `KEY` by every method that runs a transaction, and calls `before_commit`
/// before the end of each attempt. Returns the name of each method and whether it succeeded.
fn by_every_method<D: AtomicDb<Data = u32> + ?Sized>(
    db: &D,
    before_commit: &dyn Fn(),
) -> Vec<(&'static str, bool)> {
    let body = |tx: &mut Transaction<'_, D>| {
        tx.lock(LOCK)?;
        let count = tx.get(KEY)?.and_then(Item::into_data).unwrap_or(0);
        before_commit();
        tx.set(Item::at(KEY, count + 1))
    };
    let change = |count: Option<&u32>| {
        before_commit();
        add_one(count)
    };
    let try_change = |count: Option<&u32>| Ok::<_, Error>(change(count));
    let retry = Retry::new().clock(ManualClock::new(1_000));
    vec![
        ("transact", db.transact(body).is_ok()),
        ("try_transact", db.try_transact(body).is_ok()),
        ("transact_with", db.transact_with(&retry, body).is_ok()),
        (
            "try_transact_with",
            db.try_transact_with(&retry, body).is_ok(),
        ),
        ("update", db.update(KEY, LOCK, change).is_ok()),
        ("try_update", db.try_update(KEY, LOCK, try_change).is_ok()),
    ]
}
