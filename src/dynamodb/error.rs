//! The errors that a caller can act on.

use crate::{BoxError, Error};

/// An error from DynamoDB or from the connection to it.
///
/// A call of a [`DynamoDb`](crate::DynamoDb) returns it as the source of one of these, which give
/// the state afterwards:
///
/// - [`Error::Backend`]: a retry cannot help. A commit wrote nothing; a `set` or `delete` of
///   several requests may have written some of its keys.
/// - [`Error::Unavailable`]: retries did not help until the call's timeout. The state is the same.
/// - [`Error::OutcomeUnknown`]: the write may have been applied, or may still be.
///
/// Messages name the operation, and the HTTP status and the request id of the response. They contain
/// neither credentials nor data of items.
///
/// The error is that of the last request. If the response to an earlier request of the same write
/// was lost, the write is `OutcomeUnknown`, even for errors that otherwise mean that the request
/// was not applied.
///
/// ```
/// use atomic_db::{DynamoDbError, Error};
///
/// fn advice(error: &Error) -> &'static str {
///     let (Error::Backend(source) | Error::Unavailable(source)) = error else {
///         return "see the error itself";
///     };
///     match source.downcast_ref() {
///         Some(DynamoDbError::TableNotFound { .. }) => "create the table",
///         Some(DynamoDbError::AccessDenied { .. }) => "check the credentials and their policy",
///         Some(DynamoDbError::Throttled { .. }) => "raise the capacity, or send less",
///         _ => "see the source",
///     }
/// }
/// # let denied = DynamoDbError::AccessDenied { code: String::new(), message: String::new() };
/// # assert!(advice(&Error::Backend(denied.into())).contains("policy"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DynamoDbError {
    /// The table does not exist in this account and region, or is still being created
    /// (`ResourceNotFoundException`).
    ///
    /// The request was not applied. Returned at once, as `Backend`.
    #[error("the table {table:?} does not exist")]
    TableNotFound {
        /// The table's name.
        table: String,
    },

    /// The table's key schema, or the attribute of its time to live, is not the one that
    /// [`DynamoDb`](crate::DynamoDb#the-table) requires.
    ///
    /// The request was not applied. Returned at once, as `Backend`. Only
    /// [`create_table`](crate::DynamoDbBuilder::create_table) checks the time to live.
    #[error("the table {table:?} has a different schema: {detail}")]
    SchemaMismatch {
        /// The table's name.
        table: String,
        /// The difference: the schema that was found, or AWS's message.
        detail: String,
    },

    /// There are no credentials, they are invalid or expired, or their policy does not allow this
    /// action; or the clock of this machine is wrong, so that AWS rejects the time of the request.
    ///
    /// The request was not applied. Returned at once, as `Backend`.
    /// [`DynamoDb`](crate::DynamoDb#access) lists the IAM actions to allow.
    #[error("access denied ({code}): {message}")]
    AccessDenied {
        /// AWS's error code, such as `AccessDeniedException`; `NoCredentials` if none were found.
        code: String,
        /// The message returned by AWS, with the request that it answers; or that of the credentials
        /// provider.
        message: String,
    },

    /// The request rate exceeded the capacity of the table, of a partition, or of the account.
    ///
    /// No request was applied. Retried with back-off until the call's timeout, then `Unavailable`.
    #[error("throttled ({code}): {message}")]
    Throttled {
        /// AWS's error code, such as `ThrottlingException`; `UnprocessedItems` if DynamoDB accepted
        /// batches and processed nothing of them.
        code: String,
        /// The message returned by AWS, with the request that it answers.
        message: String,
    },

    /// Every request was in conflict with other transactions in flight on the same rows.
    ///
    /// No request was applied. Retried with back-off until the call's timeout, then `Unavailable`;
    /// or [`Error::RaceCondition`] with the keys of the locks, if only locks were in conflict.
    #[error("in conflict with other transactions ({code}): {message}")]
    TransactionConflict {
        /// AWS's error code, such as `TransactionConflict`. `TransactionInProgressException`
        /// differs: an earlier request of the same commit is still being processed, so the outcome
        /// is unknown.
        code: String,
        /// The message returned by AWS, with the request that it answers.
        message: String,
    },

    /// The server could not be reached, or its response was lost or is incomplete.
    ///
    /// Retried with back-off until the call's timeout. A write that may have been sent is then
    /// `OutcomeUnknown`. A read, and a write for which no connection could be opened, are
    /// `Unavailable`.
    #[error("no response")]
    NoResponse(#[source] BoxError),

    /// Any other error response, or a response that is not one of DynamoDB.
    ///
    /// - A proxy or another server may answer in place of DynamoDB, or damage a response. Only a valid
    ///   response of DynamoDB shows whether a request was applied: a success is a JSON object, an
    ///   error is one with a `__type`, and both match the checksum in the header `x-amz-crc32` if it
    ///   is present. After any other response (`UnexpectedResponse`), whatever its status, the request
    ///   is retried until the call's timeout; then a write is `OutcomeUnknown`, and a read
    ///   `Unavailable`. The message contains the beginning of the body, unless it is JSON.
    /// - After an internal error of the server (HTTP status 5xx) or a timeout that it reports, the
    ///   request may have been applied. It is retried until the call's timeout; then a write is
    ///   `OutcomeUnknown`, and a read `Unavailable`.
    /// - A write that DynamoDB rejects as invalid (`ValidationException`) was not applied. It is
    ///   [`Error::InvalidInput`], without this source, if the call has written nothing before.
    /// - If the server's certificate is not trusted, or it does not speak TLS (`RequestNotSent`),
    ///   nothing was sent. The error is returned at once, as `Backend`.
    /// - After most other errors, the request was not applied, and they are returned at once, as
    ///   `Backend`.
    #[error("the request failed ({code}): {message}")]
    Service {
        /// AWS's error code, such as `InternalServerError`; or, where AWS sent none,
        /// `RequestNotSent`, `UnexpectedResponse` or `TableNotActive`.
        code: String,
        /// The message returned by AWS or a description, with the request.
        message: String,
    },
}

impl DynamoDbError {
    /// Returns whether DynamoDB rejected the request as invalid, other than for the table's schema.
    pub(super) fn is_validation(&self) -> bool {
        matches!(self, DynamoDbError::Service { code, .. } if code == VALIDATION)
    }

    /// Converts to the error of a call that wrote nothing and that need not be repeated.
    pub(super) fn into_backend(self) -> Error {
        Error::Backend(Box::new(self))
    }
}

pub(super) const VALIDATION: &str = "ValidationException";
