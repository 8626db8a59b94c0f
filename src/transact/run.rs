//! The retry loops of transactions and updates.

use super::retry::{Attempts, Policy};
use super::transaction::{Transaction, lock_key_written_error};
use super::watch::{Observers, Unwatched, Watch, Watched};
use crate::{AtomicDb, Batch, Error, Item, Key, Observer, Result};
use std::slice;

/// Runs a transaction, and reports it to the observers of the database and of its `Retry`.
#[inline]
pub(super) fn run_transaction<D: AtomicDb + ?Sized, R, E: From<Error>>(
    db: &D,
    policy: &Policy,
    observer: Option<&dyn Observer>,
    body: impl FnMut(&mut Transaction<'_, D>) -> Result<R, E>,
) -> Result<R, E> {
    let observers = Observers {
        of_db: db.transaction_observer(),
        of_retry: observer,
    };
    if observers.is_empty() {
        repeat_transaction(db, policy, body, &mut Unwatched)
    } else {
        repeat_transaction(db, policy, body, &mut Watched::new(observers, policy))
    }
}

/// Runs `body` until it succeeds, fails, or may not be run again. The turns of the transaction have
/// ended when this returns.
#[inline]
fn repeat_transaction<D: AtomicDb + ?Sized, R, E: From<Error>>(
    db: &D,
    policy: &Policy,
    mut body: impl FnMut(&mut Transaction<'_, D>) -> Result<R, E>,
    watch: &mut impl Watch,
) -> Result<R, E> {
    let mut transaction = Transaction::new(db, policy);
    loop {
        let outcome = match body(&mut transaction) {
            Ok(result) => transaction.commit().map(|()| result),
            Err(error) => match transaction.find_conflict() {
                Some(race) => Err(race),
                None => {
                    watch.closure_failed(transaction.waited());
                    return Err(error);
                }
            },
        };
        match outcome {
            Ok(result) => {
                watch.succeeded(transaction.waited());
                return Ok(result);
            }
            Err(race) if race.is_race_condition() => {
                watch.lost(&race);
                let retried = transaction.retry(race);
                watch.paused(transaction.waited());
                retried.map_err(|error| watch.failed(error, transaction.waited()))?;
            }
            Err(error) => return Err(watch.failed(error, transaction.waited()).into()),
        }
    }
}

/// Runs an update with the default policy, and reports it to the observer of the database.
#[inline]
pub(super) fn run_update<D: AtomicDb + ?Sized, E: From<Error>>(
    db: &D,
    key: Key<'_>,
    lock_key: Key<'_>,
    change: impl FnMut(Option<&D::Data>) -> Result<Option<D::Data>, E>,
) -> Result<Option<Item<D::Data>>, E> {
    // They usually differ in `sk` only.
    if key.sk == lock_key.sk && key.pk == lock_key.pk {
        return Err(lock_key_written_error(key).into());
    }
    let policy = Policy::default();
    let observers = Observers {
        of_db: db.transaction_observer(),
        of_retry: None,
    };
    if observers.is_empty() {
        repeat_update(db, key, lock_key, &policy, change, &mut Unwatched)
    } else {
        let mut watch = Watched::new(observers, &policy);
        repeat_update(db, key, lock_key, &policy, change, &mut watch)
    }
}

/// Makes attempts of an update until one succeeds or fails, or no other may be made. Its turns have
/// ended when this returns.
#[inline]
fn repeat_update<D: AtomicDb + ?Sized, E: From<Error>>(
    db: &D,
    key: Key<'_>,
    lock_key: Key<'_>,
    policy: &Policy,
    mut change: impl FnMut(Option<&D::Data>) -> Result<Option<D::Data>, E>,
    watch: &mut impl Watch,
) -> Result<Option<Item<D::Data>>, E> {
    let mut attempts = Attempts::new(policy, db.retry_queue());
    loop {
        attempts.wait_if_closed(lock_key);
        let lock = db.get_lock(lock_key);
        let lock = lock.map_err(|error| watch.failed(error, attempts.waited()))?;
        let old = db.get_fresh(key);
        let old = old.map_err(|error| watch.failed(error, attempts.waited()))?;
        let new = match change(old.as_ref().and_then(Item::data)) {
            Ok(new) => new,
            Err(error) => {
                watch.closure_failed(attempts.waited());
                return Err(error);
            }
        };
        let (new, committed) = match (old, new) {
            (None, None) => {
                watch.succeeded(attempts.waited());
                return Ok(None);
            }
            (Some(_), None) => {
                let batch = Batch::new().lock(lock).delete(key);
                (None, db.commit(&batch))
            }
            (old, Some(data)) => {
                let item = match old {
                    Some(old) => old.with_data(data),
                    None => Item::at(key, data),
                };
                let committed = db.set_atomic(slice::from_ref(&item), &[lock]);
                (Some(item), committed)
            }
        };
        match committed {
            Ok(_) => {
                watch.succeeded(attempts.waited());
                return Ok(new);
            }
            Err(race) if race.is_race_condition() => {
                watch.lost(&race);
                let retried = attempts.next(race, &[lock_key]);
                watch.paused(attempts.waited());
                retried.map_err(|error| watch.failed(error, attempts.waited()))?;
            }
            Err(error) => return Err(watch.failed(error, attempts.waited()).into()),
        }
    }
}
