//! Unconditional batch writes, retried until they get a response.

use super::client::{TableClient, build_error};
use super::error::DynamoDbError;
use super::failure::Failure;
use super::retry::{Attempts, CallFailure};
use super::table::{Row, size_of};
use crate::Result;
use crate::sync::Arc;
use aws_sdk_dynamodb::types::{DeleteRequest, PutRequest, WriteRequest};

/// The most writes of one `BatchWriteItem`, by DynamoDB's limit.
const MAX_BATCH_WRITES: usize = 25;

/// The most bytes of one `BatchWriteItem`, unless it is of a single, larger item. DynamoDB accepts
/// 16 MB, but a request must complete within the timeout of an attempt even on a slow network.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Returns how many of `writes`, from the last one, one request takes.
pub(super) fn last_batch_len(writes: &[WriteRequest]) -> usize {
    let rows = writes.iter().rev().take(MAX_BATCH_WRITES);
    let mut bytes = 0;
    let fitting = rows.take_while(|write| {
        bytes += write.put_request().map_or(0, |put| size_of(&put.item));
        bytes <= MAX_BATCH_BYTES
    });
    fitting.count().clamp(writes.len().min(1), writes.len())
}

/// Returns the request that replaces the row at the key of `row`.
pub(super) fn put(row: Row) -> Result<WriteRequest> {
    let put = PutRequest::builder().set_item(Some(row)).build();
    let put = put.map_err(build_error)?;
    Ok(WriteRequest::builder().put_request(put).build())
}

/// Returns the request that removes the row at `key`.
pub(super) fn delete(key: Row) -> Result<WriteRequest> {
    let delete = DeleteRequest::builder().set_key(Some(key)).build();
    let delete = delete.map_err(build_error)?;
    Ok(WriteRequest::builder().delete_request(delete).build())
}

impl TableClient {
    /// Applies at least one of `writes`, unless they are invalid.
    pub(super) async fn batch_write(
        self: Arc<Self>,
        writes: Vec<WriteRequest>,
    ) -> Result<BatchOutcome> {
        let mut attempts = self.attempts();
        loop {
            let request = self
                .client
                .batch_write_item()
                .request_items(&self.table, writes.clone());
            let sent = self
                .send(&mut attempts, "BatchWriteItem", request.send())
                .await;
            let paused = match sent {
                Ok(response) => {
                    // The request names one table, which the response may name differently (a name
                    // for an ARN).
                    let unprocessed: Vec<WriteRequest> = response
                        .unprocessed_items
                        .into_iter()
                        .flatten()
                        .flat_map(|(_, writes)| writes)
                        .collect();
                    if unprocessed.len() < writes.len() {
                        if !unprocessed.is_empty() {
                            Attempts::pause_briefly().await;
                        }
                        return Ok(BatchOutcome::Unprocessed(unprocessed));
                    }
                    attempts.pause_after(Failure::no_progress()).await
                }
                Err(error) => attempts.pause_after(error.failure).await,
            };
            match paused {
                Ok(()) => {}
                Err(CallFailure {
                    error,
                    in_doubt: false,
                    ..
                }) if error.is_validation() => return Ok(BatchOutcome::Rejected(error)),
                Err(failure) => return Err(failure.into_write_error()),
            }
        }
    }
}

/// The outcome of a batch of writes.
#[derive(Debug)]
pub(super) enum BatchOutcome {
    /// All were applied but these, which may be none. They can be sent again.
    Unprocessed(Vec<WriteRequest>),
    /// None were applied, because DynamoDB rejected one of them as invalid.
    Rejected(DynamoDbError),
}

#[cfg(test)]
mod tests {
    use super::super::table::encode;
    use super::*;
    use crate::Item;

    #[test]
    fn a_batch_holds_25_writes_or_a_mebibyte_and_always_one() {
        let writes = |count: usize, bytes: usize| {
            let row = encode(&Item::new("pk", "sk", "x".repeat(bytes)), &crate::Json)
                .unwrap()
                .0;
            vec![put(row).unwrap(); count]
        };
        assert_eq!(last_batch_len(&[]), 0);
        assert_eq!(last_batch_len(&writes(7, 10)), 7);
        assert_eq!(last_batch_len(&writes(60, 10)), 25);
        assert_eq!(last_batch_len(&writes(25, 300_000)), 3);
        assert_eq!(last_batch_len(&writes(1, 400_000)), 1);
        let keys = vec![delete(Row::new()).unwrap(); 30];
        assert_eq!(last_batch_len(&keys), 25);
    }
}
