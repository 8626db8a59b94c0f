//! Blocking calls to one table, from any thread.

use super::client::{Consistency, TableClient};
use super::error::DynamoDbError;
use super::read::{MAX_BATCH_KEYS, PageGrowth, PageRequest, RowPage};
use super::selection::Selection;
use super::table::Row;
use super::write::{BatchOutcome, last_batch_len};
use crate::blocking_runtime::{BlockingRuntime, CallError, HANG_GRACE, Pending};
use crate::sync::Arc;
use crate::{Clock, Error, Query, Result, RetryQueue};
use aws_sdk_dynamodb::types::WriteRequest;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

/// The most batches of one call that are sent before the response to the first of them is received. A
/// response of `BatchGetItem` has up to 16 MB.
const MAX_CONCURRENT_BATCHES: usize = 8;

/// A table's client, and the runtime that its requests run on.
pub(super) struct Connection {
    pub(super) client: Arc<TableClient>,
    runtime: BlockingRuntime,
    clock: Arc<dyn Clock>,
    pub(super) retry_queue: RetryQueue,
}

// A panic cannot leave these in a broken state. The SDK's client lacks the marker.
impl UnwindSafe for Connection {}
impl RefUnwindSafe for Connection {}

impl Connection {
    pub(super) fn new(
        client: Arc<TableClient>,
        runtime: BlockingRuntime,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Connection {
            client,
            runtime,
            clock,
            retry_queue: RetryQueue::new(),
        }
    }

    /// Returns the current time. The clock is user code, which may call a database, so it is read
    /// here only, on callers' threads.
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    pub(super) fn spawn<R, F>(&self, call: impl FnOnce(Arc<TableClient>) -> F) -> Call<R>
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        let deadline = Instant::now() + self.client.timeouts.call + HANG_GRACE;
        let call = call(Arc::clone(&self.client));
        Call {
            pending: self.runtime.spawn(call),
            deadline,
        }
    }

    /// Runs a read, or a write that is harmless if it is applied and its response is lost.
    pub(super) fn call_read<R, F>(&self, call: impl FnOnce(Arc<TableClient>) -> F) -> Result<R>
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        self.spawn(call).wait_read()
    }

    /// Runs a write.
    pub(super) fn call_write<R, F>(&self, call: impl FnOnce(Arc<TableClient>) -> F) -> Result<R>
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        self.spawn(call).wait_write()
    }

    /// Starts to fetch the page of `query` after the sort key `after`, or returns `None` if that
    /// page is empty by its bounds or by `max_items`. `growth` is that of the page before.
    ///
    /// # Errors
    ///
    /// `InvalidInput` or `LimitExceeded` if the table cannot contain such keys.
    pub(super) fn spawn_page(
        &self,
        query: &Query,
        after: Option<&str>,
        max_items: Option<usize>,
        growth: PageGrowth,
    ) -> Result<Option<Call<RowPage>>> {
        let Some(selection) = Selection::from_query(query, after)? else {
            return Ok(None);
        };
        if max_items == Some(0) {
            return Ok(None);
        }
        let page = PageRequest {
            pk: query.pk.clone(),
            selection,
            reverse: query.reverse,
            max_items,
            growth,
            now: self.now().as_secs(),
        };
        let consistency = if query.fresh {
            Consistency::Strong
        } else {
            self.client.consistency
        };
        Ok(Some(
            self.spawn(|client| client.query_page(page, consistency)),
        ))
    }

    /// Applies `writes`, in as many batches as needed, up to [`MAX_CONCURRENT_BATCHES`] at a time. Each
    /// must have a key of its own.
    ///
    /// After a failure, no further batch is sent. Those in flight are awaited, so that none is applied
    /// after the call has returned without the caller knowing.
    pub(super) fn write_all(&self, mut writes: Vec<WriteRequest>) -> Result<()> {
        // The first ones are taken from the end.
        writes.reverse();
        let mut in_flight = VecDeque::new();
        let mut partially_written = false;
        let mut failure = None;
        loop {
            while failure.is_none()
                && in_flight.len() < MAX_CONCURRENT_BATCHES
                && !writes.is_empty()
            {
                let batch = writes.split_off(writes.len() - last_batch_len(&writes));
                let count = batch.len();
                in_flight.push_back((count, self.spawn(|client| client.batch_write(batch))));
            }
            let Some((count, call)) = in_flight.pop_front() else {
                break;
            };
            match call.wait_write() {
                Ok(BatchOutcome::Unprocessed(unprocessed)) => {
                    partially_written |= unprocessed.len() < count;
                    writes.extend(unprocessed);
                }
                Ok(BatchOutcome::Rejected(error)) => {
                    failure = Some(WriteFailure::Rejected(error).or(failure));
                }
                Err(error) => failure = Some(WriteFailure::Failed(error).or(failure)),
            }
        }
        match failure {
            None => Ok(()),
            Some(failure) => Err(failure.into_error(partially_written)),
        }
    }

    /// Reads the rows at `keys`, which are distinct, in as many batches as needed, up to
    /// [`MAX_CONCURRENT_BATCHES`] at a time. Calls `found` with those of each batch.
    pub(super) fn read_all(
        &self,
        mut keys: Vec<Row>,
        consistency: Consistency,
        mut found: impl FnMut(Vec<Row>) -> Result<()>,
    ) -> Result<()> {
        keys.reverse();
        let mut in_flight = VecDeque::new();
        loop {
            while in_flight.len() < MAX_CONCURRENT_BATCHES && !keys.is_empty() {
                let batch = keys.split_off(keys.len().saturating_sub(MAX_BATCH_KEYS));
                in_flight.push_back(self.spawn(|client| client.batch_get(batch, consistency)));
            }
            let Some(call) = in_flight.pop_front() else {
                return Ok(());
            };
            let (rows, unprocessed) = call.wait_read()?;
            keys.extend(unprocessed);
            found(rows)?;
        }
    }
}

/// The failure of some of the batches of a write.
#[derive(Debug)]
enum WriteFailure {
    /// DynamoDB rejected a batch as invalid, and applied nothing of it.
    Rejected(DynamoDbError),
    Failed(Error),
}

impl WriteFailure {
    /// Returns the failure that leaves more open, or `other`, which came first.
    fn or(self, other: Option<Self>) -> Self {
        match (other, self) {
            (Some(WriteFailure::Failed(Error::OutcomeUnknown(source))), _)
            | (_, WriteFailure::Failed(Error::OutcomeUnknown(source))) => {
                WriteFailure::Failed(Error::OutcomeUnknown(source))
            }
            (Some(first), _) => first,
            (None, only) => only,
        }
    }

    /// `partially_written` is whether other batches were applied.
    fn into_error(self, partially_written: bool) -> Error {
        match self {
            WriteFailure::Failed(error) => error,
            WriteFailure::Rejected(error) if partially_written => error.into_backend(),
            WriteFailure::Rejected(error) => Error::InvalidInput(error.to_string()),
        }
    }
}

/// A running call, aborted on drop.
pub(super) struct Call<R> {
    pending: Pending<Result<R>>,
    deadline: Instant,
}

impl<R> Call<R> {
    pub(super) fn wait_read(self) -> Result<R> {
        let returned = self.pending.wait(self.deadline);
        returned.map_err(CallError::into_read_error)?
    }

    fn wait_write(self) -> Result<R> {
        let returned = self.pending.wait(self.deadline);
        returned.map_err(CallError::into_write_error)?
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}
