//! Responses: whether they are DynamoDB's, and undamaged.
//!
//! A proxy, a load balancer or another server may answer in place of DynamoDB. A write is known to be
//! applied, or not to be, only by DynamoDB's own response: a success is a JSON object without members or
//! with those of DynamoDB's outputs, an error is one with the member `__type`, and both match their
//! checksum if they have one.

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use flate2::Crc;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::collections::HashMap;
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
            Ok(Value::Object(object)) if !is_output(body) => {
                let names = ["message", "Message", "error"];
                let mut messages = names.iter().filter_map(|name| object.get(*name)?.as_str());
                InvalidResponse::Foreign(excerpt(messages.next().unwrap_or_default()))
            }
            _ => InvalidResponse::Json(body.len()),
        }
    }
}

/// Returns whether `body` may be the output of one of the operations that are used here. It may have
/// members that DynamoDB has added since.
fn is_output(body: &[u8]) -> bool {
    const MEMBERS: [&str; 15] = [
        "Attributes",
        "ConsumedCapacity",
        "Count",
        "Item",
        "ItemCollectionMetrics",
        "Items",
        "LastEvaluatedKey",
        "Responses",
        "ScannedCount",
        "Table",
        "TableDescription",
        "TimeToLiveDescription",
        "TimeToLiveSpecification",
        "UnprocessedItems",
        "UnprocessedKeys",
    ];
    let members: Result<HashMap<String, IgnoredAny>, _> = serde_json::from_slice(body);
    members.is_ok_and(|members| {
        members.is_empty() || MEMBERS.iter().any(|name| members.contains_key(*name))
    })
}

/// Returns the beginning of `text`, up to any JSON in it: it may be an echo of the request.
fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 120;
    let text = text.trim();
    let shown = text.split('{').next().unwrap_or_default();
    let mut excerpt: String = shown.chars().take(MAX_CHARS).collect();
    if excerpt.len() < text.len() {
        excerpt.push_str("...");
    }
    excerpt
}

/// Returns whether an error response is DynamoDB's. It then says whether the request was applied.
pub(super) fn is_error_of_dynamodb(response: &HttpResponse) -> bool {
    let object: Option<Map<String, Value>> = serde_json::from_slice(body(response)).ok();
    !response.status().is_success()
        && object.is_some_and(|object| {
            let code = object.get("__type").and_then(Value::as_str);
            code.is_some_and(|code| !code.is_empty())
        })
}

/// Returns the body. It is empty if it was not received completely.
fn body(response: &HttpResponse) -> &[u8] {
    response.body().bytes().unwrap_or_default()
}

/// Rejects responses that are damaged, and successes that the SDK accepts although DynamoDB does not
/// send such: it takes an empty body for an empty object, and ignores members that it does not know.
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
    if response.status().is_success() && !is_output(body) {
        return Err(InvalidResponse::from_response(response));
    }
    Ok(())
}
