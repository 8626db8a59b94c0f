//! The errors of requests: from the many of the SDK to the few that a caller can act on.

use crate::{BoxError, Error};
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use std::error::Error as StdError;
use std::time::Duration;

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
    /// action.
    ///
    /// The request was not applied. Returned at once, as `Backend`.
    /// [`DynamoDb`](crate::DynamoDb#access) lists the IAM actions to allow.
    #[error("access denied ({code}): {message}")]
    AccessDenied {
        /// AWS's error code, such as `AccessDeniedException`; `NoCredentials` if none were found.
        code: String,
        /// The message returned by AWS, or by the credentials provider.
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
        /// The message returned by AWS.
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
        /// The message returned by AWS.
        message: String,
    },

    /// The server could not be reached, or no valid response was received.
    ///
    /// Retried with back-off until the call's timeout. A write that may have been sent is then
    /// `OutcomeUnknown`. A read, and a write for which no connection could be opened, are
    /// `Unavailable`.
    #[error("no response")]
    NoResponse(#[source] BoxError),

    /// Any other error response.
    ///
    /// - After an internal error of the server (HTTP status 5xx) or a timeout that it reports, the
    ///   request may have been applied. It is retried until the call's timeout; then a write is
    ///   `OutcomeUnknown`, and a read `Unavailable`.
    /// - A write that DynamoDB rejects as invalid (`ValidationException`) was not applied. It is
    ///   [`Error::InvalidInput`], without this source, if the call has written nothing before.
    /// - After most other errors, the request was not applied, and they are returned at once, as
    ///   `Backend`.
    #[error("the request failed ({code}): {message}")]
    Service {
        /// AWS's error code, such as `InternalServerError`; or, where AWS sent none,
        /// `RequestNotSent`, `UnexpectedResponse` or `TableNotActive`.
        code: String,
        /// The message returned by AWS, or a description.
        message: String,
    },
}

impl DynamoDbError {
    pub(super) fn timed_out(after: Duration) -> Self {
        DynamoDbError::NoResponse(format!("no response within {after:?}").into())
    }

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

/// The failure of one request.
#[derive(Debug)]
pub(super) enum Failure {
    /// Sending the request again may succeed.
    Retryable {
        error: DynamoDbError,
        /// Whether the request may have been applied, or may still be: its response is lost, or
        /// does not say.
        in_doubt: bool,
    },
    /// Sending the request again cannot succeed. It was not applied.
    Fatal(DynamoDbError),
}

impl Failure {
    pub(super) fn not_applied(error: DynamoDbError) -> Self {
        Failure::Retryable {
            error,
            in_doubt: false,
        }
    }

    pub(super) fn maybe_applied(error: DynamoDbError) -> Self {
        Failure::Retryable {
            error,
            in_doubt: true,
        }
    }

    /// The failure of a batch that was accepted, and of which nothing was processed.
    pub(super) fn no_progress() -> Self {
        Failure::not_applied(DynamoDbError::Throttled {
            code: "UnprocessedItems".to_owned(),
            message: "nothing of a batch was processed".to_owned(),
        })
    }
}

/// Classifies the error of a request to `table`.
pub(super) fn classify<E>(error: SdkError<E, HttpResponse>, table: &str) -> Failure
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match &error {
        SdkError::ServiceError(response) => {
            let status = response.raw().status().as_u16();
            let error = response.err();
            classify_service_error(
                error.code().unwrap_or("no code"),
                error.message().unwrap_or("no message"),
                status,
                table,
            )
        }
        SdkError::ConstructionFailure(_) => Failure::Fatal(construction_error(&error)),
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            Failure::Fatal(construction_error(&error))
        }
        SdkError::DispatchFailure(_) if is_connect_error(&error) => {
            Failure::not_applied(DynamoDbError::NoResponse(Box::new(error)))
        }
        // The response is missing, incomplete, or not one of DynamoDB's.
        _ => Failure::maybe_applied(DynamoDbError::NoResponse(Box::new(error))),
    }
}

fn construction_error<E: StdError>(error: &E) -> DynamoDbError {
    DynamoDbError::Service {
        code: "RequestNotSent".to_owned(),
        message: DisplayErrorContext(error).to_string(),
    }
}

/// Returns whether no connection was opened, so that nothing can have been sent.
fn is_connect_error(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        next = error.source();
    }
    false
}

/// Classifies an error response. The codes are those of "Error handling with DynamoDB" and "Common
/// Error Types" in AWS's documentation.
pub(super) fn classify_service_error(
    code: &str,
    message: &str,
    status: u16,
    table: &str,
) -> Failure {
    let (owned, text) = (code.to_owned(), message.to_owned());
    match code {
        "ResourceNotFoundException" => Failure::Fatal(DynamoDbError::TableNotFound {
            table: table.to_owned(),
        }),
        "AccessDeniedException"
        | "AccessDenied"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized"
        | "OptInRequired"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => Failure::Fatal(DynamoDbError::AccessDenied {
            code: owned,
            message: text,
        }),
        "LimitExceededException"
        | "ProvisionedThroughputExceeded"
        | "ProvisionedThroughputExceededException"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "SlowDown"
        | "Throttling"
        | "ThrottlingError"
        | "ThrottlingException"
        | "TooManyRequestsException" => Failure::not_applied(DynamoDbError::Throttled {
            code: owned,
            message: text,
        }),
        "ReplicatedWriteConflictException"
        | "TransactionConflict"
        | "TransactionConflictException" => {
            Failure::not_applied(DynamoDbError::TransactionConflict {
                code: owned,
                message: text,
            })
        }
        // An earlier request with the same token is still being processed.
        "TransactionInProgressException" => {
            Failure::maybe_applied(DynamoDbError::TransactionConflict {
                code: owned,
                message: text,
            })
        }
        VALIDATION if is_schema_mismatch(message) => {
            Failure::Fatal(DynamoDbError::SchemaMismatch {
                table: table.to_owned(),
                detail: text,
            })
        }
        _ => {
            let error = DynamoDbError::Service {
                code: owned,
                message: text,
            };
            match (status, code) {
                (429, _) => Failure::not_applied(error),
                (500.., _) | (_, "RequestTimeout" | "RequestTimeoutException") => {
                    Failure::maybe_applied(error)
                }
                _ => Failure::Fatal(error),
            }
        }
    }
}

/// Returns whether a validation error means that the table has a different key schema. Keys are
/// validated before they are sent, so no other reason for these messages is left.
pub(super) fn is_schema_mismatch(message: &str) -> bool {
    [
        "does not match the schema",
        "Missing the key",
        "Type mismatch for key",
        "number of conditions on the keys is invalid",
        "required keys was not given a value",
        "Query condition missed key schema element",
        "Condition parameter type does not match schema type",
    ]
    .iter()
    .any(|text| message.contains(text))
}
