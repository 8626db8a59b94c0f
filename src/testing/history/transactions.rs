//! Records transactions: the last run of a body and its outcome are one action, as they must appear
//! to be. Reads of locks and lost races are recorded as calls of their own.

use super::anomaly_kind::AnomalyKind;
use super::recorder::Recorded;
use super::recording::{Action, Commit, LockVersion, Outcome, ReadSet, Write};
use crate::{
    AtomicDb, AtomicDbExt, Batch, Error, Item, Key, KeyBuf, Lock, Observer, Page, Query, Result,
    Retry, RetryQueue, Transaction, Version,
};
use std::cell::{Cell, RefCell};
use std::mem;

/// Why a body did not return a result.
#[derive(Debug)]
pub(super) enum Stop {
    /// It decided so, because of what it had read.
    Refused,
    Db(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Db(error)
    }
}

/// The database as a transaction sees it.
struct Inside<'a, D: AtomicDb> {
    db: &'a Recorded<D>,
    /// Whether the body is running. Otherwise, the transaction calls the database for itself.
    in_body: Cell<bool>,
    /// When the last call of `get_lock` began, and its result.
    last_lock: RefCell<Option<(u64, Lock)>>,
    committed: Cell<Option<Version>>,
}

impl<'a, D: AtomicDb> Inside<'a, D> {
    fn new(db: &'a Recorded<D>) -> Self {
        Inside {
            db,
            in_body: Cell::new(true),
            last_lock: RefCell::new(None),
            committed: Cell::new(None),
        }
    }

    fn commit_with(
        &self,
        batch: &Batch<D::Data>,
        call: impl FnOnce(&D) -> Result<Version>,
    ) -> Result<Version> {
        let invoked = self.db.stamp();
        let result = call(self.db.inner());
        match &result {
            Ok(version) => self.committed.set(Some(*version)),
            Err(_) => self.db.push(invoked, self.db.commit_action(batch, &result)),
        }
        result
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: AtomicDb> AtomicDb for Inside<'_, D> {
    type Data = D::Data;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<D::Data>>> {
        self.db.inner().get(key)
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<D::Data>>> {
        self.db.inner().get_fresh(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<D::Data>>>> {
        self.db.inner().get_many(keys)
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<D::Data>>>> {
        self.db.inner().get_many_fresh(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let invoked = self.db.stamp();
        let lock = self.db.get_lock(key)?;
        self.last_lock.replace(Some((invoked, lock.clone())));
        Ok(lock)
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        if self.in_body.get() {
            self.db.get_locks(keys)
        } else {
            self.db.inner().get_locks(keys)
        }
    }

    fn set(&self, items: &[Item<D::Data>]) -> Result<()> {
        self.db.set(items)
    }

    fn commit(&self, batch: &Batch<D::Data>) -> Result<Version> {
        self.commit_with(batch, |db| db.commit(batch))
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.db.delete(keys)
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<D::Data>> {
        self.db.inner().page(query, after)
    }

    fn set_atomic(&self, items: &[Item<D::Data>], locks: &[Lock]) -> Result<Version> {
        let batch = locks.iter().cloned().fold(Batch::new(), Batch::lock);
        let batch = items.iter().cloned().fold(batch, Batch::set);
        self.commit_with(&batch, |db| db.set_atomic(items, locks))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<D::Data>>> {
        self.db.inner().query(query)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<D::Data>>> {
        D::stream(self.db.inner(), query)
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.db.inner().retry_queue()
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        self.db.inner().transaction_observer()
    }
}

/// One run of a body: what it asked for and what it got.
#[derive(Default)]
struct Attempt {
    began: u64,
    locks: Vec<LockVersion>,
    checks: Vec<LockVersion>,
    reads: ReadSet,
    /// Reads of items under none of the locks. They need not agree with the others.
    loose: Vec<Action>,
    writes: Vec<Write>,
    /// How many points in time the reads may have seen.
    points_in_time: usize,
    problem: Option<String>,
}

/// A transaction whose calls are recorded.
pub(super) struct RecordedTransaction<'t, 'a, 'd, D: AtomicDb> {
    tx: &'t mut Transaction<'a, Inside<'d, D>>,
    db: &'d Recorded<D>,
    attempt: &'t mut Attempt,
}

impl<D: AtomicDb> Recorded<D> {
    /// Runs a transaction and records it.
    pub(super) fn transact(
        &self,
        retry: &Retry,
        mut body: impl FnMut(&mut RecordedTransaction<'_, '_, '_, D>) -> Result<(), Stop>,
    ) {
        let inside = Inside::new(self);
        let mut attempt = Attempt::default();
        let outcome: Result<(), Stop> = inside.try_transact_with(retry, |tx| {
            attempt = Attempt {
                began: self.stamp(),
                ..Attempt::default()
            };
            inside.in_body.set(true);
            let outcome = body(&mut RecordedTransaction {
                tx,
                db: self,
                attempt: &mut attempt,
            });
            inside.in_body.set(false);
            outcome
        });
        let began = attempt.began;
        if let Some(text) = attempt.problem.take() {
            self.push(began, [Action::Problem(AnomalyKind::WrongResult, text)]);
        }
        let version = inside.committed.get();
        self.push(began, attempt.into_actions(outcome, version));
    }
}

impl<D: AtomicDb<Data: Clone>> Recorded<D> {
    /// Updates an item and records it as a transaction.
    pub(super) fn update(
        &self,
        key: &KeyBuf,
        lock: &KeyBuf,
        mut change: impl FnMut(Option<&D::Data>) -> Option<D::Data>,
    ) {
        let inside = Inside::new(self);
        let identify = |data: &D::Data| self.value_of(&Item::at(key, data.clone()));
        let mut attempt = Attempt::default();
        let outcome = inside.update(key, lock, |old| {
            let locked = inside.last_lock.borrow();
            let new = change(old);
            if let Some((began, lock)) = &*locked {
                attempt = Attempt {
                    began: *began,
                    locks: vec![version_of(lock)],
                    reads: ReadSet::from_items(vec![(key.clone(), old.map(identify))]),
                    points_in_time: 1,
                    ..Attempt::default()
                };
            }
            if old.is_some() || new.is_some() {
                attempt.writes = vec![Write {
                    key: key.clone(),
                    value: new.as_ref().map(identify),
                    ttl: None,
                    create: false,
                }];
            }
            new
        });
        // Without a write, the lock is only read.
        if attempt.writes.is_empty() {
            attempt.locks.clear();
        }
        let version = inside.committed.get();
        let began = attempt.began;
        let actions = attempt.into_actions(outcome.map(drop).map_err(Stop::Db), version);
        self.push(began, actions);
    }
}

impl Attempt {
    fn into_actions(mut self, outcome: Result<(), Stop>, version: Option<Version>) -> Vec<Action> {
        let mut actions = mem::take(&mut self.loose);
        let outcome = match (outcome, version) {
            (Ok(()), Some(version)) => Outcome::Committed(version),
            (Ok(()), None) => Outcome::Validated,
            (Err(Stop::Refused), _) => Outcome::Failed,
            // The commit is recorded, and nothing was returned that rests on the reads.
            (Err(Stop::Db(Error::AlreadyExists { .. } | Error::RetriesExhausted { .. })), _) => {
                return actions;
            }
            (Err(Stop::Db(error)), _) => {
                let text = format!("a transaction failed: {error:?}");
                actions.push(Action::Problem(AnomalyKind::FailedCall, text));
                return actions;
            }
        };
        if !matches!(outcome, Outcome::Committed(_)) {
            self.checks.append(&mut self.locks);
            let is_loose = self.checks.is_empty() || self.points_in_time < 2;
            if is_loose && matches!(outcome, Outcome::Failed) {
                // Reads at one point in time are not validated.
                self.checks.clear();
            }
        }
        actions.push(Action::Commit(Commit {
            locks: self.locks,
            checks: self.checks,
            reads: self.reads,
            writes: self.writes,
            outcome,
        }));
        actions
    }

    fn add_locks(&mut self, locks: &[Lock]) {
        for lock in locks.iter().map(version_of) {
            self.checks.retain(|check| *check != lock);
            if !self.locks.contains(&lock) {
                self.locks.push(lock);
            }
        }
    }

    fn add_checks(&mut self, locks: &[Lock]) {
        for lock in locks.iter().map(version_of) {
            if !self.locks.contains(&lock) && !self.checks.contains(&lock) {
                self.checks.push(lock);
            }
        }
    }

    fn has(&self, key: &KeyBuf) -> bool {
        self.writes.iter().any(|write| write.key == *key)
    }
}

impl<D: AtomicDb> RecordedTransaction<'_, '_, '_, D> {
    pub(super) fn lock(&mut self, key: &KeyBuf) -> Result<()> {
        let lock = self.tx.lock(key)?;
        self.attempt.add_locks(&[lock]);
        Ok(())
    }

    pub(super) fn check(&mut self, key: &KeyBuf) -> Result<()> {
        let lock = self.tx.check(key)?;
        self.attempt.add_checks(&[lock]);
        Ok(())
    }

    pub(super) fn lock_all(&mut self, keys: &[KeyBuf]) -> Result<()> {
        let locks = self.tx.lock_all(&borrowed(keys))?;
        self.attempt.add_locks(&locks);
        Ok(())
    }

    pub(super) fn check_all(&mut self, keys: &[KeyBuf]) -> Result<()> {
        let locks = self.tx.check_all(&borrowed(keys))?;
        self.attempt.add_checks(&locks);
        Ok(())
    }

    /// Reads an item that one of the locks guards.
    pub(super) fn get(&mut self, key: &KeyBuf) -> Result<Option<Item<D::Data>>> {
        let item = self.tx.get(key)?;
        self.observe(key, item.as_ref());
        Ok(item)
    }

    /// Reads items that the locks guard.
    pub(super) fn get_many(&mut self, keys: &[KeyBuf]) -> Result<Vec<Option<Item<D::Data>>>> {
        let items = self.tx.get_many(&borrowed(keys))?;
        for (key, item) in keys.iter().zip(&items) {
            self.observe(key, item.as_ref());
        }
        Ok(items)
    }

    /// Reads an item that none of the locks guards.
    pub(super) fn get_loose(&mut self, key: &KeyBuf) -> Result<()> {
        let item = self.tx.get(key)?;
        // Its time is that of the transaction, which is longer than that of the call.
        let value = item.as_ref().map(|item| self.db.value_of(item));
        if !self.attempt.has(key) {
            self.attempt.points_in_time += 1;
            self.attempt.loose.push(Action::Read {
                method: "get in a transaction",
                atomic: true,
                reads: ReadSet::from_items(vec![(key.clone(), value)]),
            });
        }
        Ok(())
    }

    /// Queries items that the locks guard. An own write must be in its place.
    pub(super) fn query(&mut self, query: &Query) -> Result<Vec<Item<D::Data>>> {
        let items = self.tx.query(query)?;
        let mut read = self.db.predicate_read(query, &items, None);
        for write in &self.attempt.writes {
            let found = read.found.iter().find(|(key, _)| *key == write.key);
            let found = found.map(|(_, value)| *value);
            if read.covers(&write.key) && found != write.value {
                self.attempt.problem = Some(format!(
                    "a query of a transaction found {found:?} where it had made the write: {write}"
                ));
            }
        }
        read.own = self
            .attempt
            .writes
            .iter()
            .map(|it| it.key.clone())
            .collect();
        read.found.retain(|(key, _)| !read.own.contains(key));
        if query.limit != Some(0) {
            self.attempt.points_in_time += 2;
            self.attempt.reads.predicates.push(read);
        }
        Ok(items)
    }

    fn observe(&mut self, key: &KeyBuf, item: Option<&Item<D::Data>>) {
        let value = item.map(|item| self.db.value_of(item));
        let mut own = self.attempt.writes.iter();
        match own.find(|write| write.key == *key) {
            Some(write) if write.value == value => {}
            Some(write) => {
                self.attempt.problem = Some(format!(
                    "a transaction read {value:?} where it had made the write: {write}"
                ));
            }
            None => {
                self.attempt.points_in_time += 1;
                self.attempt.reads.items.push((key.clone(), value));
            }
        }
    }

    pub(super) fn set(&mut self, item: Item<D::Data>) -> Result<()> {
        let written = self.tx.set(item.clone());
        self.write(&item, false);
        written
    }

    pub(super) fn create(&mut self, item: Item<D::Data>) -> Result<()> {
        let written = self.tx.create(item.clone());
        self.write(&item, true);
        written
    }

    pub(super) fn delete(&mut self, key: &KeyBuf) -> Result<()> {
        self.attempt.writes.push(Write {
            key: key.clone(),
            value: None,
            ttl: None,
            create: false,
        });
        self.tx.delete(key)
    }

    fn write(&mut self, item: &Item<D::Data>, create: bool) {
        self.attempt.writes.push(Write {
            key: item.key().to_buf(),
            value: Some(self.db.value_of(item)),
            ttl: item.ttl(),
            create,
        });
    }

    pub(super) fn has_written(&self, key: &KeyBuf) -> bool {
        self.attempt.has(key)
    }
}

fn borrowed(keys: &[KeyBuf]) -> Vec<Key<'_>> {
    keys.iter().map(KeyBuf::as_key).collect()
}

fn version_of(lock: &Lock) -> LockVersion {
    (lock.key().to_buf(), lock.version())
}
