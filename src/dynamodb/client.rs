//! The client of one table.

use super::failure::{RequestError, classify};
use super::retry::{Attempts, CallFailure, Timeouts};
use crate::{Error, Result, VersionGenerator};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use std::error::Error as StdError;
use tokio::time::{Instant, timeout_at};

/// Whether a read sees every write that completed before it, or may return older data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Consistency {
    Strong,
    Eventual,
}

impl Consistency {
    pub(super) fn is_strong(self) -> bool {
        self == Consistency::Strong
    }
}

/// The SDK's client, the table's name, and how requests are sent.
///
/// Requests hold this and not the `Connection`: a task that held the owner of the runtime that it
/// runs on would be a reference cycle.
#[derive(Debug)]
pub(super) struct TableClient {
    pub(super) client: Client,
    pub(super) table: String,
    pub(super) timeouts: Timeouts,
    /// The consistency of `get`, `get_many` and queries that are not fresh. All other reads are
    /// always strongly consistent.
    pub(super) consistency: Consistency,
    pub(super) versions: VersionGenerator,
}

impl TableClient {
    /// Sends one request, and awaits its response until the attempt's timeout or the deadline.
    pub(super) async fn send<A, E>(
        &self,
        attempts: &Attempts,
        operation: &'static str,
        request: impl Future<Output = std::result::Result<A, SdkError<E, HttpResponse>>>,
    ) -> std::result::Result<A, Box<RequestError<E>>>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let start = Instant::now();
        let end = attempts.end_of_attempt();
        let error = match timeout_at(end, request).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => classify(operation, error, &self.table),
            Err(_) => RequestError::timed_out(operation, end.saturating_duration_since(start)),
        };
        Err(Box::new(error))
    }

    /// Pauses before a failed request is sent again: a read, or a write that is harmless if it was
    /// applied.
    pub(super) async fn pause<E>(
        &self,
        attempts: &mut Attempts,
        error: Box<RequestError<E>>,
    ) -> Result<()> {
        let paused = attempts.pause_after(error.failure).await;
        paused.map_err(CallFailure::into_read_error)
    }
}

/// Converts the error of an SDK builder. Builders are never incomplete here, but an error is
/// preferred over a panic.
pub(super) fn build_error(error: impl StdError + Send + Sync + 'static) -> Error {
    Error::Backend(Box::new(error))
}
