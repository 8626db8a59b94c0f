//! Blocking calls to one table, from any thread.

use super::client::{Consistency, TableClient};
use super::read::{PageGrowth, PageRequest, RowPage};
use super::runtime::{BlockingRuntime, CallError, HANG_GRACE, Pending};
use super::selection::Selection;
use super::write::batch_len;
use crate::sync::Arc;
use crate::{Clock, Query, Result, RetryQueue};
use aws_sdk_dynamodb::types::WriteRequest;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

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

    fn spawn<R, F>(&self, call: impl FnOnce(Arc<TableClient>) -> F) -> Call<R>
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

    /// Applies `writes`, in as many batches as needed. Each must have a key of its own.
    pub(super) fn write_all(&self, mut writes: Vec<WriteRequest>) -> Result<()> {
        let mut partially_written = false;
        while !writes.is_empty() {
            let rest = writes.split_off(batch_len(&writes));
            let batch = std::mem::replace(&mut writes, rest);
            let count = batch.len();
            let unprocessed = self
                .call_write(|client| client.batch_write(batch))?
                .into_writes(partially_written)?;
            partially_written |= unprocessed.len() < count;
            writes.extend(unprocessed);
        }
        Ok(())
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
