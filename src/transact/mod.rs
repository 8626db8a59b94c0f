//! Transactions that run again after a race, and the calls for one item.

mod retry;
mod steps;

pub use retry::Retry;

use crate::{AtomicDb, Batch, Error, Item, Key, Lock, Result};
use retry::Attempts;
use std::fmt;
use steps::{Step, Steps};

mod private {
    pub trait Sealed {}
    impl<D: crate::AtomicDb + ?Sized> Sealed for D {}
}

/// What every [`AtomicDb`] can do besides: transactions that run again after a race, and the
/// single-item forms of calls that take many.
///
/// It is there for every database, trait objects included, and is implemented by this crate alone.
pub trait AtomicDbExt: AtomicDb + private::Sealed {
    /// Runs `body` and commits what it asked for, again after each race, as the default
    /// [`Retry`] says.
    ///
    /// The [`Transaction`] keeps the order *locks first, then fresh reads, then the commit*. The
    /// body may run several times, so it should do nothing that must be done once; none of its
    /// writes is seen before the commit. No mutex is held while it runs.
    ///
    /// Each read of the body is fresh, but two of them are not one instant: where somebody commits
    /// between them, this run will lose its race, and has seen both states by then. So the body
    /// must not panic or loop for ever over data that cannot be, and an error that rests on two
    /// reads may be about a state that never was.
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
    /// - Whatever `body` returns, at once and as it is. Nothing was written.
    /// - [`Exhausted`](Error::RetriesExhausted): every attempt lost a race. Nothing was written.
    /// - What [`commit`](AtomicDb::commit) returns, but for a race.
    fn transact<R>(&self, body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R>) -> Result<R> {
        self.try_transact(body)
    }

    /// [`transact`](AtomicDbExt::transact) for a body with an error type of its own, which comes
    /// back as it is.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, AtomicDbExt, Error, Item, MemoryDb};
    ///
    /// #[derive(Debug)]
    /// enum Refusal {
    ///     Poor { balance: u32 },
    ///     Db(Error),
    /// }
    ///
    /// impl From<Error> for Refusal {
    ///     fn from(error: Error) -> Self {
    ///         Refusal::Db(error)
    ///     }
    /// }
    ///
    /// let db = MemoryDb::new();
    /// db.set(&[Item::new("account#1", "balance", 5_u32)])?;
    /// let refused = db.try_transact(|tx| {
    ///     tx.lock(("account#1", "lock"))?;
    ///     let item = tx.get(("account#1", "balance"))?;
    ///     let balance = item.and_then(|item| item.data().copied()).unwrap_or(0);
    ///     let rest = balance.checked_sub(10).ok_or(Refusal::Poor { balance })?;
    ///     tx.set(Item::new("account#1", "balance", rest))?;
    ///     Ok(())
    /// });
    /// assert!(matches!(refused, Err(Refusal::Poor { balance: 5 })));
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

    /// [`transact`](AtomicDbExt::transact) with attempts, deadline, back-off and clock of your own.
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

    /// [`try_transact`](AtomicDbExt::try_transact) with attempts, deadline, back-off and clock of
    /// your own.
    ///
    /// # Errors
    ///
    /// Those of [`transact`](AtomicDbExt::transact).
    fn try_transact_with<R, E: From<Error>>(
        &self,
        retry: &Retry,
        mut body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut attempts = Attempts::new(retry);
        loop {
            let mut transaction = Transaction::new(self);
            let result = body(&mut transaction)?;
            match transaction.commit() {
                Ok(()) => return Ok(result),
                Err(race) if race.is_race_condition() => attempts.pause_after(race)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes one item: [`set`](AtomicDb::set) of a single one.
    ///
    /// # Errors
    ///
    /// Those of [`set`](AtomicDb::set).
    fn set_one(&self, item: Item<Self::Data>) -> Result<()> {
        self.set(&[item])
    }

    /// Writes `item` if no live item is at its key: a [`commit`](AtomicDb::commit) that only
    /// creates it. Of any number of callers at once, one succeeds.
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
    /// Those of [`commit`](AtomicDb::commit), of which
    /// [`AlreadyExists`](Error::AlreadyExists) is the ordinary one.
    fn create(&self, item: Item<Self::Data>) -> Result<()> {
        self.commit(&Batch::new().create(item)).map(drop)
    }

    /// Removes what is at one key, item or lock: [`delete`](AtomicDb::delete) of a single one.
    ///
    /// # Errors
    ///
    /// Those of [`delete`](AtomicDb::delete).
    fn delete_one<'k>(&self, key: impl Into<Key<'k>>) -> Result<()> {
        self.delete(&[key.into()])
    }

    /// Whether a live item is at `key`, as [`get`](AtomicDb::get) sees it.
    ///
    /// # Errors
    ///
    /// Those of [`get`](AtomicDb::get).
    fn contains<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        Ok(self.get(key.into())?.is_some())
    }
}

impl<D: AtomicDb + ?Sized> AtomicDbExt for D {}

/// What one run of a [`transact`](AtomicDbExt::transact) body reads and asks to write.
///
/// Locks come first, then reads, which are always [fresh](AtomicDb::get_fresh); the writes are
/// committed when the body has returned, if every lock is still as it was read. A read sees the
/// transaction's own writes.
pub struct Transaction<'a, D: AtomicDb + ?Sized> {
    db: &'a D,
    steps: Steps<D::Data>,
    has_read: bool,
}

impl<'a, D: AtomicDb + ?Sized> Transaction<'a, D> {
    fn new(db: &'a D) -> Self {
        Transaction {
            db,
            steps: Steps::new(),
            has_read: false,
        }
    }

    /// Reads the lock at `key`. The commit demands that it is unchanged and renews it, so everybody
    /// else who holds it loses. Locking a key again changes nothing.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](Error::InvalidInput): something was read already, and a lock that is read
    ///   after the data proves nothing about it; or this transaction writes at `key`.
    /// - Those of [`get_lock`](AtomicDb::get_lock).
    pub fn lock<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Lock> {
        self.guard(key.into(), true)
    }

    /// Reads the lock at `key`. The commit demands that it is unchanged and leaves it as it is, so
    /// others who check it do not lose. A key that is locked and checked is locked.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Transaction::lock).
    pub fn check<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Lock> {
        self.guard(key.into(), false)
    }

    fn guard(&mut self, key: Key<'_>, renew: bool) -> Result<Lock> {
        if let Some(step) = self.steps.find(key) {
            return match step {
                Step::Lock(lock) | Step::Check(lock) => {
                    let lock = lock.clone();
                    if renew {
                        *step = Step::Lock(lock.clone());
                    }
                    Ok(lock)
                }
                _ => Err(locked_and_written(key)),
            };
        }
        if self.has_read {
            return Err(Error::InvalidInput(format!(
                "the lock {key} is asked for after a get: in a transaction all locks come first, for a lock that is read after the data proves nothing about it"
            )));
        }
        let lock = self.db.get_lock(key)?;
        self.steps.add(match renew {
            true => Step::Lock(lock.clone()),
            false => Step::Check(lock.clone()),
        });
        Ok(lock)
    }

    /// Reads the live item at `key`: what this transaction writes there, or else what the database
    /// holds, never what a cache holds.
    ///
    /// # Errors
    ///
    /// Those of [`get_fresh`](AtomicDb::get_fresh).
    pub fn get<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Option<Item<D::Data>>> {
        let key = key.into();
        self.has_read = true;
        match self.steps.find(key) {
            Some(Step::Set(item) | Step::Create(item)) => Ok(Some(item.clone())),
            Some(Step::Delete(_)) => Ok(None),
            Some(Step::Lock(_) | Step::Check(_)) | None => self.db.get_fresh(key),
        }
    }

    /// Writes `item` at the commit, whatever is there. Of several writes to one key the last one
    /// stands.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](Error::InvalidInput): the key is one of this transaction's locks.
    pub fn set(&mut self, item: Item<D::Data>) -> Result<()> {
        match self.steps.find(item.key()) {
            Some(Step::Lock(_) | Step::Check(_)) => return Err(locked_and_written(item.key())),
            // That nothing was there is still demanded.
            Some(step @ Step::Create(_)) => *step = Step::Create(item),
            Some(step) => *step = Step::Set(item),
            None => self.steps.add(Step::Set(item)),
        }
        Ok(())
    }

    /// Writes `item` at the commit, and demands that no live item is there: otherwise the
    /// transaction ends with [`AlreadyExists`](Error::AlreadyExists).
    ///
    /// # Errors
    ///
    /// - [`AlreadyExists`](Error::AlreadyExists): this transaction writes an item there itself.
    /// - [`InvalidInput`](Error::InvalidInput): the key is one of this transaction's locks.
    pub fn create(&mut self, item: Item<D::Data>) -> Result<()> {
        match self.steps.find(item.key()) {
            Some(Step::Lock(_) | Step::Check(_)) => return Err(locked_and_written(item.key())),
            Some(Step::Set(_) | Step::Create(_)) => {
                let key = item.key().to_buf();
                return Err(Error::AlreadyExists { key });
            }
            Some(step @ Step::Delete(_)) => *step = Step::Set(item),
            None => self.steps.add(Step::Create(item)),
        }
        Ok(())
    }

    /// Removes what is at `key` at the commit, item or lock.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](Error::InvalidInput): the key is one of this transaction's locks, or an item
    /// that it creates: a commit cannot demand that nothing is there and leave it so.
    pub fn delete<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<()> {
        let key = key.into();
        match self.steps.find(key) {
            Some(Step::Lock(_) | Step::Check(_)) => return Err(locked_and_written(key)),
            Some(Step::Create(_)) => {
                return Err(Error::InvalidInput(format!(
                    "{key} is created and deleted in one transaction"
                )));
            }
            Some(step) => *step = Step::Delete(key.to_buf()),
            None => self.steps.add(Step::Delete(key.to_buf())),
        }
        Ok(())
    }

    fn commit(self) -> Result<()> {
        let batch = self.steps.into_batch();
        match batch.is_empty() {
            true => Ok(()),
            false => self.db.commit(&batch).map(drop),
        }
    }
}

fn locked_and_written(key: Key<'_>) -> Error {
    Error::InvalidInput(format!(
        "{key} is locked and written in one transaction: a lock lives beside the data, under a key of its own"
    ))
}

impl<D: AtomicDb + ?Sized> fmt::Debug for Transaction<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}
