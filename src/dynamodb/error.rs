//! What went wrong, from the SDK's many errors to the few that a caller can act on.

use super::retry::Trouble;
use crate::{BoxError, Error};
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use std::error::Error as StdError;
use std::time::Duration;

/// What DynamoDB, or the way to it, had against a call: the source of an
/// [`Error::Backend`], [`Error::Unavailable`] or [`Error::OutcomeUnknown`] of a
/// [`DynamoDb`](crate::DynamoDb).
///
/// ```
/// use atomic_db::{DynamoDbError, Error};
///
/// fn advice(error: &Error) -> &'static str {
///     let (Error::Backend(source) | Error::Unavailable(source)) = error else {
///         return "it is told elsewhere";
///     };
///     match source.downcast_ref() {
///         Some(DynamoDbError::TableNotFound { .. }) => "create the table",
///         Some(DynamoDbError::AccessDenied { .. }) => "look at the credentials and their policy",
///         Some(DynamoDbError::Throttled { .. }) => "slow down",
///         _ => "look at the text",
///     }
/// }
/// # let denied = DynamoDbError::AccessDenied { code: String::new(), message: String::new() };
/// # assert!(advice(&Error::Backend(denied.into())).contains("policy"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DynamoDbError {
    /// There is no such table in this account and region.
    #[error("the table {table:?} does not exist")]
    TableNotFound {
        /// Its name.
        table: String,
    },

    /// The table's keys or its time to live are not as [`DynamoDb`](crate::DynamoDb) needs them.
    #[error("the table {table:?} has another schema: {detail}")]
    SchemaMismatch {
        /// Its name.
        table: String,
        /// What is different.
        detail: String,
    },

    /// There are no credentials, or they are wrong, or not enough for this call.
    #[error("access is denied ({code}): {message}")]
    AccessDenied {
        /// AWS's code for it, such as `AccessDeniedException`.
        code: String,
        /// AWS's words.
        message: String,
    },

    /// More was asked for than the table's or the account's capacity.
    #[error("the capacity is exceeded ({code}): {message}")]
    Throttled {
        /// AWS's code for it, such as `ThrottlingException`.
        code: String,
        /// AWS's words.
        message: String,
    },

    /// Transactions of others were under way on the same items, for all the time that the call had.
    #[error("transactions of others are under way on the same items ({code}): {message}")]
    TransactionConflict {
        /// AWS's code for it, such as `TransactionConflict`.
        code: String,
        /// AWS's words.
        message: String,
    },

    /// The server could not be reached, or its answer did not come or was none.
    #[error("no answer came")]
    NoResponse(#[source] BoxError),

    /// Anything else that the server said.
    #[error("the server answered {code}: {message}")]
    Service {
        /// AWS's code for it, such as `ValidationException`.
        code: String,
        /// AWS's words.
        message: String,
    },
}

impl DynamoDbError {
    pub(super) fn silent_for(duration: Duration) -> Self {
        DynamoDbError::NoResponse(format!("nothing was heard within {duration:?}").into())
    }

    /// Whether the request itself was found wrong, and not the table or the caller's rights.
    pub(super) fn is_validation(&self) -> bool {
        matches!(self, DynamoDbError::Service { code, .. } if code == VALIDATION)
    }

    /// The error of a call that wrote nothing, and never will by asking again.
    pub(super) fn backend(self) -> Error {
        Error::Backend(Box::new(self))
    }
}

pub(super) const VALIDATION: &str = "ValidationException";

/// A request that ended in an error: what it means, and whether it may have been done all the same.
pub(super) fn trouble<E>(error: SdkError<E, HttpResponse>, table: &str) -> Trouble
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match &error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let said = answer.err();
            answered(
                said.code().unwrap_or("no code"),
                said.message().unwrap_or("no message"),
                status,
                table,
            )
        }
        SdkError::ConstructionFailure(_) => Trouble::Final(unsendable(&error)),
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            Trouble::Final(unsendable(&error))
        }
        SdkError::DispatchFailure(_) => {
            let sent = !is_connect(&error);
            Trouble::again(DynamoDbError::NoResponse(Box::new(error)), sent)
        }
        // No whole answer came, or one that is no answer of DynamoDB.
        _ => Trouble::again(DynamoDbError::NoResponse(Box::new(error)), true),
    }
}

fn unsendable<E: StdError>(error: &E) -> DynamoDbError {
    DynamoDbError::Service {
        code: "the request could not be made".to_owned(),
        message: DisplayErrorContext(error).to_string(),
    }
}

/// Whether no connection was made, so that nothing can have been sent.
fn is_connect(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        next = error.source();
    }
    false
}

/// What an error that the server answered means. The codes are those of "Error handling with
/// DynamoDB" and "Common Error Types" in AWS's documentation.
pub(super) fn answered(code: &str, message: &str, status: u16, table: &str) -> Trouble {
    let (owned, text) = (code.to_owned(), message.to_owned());
    match code {
        "ResourceNotFoundException" => Trouble::Final(DynamoDbError::TableNotFound {
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
        | "UnrecognizedClientException" => Trouble::Final(DynamoDbError::AccessDenied {
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
        | "TooManyRequestsException" => Trouble::again(
            DynamoDbError::Throttled {
                code: owned,
                message: text,
            },
            false,
        ),
        "ReplicatedWriteConflictException"
        | "TransactionConflict"
        | "TransactionConflictException" => Trouble::again(
            DynamoDbError::TransactionConflict {
                code: owned,
                message: text,
            },
            false,
        ),
        // An earlier request with the same token is still at work.
        "TransactionInProgressException" => Trouble::again(
            DynamoDbError::TransactionConflict {
                code: owned,
                message: text,
            },
            true,
        ),
        VALIDATION if tells_of_another_schema(message) => {
            Trouble::Final(DynamoDbError::SchemaMismatch {
                table: table.to_owned(),
                detail: text,
            })
        }
        _ => {
            let refused = DynamoDbError::Service {
                code: owned,
                message: text,
            };
            match (status, code) {
                (429, _) => Trouble::again(refused, false),
                (500.., _) | (_, "RequestTimeout" | "RequestTimeoutException") => {
                    Trouble::again(refused, true)
                }
                _ => Trouble::Final(refused),
            }
        }
    }
}

/// Our keys are checked before they are sent, so it is the table whose keys are others.
pub(super) fn tells_of_another_schema(message: &str) -> bool {
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
