//! Commits: one `TransactWriteItems`, repeated under one token until its outcome is known.

use super::error::{DynamoDbError, answered, tells_of_another_schema, trouble};
use super::retry::{Attempts, GaveUp, Trouble};
use super::server::{Server, unbuilt};
use super::table::{
    IS_LIVE, NOTHING_LIVES, PK, Row, TTL, VERSION, check_actions, check_commit, check_key, encode,
    key_row, names, owned, size_of, text, time_values, version_of,
};
use crate::batch::BatchRef;
use crate::sync::Arc;
use crate::{Error, KeyBuf, Lock, Result, Version};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure::AllOld;
use aws_sdk_dynamodb::types::{
    CancellationReason, ConditionCheck, Delete, Put, TransactWriteItem, Update,
};
use serde::Serialize;
use std::ops::Range;
use tokio::time::Instant;

/// A commit, ready to be sent.
#[derive(Debug)]
pub(super) struct Commit {
    actions: Vec<TransactWriteItem>,
    /// The key of each action.
    keys: Vec<KeyBuf>,
    /// The actions that renew locks, from the first one on.
    renewals: usize,
    /// The actions that renew or check locks, from the first one on.
    guards: usize,
    creations: Range<usize>,
    /// The new version of the locks, and the token of the request.
    version: Version,
}

impl Commit {
    /// # Errors
    ///
    /// Those of bad input: a key twice, one that the table cannot hold, data that cannot be encoded,
    /// or more than a transaction takes.
    pub(super) fn new<T: Serialize>(
        writes: &BatchRef<'_, T>,
        table: &str,
        version: Version,
        now: u64,
    ) -> Result<Self> {
        writes.validate()?;
        check_actions(writes.len())?;
        let keys: Vec<KeyBuf> = writes.keys().cloned().collect();
        keys.iter().try_for_each(|key| check_key(key.as_key()))?;

        let action = TransactWriteItem::builder;
        let mut actions = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for lock in writes.locks {
            let mut values = guard_values(lock, now);
            values.insert(":new".to_owned(), text(version.to_string()));
            bytes += size_of(&key_row(lock.key())) + size_of(&values);
            let update = Update::builder()
                .table_name(table)
                .set_key(Some(key_row(lock.key())))
                .update_expression("SET #v = :new")
                .condition_expression(unchanged())
                .set_expression_attribute_names(Some(guard_names()))
                .set_expression_attribute_values(Some(values))
                .return_values_on_condition_check_failure(AllOld)
                .build();
            actions.push(action().update(update.map_err(unbuilt)?).build());
        }
        for lock in writes.checks {
            let values = guard_values(lock, now);
            bytes += size_of(&key_row(lock.key())) + size_of(&values);
            let check = ConditionCheck::builder()
                .table_name(table)
                .set_key(Some(key_row(lock.key())))
                .condition_expression(unchanged())
                .set_expression_attribute_names(Some(guard_names()))
                .set_expression_attribute_values(Some(values))
                .build();
            actions.push(action().condition_check(check.map_err(unbuilt)?).build());
        }
        for item in writes.sets {
            let (row, size) = encode(item)?;
            bytes += size;
            let put = Put::builder().table_name(table).set_item(Some(row)).build();
            actions.push(action().put(put.map_err(unbuilt)?).build());
        }
        for item in writes.creates {
            let (row, size) = encode(item)?;
            bytes += size;
            let put = Put::builder()
                .table_name(table)
                .set_item(Some(row))
                // A lock is replaced, as it is by any item.
                .condition_expression(format!("{NOTHING_LIVES} OR attribute_exists(#v)"))
                .set_expression_attribute_names(Some(names([
                    ("#p", PK),
                    ("#t", TTL),
                    ("#v", VERSION),
                ])))
                .set_expression_attribute_values(Some(owned(time_values(now))))
                .build();
            actions.push(action().put(put.map_err(unbuilt)?).build());
        }
        for key in writes.deletes {
            let row = key_row(key.as_key());
            bytes += size_of(&row);
            let delete = Delete::builder()
                .table_name(table)
                .set_key(Some(row))
                .build();
            actions.push(action().delete(delete.map_err(unbuilt)?).build());
        }
        check_commit(bytes)?;

        let guards = writes.locks.len() + writes.checks.len();
        let first_creation = guards + writes.sets.len();
        Ok(Commit {
            actions,
            keys,
            renewals: writes.locks.len(),
            guards,
            creations: first_creation..first_creation + writes.creates.len(),
            version,
        })
    }

    /// What it means that the transaction was cancelled for these reasons, one for each action.
    fn judge(&self, reasons: &[CancellationReason], table: &str) -> Judgement {
        // Only this commit writes its version, so if a lock has it, an earlier request did it all.
        let is_ours = |reason: &CancellationReason| {
            let version = reason.item().map(version_of);
            version.is_some_and(|version| version.is_ok_and(|version| version == self.version))
        };
        if reasons.iter().take(self.renewals).any(is_ours) {
            return Judgement::Done;
        }

        let mut failed = self.keys.iter().zip(reasons).enumerate();
        let unmet = |reason: &CancellationReason| reason.code() == Some("ConditionalCheckFailed");
        let lost: Vec<KeyBuf> = failed
            .clone()
            .filter(|(place, (_, reason))| *place < self.guards && unmet(reason))
            .map(|(_, (key, _))| key.clone())
            .collect();
        if !lost.is_empty() {
            return Judgement::Lost(Error::RaceCondition { keys: lost });
        }
        let exists =
            failed.find(|(place, (_, reason))| self.creations.contains(place) && unmet(reason));
        if let Some((_, (key, _))) = exists {
            return Judgement::Lost(Error::AlreadyExists { key: key.clone() });
        }

        // Nothing was decided by the data. What will not pass goes before what will, and of that,
        // a capacity before a conflict: only if there were but conflicts, the locks are what lost.
        let mut again = None;
        let mut conflicts = Vec::new();
        let mut throttled = false;
        for (place, (key, reason)) in self.keys.iter().zip(reasons).enumerate() {
            let message = reason.message().unwrap_or("no message");
            match reason.code() {
                None | Some("None") => {}
                Some(code @ ("ValidationError" | "ItemCollectionSizeLimitExceeded"))
                    if !tells_of_another_schema(message) =>
                {
                    return Judgement::Lost(Error::InvalidInput(format!(
                        "DynamoDB refuses the write at {key} ({code}): {message}"
                    )));
                }
                Some("ValidationError") => {
                    return Judgement::Not(
                        Trouble::Final(DynamoDbError::SchemaMismatch {
                            table: table.to_owned(),
                            detail: message.to_owned(),
                        }),
                        Vec::new(),
                    );
                }
                Some(code) => match answered(code, message, 400, table) {
                    Trouble::Final(error) => {
                        return Judgement::Not(Trouble::Final(error), Vec::new());
                    }
                    Trouble::Again { error, .. } => {
                        let conflict = matches!(error, DynamoDbError::TransactionConflict { .. });
                        if conflict && place < self.guards {
                            conflicts.push(key.clone());
                        }
                        if again.is_none() || !conflict {
                            again = Some(error);
                        }
                        throttled |= !conflict;
                    }
                },
            }
        }
        if throttled {
            conflicts.clear();
        }
        let error = again.unwrap_or_else(|| DynamoDbError::Service {
            code: "TransactionCanceledException".to_owned(),
            message: "the transaction was cancelled, and no reason was given".to_owned(),
        });
        Judgement::Not(Trouble::again(error, false), conflicts)
    }
}

/// The condition of a lock that is unchanged.
fn unchanged() -> String {
    format!("#v = :v AND {IS_LIVE}")
}

fn guard_names() -> std::collections::HashMap<String, String> {
    names([("#v", VERSION), ("#t", TTL)])
}

fn guard_values(lock: &Lock, now: u64) -> Row {
    let mut values = owned(time_values(now));
    values.insert(":v".to_owned(), text(lock.version().to_string()));
    values
}

/// What a cancelled transaction comes to.
#[derive(Debug)]
enum Judgement {
    /// It was done by an earlier request.
    Done,
    /// It was not done, for a reason that the caller is told.
    Lost(Error),
    /// It was not done, and perhaps can be. If all that stood in its way were transactions of
    /// others, these are the locks that they were at.
    Not(Trouble, Vec<KeyBuf>),
}

impl Server {
    /// Sends `commit` until its outcome is known. All requests have the same token, so at most one
    /// of them does anything.
    pub(super) async fn commit(self: Arc<Self>, commit: Commit) -> Result<Version> {
        let deadline = Instant::now() + self.patience.call;
        // The last quarter: half of it for the answer to a last request, half for reading a lock back.
        let reserve = self.patience.attempt.min(self.patience.call / 4);
        let mut attempts = Attempts::between(
            deadline - reserve,
            deadline - reserve / 2,
            self.patience.attempt,
        );
        loop {
            let request = self
                .client
                .transact_write_items()
                .set_transact_items(Some(commit.actions.clone()))
                .client_request_token(commit.version.to_string());
            let error = match attempts.send(request.send()).await {
                Ok(_) => return Ok(commit.version),
                Err(error) => error,
            };
            let judgement = match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                    commit.judge(cancelled.cancellation_reasons(), &self.table)
                }
                _ => Judgement::Not(trouble(*error, &self.table), Vec::new()),
            };
            let (trouble, conflicts) = match judgement {
                Judgement::Done => return Ok(commit.version),
                Judgement::Lost(error) => return Err(error),
                Judgement::Not(trouble, conflicts) => (trouble, conflicts),
            };
            if let Err(gave_up) = attempts.pause_in(trouble).await {
                return self.settle(&commit, gave_up, conflicts, deadline).await;
            }
        }
    }

    /// The outcome of a commit that no request has told.
    async fn settle(
        &self,
        commit: &Commit,
        gave_up: GaveUp,
        conflicts: Vec<KeyBuf>,
        deadline: Instant,
    ) -> Result<Version> {
        if gave_up.in_doubt {
            // A lock with another version proves nothing: the commit may have been done before the
            // one that renewed the lock since, and may still be done if nobody did.
            return match self.has_version(commit, deadline).await {
                true => Ok(commit.version),
                false => Err(gave_up.unwritten()),
            };
        }
        if gave_up.error.is_validation() {
            return Err(Error::InvalidInput(gave_up.error.to_string()));
        }
        match conflicts.is_empty() {
            true => Err(gave_up.undone()),
            false => Err(Error::RaceCondition { keys: conflicts }),
        }
    }

    /// Whether a lock of `commit` has the version that only the commit can have given it.
    async fn has_version(&self, commit: &Commit, deadline: Instant) -> bool {
        let Some(key) = commit.keys.first().filter(|_| commit.renewals > 0) else {
            return false;
        };
        let mut attempts = Attempts::between(deadline, deadline, self.patience.attempt);
        match self.read_lock(&mut attempts, key).await {
            Ok(Some(row)) => version_of(&row).is_ok_and(|version| version == commit.version),
            _ => false,
        }
    }
}
