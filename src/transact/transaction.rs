//! A transaction, which one attempt after the other uses.

use super::retry::{Attempts, Policy};
use super::write_set::{Op, Place, WriteSet};
use crate::{AtomicDb, Error, Item, Key, KeyBuf, Lock, Query, Result};
use std::fmt;
use std::time::Duration;

/// The locks, reads and writes of one run of a [`transact`](crate::AtomicDbExt::transact) body.
///
/// 1. Read all locks first, with [`lock`](Transaction::lock) and [`check`](Transaction::check). A lock
///    that is read after data is refused, because it does not protect that data.
/// 2. Then read. Every read is [fresh](AtomicDb::get_fresh), and sees the transaction's own writes.
/// 3. Write at any time. The writes are committed, all or nothing, after the body has returned, if
///    every lock is still as it was read.
///
/// Use [`lock`](Transaction::lock) for data that the transaction changes, and
/// [`check`](Transaction::check) for data that it only reads: any number of transactions that only
/// check a lock may succeed at the same time. On a network, [`lock_all`](Transaction::lock_all),
/// [`check_all`](Transaction::check_all) and [`get_many`](Transaction::get_many) take fewer requests
/// than single calls.
///
/// ```
/// use atomic_db::{AtomicDbExt, Item, MemoryDb};
///
/// let db = MemoryDb::new();
/// db.set_one(Item::new("shop", "open", "yes"))?;
/// db.transact(|tx| {
///     tx.check(("shop", "lock"))?; // is only read
///     tx.lock(("user#1", "lock"))?; // is changed
///     if tx.get(("shop", "open"))?.is_some() {
///         tx.create(Item::new("user#1", "order#1", "tea"))?;
///     }
///     Ok(())
/// })?;
/// assert!(db.contains(("user#1", "order#1"))?);
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// A function that takes part in a transaction gets it by `&mut`. It reads each item just before it
/// writes it, so that it sees its own earlier writes: here, a transfer from an account to itself is
/// correct, too.
///
/// ```
/// use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, MemoryDb, Result, Transaction};
///
/// fn add<D>(tx: &mut Transaction<'_, D>, account: &str, change: i64) -> Result<()>
/// where
///     D: AtomicDb<Data = i64> + ?Sized,
/// {
///     let key = Key::new(account, "balance");
///     let balance = tx.get(key)?.and_then(Item::into_data).unwrap_or(0);
///     tx.set(Item::at(key, balance + change))
/// }
///
/// let db = MemoryDb::new();
/// let (from, to) = ("account#1", "account#1");
/// db.transact(|tx| {
///     tx.lock_all(&[(from, "lock"), (to, "lock")])?;
///     add(tx, from, -10)?;
///     add(tx, to, 10)
/// })?;
/// assert_eq!(db.get(Key::new(from, "balance"))?.and_then(Item::into_data), Some(0));
/// # Ok::<(), atomic_db::Error>(())
/// ```
pub struct Transaction<'a, D: AtomicDb + ?Sized> {
    db: &'a D,
    writes: WriteSet<D::Data>,
    /// Whether data was read. No other lock may be read after that.
    has_read: bool,
    /// How many points in time the reads of the database may have seen. With at most one, what the
    /// body returns is consistent without a validation.
    points_in_time: usize,
    /// The key of the first read of the database.
    first_read: Option<KeyBuf>,
    /// Whether a call of this transaction failed, so that an error of the body may be due to it.
    has_failed: bool,
    attempts: Attempts<'a>,
}

/// What the commit does with a lock that is unchanged.
#[derive(Clone, Copy)]
enum LockMode {
    /// Gives it a new version.
    Lock,
    /// Keeps its version.
    Check,
}

impl<'a, D: AtomicDb + ?Sized> Transaction<'a, D> {
    pub(super) fn new(db: &'a D, policy: &'a Policy) -> Self {
        let mut attempts = Attempts::new(policy, db.retry_queue());
        attempts.start();
        Transaction {
            db,
            writes: WriteSet::new(),
            has_read: false,
            points_in_time: 0,
            first_read: None,
            has_failed: false,
            attempts,
        }
    }

    /// Reads the lock at `key`, and creates it if it does not exist. The commit requires it to be
    /// unchanged and gives it a new version, so other commits under it fail with a conflict. Locking
    /// a key again changes nothing.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](Error::InvalidInput): data was read before, or this transaction writes an
    ///   item at `key`.
    /// - Those of [`get_lock`](AtomicDb::get_lock).
    #[inline]
    pub fn lock<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Lock> {
        let Key { pk, sk } = key.into();
        self.read_lock_noting_failure(pk, sk, LockMode::Lock)
    }

    /// Reads the lock at `key`, and creates it if it does not exist. The commit requires it to be
    /// unchanged and keeps its version, so it does not conflict with other checks. A key that is both
    /// locked and checked is locked.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Transaction::lock).
    #[inline]
    pub fn check<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Lock> {
        let Key { pk, sk } = key.into();
        self.read_lock_noting_failure(pk, sk, LockMode::Check)
    }

    /// Takes the parts of a key, which are passed in registers, and not the key, which is not.
    fn read_lock_noting_failure(&mut self, pk: &str, sk: &str, mode: LockMode) -> Result<Lock> {
        self.noting_failure(|tx| tx.read_lock(Key { pk, sk }, mode))
    }

    /// Locks all `keys` as [`lock`](Transaction::lock) does, with one call of
    /// [`get_locks`](AtomicDb::get_locks). Returns the locks in the order of `keys`, repeats included.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Transaction::lock).
    pub fn lock_all<'k, K: Copy + Into<Key<'k>>>(&mut self, keys: &[K]) -> Result<Vec<Lock>> {
        let keys: Vec<Key<'k>> = keys.iter().map(|key| (*key).into()).collect();
        self.noting_failure(|tx| tx.read_locks(&keys, LockMode::Lock))
    }

    /// Checks all `keys` as [`check`](Transaction::check) does, with one call of
    /// [`get_locks`](AtomicDb::get_locks). Returns the locks in the order of `keys`, repeats included.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Transaction::lock).
    pub fn check_all<'k, K: Copy + Into<Key<'k>>>(&mut self, keys: &[K]) -> Result<Vec<Lock>> {
        let keys: Vec<Key<'k>> = keys.iter().map(|key| (*key).into()).collect();
        self.noting_failure(|tx| tx.read_locks(&keys, LockMode::Check))
    }

    fn noting_failure<R>(&mut self, call: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        let result = call(self);
        self.has_failed |= result.is_err();
        result
    }

    /// Returns the lock at `key` if this transaction has it already.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if the transaction writes an item at `key`, or if it may not read
    /// another lock.
    #[cold]
    fn held_lock(&mut self, key: Key<'_>, mode: LockMode) -> Result<Option<Lock>> {
        let batch = self.writes.batch();
        match self.writes.find(key) {
            Some(Place::Lock(position)) => Ok(Some(batch.locks()[position].clone())),
            Some(place @ Place::Check(position)) => {
                let lock = batch.checks()[position].clone();
                // A check becomes a lock, but not the reverse.
                if let LockMode::Lock = mode {
                    self.writes.replace(place, Op::Lock(lock.clone()));
                }
                Ok(Some(lock))
            }
            Some(_) => Err(lock_key_written_error(key)),
            None if self.has_read => Err(Error::InvalidInput(format!(
                "the lock {key} is requested after a read: a transaction reads all its locks before any data, because a lock that is read later does not protect that data"
            ))),
            None => Ok(None),
        }
    }

    fn add_lock(&mut self, lock: &Lock, mode: LockMode) {
        match mode {
            LockMode::Lock => self.writes.add(Op::Lock(lock.clone())),
            LockMode::Check => self.writes.add(Op::Check(lock.clone())),
        }
    }

    fn read_lock(&mut self, key: Key<'_>, mode: LockMode) -> Result<Lock> {
        if self.has_read || self.writes.find(key).is_some() {
            if let Some(lock) = self.held_lock(key, mode)? {
                return Ok(lock);
            }
        }
        if let LockMode::Lock = mode {
            self.attempts.wait_if_closed(key);
        }
        let lock = self.db.get_lock(key)?;
        self.add_lock(&lock, mode);
        Ok(lock)
    }

    fn read_locks(&mut self, keys: &[Key<'_>], mode: LockMode) -> Result<Vec<Lock>> {
        let mut missing: Vec<Key<'_>> = Vec::new();
        for key in keys {
            if self.held_lock(*key, mode)?.is_none() {
                missing.push(*key);
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            if let LockMode::Lock = mode {
                for key in &missing {
                    self.attempts.wait_if_closed(*key);
                }
            }
            for lock in self.db.get_locks(&missing)? {
                self.add_lock(&lock, mode);
            }
        }
        let held = keys.iter().map(|key| self.held_lock(*key, mode));
        held.map(|lock| {
            lock.transpose()
                .unwrap_or_else(|| Err(missing_lock_error()))
        })
        .collect()
    }

    /// Returns the live item at `key`: the one that this transaction writes, or else the one in the
    /// database, never one from a cache.
    ///
    /// # Errors
    ///
    /// Those of [`get_fresh`](AtomicDb::get_fresh).
    #[inline]
    pub fn get<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Option<Item<D::Data>>> {
        let Key { pk, sk } = key.into();
        self.get_parts(pk, sk)
    }

    /// Takes the parts of a key, which are passed in registers, and not the key, which is not.
    fn get_parts(&mut self, pk: &str, sk: &str) -> Result<Option<Item<D::Data>>> {
        let key = Key { pk, sk };
        self.has_read = true;
        if let Some(own) = self.own_item(key) {
            return Ok(own);
        }
        self.note_read(key, 1);
        let db = self.db;
        self.noting_failure(|_| db.get_fresh(key))
    }

    /// Returns the live items at `keys` as [`get`](Transaction::get) does, in the order of `keys`,
    /// repeats included, with one call of [`get_many_fresh`](AtomicDb::get_many_fresh).
    ///
    /// # Errors
    ///
    /// Those of [`get_many_fresh`](AtomicDb::get_many_fresh).
    pub fn get_many<'k, K: Copy + Into<Key<'k>>>(
        &mut self,
        keys: &[K],
    ) -> Result<Vec<Option<Item<D::Data>>>> {
        self.has_read = true;
        let keys: Vec<Key<'k>> = keys.iter().map(|key| (*key).into()).collect();
        let mut items = Vec::with_capacity(keys.len());
        let (mut others, mut positions) = (Vec::new(), Vec::new());
        for key in keys {
            let own = self.own_item(key);
            if own.is_none() {
                others.push(key);
                positions.push(items.len());
            }
            items.push(own.flatten());
        }
        if let Some(first) = others.first() {
            // Not every database reads several items at a single point in time.
            self.note_read(*first, others.len());
            let db = self.db;
            let found = self.noting_failure(|_| db.get_many_fresh(&others))?;
            for (position, item) in positions.into_iter().zip(found) {
                items[position] = item;
            }
        }
        Ok(items)
    }

    /// Returns the live items that `query` selects, with this transaction's own writes merged in:
    /// items that it writes are in their place, and items that it deletes are missing. The query is
    /// [fresh](Query::fresh).
    ///
    /// # Errors
    ///
    /// Those of [`query`](AtomicDb::query).
    pub fn query(&mut self, query: &Query) -> Result<Vec<Item<D::Data>>> {
        self.has_read = true;
        let own = self.writes.items_of(query);
        let mut fresh = query.clone().fresh();
        // Each own write hides at most one item of the database.
        fresh.limit = query.limit.map(|limit| limit.saturating_add(own.len()));
        // Not every database answers a query at a single point in time.
        self.note_read(Key::new(&query.pk, &query.prefix), 2);
        let db = self.db;
        let mut items = self.noting_failure(|_| db.query(&fresh))?;
        if !own.is_empty() {
            items = merge(items, own, query.reverse);
        }
        items.truncate(query.limit.unwrap_or(usize::MAX));
        Ok(items)
    }

    /// Returns what this transaction writes at `key`, if it writes there.
    fn own_item(&self, key: Key<'_>) -> Option<Option<Item<D::Data>>> {
        if !self.writes.has_writes() {
            return None;
        }
        let batch = self.writes.batch();
        match self.writes.find_write(key)? {
            Place::Set(position) => Some(Some(batch.sets()[position].clone())),
            Place::Create(position) => Some(Some(batch.creates()[position].clone())),
            Place::Lock(_) | Place::Check(_) | Place::Delete(_) => Some(None),
        }
    }

    fn note_read(&mut self, key: Key<'_>, points_in_time: usize) {
        self.points_in_time = self.points_in_time.saturating_add(points_in_time);
        if self.first_read.is_none() && !self.writes.has_locks() {
            self.first_read = Some(key.to_buf());
        }
    }

    /// Writes `item` with the commit, and replaces any item at its key. If a key is written more than
    /// once, the last write wins.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](Error::InvalidInput): the key is one of this transaction's locks.
    pub fn set(&mut self, item: Item<D::Data>) -> Result<()> {
        match self.writes.find_item(&item) {
            Some(Place::Lock(_) | Place::Check(_)) => {
                return Err(lock_key_written_error(item.key()));
            }
            // The commit still requires that no item existed.
            Some(place @ Place::Create(_)) => self.writes.replace(place, Op::Create(item)),
            Some(place) => self.writes.replace(place, Op::Set(item)),
            None => self.writes.add(Op::Set(item)),
        }
        Ok(())
    }

    /// Writes `item` with the commit, which requires that no live item exists at its key: otherwise
    /// the transaction fails with [`AlreadyExists`](Error::AlreadyExists).
    ///
    /// # Errors
    ///
    /// - [`AlreadyExists`](Error::AlreadyExists): this transaction itself writes an item there.
    /// - [`InvalidInput`](Error::InvalidInput): the key is one of this transaction's locks.
    pub fn create(&mut self, item: Item<D::Data>) -> Result<()> {
        match self.writes.find_item(&item) {
            Some(Place::Lock(_) | Place::Check(_)) => {
                return Err(lock_key_written_error(item.key()));
            }
            Some(Place::Set(_) | Place::Create(_)) => {
                let key = item.key().to_buf();
                return Err(Error::AlreadyExists { key });
            }
            Some(place @ Place::Delete(_)) => self.writes.replace(place, Op::Set(item)),
            None => self.writes.add(Op::Create(item)),
        }
        Ok(())
    }

    /// Removes the item or lock at `key` with the commit.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](Error::InvalidInput): the key is one of this transaction's locks, or an item
    /// that it creates, because a commit cannot require that no item exists and also delete it.
    pub fn delete<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<()> {
        let key = key.into();
        match self.writes.find(key) {
            Some(Place::Lock(_) | Place::Check(_)) => return Err(lock_key_written_error(key)),
            Some(Place::Create(_)) => {
                return Err(Error::InvalidInput(format!(
                    "{key} is both created and deleted in one transaction"
                )));
            }
            Some(place) => self.writes.replace(place, Op::Delete(key.to_buf())),
            None => self.writes.add(Op::Delete(key.to_buf())),
        }
        Ok(())
    }

    /// Commits the transaction, or only validates its locks if it does nothing else.
    ///
    /// # Errors
    ///
    /// Those of `AtomicDb::commit`, and `InvalidInput` if the transaction has read and writes, but
    /// holds no lock.
    pub(super) fn commit(&self) -> Result<()> {
        let batch = self.writes.batch();
        let (has_locks, has_writes) = (self.writes.has_locks(), self.writes.has_writes());
        match &self.first_read {
            Some(key) if has_writes && !has_locks => {
                return Err(Error::InvalidInput(format!(
                    "the transaction reads {key} and writes, but holds no lock, so it could overwrite concurrent updates: lock or check a key before the first read, or use commit for an unconditional write"
                )));
            }
            _ if !has_writes && batch.locks().is_empty() => {}
            _ => return self.db.commit(batch).map(drop),
        }
        // All reads are done, so locks that are unchanged now were unchanged throughout. Reading them
        // is cheaper than a commit that writes nothing.
        match changed_locks(self.db, batch.checks())? {
            Some(race) => Err(race),
            None => Ok(()),
        }
    }

    /// Returns the conflict that may be the reason for an error of the body, after which the body
    /// must run again; `None` if the error rests on a consistent state or on a failed call.
    pub(super) fn find_conflict(&self) -> Option<Error> {
        if self.has_failed || self.points_in_time < 2 {
            return None;
        }
        let batch = self.writes.batch();
        let locks: Vec<Lock> = batch
            .locks()
            .iter()
            .chain(batch.checks())
            .cloned()
            .collect();
        // Without a result, the error of the body is the better one.
        changed_locks(self.db, &locks).unwrap_or(None)
    }

    /// Prepares the next attempt after one that ended in `race`.
    ///
    /// # Errors
    ///
    /// [`Error::RetriesExhausted`] if there may be no other attempt.
    pub(super) fn retry(&mut self, race: Error) -> Result<()> {
        let writes = std::mem::replace(&mut self.writes, WriteSet::new());
        self.has_read = false;
        self.points_in_time = 0;
        self.first_read = None;
        self.has_failed = false;
        // Transactions that only check a lock do not take turns at it.
        let locked: Vec<Key<'_>> = writes.batch().locks().iter().map(Lock::key).collect();
        self.attempts.next(race, &locked)
    }

    /// Returns the time that all attempts have waited for turns.
    pub(super) fn waited(&self) -> Duration {
        self.attempts.waited()
    }
}

/// Returns a race condition that names those of `locks` that have another version now.
fn changed_locks<D: AtomicDb + ?Sized>(db: &D, locks: &[Lock]) -> Result<Option<Error>> {
    if locks.is_empty() {
        return Ok(None);
    }
    let keys: Vec<Key<'_>> = locks.iter().map(Lock::key).collect();
    let now = db.get_locks(&keys)?;
    let changed = locks.iter().zip(&now);
    let changed = changed.filter(|(lock, now)| lock.version() != now.version());
    let keys: Vec<KeyBuf> = changed.map(|(lock, _)| lock.key().to_buf()).collect();
    Ok((!keys.is_empty()).then_some(Error::RaceCondition { keys }))
}

/// Merges the writes of a transaction into the result of a query. Both are sorted in its order.
fn merge<T>(
    items: Vec<Item<T>>,
    own: Vec<(KeyBuf, Option<Item<T>>)>,
    reverse: bool,
) -> Vec<Item<T>> {
    let mut merged = Vec::with_capacity(items.len() + own.len());
    let mut own = own.into_iter().peekable();
    for item in items {
        let mut is_hidden = false;
        while let Some((key, _)) = own.peek() {
            let order = key.sk().cmp(item.sk());
            let order = if reverse { order.reverse() } else { order };
            if order.is_gt() {
                break;
            }
            is_hidden |= order.is_eq();
            merged.extend(own.next().and_then(|(_, written)| written));
        }
        if !is_hidden {
            merged.push(item);
        }
    }
    merged.extend(own.filter_map(|(_, written)| written));
    merged
}

fn missing_lock_error() -> Error {
    Error::Backend("get_locks did not return every lock".into())
}

pub(super) fn lock_key_written_error(key: Key<'_>) -> Error {
    Error::InvalidInput(format!(
        "{key} is both locked and written in one transaction: a lock needs a key of its own, next to the data"
    ))
}

impl<D: AtomicDb + ?Sized> fmt::Debug for Transaction<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("writes", &self.writes)
            .finish_non_exhaustive()
    }
}
