//! Records the calls of a database.

use super::anomaly_kind::AnomalyKind;
use super::recording::{
    Action, Commit, History, LockVersion, Op, Outcome, PredicateRead, ReadSet, Value, Write,
};
use atomic_db::{
    AtomicDb, Batch, Error, Item, Key, KeyBuf, Lock, Observer, Page, Query, Result, RetryQueue,
    Version,
};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Records the calls of any number of databases that share their data, such as clones of one handle.
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
    /// `identify` returns a number that no other item has that is written to the same key.
    pub fn new(identify: impl Fn(&Item<T>) -> Value + Send + Sync + 'static) -> Self {
        Recorder::with_snapshots(identify, true)
    }

    /// Leaves out guarantee 7: reads of several keys need not be snapshots.
    pub fn with_snapshots(
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

    /// Returns a handle that records the calls of `db`. Each has a number in the history, so threads
    /// are easiest to tell apart if each has a handle of its own.
    pub fn record<D: AtomicDb<Data = T>>(&self, db: &Arc<D>) -> Recorded<D> {
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
    /// The database, whose calls are not recorded.
    pub fn inner(&self) -> &D {
        &self.db
    }

    /// The number of recorded calls of this handle.
    pub fn recorded(&self) -> usize {
        let ops = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        ops.len()
    }

    /// Returns a point in time between the calls before and after.
    pub fn stamp(&self) -> u64 {
        self.shared.stamps.fetch_add(1, Ordering::SeqCst)
    }

    /// Records something that began at `invoked` and has just ended.
    pub fn push(&self, invoked: u64, actions: impl IntoIterator<Item = Action>) {
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

    pub fn value_of(&self, item: &Item<D::Data>) -> Value {
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
            ReadSet::of_items(vec![(key.to_buf(), value)])
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
                    reads: ReadSet::of_items(observed.collect()),
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
    pub fn predicate_read(
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
    pub fn writes_of(&self, batch: &Batch<D::Data>) -> Vec<Write> {
        let sets = batch.sets().iter().map(|item| self.written(item, false));
        let creates = batch.creates().iter().map(|item| self.written(item, true));
        let deletes = batch.deletes().iter().map(deletion);
        sets.chain(creates).chain(deletes).collect()
    }

    /// The action of a commit with this result.
    pub fn commit_action(&self, batch: &Batch<D::Data>, result: &Result<Version>) -> Vec<Action> {
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
        RecordedStream {
            db: self,
            invoked: self.stamp(),
            query: query.clone(),
            items: Vec::new(),
            ended: false,
            // That of the database: an `Arc` has another one.
            stream: D::stream(&self.db, query),
        }
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.inner().retry_queue()
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        self.inner().transaction_observer()
    }
}

/// Records what a stream has yielded when it is dropped.
struct RecordedStream<'a, D: AtomicDb, I> {
    db: &'a Recorded<D>,
    invoked: u64,
    query: Query,
    items: Vec<Item<D::Data>>,
    /// Whether the stream has yielded all items.
    ended: bool,
    stream: I,
}

impl<D: AtomicDb, I: Iterator<Item = Result<Item<D::Data>>>> Iterator for RecordedStream<'_, D, I> {
    type Item = Result<Item<D::Data>>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.stream.next();
        match &next {
            Some(Ok(item)) => self.items.push(item.clone()),
            Some(Err(_)) => {}
            None => self.ended = true,
        }
        next
    }
}

impl<D: AtomicDb, I> Drop for RecordedStream<'_, D, I> {
    fn drop(&mut self) {
        let last = self.items.last().map(Item::sk).filter(|_| !self.ended);
        if !self.ended && last.is_none() {
            return;
        }
        let read = self.db.predicate_read(&self.query, &self.items, last);
        let action = Action::Read {
            method: "stream",
            atomic: false,
            reads: self.db.query_read(read),
        };
        self.db.push(self.invoked, [action]);
    }
}
