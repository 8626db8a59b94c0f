//! Failed requests: what an error of the SDK means, and whether the request may have been applied.
//!
//! The texts of errors are composed here, of the `Display` of errors only: what `Debug` shows of the
//! SDK's errors contains requests and responses, and with them the data of items.

use super::error::{DynamoDbError, VALIDATION};
use super::response::{InvalidResponse, RequestInfo, is_error_of_dynamodb};
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use std::error::Error as StdError;
use std::io;
use std::time::Duration;

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

    /// Returns the same failure, but one after which sending the request again may succeed.
    pub(super) fn into_retryable(self) -> Self {
        match self {
            Failure::Fatal(error) => Failure::not_applied(error),
            retryable @ Failure::Retryable { .. } => retryable,
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

/// A request without a successful response.
#[derive(Debug)]
pub(super) struct RequestError<E> {
    pub(super) failure: Failure,
    /// DynamoDB's error response, if one was received.
    pub(super) response: Option<E>,
    pub(super) info: RequestInfo,
}

impl<E> RequestError<E> {
    /// The error of a request without a response.
    pub(super) fn without_response(operation: &'static str, failure: Failure) -> Self {
        RequestError {
            failure,
            response: None,
            info: RequestInfo::without_response(operation),
        }
    }

    /// The error of a request whose response was not received in time.
    pub(super) fn timed_out(operation: &'static str, after: Duration) -> Self {
        let error = no_response(operation, &format!("no response within {after:?}"));
        RequestError::without_response(operation, Failure::maybe_applied(error))
    }
}

impl<E: ProvideErrorMetadata> RequestError<E> {
    /// Returns DynamoDB's error code, if it sent one.
    pub(super) fn code(&self) -> Option<&str> {
        self.response.as_ref()?.code()
    }

    /// Returns whether DynamoDB does not know the credentials, or does not accept them any more.
    pub(super) fn rejects_credentials(&self) -> bool {
        matches!(
            self.code(),
            Some(
                "ExpiredToken"
                    | "ExpiredTokenException"
                    | "InvalidAccessKeyId"
                    | "InvalidClientTokenId"
                    | "InvalidToken"
                    | "UnrecognizedClientException"
            )
        )
    }

    /// Returns DynamoDB's message, if it sent one.
    pub(super) fn message(&self) -> &str {
        let response = self.response.as_ref();
        response.and_then(|error| error.message()).unwrap_or("")
    }
}

/// Returns the error of a request to which there was no response, and why.
pub(super) fn no_response(operation: &'static str, reason: &str) -> DynamoDbError {
    DynamoDbError::NoResponse(format!("{operation}: {reason}").into())
}

/// Classifies the error of a request to `table`.
pub(super) fn classify<E>(
    operation: &'static str,
    error: SdkError<E, HttpResponse>,
    table: &str,
) -> RequestError<E>
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let without = |failure| RequestError::without_response(operation, failure);
    match error {
        SdkError::ServiceError(response) => {
            let info = RequestInfo::from_response(operation, response.raw());
            // Without a code, the SDK could not parse the error.
            let code = response.err().code().map(str::to_owned);
            let Some(code) = code.filter(|_| is_error_of_dynamodb(response.raw())) else {
                let invalid = InvalidResponse::from_response(response.raw());
                return RequestError {
                    failure: Failure::maybe_applied(unexpected(&invalid, &info)),
                    response: None,
                    info,
                };
            };
            let status = response.raw().status().as_u16();
            let error = response.into_err();
            let message = info.annotate(error.message().unwrap_or("no message"));
            RequestError {
                failure: classify_service_error(&code, &message, status, table),
                response: Some(error),
                info,
            }
        }
        SdkError::ResponseError(response) => {
            let info = RequestInfo::from_response(operation, response.raw());
            let error = SdkError::<E, HttpResponse>::ResponseError(response);
            let error = match sources(&error).find_map(|error| error.downcast_ref()) {
                Some(invalid) => unexpected(invalid, &info),
                None => DynamoDbError::NoResponse(info.annotate(&describe(&error)).into()),
            };
            RequestError {
                failure: Failure::maybe_applied(error),
                response: None,
                info,
            }
        }
        SdkError::ConstructionFailure(_) => {
            without(Failure::Fatal(not_sent(operation, &describe(&error))))
        }
        SdkError::DispatchFailure(ref failure) if failure.is_user() => {
            without(Failure::Fatal(not_sent(operation, &describe(&error))))
        }
        _ if rejects_server(&error) => {
            without(Failure::Fatal(not_sent(operation, &describe(&error))))
        }
        _ => {
            let lost = no_response(operation, &describe(&error));
            without(if is_connect_error(&error) {
                Failure::not_applied(lost)
            } else {
                Failure::maybe_applied(lost)
            })
        }
    }
}

fn unexpected(invalid: &InvalidResponse, info: &RequestInfo) -> DynamoDbError {
    DynamoDbError::Service {
        code: "UnexpectedResponse".to_owned(),
        message: info.annotate(&invalid.to_string()),
    }
}

/// Returns the error of a request that was not sent, and that would not be sent again either.
fn not_sent(operation: &'static str, reason: &str) -> DynamoDbError {
    DynamoDbError::Service {
        code: "RequestNotSent".to_owned(),
        message: format!("{operation}: {reason}"),
    }
}

/// Returns whether no connection was opened, so that nothing can have been sent.
fn is_connect_error(error: &(dyn StdError + 'static)) -> bool {
    type ClientError = hyper_util::client::legacy::Error;
    let mut errors = sources(error).filter_map(|error| error.downcast_ref::<ClientError>());
    errors.any(ClientError::is_connect)
}

/// Returns whether the server cannot be trusted, or does not speak TLS. Nothing was sent, and the next
/// attempt would not succeed either.
fn rejects_server(error: &(dyn StdError + 'static)) -> bool {
    let mut errors = sources(error).filter_map(|error| error.downcast_ref::<rustls::Error>());
    is_connect_error(error)
        && errors.any(|error| {
            matches!(
                error,
                rustls::Error::InvalidCertificate(_)
                    | rustls::Error::InvalidMessage(_)
                    | rustls::Error::NoCertificatesPresented
                    | rustls::Error::PeerIncompatible(_)
            )
        })
}

/// Returns the texts of `error` and its sources, joined. A text that repeats that of its source is
/// left out.
pub(super) fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in sources(error) {
        let text = error.to_string();
        if texts.last().is_some_and(|last| last.ends_with(&text)) {
            continue;
        }
        texts.push(text);
    }
    texts.join(": ")
}

/// Returns `error` and its sources. An I/O error hides the error that it wraps: its source is the
/// source of that error.
fn sources<'e>(
    error: &'e (dyn StdError + 'static),
) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'e (dyn StdError + 'static) = *error;
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
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
        "AccessDenied"
        | "AccessDeniedException"
        | "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "InvalidToken"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized"
        | "OptInRequired"
        // The clock of this machine is wrong, or the request was under way for too long.
        | "RequestExpired"
        | "RequestInTheFuture"
        | "RequestTimeTooSkewed"
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
