//! Records the calls of a database.

use super::anomaly_kind::AnomalyKind;
use super::collected::Collected;
use super::recording::{
    Action, Commit, History, LockVersion, Op, Outcome, PredicateRead, ReadSet, Value, Write,
};
use crate::{
    AtomicDb, Batch, Error, Item, Key, KeyBuf, Lock, Observer, Page, Query, Result, RetryQueue,
    Scan, Version,
};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Records the calls of any program that uses a database.
///
/// Every call of a [`Recorded`] handle is recorded with its result and with the times of its beginning
/// and end. [`History::check`] then decides whether all of them are strictly serializable.
///
/// ```
/// use atomic_db::testing::{Recorder, run_concurrently};
/// use atomic_db::{AtomicDbExt, Item, MemoryDb};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// // Each attempt to write has a value of its own.
/// let next = AtomicU64::new(1);
/// let recorder = Recorder::new(|item: &Item<u64>| item.data().copied().unwrap_or(0));
/// let db = recorder.record(MemoryDb::new());
/// run_concurrently(4, |_| {
///     for _ in 0..10 {
///         let updated = db.update(("pk", "last"), ("pk", "lock"), |_| {
///             Some(next.fetch_add(1, Ordering::Relaxed))
///         });
///         updated.expect("the database works");
///     }
/// });
/// recorder.history().check()?;
/// # Ok::<(), atomic_db::testing::Anomaly>(())
/// ```
///
/// # What the program must keep to
///
/// - All writes are recorded, from the empty database on, and no handle bypasses the recorder.
/// - A written value is unique for its key: the function given to [`new`](Recorder::new) returns a
///   number that no other item has that is written there. Put a counter or an identifier into the data.
///   A transaction that runs again must write another value, because a rejected commit counts, too.
/// - No key holds an item at one time and a lock at another. Items expire only at keys that are not
///   always written under the same lock, and only while no clock moves; locks do not expire.
/// - A [`set`](AtomicDb::set) or [`delete`](AtomicDb::delete) of several keys is recorded as several
///   concurrent calls. After an [`OutcomeUnknown`](Error::OutcomeUnknown), the history cannot be checked.
/// - A transaction is recorded as the calls that it makes.
pub struct Recorder<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    /// Stamps are the standard library's atomics even under a model checker: they are not part of
    /// what it explores, and are as close to each call as possible.
    stamps: AtomicU64,
    handles: AtomicUsize,
    /// The calls of each handle, in a buffer of its own, so that handles do not wait for each other.
    logs: Mutex<Vec<Log>>,
    identify: Box<Identify<T>>,
    snapshots: bool,
}

type Identify<T> = dyn Fn(&Item<T>) -> Value + Send + Sync;

type Log = Arc<Mutex<Vec<Op>>>;

impl<T> Recorder<T> {
    /// Creates a recorder without calls. `identify` returns a number that no other item has that is
    /// written to the same key.
    #[must_use]
    pub fn new(identify: impl Fn(&Item<T>) -> Value + Send + Sync + 'static) -> Self {
        Recorder::with_snapshots(identify, true)
    }

    /// Creates a recorder for a database without guarantee 7: its reads of several keys are checked as
    /// several reads.
    #[must_use]
    pub fn without_snapshots(identify: impl Fn(&Item<T>) -> Value + Send + Sync + 'static) -> Self {
        Recorder::with_snapshots(identify, false)
    }

    pub(super) fn with_snapshots(
        identify: impl Fn(&Item<T>) -> Value + Send + Sync + 'static,
        snapshots: bool,
    ) -> Self {
        Recorder {
            shared: Arc::new(Shared {
                stamps: AtomicU64::new(0),
                handles: AtomicUsize::new(0),
                logs: Mutex::new(Vec::new()),
                identify: Box::new(identify),
                snapshots,
            }),
        }
    }

    /// Returns a handle that records the calls of `db`. To record several handles of one database,
    /// such as clones, call this for each: numbers distinguish them in the history.
    #[must_use]
    pub fn record<D: AtomicDb<Data = T>>(&self, db: D) -> Recorded<D> {
        self.record_shared(&Arc::new(db))
    }

    pub(super) fn record_shared<D: AtomicDb<Data = T>>(&self, db: &Arc<D>) -> Recorded<D> {
        let log = Log::default();
        let mut logs = self.shared.logs.lock();
        let logs = logs.as_mut().map_err(|poisoned| poisoned.get_mut());
        logs.unwrap_or_else(|logs| logs).push(Arc::clone(&log));
        Recorded {
            db: Arc::clone(db),
            thread: self.shared.handles.fetch_add(1, Ordering::Relaxed),
            shared: Arc::clone(&self.shared),
            log,
        }
    }

    /// Returns the calls that have returned so far.
    #[must_use]
    pub fn history(&self) -> History {
        let logs = self.shared.logs.lock();
        let logs = logs.unwrap_or_else(PoisonError::into_inner);
        let each = logs.iter().map(|log| {
            let ops = log.lock().unwrap_or_else(PoisonError::into_inner);
            ops.clone()
        });
        History {
            ops: each.flatten().collect(),
        }
    }
}

/// A database whose calls are recorded. A call that fails without an effect is not recorded.
pub struct Recorded<D: AtomicDb> {
    db: Arc<D>,
    thread: usize,
    shared: Arc<Shared<D::Data>>,
    log: Log,
}

impl<D: AtomicDb> Recorded<D> {
    /// Returns the database, whose calls are not recorded.
    #[must_use]
    pub fn inner(&self) -> &D {
        &self.db
    }

    /// The number of recorded calls of this handle.
    pub(super) fn recorded(&self) -> usize {
        let ops = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        ops.len()
    }

    /// Returns a point in time between the calls before and after.
    pub(super) fn stamp(&self) -> u64 {
        self.shared.stamps.fetch_add(1, Ordering::SeqCst)
    }

    /// Records something that began at `invoked` and has just ended.
    pub(super) fn push(&self, invoked: u64, actions: impl IntoIterator<Item = Action>) {
        let returned = self.stamp();
        let ops = actions.into_iter().map(|action| Op {
            thread: self.thread,
            invoked,
            returned,
            action,
        });
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend(ops);
    }

    pub(super) fn value_of(&self, item: &Item<D::Data>) -> Value {
        (self.shared.identify)(item)
    }

    fn call<R>(
        &self,
        call: impl FnOnce(&D) -> Result<R>,
        actions: impl FnOnce(&Result<R>) -> Vec<Action>,
    ) -> Result<R> {
        let invoked = self.stamp();
        let result = call(&self.db);
        let actions = actions(&result);
        self.push(invoked, actions);
        result
    }

    fn read<R>(
        &self,
        method: &'static str,
        atomic: bool,
        call: impl FnOnce(&D) -> Result<R>,
        reads: impl FnOnce(&R) -> ReadSet,
    ) -> Result<R> {
        self.call(call, |result| match result {
            Ok(result) => vec![Action::Read {
                method,
                atomic,
                reads: reads(result),
            }],
            Err(_) => Vec::new(),
        })
    }

    fn read_one(
        &self,
        method: &'static str,
        key: Key<'_>,
        call: impl FnOnce(&D) -> Result<Option<Item<D::Data>>>,
    ) -> Result<Option<Item<D::Data>>> {
        self.read(method, true, call, |item| {
            let value = item.as_ref().map(|item| self.value_of(item));
            ReadSet::from_items(vec![(key.to_buf(), value)])
        })
    }

    fn read_many(
        &self,
        method: &'static str,
        keys: &[Key<'_>],
        call: impl FnOnce(&D) -> Result<Vec<Option<Item<D::Data>>>>,
    ) -> Result<Vec<Option<Item<D::Data>>>> {
        let actions = |result: &Result<Vec<Option<Item<D::Data>>>>| match result {
            Ok(items) if items.len() == keys.len() => {
                let observed = keys.iter().zip(items).map(|(key, item)| {
                    let value = item.as_ref().map(|item| self.value_of(item));
                    (key.to_buf(), value)
                });
                vec![Action::Read {
                    method,
                    atomic: self.shared.snapshots,
                    reads: ReadSet::from_items(observed.collect()),
                }]
            }
            Ok(items) => {
                let (items, keys) = (items.len(), keys.len());
                let text = format!("{method} returned {items} results for {keys} keys");
                vec![Action::Problem(AnomalyKind::WrongResult, text)]
            }
            Err(_) => Vec::new(),
        };
        self.call(call, actions)
    }

    /// What a query observed that returned `items` and could have continued after `next`.
    pub(super) fn predicate_read(
        &self,
        query: &Query,
        items: &[Item<D::Data>],
        next: Option<&str>,
    ) -> PredicateRead {
        let found = items.iter();
        let found = found.map(|item| (item.key().to_buf(), self.value_of(item)));
        let is_full = query.limit.is_some_and(|limit| items.len() >= limit);
        let last = items.last().map(Item::sk).filter(|_| is_full);
        PredicateRead {
            query: query.clone(),
            found: found.collect(),
            through: next.or(last).map(str::to_owned),
            own: Vec::new(),
            missing: Vec::new(),
        }
    }

    fn query_read(&self, read: PredicateRead) -> ReadSet {
        // With a limit of zero, nothing was looked at.
        let looked = read.query.limit != Some(0);
        ReadSet {
            items: Vec::new(),
            predicates: Vec::from_iter(looked.then_some(read)),
        }
    }

    fn written(&self, item: &Item<D::Data>, create: bool) -> Write {
        Write {
            key: item.key().to_buf(),
            value: Some(self.value_of(item)),
            ttl: item.ttl(),
            create,
        }
    }

    /// The writes of a batch.
    pub(super) fn writes_of(&self, batch: &Batch<D::Data>) -> Vec<Write> {
        let sets = batch.sets().iter().map(|item| self.written(item, false));
        let creates = batch.creates().iter().map(|item| self.written(item, true));
        let deletes = batch.deletes().iter().map(deletion);
        sets.chain(creates).chain(deletes).collect()
    }

    /// The action of a commit with this result.
    pub(super) fn commit_action(
        &self,
        batch: &Batch<D::Data>,
        result: &Result<Version>,
    ) -> Vec<Action> {
        let outcome = match result {
            Ok(version) => Outcome::Committed(*version),
            Err(Error::RaceCondition { keys }) => Outcome::Conflict(keys.clone()),
            Err(Error::AlreadyExists { key }) => Outcome::AlreadyExists(key.clone()),
            Err(error @ Error::OutcomeUnknown(_)) => return vec![unknown("commit", error)],
            Err(_) => Outcome::Failed,
        };
        let known = |lock: &Lock| (lock.key().to_buf(), lock.version());
        // The locks of a commit that failed for another reason were not compared.
        let compared = !matches!(outcome, Outcome::Failed);
        let versions = |locks: &[Lock]| -> Vec<LockVersion> {
            let locks = locks.iter().filter(|_| compared);
            locks.map(known).collect()
        };
        vec![Action::Commit(Commit {
            locks: versions(batch.locks()),
            checks: versions(batch.checks()),
            reads: ReadSet::default(),
            writes: self.writes_of(batch),
            outcome,
        })]
    }

    fn each_write(
        &self,
        method: &'static str,
        writes: Vec<Write>,
        call: impl FnOnce(&D) -> Result<()>,
    ) -> Result<()> {
        let actions = |result: &Result<()>| match result {
            Ok(()) => {
                let each = writes.into_iter();
                each.map(|write| Action::Write(method, write)).collect()
            }
            Err(Error::InvalidInput(_) | Error::LimitExceeded { .. }) => Vec::new(),
            Err(error) => vec![unknown(method, error)],
        };
        self.call(call, actions)
    }
}

fn deletion(key: &KeyBuf) -> Write {
    Write {
        key: key.clone(),
        value: None,
        ttl: None,
        create: false,
    }
}

fn unknown(method: &str, error: &Error) -> Action {
    let text = format!("it is unknown what {method} wrote: {error}");
    Action::Problem(AnomalyKind::NotCheckable, text)
}

/// A clone records into the same calls.
impl<D: AtomicDb> Clone for Recorded<D> {
    fn clone(&self) -> Self {
        Recorded {
            db: Arc::clone(&self.db),
            thread: self.thread,
            shared: Arc::clone(&self.shared),
            log: Arc::clone(&self.log),
        }
    }
}

impl<D: AtomicDb> fmt::Debug for Recorded<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded")
            .field("thread", &self.thread)
            .field("recorded", &self.recorded())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Recorder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("snapshots", &self.shared.snapshots)
            .finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: AtomicDb> AtomicDb for Recorded<D> {
    type Data = D::Data;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<D::Data>>> {
        self.read_one("get", key, |db| db.get(key))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<D::Data>>> {
        self.read_one("get_fresh", key, |db| db.get_fresh(key))
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<D::Data>>>> {
        self.read_many("get_many", keys, |db| db.get_many(keys))
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<D::Data>>>> {
        self.read_many("get_many_fresh", keys, |db| db.get_many_fresh(keys))
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let read = |lock: &Lock| Action::GetLock((key.to_buf(), lock.version()));
        self.call(
            |db| db.get_lock(key),
            |result| result.iter().map(read).collect(),
        )
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        let actions = |result: &Result<Vec<Lock>>| match result {
            Ok(locks) if locks.iter().map(Lock::key).eq(keys.iter().copied()) => {
                let known = |lock: &Lock| (lock.key().to_buf(), lock.version());
                let versions = locks.iter().map(known);
                versions.map(Action::GetLock).collect()
            }
            Ok(locks) => {
                let text = format!("get_locks of {keys:?} returned {locks:?}");
                vec![Action::Problem(AnomalyKind::WrongResult, text)]
            }
            Err(_) => Vec::new(),
        };
        self.call(|db| db.get_locks(keys), actions)
    }

    fn set(&self, items: &[Item<D::Data>]) -> Result<()> {
        let writes = items.iter().map(|item| self.written(item, false)).collect();
        self.each_write("set", writes, |db| db.set(items))
    }

    fn commit(&self, batch: &Batch<D::Data>) -> Result<Version> {
        let actions = |result: &Result<Version>| self.commit_action(batch, result);
        self.call(|db| db.commit(batch), actions)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        let writes = keys.iter().map(|key| deletion(&key.to_buf())).collect();
        self.each_write("delete", writes, |db| db.delete(keys))
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<D::Data>> {
        let reads = |page: &Page<D::Data>| {
            let mut rest = query.clone();
            rest.after = after.map(str::to_owned).or(rest.after);
            self.query_read(self.predicate_read(&rest, &page.items, page.next.as_deref()))
        };
        self.read(
            "page",
            self.shared.snapshots,
            |db| db.page(query, after),
            reads,
        )
    }

    fn set_atomic(&self, items: &[Item<D::Data>], locks: &[Lock]) -> Result<Version> {
        let batch = locks.iter().cloned().fold(Batch::new(), Batch::lock);
        let batch = items.iter().cloned().fold(batch, Batch::set);
        let actions = |result: &Result<Version>| self.commit_action(&batch, result);
        self.call(|db| db.set_atomic(items, locks), actions)
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<D::Data>>> {
        let reads =
            |items: &Vec<Item<D::Data>>| self.query_read(self.predicate_read(query, items, None));
        self.read("query", self.shared.snapshots, |db| db.query(query), reads)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<D::Data>>> {
        let invoked = self.stamp();
        let selected = query.clone();
        let report = move |items: &[Item<D::Data>], has_ended: bool| {
            let last = items.last().map(Item::sk).filter(|_| !has_ended);
            if !has_ended && last.is_none() {
                return;
            }
            let read = self.predicate_read(&selected, items, last);
            let action = Action::Read {
                method: "stream",
                atomic: false,
                reads: self.query_read(read),
            };
            self.push(invoked, [action]);
        };
        // The stream of the database: an `Arc` has another one.
        Collected::new(D::stream(&self.db, query), report)
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.inner().retry_queue()
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        self.inner().transaction_observer()
    }
}

/// A scan is recorded as a read of each item that it yields. It shows no absence.
impl<D: Scan> Scan for Recorded<D> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<D::Data>>> + '_> {
        let invoked = self.stamp();
        let report = move |items: &[Item<D::Data>], _| {
            let observed = items.iter();
            let observed = observed.map(|item| (item.key().to_buf(), Some(self.value_of(item))));
            let action = Action::Read {
                method: "scan",
                atomic: false,
                reads: ReadSet::from_items(observed.collect()),
            };
            self.push(invoked, [action]);
        };
        Box::new(Collected::new(self.db.scan(), report))
    }
}
