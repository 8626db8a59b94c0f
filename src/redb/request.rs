//! What callers submit to the group commit, and what each of them receives.

use super::encoding::RowKey;
use super::error::SharedError;
use crate::{BoxError, Error, Version};
use std::time::Duration;

/// A write of one caller, encoded.
#[derive(Debug)]
pub(super) enum WriteRequest {
    /// Apply a batch.
    Apply(EncodedBatch),
    /// Write items and delete keys unconditionally.
    Write {
        sets: Vec<(RowKey, Vec<u8>)>,
        deletes: Vec<RowKey>,
    },
    /// Create the lock at `key`, or extend its life.
    GetLock { key: RowKey, now: Duration },
    /// Remove at most `max` expired rows.
    Purge { now: u64, max: usize },
    /// Make earlier writes durable.
    Flush,
}

/// The writes of a batch.
#[derive(Debug, Default)]
pub(super) struct EncodedBatch {
    pub(super) now: Duration,
    /// The locks in the order of the batch: first the `renewed` ones, then the checks.
    pub(super) locks: Vec<(RowKey, Version)>,
    /// The number of locks that get a new version.
    pub(super) renewed: usize,
    pub(super) sets: Vec<(RowKey, Vec<u8>)>,
    pub(super) creates: Vec<(RowKey, Vec<u8>)>,
    pub(super) deletes: Vec<RowKey>,
}

/// The result of a request. In the variants of `Apply` and `GetLock` that report a conflict, nothing
/// was written.
#[derive(Debug)]
pub(super) enum Response {
    /// The batch was written, with this version.
    Committed(Version),
    Written,
    /// The locks with these indices changed.
    Conflict(Vec<usize>),
    /// A live item exists where the `create` with this index would write.
    AlreadyExists(usize),
    /// The lock's version and `ttl`.
    Lock(Version, u64),
    /// A live item exists at the lock's key.
    ItemAtLockKey,
    /// The number of rows removed.
    Purged(usize),
    Flushed,
}

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) enum WriteError {
    /// Nothing was written.
    NotWritten(SharedCause),
    /// The request was written completely, or not at all.
    Unknown(SharedError),
}

/// The cause of a failure, in a form that can be cloned for each request of a group.
#[derive(Clone, Debug)]
pub(super) enum SharedCause {
    InvalidInput(String),
    Unavailable(SharedError),
    Backend(SharedError),
}

pub(super) type Outcome = std::result::Result<Response, WriteError>;

// Neither conversion is a `From`: another impl from or into `Error` would make `?` ambiguous in
// callers' closures, whose error type the compiler infers as long as there is only one.
impl SharedCause {
    pub(super) fn from_error(error: Error) -> Self {
        match error {
            Error::InvalidInput(message) => SharedCause::InvalidInput(message),
            Error::Unavailable(source) => SharedCause::Unavailable(source.into()),
            Error::Backend(source) => SharedCause::Backend(source.into()),
            other => SharedCause::Backend(SharedError::from(BoxError::from(other))),
        }
    }
}

impl WriteError {
    pub(super) fn into_error(self) -> Error {
        match self {
            WriteError::NotWritten(SharedCause::InvalidInput(message)) => {
                Error::InvalidInput(message)
            }
            WriteError::NotWritten(SharedCause::Unavailable(source)) => {
                Error::Unavailable(Box::new(source))
            }
            WriteError::NotWritten(SharedCause::Backend(source)) => {
                Error::Backend(Box::new(source))
            }
            WriteError::Unknown(source) => Error::OutcomeUnknown(Box::new(source)),
        }
    }
}

/// Returns the outcome of a request whose leader panicked without a response.
pub(super) fn leader_lost() -> Outcome {
    let source: BoxError = "the thread that led the group commit panicked".into();
    Err(WriteError::Unknown(source.into()))
}

/// The error for a response that does not belong to its request, which would be a bug of this module.
pub(super) fn mismatched_response() -> Error {
    Error::Backend("internal error: mismatched response".into())
}
