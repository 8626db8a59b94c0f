//! The extension methods of every database.

use super::retry::{Policy, Retry};
use super::run::{run_transaction, run_update};
use super::transaction::Transaction;
use crate::{AtomicDb, Batch, Error, Item, Key, Result};

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
    /// - It must use `tx` for its reads and writes. A call of the database itself is not part of the
    ///   transaction.
    /// - If it reads and writes, it must lock or check a key before its first read. Otherwise it
    ///   would overwrite concurrent updates, and fails with [`InvalidInput`](Error::InvalidInput).
    /// - Each read is fresh, but two reads are not a snapshot. If another commit lands between them,
    ///   this attempt fails with a conflict, but only after the body has seen an inconsistent state.
    ///   So the body must not panic or loop forever on inconsistent data.
    /// - What it returns is based on one consistent state. A result is returned only if all locks are
    ///   unchanged, even if nothing is written. If it returns an error after several reads under
    ///   locks, the locks are read again; if one has changed, the body runs again.
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
    /// - The error that `body` returns, unchanged: at once if it rests on at most one read or if a
    ///   call of the transaction failed, and otherwise if the locks are still unchanged. Nothing was
    ///   written.
    /// - [`InvalidInput`](Error::InvalidInput): the body has read and writes, but holds no lock.
    ///   Nothing was written.
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
        run_transaction(self, &Policy::default(), None, body)
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
        body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R, E>,
    ) -> Result<R, E> {
        let (policy, observer) = retry.parts();
        run_transaction(self, policy, observer, body)
    }

    /// Reads the item at `key`, passes its data to `change`, and writes what `change` returns, in one
    /// commit under the lock at `lock`. After a conflict it starts again, as the default [`Retry`]
    /// allows. Returns the item that it leaves at `key`.
    ///
    /// `change` gets `None` if there is no live item. If it returns `None`, the item is deleted. The
    /// item keeps its expiry.
    ///
    /// ```
    /// use atomic_db::{AtomicDbExt, Item, MemoryDb};
    ///
    /// let db = MemoryDb::new();
    /// for _ in 0..3 {
    ///     db.update(("page#1", "visits"), ("page#1", "lock"), |visits| {
    ///         Some(visits.copied().unwrap_or(0) + 1)
    ///     })?;
    /// }
    /// let left = db.update(("page#1", "visits"), ("page#1", "lock"), |visits| visits.copied())?;
    /// assert_eq!(left.and_then(Item::into_data), Some(3));
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](Error::InvalidInput): `key` and `lock` are the same. Nothing was written.
    /// - [`RetriesExhausted`](Error::RetriesExhausted): every attempt met a conflict. Nothing was
    ///   written.
    /// - Those of [`get_lock`](AtomicDb::get_lock), [`get_fresh`](AtomicDb::get_fresh) and
    ///   [`commit`](AtomicDb::commit), except a conflict, with the same states afterwards.
    fn update<'k, 'l>(
        &self,
        key: impl Into<Key<'k>>,
        lock: impl Into<Key<'l>>,
        mut change: impl FnMut(Option<&Self::Data>) -> Option<Self::Data>,
    ) -> Result<Option<Item<Self::Data>>> {
        self.try_update(key, lock, |data| Ok(change(data)))
    }

    /// Updates an item like [`update`](AtomicDbExt::update), with a closure that may fail with the
    /// caller's own error. One read is one point in time, so the error needs no validation.
    ///
    /// # Errors
    ///
    /// - The error that `change` returns. Nothing was written.
    /// - Those of [`update`](AtomicDbExt::update).
    fn try_update<'k, 'l, E: From<Error>>(
        &self,
        key: impl Into<Key<'k>>,
        lock: impl Into<Key<'l>>,
        change: impl FnMut(Option<&Self::Data>) -> Result<Option<Self::Data>, E>,
    ) -> Result<Option<Item<Self::Data>>, E> {
        run_update(self, key.into(), lock.into(), change)
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
