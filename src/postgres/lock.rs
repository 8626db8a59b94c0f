//! Reading and creating locks.

use super::attempts::Attempts;
use super::client::TableClient;
use super::error::PostgresDbError;
use super::failure::{Failure, FailureKind};
use super::param::Param;
use super::row::{LockRow, decode_lock, seconds};
use super::session::{Request, Transaction};
use super::statement::Statement;
use crate::error::item_at_lock_key;
use crate::sync::Arc;
use crate::{Key, KeyBuf, Lock, Result, Version};
use std::time::Duration;
use tokio::time::Instant;

/// Whether the row of a lock was read before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Known {
    Nothing,
    /// It has to be created or refreshed.
    IsStale,
}

impl TableClient {
    /// Returns the lock at `key`, and creates or refreshes it if it must be.
    pub(super) async fn get_lock(
        self: Arc<Self>,
        key: KeyBuf,
        now: Duration,
        mut known: Known,
    ) -> Result<Lock> {
        let mut attempts = Attempts::new(self.timeouts);
        let read = repeatable(Statement::ReadLock, key_params(&key));
        loop {
            if known == Known::Nothing {
                let rows = self.repeat(&mut attempts, &read).await?;
                let found = rows.first().map(|row| decode_lock(row, 0)).transpose()?;
                if let Some(lock) = usable_lock(found, key.as_key(), now.as_secs())? {
                    return Ok(lock);
                }
            }
            known = Known::Nothing;
            // Each attempt has a version of its own. If one is executed although its response is lost,
            // and the lock is then deleted, the next one must not bring its version back.
            let write = write_lock(&key, self.versions.next(now), now.as_secs());
            let failure = match self.attempt(&attempts, &write).await {
                Ok(rows) => match rows.first().map(|row| decode_lock(row, 0)).transpose()? {
                    Some(LockRow::Lock { version, ttl }) => {
                        return Ok(Lock::new(key, version, ttl));
                    }
                    // Another caller wrote first.
                    Some(LockRow::Item { .. }) | None if Instant::now() < attempts.deadline() => {
                        continue;
                    }
                    Some(LockRow::Item { .. }) | None => {
                        let error = PostgresDbError::NoResponse {
                            detail: "other callers changed the lock again and again".into(),
                            source: None,
                        };
                        Failure::new(FailureKind::Cancelled, error)
                    }
                },
                Err(failure) => failure,
            };
            let paused = attempts.pause_after(failure).await;
            paused.map_err(Failure::into_read_error)?;
        }
    }
}

/// Returns the lock that was found at `key` if it is live and needs no refresh.
///
/// # Errors
///
/// `InvalidInput` if there is a live item.
pub(super) fn usable_lock(found: Option<LockRow>, key: Key<'_>, now: u64) -> Result<Option<Lock>> {
    match found {
        None => Ok(None),
        Some(LockRow::Item { ttl }) => {
            if ttl.is_none_or(|ttl| ttl >= seconds(now)) {
                Err(item_at_lock_key(key))
            } else {
                Ok(None)
            }
        }
        Some(LockRow::Lock { version, ttl }) => {
            let lock = Lock::new(key, version, ttl);
            let is_fresh = lock.is_live(now) && lock.refreshed_ttl(now) == ttl;
            Ok(is_fresh.then_some(lock))
        }
    }
}

fn write_lock(key: &KeyBuf, version: Version, now: u64) -> Transaction {
    let mut params = key_params(key);
    params.extend([
        Param::Text(version.to_string()),
        Param::Int(seconds(now)),
        Param::Int(seconds(now.saturating_add(Lock::LIFETIME))),
        Param::Int(seconds(now.saturating_add(Lock::REFRESH_WINDOW))),
    ]);
    repeatable(Statement::WriteLock, params)
}

fn repeatable(statement: Statement, params: Vec<Param>) -> Transaction {
    Transaction {
        first: Request { statement, params },
        second: None,
        is_write: false,
    }
}

fn key_params(key: &KeyBuf) -> Vec<Param> {
    vec![
        Param::Text(key.pk().to_owned()),
        Param::Text(key.sk().to_owned()),
    ]
}
