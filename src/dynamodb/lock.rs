//! Locks: read, made where there is none, and given a longer life shortly before their end.

use super::retry::Attempts;
use super::server::Server;
use super::table::{
    NOTHING_LIVES, PK, Row, TTL, VERSION, encode_lock, is_live, is_lock, key_row, names, number,
    owned, text, time_values, ttl, version_of,
};
use crate::sync::Arc;
use crate::{Error, KeyBuf, Lock, Result};
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure::AllOld;
use std::error::Error as StdError;
use std::time::Duration;

/// How an attempt to write a lock ended.
enum Written {
    /// As wanted.
    Yes,
    /// Somebody was faster. This is what they left, unless it has to be read.
    No(Option<Row>),
}

impl Server {
    /// The lock at `key`, which is made if nothing lives there, and refreshed if it is time.
    ///
    /// Every request that would make a lock offers a version of its own, also when it repeats one
    /// whose answer was lost. A request that comes late can therefore not bring back a version that
    /// was deleted meanwhile.
    pub(super) async fn lock(self: Arc<Self>, key: KeyBuf, now: Duration) -> Result<Lock> {
        let seconds = now.as_secs();
        let mut attempts = Attempts::new(self.patience);
        let mut seen: Option<Row> = None;
        loop {
            let row = match seen.take() {
                Some(row) => Some(row),
                None => self.read_lock(&mut attempts, &key).await?,
            };
            let (lock, written) = match row.filter(|row| is_live(row, seconds)) {
                None => {
                    let ttl = seconds.saturating_add(Lock::LIFETIME);
                    let lock = Lock::new(key.clone(), self.versions.next(now), ttl);
                    let written = self.make(&mut attempts, &lock, seconds).await?;
                    (lock, written)
                }
                Some(row) if !is_lock(&row) => {
                    return Err(Error::InvalidInput(format!(
                        "an item lives at {key}, where a lock was asked for"
                    )));
                }
                Some(row) => {
                    // One that never expires is of an older writer, and is given a life like any other.
                    let lock = Lock::new(key.clone(), version_of(&row)?, ttl(&row).unwrap_or(0));
                    let longer = lock.refreshed_ttl(seconds);
                    if longer == lock.ttl() {
                        return Ok(lock);
                    }
                    let lock = Lock::new(key.clone(), lock.version(), longer);
                    let written = self.lengthen(&mut attempts, &lock, &row).await?;
                    (lock, written)
                }
            };
            match written {
                Written::Yes => return Ok(lock),
                Written::No(row) => seen = row,
            }
        }
    }

    pub(super) async fn read_lock(
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
            match attempts.send(request.send()).await {
                Ok(answer) => return Ok(answer.item),
                Err(error) => self.pause(attempts, error).await?,
            }
        }
    }

    /// Writes a new lock where nothing lives.
    async fn make(&self, attempts: &mut Attempts, lock: &Lock, now: u64) -> Result<Written> {
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(encode_lock(lock)))
            .condition_expression(NOTHING_LIVES)
            .set_expression_attribute_names(Some(names([("#p", PK), ("#t", TTL)])))
            .set_expression_attribute_values(Some(owned(time_values(now))))
            .return_values_on_condition_check_failure(AllOld);
        let outcome = attempts.send(request.send()).await;
        let found = |error: &PutItemError| match error {
            PutItemError::ConditionalCheckFailedException(failed) => Some(failed.item.clone()),
            _ => None,
        };
        self.written(attempts, outcome, found).await
    }

    /// Gives the lock in `row` the time to live of `lock`, and leaves the version.
    async fn lengthen(&self, attempts: &mut Attempts, lock: &Lock, row: &Row) -> Result<Written> {
        let mut values = owned([
            (":ttl", number(lock.ttl())),
            (":v", text(lock.version().to_string())),
        ]);
        // Of several who refresh at once, one does, and all have the same lock.
        let unchanged = match row.get(TTL) {
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
            .condition_expression(unchanged)
            .set_expression_attribute_names(Some(names([("#t", TTL), ("#v", VERSION)])))
            .set_expression_attribute_values(Some(values))
            .return_values_on_condition_check_failure(AllOld);
        let outcome = attempts.send(request.send()).await;
        let found = |error: &UpdateItemError| match error {
            UpdateItemError::ConditionalCheckFailedException(failed) => Some(failed.item.clone()),
            _ => None,
        };
        self.written(attempts, outcome, found).await
    }

    /// What came of a write with a condition; `found` tells whether that was not met, and then what
    /// the answer says is there.
    async fn written<A, E>(
        &self,
        attempts: &mut Attempts,
        outcome: std::result::Result<A, Box<SdkError<E, HttpResponse>>>,
        found: impl FnOnce(&E) -> Option<Option<Row>>,
    ) -> Result<Written>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let error = match outcome {
            Ok(_) => return Ok(Written::Yes),
            Err(error) => error,
        };
        if let Some(found) = error.as_service_error().and_then(found) {
            return Ok(Written::No(found));
        }
        self.pause(attempts, error).await?;
        Ok(Written::No(None))
    }
}
