//! Transactions that are retried after a conflict, and calls for a single item.

mod retry;
mod write_set;

pub use retry::Retry;

use crate::{AtomicDb, Batch, Error, Item, Key, Lock, Result};
use retry::Backoff;
use std::fmt;
use write_set::{Op, WriteSet};

mod private {
    pub trait Sealed {}
    impl<D: crate::AtomicDb + ?Sized> Sealed for D {}
}

/// Extension methods of every [`AtomicDb`]: transactions that are retried after a conflict, and
/// calls for a single item.
///
/// The trait is implemented for every database, including trait objects, and is sealed.
pub trait AtomicDbExt: AtomicDb + private::Sealed {
    /// Runs `body`, commits its writes if its locks are unchanged, and returns its result. After a
    /// conflict it runs `body` again, as the default [`Retry`] allows.
    ///
    /// The [`Transaction`] enforces the order *locks first, then fresh reads, then the commit*. No
    /// other caller sees a write before the commit, and then all of them at once. No mutex is held
    /// while `body` runs.
    ///
    /// # Writing the body
    ///
    /// - It may run several times, so its effects outside the transaction must be safe to repeat.
    /// - Each read is fresh, but two reads are not a snapshot. If another commit lands between them,
    ///   this attempt will fail with a conflict, but only after the body has seen an inconsistent
    ///   state. So the body must not panic or loop forever on inconsistent data, and an error that it
    ///   returns may describe a state that never existed.
    ///
    /// # Examples
    ///
    /// ```
    /// use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, MemoryDb};
    ///
    /// let db = MemoryDb::new();
    /// let balance = db.transact(|tx| {
    ///     tx.lock(("account#1", "lock"))?;
    ///     let item = tx.get(("account#1", "balance"))?;
    ///     let balance = item.and_then(|item| item.data().copied()).unwrap_or(0) + 10;
    ///     tx.set(Item::new("account#1", "balance", balance))?;
    ///     Ok(balance)
    /// })?;
    /// assert_eq!(balance, 10);
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - Any error that `body` returns, unchanged and without a retry. Nothing was written.
    /// - [`RetriesExhausted`](Error::RetriesExhausted): every attempt met a conflict. Nothing was
    ///   written.
    /// - Those of [`commit`](AtomicDb::commit), except a conflict, with the same states afterwards.
    fn transact<R>(&self, body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R>) -> Result<R> {
        self.try_transact(body)
    }

    /// Runs a transaction like [`transact`](AtomicDbExt::transact), with a body that returns its own
    /// error type.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, AtomicDbExt, Error, Item, MemoryDb};
    ///
    /// #[derive(Debug)]
    /// enum PaymentError {
    ///     InsufficientFunds { balance: u32 },
    ///     Db(Error),
    /// }
    ///
    /// impl From<Error> for PaymentError {
    ///     fn from(error: Error) -> Self {
    ///         PaymentError::Db(error)
    ///     }
    /// }
    ///
    /// let db = MemoryDb::new();
    /// db.set(&[Item::new("account#1", "balance", 5_u32)])?;
    /// let outcome = db.try_transact(|tx| {
    ///     tx.lock(("account#1", "lock"))?;
    ///     let item = tx.get(("account#1", "balance"))?;
    ///     let balance = item.and_then(|item| item.data().copied()).unwrap_or(0);
    ///     let rest = balance.checked_sub(10);
    ///     let rest = rest.ok_or(PaymentError::InsufficientFunds { balance })?;
    ///     tx.set(Item::new("account#1", "balance", rest))?;
    ///     Ok(())
    /// });
    /// assert!(matches!(outcome, Err(PaymentError::InsufficientFunds { balance: 5 })));
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`transact`](AtomicDbExt::transact).
    fn try_transact<R, E: From<Error>>(
        &self,
        body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.try_transact_with(&Retry::default(), body)
    }

    /// Runs a transaction like [`transact`](AtomicDbExt::transact), with another retry policy.
    ///
    /// # Errors
    ///
    /// Those of [`transact`](AtomicDbExt::transact).
    fn transact_with<R>(
        &self,
        retry: &Retry,
        body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R>,
    ) -> Result<R> {
        self.try_transact_with(retry, body)
    }

    /// Runs a transaction like [`try_transact`](AtomicDbExt::try_transact), with another retry
    /// policy.
    ///
    /// # Errors
    ///
    /// Those of [`transact`](AtomicDbExt::transact).
    fn try_transact_with<R, E: From<Error>>(
        &self,
        retry: &Retry,
        mut body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut backoff = Backoff::new(retry);
        loop {
            let mut transaction = Transaction::new(self);
            let result = body(&mut transaction)?;
            match transaction.commit() {
                Ok(()) => return Ok(result),
                Err(race) if race.is_race_condition() => backoff.back_off(race)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes one item, as [`set`](AtomicDb::set) does.
    ///
    /// # Errors
    ///
    /// Those of [`set`](AtomicDb::set).
    fn set_one(&self, item: Item<Self::Data>) -> Result<()> {
        self.set(&[item])
    }

    /// Writes `item` if no live item exists at its key. Of concurrent callers, one succeeds.
    ///
    /// ```
    /// use atomic_db::{AtomicDbExt, Error, Item, MemoryDb};
    ///
    /// let db = MemoryDb::new();
    /// db.create(Item::new("user#1", "name", "Ada"))?;
    /// let again = db.create(Item::new("user#1", "name", "Bob"));
    /// assert!(matches!(again, Err(Error::AlreadyExists { key }) if key.sk() == "name"));
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`AlreadyExists`](Error::AlreadyExists): a live item exists at the key. Nothing was written.
    /// - The other errors of [`commit`](AtomicDb::commit), with the same states afterwards.
    fn create(&self, item: Item<Self::Data>) -> Result<()> {
        self.commit(&Batch::new().create(item)).map(drop)
    }

    /// Removes the item or lock at `key`, as [`delete`](AtomicDb::delete) does.
    ///
    /// # Errors
    ///
    /// Those of [`delete`](AtomicDb::delete).
    fn delete_one<'k>(&self, key: impl Into<Key<'k>>) -> Result<()> {
        self.delete(&[key.into()])
    }

    /// Returns `true` if [`get`](AtomicDb::get) finds a live item at `key`.
    ///
    /// # Errors
    ///
    /// Those of [`get`](AtomicDb::get).
    fn contains<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        Ok(self.get(key.into())?.is_some())
    }
}

impl<D: AtomicDb + ?Sized> AtomicDbExt for D {}

/// The locks, reads and writes of one run of a [`transact`](AtomicDbExt::transact) body.
///
/// 1. Read all locks first, with [`lock`](Transaction::lock) and [`check`](Transaction::check). A lock
///    that is read after data is refused, because it does not protect that data.
/// 2. Then read. Every read is [fresh](AtomicDb::get_fresh), and sees the transaction's own writes.
/// 3. Write at any time. The writes are committed, all or nothing, after the body has returned, if
///    every lock is still as it was read.
///
/// Use [`lock`](Transaction::lock) for data that the transaction changes, and
/// [`check`](Transaction::check) for data that it only reads: any number of transactions that only
/// check a lock may succeed at the same time.
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
pub struct Transaction<'a, D: AtomicDb + ?Sized> {
    db: &'a D,
    writes: WriteSet<D::Data>,
    /// Whether data was read. No other lock may be read after that.
    has_read: bool,
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
    fn new(db: &'a D) -> Self {
        Transaction {
            db,
            writes: WriteSet::new(),
            has_read: false,
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
    pub fn lock<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Lock> {
        self.read_lock(key.into(), LockMode::Lock)
    }

    /// Reads the lock at `key`, and creates it if it does not exist. The commit requires it to be
    /// unchanged and keeps its version, so it does not conflict with other checks. A key that is both
    /// locked and checked is locked.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Transaction::lock).
    pub fn check<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Lock> {
        self.read_lock(key.into(), LockMode::Check)
    }

    fn read_lock(&mut self, key: Key<'_>, mode: LockMode) -> Result<Lock> {
        if let Some(op) = self.writes.find(key) {
            let (Op::Lock(lock) | Op::Check(lock)) = op else {
                return Err(lock_key_written_error(key));
            };
            let lock = lock.clone();
            // A check becomes a lock, but not the reverse.
            if let LockMode::Lock = mode {
                *op = Op::Lock(lock.clone());
            }
            return Ok(lock);
        }
        if self.has_read {
            return Err(Error::InvalidInput(format!(
                "the lock {key} is requested after a read: a transaction reads all its locks before any data, because a lock that is read later does not protect that data"
            )));
        }
        let lock = self.db.get_lock(key)?;
        self.writes.add(match mode {
            LockMode::Lock => Op::Lock(lock.clone()),
            LockMode::Check => Op::Check(lock.clone()),
        });
        Ok(lock)
    }

    /// Returns the live item at `key`: the one that this transaction writes, or else the one in the
    /// database, never one from a cache.
    ///
    /// # Errors
    ///
    /// Those of [`get_fresh`](AtomicDb::get_fresh).
    pub fn get<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Option<Item<D::Data>>> {
        let key = key.into();
        self.has_read = true;
        match self.writes.find(key) {
            Some(Op::Set(item) | Op::Create(item)) => Ok(Some(item.clone())),
            Some(Op::Delete(_)) => Ok(None),
            Some(Op::Lock(_) | Op::Check(_)) | None => self.db.get_fresh(key),
        }
    }

    /// Writes `item` with the commit, and replaces any item at its key. If a key is written more than
    /// once, the last write wins.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](Error::InvalidInput): the key is one of this transaction's locks.
    pub fn set(&mut self, item: Item<D::Data>) -> Result<()> {
        match self.writes.find(item.key()) {
            Some(Op::Lock(_) | Op::Check(_)) => return Err(lock_key_written_error(item.key())),
            // The commit still requires that no item existed.
            Some(op @ Op::Create(_)) => *op = Op::Create(item),
            Some(op) => *op = Op::Set(item),
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
        match self.writes.find(item.key()) {
            Some(Op::Lock(_) | Op::Check(_)) => return Err(lock_key_written_error(item.key())),
            Some(Op::Set(_) | Op::Create(_)) => {
                let key = item.key().to_buf();
                return Err(Error::AlreadyExists { key });
            }
            Some(op @ Op::Delete(_)) => *op = Op::Set(item),
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
            Some(Op::Lock(_) | Op::Check(_)) => return Err(lock_key_written_error(key)),
            Some(Op::Create(_)) => {
                return Err(Error::InvalidInput(format!(
                    "{key} is both created and deleted in one transaction"
                )));
            }
            Some(op) => *op = Op::Delete(key.to_buf()),
            None => self.writes.add(Op::Delete(key.to_buf())),
        }
        Ok(())
    }

    fn commit(self) -> Result<()> {
        let batch = self.writes.into_batch();
        if batch.is_empty() {
            return Ok(());
        }
        self.db.commit(&batch).map(drop)
    }
}

fn lock_key_written_error(key: Key<'_>) -> Error {
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
