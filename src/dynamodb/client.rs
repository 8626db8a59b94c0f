//! The client of one table.

use super::budget::RetryBudget;
use super::credentials::CredentialsCache;
use super::failure::{Failure, RequestError, classify, no_response};
use super::retry::{Attempts, CallFailure, Timeouts};
use crate::sync::Arc;
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
    pub(super) credentials: CredentialsCache,
    pub(super) table: String,
    pub(super) timeouts: Timeouts,
    pub(super) budget: Arc<RetryBudget>,
    /// The consistency of `get`, `get_many` and queries that are not fresh. All other reads are
    /// always strongly consistent.
    pub(super) consistency: Consistency,
    pub(super) versions: VersionGenerator,
}

impl TableClient {
    /// Begins the requests of a call, or of a part of it that has a timeout of its own.
    pub(super) fn attempts(&self) -> Attempts {
        Attempts::new(self.timeouts, Arc::clone(&self.budget))
    }

    /// Sends one request with credentials that are loaded, and awaits its response until the attempt's
    /// timeout or the deadline.
    pub(super) async fn send<A, E>(
        &self,
        attempts: &mut Attempts,
        operation: &'static str,
        request: impl Future<Output = std::result::Result<A, SdkError<E, HttpResponse>>>,
    ) -> std::result::Result<A, Box<RequestError<E>>>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let not_sent = |failure| Box::new(RequestError::without_response(operation, failure));
        let credentials = self.credentials.get(attempts.deadline()).await;
        let credentials = credentials.map_err(not_sent)?;
        if attempts.is_late() {
            let late = no_response(operation, "no time was left after loading credentials");
            return Err(not_sent(Failure::not_applied(late)));
        }
        let start = Instant::now();
        let end = attempts.end_of_attempt();
        let mut error = match timeout_at(end, request).await {
            Ok(Ok(response)) => {
                self.budget.refill();
                return Ok(response);
            }
            Ok(Err(error)) => classify(operation, error, &self.table),
            Err(_) => RequestError::timed_out(operation, end.saturating_duration_since(start)),
        };
        // Credentials may be revoked or replaced before they expire.
        if error.rejects_credentials()
            && attempts.may_replace_credentials()
            && self
                .credentials
                .replace(&credentials, attempts.deadline())
                .await
        {
            error.failure = error.failure.into_retryable();
        }
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
