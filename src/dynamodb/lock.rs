//! Locks: read, created where there is none, and extended in the last hour of their life.

use super::client::TableClient;
use super::failure::RequestError;
use super::retry::Attempts;
use super::table::{
    IS_VACANT, PK, Row, TTL, VERSION, attributes, encode_lock, is_live, is_lock, key_row, lock_of,
    names, number, text, time_values,
};
use crate::error::item_at_lock_key;
use crate::sync::Arc;
use crate::{KeyBuf, Lock, Result};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure::AllOld;
use std::time::Duration;

/// The outcome of a conditional write.
enum ConditionalWrite {
    Applied,
    /// Nothing was written: the condition failed, or the request did. This is the current row, if
    /// DynamoDB returned it.
    NotApplied(Option<Row>),
}

impl TableClient {
    /// Returns the lock at `key`, which is created if the key has no live row (guarantee 15), and
    /// extended if it is in the last hour of its life (guarantee 16).
    pub(super) async fn get_lock(self: Arc<Self>, key: KeyBuf, now: Duration) -> Result<Lock> {
        let mut attempts = self.attempts();
        let row = self.read_lock_row(&mut attempts, &key).await?;
        self.create_or_extend_lock(attempts, key, row, now).await
    }

    /// Returns the lock at `key` as [`TableClient::get_lock`] does, where `row` has been read before.
    /// It may have changed since.
    pub(super) async fn get_lock_of_row(
        self: Arc<Self>,
        key: KeyBuf,
        row: Option<Row>,
        now: Duration,
    ) -> Result<Lock> {
        let attempts = self.attempts();
        self.create_or_extend_lock(attempts, key, row, now).await
    }

    /// Returns the lock at `key`, created or extended if `row`, the row that was last seen there,
    /// requires it.
    ///
    /// Every request that creates a lock has a version of its own, even if it repeats one whose
    /// response was lost. So a request that is delivered late cannot restore a version that has
    /// been deleted since (guarantee 17).
    async fn create_or_extend_lock(
        &self,
        mut attempts: Attempts,
        key: KeyBuf,
        mut row: Option<Row>,
        now: Duration,
    ) -> Result<Lock> {
        let seconds = now.as_secs();
        loop {
            let (lock, write) = match row.filter(|row| is_live(row, seconds)) {
                None => {
                    let ttl = seconds.saturating_add(Lock::LIFETIME);
                    let lock = Lock::new(key.clone(), self.versions.next(now), ttl);
                    let write = self.create_lock(&mut attempts, &lock, seconds).await?;
                    (lock, write)
                }
                Some(row) if !is_lock(&row) => return Err(item_at_lock_key(key.as_key())),
                Some(row) => {
                    let lock = lock_of(&row)?;
                    let extended = lock.refreshed_ttl(seconds);
                    if extended == lock.ttl() {
                        return Ok(lock);
                    }
                    let lock = Lock::new(key.clone(), lock.version(), extended);
                    let write = self.extend_lock(&mut attempts, &lock, &row).await?;
                    (lock, write)
                }
            };
            row = match write {
                ConditionalWrite::Applied => return Ok(lock),
                ConditionalWrite::NotApplied(Some(row)) => Some(row),
                ConditionalWrite::NotApplied(None) => {
                    self.read_lock_row(&mut attempts, &key).await?
                }
            };
        }
    }

    pub(super) async fn read_lock_row(
        &self,
        attempts: &mut Attempts,
        key: &KeyBuf,
    ) -> Result<Option<Row>> {
        loop {
            let request = self
                .client
                .get_item()
                .table_name(&self.table)
                .set_key(Some(key_row(key.as_key())))
                .consistent_read(true);
            match self.send(attempts, "GetItem", request.send()).await {
                Ok(response) => return Ok(response.item),
                Err(error) => self.pause(attempts, error).await?,
            }
        }
    }

    /// Writes `lock` if its key has no live row.
    async fn create_lock(
        &self,
        attempts: &mut Attempts,
        lock: &Lock,
        now: u64,
    ) -> Result<ConditionalWrite> {
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(encode_lock(lock)))
            .condition_expression(IS_VACANT)
            .set_expression_attribute_names(Some(names([("#p", PK), ("#t", TTL)])))
            .set_expression_attribute_values(Some(attributes(time_values(now))))
            .return_values_on_condition_check_failure(AllOld);
        let outcome = self.send(attempts, "PutItem", request.send()).await;
        let condition_failed = |error: &PutItemError| match error {
            PutItemError::ConditionalCheckFailedException(failed) => Some(failed.item.clone()),
            _ => None,
        };
        self.conditional_write(attempts, outcome, condition_failed)
            .await
    }

    /// Sets the `ttl` of the lock in `row` to that of `lock`, if the lock is unchanged. Of several
    /// concurrent callers one succeeds, and all return the same lock.
    async fn extend_lock(
        &self,
        attempts: &mut Attempts,
        lock: &Lock,
        row: &Row,
    ) -> Result<ConditionalWrite> {
        let mut values = attributes([
            (":ttl", number(lock.ttl())),
            (":v", text(lock.version().to_string())),
        ]);
        let is_unchanged = match row.get(TTL) {
            Some(old) => {
                values.insert(":old".to_owned(), old.clone());
                "#v = :v AND #t = :old"
            }
            None => "#v = :v AND attribute_not_exists(#t)",
        };
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key_row(lock.key())))
            .update_expression("SET #t = :ttl")
            .condition_expression(is_unchanged)
            .set_expression_attribute_names(Some(names([("#t", TTL), ("#v", VERSION)])))
            .set_expression_attribute_values(Some(values))
            .return_values_on_condition_check_failure(AllOld);
        let outcome = self.send(attempts, "UpdateItem", request.send()).await;
        let condition_failed = |error: &UpdateItemError| match error {
            UpdateItemError::ConditionalCheckFailedException(failed) => Some(failed.item.clone()),
            _ => None,
        };
        self.conditional_write(attempts, outcome, condition_failed)
            .await
    }

    /// Interprets the `outcome` of a conditional write, and pauses if the request failed.
    /// `condition_failed` returns the current row, as far as it is known, if the condition failed.
    async fn conditional_write<A, E>(
        &self,
        attempts: &mut Attempts,
        outcome: std::result::Result<A, Box<RequestError<E>>>,
        condition_failed: impl FnOnce(&E) -> Option<Option<Row>>,
    ) -> Result<ConditionalWrite> {
        let error = match outcome {
            Ok(_) => return Ok(ConditionalWrite::Applied),
            Err(error) => error,
        };
        if let Some(row) = error.response.as_ref().and_then(condition_failed) {
            return Ok(ConditionalWrite::NotApplied(row));
        }
        self.pause(attempts, error).await?;
        Ok(ConditionalWrite::NotApplied(None))
    }
}
