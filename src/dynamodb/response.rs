//! Responses: whether they are DynamoDB's, and undamaged.
//!
//! A proxy, a load balancer or another server may answer in place of DynamoDB. A write is known to be
//! applied, or not to be, only by DynamoDB's own response: a success is a JSON object, an error is a
//! JSON object with the member `__type`, and both match their checksum if they have one.

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use flate2::Crc;
use serde_json::{Map, Value};
use std::fmt;

/// What identifies a request in the text of an error.
#[derive(Clone, Debug)]
pub(super) struct RequestInfo {
    operation: &'static str,
    /// The HTTP status of the response, if there was one.
    status: Option<u16>,
    /// AWS's identifier of the request, which its support asks for.
    request_id: Option<String>,
}

impl RequestInfo {
    pub(super) fn without_response(operation: &'static str) -> Self {
        RequestInfo {
            operation,
            status: None,
            request_id: None,
        }
    }

    pub(super) fn from_response(operation: &'static str, response: &HttpResponse) -> Self {
        let headers = response.headers();
        let id = headers
            .get("x-amzn-requestid")
            .or_else(|| headers.get("x-amz-request-id"));
        RequestInfo {
            operation,
            status: Some(response.status().as_u16()),
            request_id: id.map(excerpt),
        }
    }

    /// Returns `message` followed by this information.
    pub(super) fn annotate(&self, message: &str) -> String {
        format!("{message} ({self})")
    }
}

impl fmt::Display for RequestInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operation)?;
        if let Some(status) = self.status {
            write!(f, ", HTTP status {status}")?;
        }
        if let Some(id) = &self.request_id {
            write!(f, ", request id {id}")?;
        }
        Ok(())
    }
}

/// Why a response is not DynamoDB's, or damaged.
///
/// The texts contain nothing of a body that may be DynamoDB's: it may contain the data of items.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum InvalidResponse {
    #[error("the response does not match its checksum")]
    Checksum,
    #[error("the response is empty")]
    Empty,
    #[error("the response is invalid or incomplete JSON of {0} bytes")]
    Json(usize),
    /// JSON without DynamoDB's error code, and the message in it.
    #[error(
        "the response is not one of DynamoDB: it lacks an error code, and its message is {0:?}"
    )]
    Foreign(String),
    /// Not JSON. The text is the beginning of the body.
    #[error("the response is not one of DynamoDB, and begins with {0:?}")]
    Text(String),
}

impl InvalidResponse {
    /// Describes a response that is not a valid one of DynamoDB.
    pub(super) fn from_response(response: &HttpResponse) -> Self {
        let body = body(response);
        let is_json = match body.trim_ascii_start() {
            [] => return InvalidResponse::Empty,
            [first, ..] => b"{[".contains(first),
        };
        if !is_json {
            return InvalidResponse::Text(excerpt(&String::from_utf8_lossy(body)));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(object)) if !response.status().is_success() => {
                let names = ["message", "Message", "error"];
                let mut messages = names.iter().filter_map(|name| object.get(*name)?.as_str());
                InvalidResponse::Foreign(excerpt(messages.next().unwrap_or_default()))
            }
            _ => InvalidResponse::Json(body.len()),
        }
    }
}

/// Returns the beginning of `text`.
fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 120;
    let text = text.trim();
    let mut excerpt: String = text.chars().take(MAX_CHARS).collect();
    if excerpt.len() < text.len() {
        excerpt.push_str("...");
    }
    excerpt
}

/// Returns whether an error response is DynamoDB's. It then says whether the request was applied.
pub(super) fn is_error_of_dynamodb(response: &HttpResponse) -> bool {
    let object: Option<Map<String, Value>> = serde_json::from_slice(body(response)).ok();
    !response.status().is_success()
        && object.is_some_and(|object| object.get("__type").is_some_and(Value::is_string))
}

/// Returns the body. It is empty if it was not received completely.
fn body(response: &HttpResponse) -> &[u8] {
    response.body().bytes().unwrap_or_default()
}

/// Rejects responses that are damaged, and successes that the SDK accepts although DynamoDB does not
/// send such: it takes an empty body for an empty object.
#[derive(Debug)]
pub(super) struct ValidateResponses;

impl Intercept for ValidateResponses {
    fn name(&self) -> &'static str {
        "ValidateResponses"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        // Without its body, the response is an error already.
        if response.body().bytes().is_some() {
            validate(response)?;
        }
        Ok(())
    }
}

fn validate(response: &HttpResponse) -> Result<(), InvalidResponse> {
    let body = body(response);
    if let Some(expected) = response.headers().get("x-amz-crc32") {
        let mut crc = Crc::new();
        crc.update(body);
        if expected.parse() != Ok(crc.sum()) {
            return Err(InvalidResponse::Checksum);
        }
    }
    if response.status().is_success() && !body.trim_ascii_start().starts_with(b"{") {
        return Err(InvalidResponse::from_response(response));
    }
    Ok(())
}
