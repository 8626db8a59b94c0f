//! Blocking calls to one table, from any thread.

use super::client::TableClient;
use super::data_type::DataType;
use crate::blocking_runtime::{BlockingRuntime, CallError, HANG_GRACE};
use crate::sync::Arc;
use crate::{Clock, Result, RetryQueue};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

/// A table's client, and the runtime that its requests run on.
pub(super) struct Connection {
    pub(super) client: Arc<TableClient>,
    runtime: BlockingRuntime,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) retry_queue: RetryQueue,
    pub(super) data_type: DataType,
    /// The table's name, quoted.
    pub(super) table: Arc<str>,
}

// A panic cannot leave these in a broken state. The client lacks the marker.
impl UnwindSafe for Connection {}
impl RefUnwindSafe for Connection {}

impl Connection {
    pub(super) fn new(
        client: Arc<TableClient>,
        runtime: BlockingRuntime,
        clock: Arc<dyn Clock>,
        data_type: DataType,
        table: Arc<str>,
    ) -> Self {
        Connection {
            client,
            runtime,
            clock,
            retry_queue: RetryQueue::new(),
            data_type,
            table,
        }
    }

    /// Returns the current time. The clock is user code, which may call a database, so it is read
    /// here only, on callers' threads.
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Runs a read, or a write that is harmless if it is applied and its response is lost.
    pub(super) fn call_read<R, F>(&self, call: impl FnOnce(Arc<TableClient>) -> F) -> Result<R>
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        self.call(call).map_err(CallError::into_read_error)?
    }

    /// Runs a write.
    pub(super) fn call_write<R, F>(&self, call: impl FnOnce(Arc<TableClient>) -> F) -> Result<R>
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        self.call(call).map_err(CallError::into_write_error)?
    }

    fn call<R, F>(
        &self,
        call: impl FnOnce(Arc<TableClient>) -> F,
    ) -> std::result::Result<Result<R>, CallError>
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        let deadline = Instant::now() + self.client.timeouts.call + HANG_GRACE;
        let call = call(Arc::clone(&self.client));
        self.runtime.spawn(call).wait(deadline)
    }
}
