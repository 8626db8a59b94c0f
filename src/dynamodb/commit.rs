//! Commits: one `TransactWriteItems`, repeated under one token until its outcome is known.

use super::client::{TableClient, build_error};
use super::error::DynamoDbError;
use super::failure::{Failure, classify_service_error, is_schema_mismatch};
use super::response::RequestInfo;
use super::retry::{Attempts, CallFailure};
use super::table::{
    IS_LIVE, IS_VACANT, PK, Row, TTL, VERSION, attributes, check_actions, check_commit, check_key,
    encode, key_row, names, size_of, text, time_values, version_of,
};
use crate::batch::BatchRef;
use crate::sync::Arc;
use crate::{Codec, Error, KeyBuf, Lock, Result, Version};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure::AllOld;
use aws_sdk_dynamodb::types::{
    CancellationReason, ConditionCheck, Delete, Put, TransactWriteItem, Update,
};
use std::collections::HashMap;
use std::ops::Range;
use tokio::time::Instant;

/// A commit that is ready to be sent.
#[derive(Debug)]
pub(super) struct Commit {
    actions: Vec<TransactWriteItem>,
    /// The key of each action.
    keys: Vec<KeyBuf>,
    /// The number of actions that give a lock a new version. They come first.
    locks: usize,
    /// The number of actions that validate a lock: those of `locks`, then the checks.
    guards: usize,
    /// The actions that create an item.
    creates: Range<usize>,
    /// The new version of the locks, and the client token of every request.
    version: Version,
}

impl Commit {
    /// # Errors
    ///
    /// Those of invalid input: a repeated key, a key that the table cannot hold, data that cannot
    /// be encoded, or more than a transaction may contain.
    pub(super) fn new<T>(
        batch: &BatchRef<'_, T>,
        codec: &impl Codec<T>,
        table: &str,
        version: Version,
        now: u64,
    ) -> Result<Self> {
        batch.validate()?;
        check_actions(batch.len())?;
        let keys: Vec<KeyBuf> = batch.keys().cloned().collect();
        keys.iter().try_for_each(|key| check_key(key.as_key()))?;

        let action = TransactWriteItem::builder;
        let mut actions = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for lock in batch.locks {
            let mut values = guard_values(lock, now);
            values.insert(":new".to_owned(), text(version.to_string()));
            bytes += size_of(&key_row(lock.key())) + size_of(&values);
            let update = Update::builder()
                .table_name(table)
                .set_key(Some(key_row(lock.key())))
                .update_expression("SET #v = :new")
                .condition_expression(is_unchanged())
                .set_expression_attribute_names(Some(guard_names()))
                .set_expression_attribute_values(Some(values))
                .return_values_on_condition_check_failure(AllOld)
                .build();
            actions.push(action().update(update.map_err(build_error)?).build());
        }
        for lock in batch.checks {
            let values = guard_values(lock, now);
            bytes += size_of(&key_row(lock.key())) + size_of(&values);
            let check = ConditionCheck::builder()
                .table_name(table)
                .set_key(Some(key_row(lock.key())))
                .condition_expression(is_unchanged())
                .set_expression_attribute_names(Some(guard_names()))
                .set_expression_attribute_values(Some(values))
                .build();
            actions.push(
                action()
                    .condition_check(check.map_err(build_error)?)
                    .build(),
            );
        }
        for item in batch.sets {
            let (row, size) = encode(item, codec)?;
            bytes += size;
            let put = Put::builder().table_name(table).set_item(Some(row)).build();
            actions.push(action().put(put.map_err(build_error)?).build());
        }
        for item in batch.creates {
            let (row, size) = encode(item, codec)?;
            bytes += size;
            let put = Put::builder()
                .table_name(table)
                .set_item(Some(row))
                // An item replaces a lock (guarantee 4).
                .condition_expression(format!("{IS_VACANT} OR attribute_exists(#v)"))
                .set_expression_attribute_names(Some(names([
                    ("#p", PK),
                    ("#t", TTL),
                    ("#v", VERSION),
                ])))
                .set_expression_attribute_values(Some(attributes(time_values(now))))
                .build();
            actions.push(action().put(put.map_err(build_error)?).build());
        }
        for key in batch.deletes {
            let row = key_row(key.as_key());
            bytes += size_of(&row);
            let delete = Delete::builder()
                .table_name(table)
                .set_key(Some(row))
                .build();
            actions.push(action().delete(delete.map_err(build_error)?).build());
        }
        check_commit(bytes)?;

        let guards = batch.locks.len() + batch.checks.len();
        let first_create = guards + batch.sets.len();
        Ok(Commit {
            actions,
            keys,
            locks: batch.locks.len(),
            guards,
            creates: first_create..first_create + batch.creates.len(),
            version,
        })
    }

    /// Interprets the cancellation of the transaction. There is one reason for each action.
    fn interpret(
        &self,
        reasons: &[CancellationReason],
        table: &str,
        info: &RequestInfo,
    ) -> Verdict {
        // Versions are unique (guarantee 17), so a lock that has ours was written by an earlier
        // request of this commit.
        let has_our_version = |reason: &CancellationReason| {
            let version = reason.item().map(version_of);
            version.is_some_and(|version| version.is_ok_and(|version| version == self.version))
        };
        if reasons.iter().take(self.locks).any(has_our_version) {
            return Verdict::Committed;
        }

        let condition_failed =
            |reason: &CancellationReason| reason.code() == Some("ConditionalCheckFailed");
        let mut failed = self
            .keys
            .iter()
            .zip(reasons)
            .enumerate()
            .filter(|(_, (_, reason))| condition_failed(reason));
        let changed: Vec<KeyBuf> = failed
            .clone()
            .filter(|(index, _)| *index < self.guards)
            .map(|(_, (key, _))| key.clone())
            .collect();
        if !changed.is_empty() {
            return Verdict::Rejected(Error::RaceCondition { keys: changed });
        }
        if let Some((_, (key, _))) = failed.find(|(index, _)| self.creates.contains(index)) {
            return Verdict::Rejected(Error::AlreadyExists { key: key.clone() });
        }

        // No condition failed. Permanent errors take precedence over transient ones, and throttling
        // over conflicts: the locks are reported as changed only if there were nothing but
        // conflicts.
        let mut transient = None;
        let mut conflicts = Vec::new();
        let mut throttled = false;
        for (index, (key, reason)) in self.keys.iter().zip(reasons).enumerate() {
            let message = &info.annotate(reason.message().unwrap_or("no message"));
            match reason.code() {
                None | Some("None") => {}
                Some(code @ ("ValidationError" | "ItemCollectionSizeLimitExceeded"))
                    if !is_schema_mismatch(message) =>
                {
                    return Verdict::Rejected(Error::InvalidInput(format!(
                        "DynamoDB rejected the write at {key} ({code}): {message}"
                    )));
                }
                Some("ValidationError") => {
                    let failure = Failure::Fatal(DynamoDbError::SchemaMismatch {
                        table: table.to_owned(),
                        detail: message.to_owned(),
                    });
                    return Verdict::Failed(failure, Vec::new());
                }
                Some(code) => match classify_service_error(code, message, 400, table) {
                    Failure::Fatal(error) => {
                        return Verdict::Failed(Failure::Fatal(error), Vec::new());
                    }
                    Failure::Retryable { error, .. } => {
                        let conflict = matches!(error, DynamoDbError::TransactionConflict { .. });
                        if conflict && index < self.guards {
                            conflicts.push(key.clone());
                        }
                        if transient.is_none() || !conflict {
                            transient = Some(error);
                        }
                        throttled |= !conflict;
                    }
                },
            }
        }
        if throttled {
            conflicts.clear();
        }
        let error = transient.unwrap_or_else(|| DynamoDbError::Service {
            code: "TransactionCanceledException".to_owned(),
            message: info.annotate("the transaction was cancelled without a reason"),
        });
        Verdict::Failed(Failure::not_applied(error), conflicts)
    }
}

/// Returns the error of a commit whose last request found an item at `key`, which it creates, and an
/// earlier request of which may still be applied.
fn exists_in_doubt(key: &KeyBuf, info: &RequestInfo) -> DynamoDbError {
    let message = format!("{key} exists, but an earlier request may have been applied, or may be");
    DynamoDbError::Service {
        code: "ConditionalCheckFailed".to_owned(),
        message: info.annotate(&message),
    }
}

/// Returns the condition that a lock is unchanged (guarantee 12).
fn is_unchanged() -> String {
    format!("#v = :v AND {IS_LIVE}")
}

fn guard_names() -> HashMap<String, String> {
    names([("#v", VERSION), ("#t", TTL)])
}

fn guard_values(lock: &Lock, now: u64) -> Row {
    let mut values = attributes(time_values(now));
    values.insert(":v".to_owned(), text(lock.version().to_string()));
    values
}

/// The meaning of a failed request.
#[derive(Debug)]
enum Verdict {
    /// An earlier request has committed.
    Committed,
    /// The commit was rejected. Nothing was written.
    Rejected(Error),
    /// The request failed. If the only obstacle was other transactions in flight, these are the
    /// locks that they were at.
    Failed(Failure, Vec<KeyBuf>),
}

impl TableClient {
    /// Sends `commit` until its outcome is known. All requests have the same client token, so that
    /// at most one of them is applied.
    pub(super) async fn commit(self: Arc<Self>, commit: Commit) -> Result<Version> {
        let deadline = Instant::now() + self.timeouts.call;
        // Reserves up to a quarter of the timeout: half of it for the response to the last request,
        // half for reading a lock back.
        let reserve = self.timeouts.attempt.min(self.timeouts.call / 4);
        let mut attempts = Attempts::with_deadlines(
            deadline - reserve,
            deadline - reserve / 2,
            self.timeouts.attempt,
            Arc::clone(&self.budget),
        );
        loop {
            let request = self
                .client
                .transact_write_items()
                .set_transact_items(Some(commit.actions.clone()))
                .client_request_token(commit.version.to_string());
            let sent = self.send(&mut attempts, "TransactWriteItems", request.send());
            let error = match sent.await {
                Ok(_) => return Ok(commit.version),
                Err(error) => error,
            };
            let verdict = match &error.response {
                Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                    commit.interpret(cancelled.cancellation_reasons(), &self.table, &error.info)
                }
                _ => Verdict::Failed(error.failure, Vec::new()),
            };
            let (failure, conflicts) = match verdict {
                Verdict::Committed => return Ok(commit.version),
                // An earlier request may still arrive, after the existing item has been deleted. A
                // changed lock never gets its version back, so a race condition is final.
                Verdict::Rejected(Error::AlreadyExists { key }) if attempts.is_in_doubt() => (
                    Failure::not_applied(exists_in_doubt(&key, &error.info)),
                    Vec::new(),
                ),
                Verdict::Rejected(error) => return Err(error),
                Verdict::Failed(failure, conflicts) => (failure, conflicts),
            };
            if let Err(failure) = attempts.pause_after(failure).await {
                return self.resolve(&commit, failure, conflicts, deadline).await;
            }
        }
    }

    /// Returns the outcome of a commit whose last request has failed.
    async fn resolve(
        &self,
        commit: &Commit,
        failure: CallFailure,
        conflicts: Vec<KeyBuf>,
        deadline: Instant,
    ) -> Result<Version> {
        if failure.in_doubt {
            return if self.was_committed(commit, deadline).await {
                Ok(commit.version)
            } else {
                Err(failure.into_write_error())
            };
        }
        if failure.error.is_validation() {
            return Err(Error::InvalidInput(failure.error.to_string()));
        }
        if conflicts.is_empty() {
            Err(failure.into_write_error())
        } else {
            Err(Error::RaceCondition { keys: conflicts })
        }
    }

    /// Returns whether a lock of the in-doubt `commit` has its new version, which no other commit
    /// writes.
    ///
    /// Any other version shows nothing: the commit may have been applied and superseded, or may
    /// still be in flight.
    async fn was_committed(&self, commit: &Commit, deadline: Instant) -> bool {
        let Some(key) = commit.keys.first().filter(|_| commit.locks > 0) else {
            return false;
        };
        let budget = Arc::clone(&self.budget);
        let attempt_timeout = self.timeouts.attempt;
        let mut attempts = Attempts::with_deadlines(deadline, deadline, attempt_timeout, budget);
        match self.read_lock_row(&mut attempts, key).await {
            Ok(Some(row)) => version_of(&row).is_ok_and(|version| version == commit.version),
            _ => false,
        }
    }
}
