//! The requests that write without looking, each sent until it is answered.

use super::retry::{Attempts, GaveUp};
use super::server::{Server, unbuilt};
use super::table::{Row, size_of};
use crate::sync::Arc;
use crate::{Error, Result};
use aws_sdk_dynamodb::types::{DeleteRequest, PutRequest, WriteRequest};

/// The most writes of one `BatchWriteItem`.
const WRITES_AT_ONCE: usize = 25;

/// The most bytes of one, unless a single item has more. DynamoDB takes 16 MB; but a request must
/// get through within the time of an attempt, also on a slow line.
const BYTES_AT_ONCE: usize = 1024 * 1024;

/// How many of `writes` go into one request.
pub(super) fn at_once(writes: &[WriteRequest]) -> usize {
    let rows = writes.iter().take(WRITES_AT_ONCE);
    let mut bytes = 0;
    let fitting = rows.take_while(|write| {
        bytes += write.put_request().map_or(0, |put| size_of(&put.item));
        bytes <= BYTES_AT_ONCE
    });
    fitting.count().clamp(writes.len().min(1), writes.len())
}

/// The request that writes `row` whole.
pub(super) fn put(row: Row) -> Result<WriteRequest> {
    let put = PutRequest::builder().set_item(Some(row)).build();
    let put = put.map_err(unbuilt)?;
    Ok(WriteRequest::builder().put_request(put).build())
}

/// The request that removes the row at `key`.
pub(super) fn delete(key: Row) -> Result<WriteRequest> {
    let delete = DeleteRequest::builder().set_key(Some(key)).build();
    let delete = delete.map_err(unbuilt)?;
    Ok(WriteRequest::builder().delete_request(delete).build())
}

impl Server {
    /// Does some of `writes`, at least one, and returns those that are left.
    pub(super) async fn write(self: Arc<Self>, writes: Vec<WriteRequest>) -> Result<Left> {
        let mut attempts = Attempts::new(self.patience);
        loop {
            let request = self
                .client
                .batch_write_item()
                .request_items(&self.table, writes.clone());
            let paused = match attempts.send(request.send()).await {
                Ok(answer) => {
                    // There is one table in the request, whatever name it goes by in the answer.
                    let left: Vec<WriteRequest> = answer
                        .unprocessed_items
                        .into_iter()
                        .flatten()
                        .flat_map(|(_, writes)| writes)
                        .collect();
                    if left.len() < writes.len() {
                        if !left.is_empty() {
                            Attempts::breathe().await;
                        }
                        return Ok(Left::Writes(left));
                    }
                    attempts.pause_in(Server::nothing_done()).await
                }
                Err(error) => attempts.pause_after(error, &self.table).await,
            };
            match paused {
                Ok(()) => {}
                Err(GaveUp {
                    error,
                    in_doubt: false,
                    ..
                }) if error.is_validation() => return Ok(Left::Invalid(error.to_string())),
                Err(gave_up) => return Err(gave_up.unwritten()),
            }
        }
    }
}

/// What is left of writes that were sent.
#[derive(Debug)]
pub(super) enum Left {
    /// These, if any.
    Writes(Vec<WriteRequest>),
    /// All of them, for the server finds one of them wrong.
    Invalid(String),
}

impl Left {
    /// The writes that are left to do.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if the server found one wrong before anything was written, and
    /// [`Error::Backend`] if it did so after something was.
    pub(super) fn writes(self, begun: bool) -> Result<Vec<WriteRequest>> {
        match self {
            Left::Writes(writes) => Ok(writes),
            Left::Invalid(text) if begun => Err(Error::Backend(text.into())),
            Left::Invalid(text) => Err(Error::InvalidInput(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::encode;
    use super::*;
    use crate::Item;

    #[test]
    fn a_request_holds_25_writes_or_a_mebibyte_and_always_one() {
        let writes = |count: usize, bytes: usize| {
            let row = encode(&Item::new("pk", "sk", "x".repeat(bytes))).unwrap().0;
            vec![put(row).unwrap(); count]
        };
        assert_eq!(at_once(&[]), 0);
        assert_eq!(at_once(&writes(7, 10)), 7);
        assert_eq!(at_once(&writes(60, 10)), 25);
        assert_eq!(at_once(&writes(25, 300_000)), 3);
        assert_eq!(at_once(&writes(1, 400_000)), 1);
        let keys = vec![delete(Row::new()).unwrap(); 30];
        assert_eq!(at_once(&keys), 25);
    }
}
