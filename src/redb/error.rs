//! What an error or a panic of redb means to the caller, and the errors of this module itself.

use super::encoding;
use crate::sync::Arc;
use crate::{BoxError, Error, Key, Result};
use redb::{DatabaseError, StorageError};
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `op` and turns a panic into an error, because redb may panic on a file that was damaged
/// from outside and no call of ours does (guarantee 23).
pub(super) fn catch_panic<R>(op: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(op)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

pub(super) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
    corrupted(message.unwrap_or("a panic without a message"))
}

pub(super) fn corrupted(problem: &str) -> Error {
    Error::Backend(format!("the file may be damaged: {problem}").into())
}

/// The problem of a page that should be there.
const BEYOND_END: &str = "it was truncated, or refers to a page beyond its end";

pub(super) fn malformed_item(row_key: &[u8]) -> Error {
    corrupted(&format!(
        "the row of the item at {} is too short",
        display_key(row_key)
    ))
}

pub(super) fn malformed_lock(row_key: &[u8]) -> Error {
    corrupted(&format!(
        "the row of the lock at {} has the wrong length",
        display_key(row_key)
    ))
}

pub(super) fn malformed_key(row_key: &[u8]) -> Error {
    corrupted(&format!("{} is not a key", display_key(row_key)))
}

/// The error for a row that a query found outside of the range that it asked for, or out of order.
pub(super) fn misplaced_row(row_key: &[u8]) -> Error {
    corrupted(&format!(
        "the row of the item at {} is in the wrong place",
        display_key(row_key)
    ))
}

fn display_key(row_key: &[u8]) -> String {
    match encoding::read_key(row_key) {
        Some((pk, sk)) => Key::new(&pk, sk).to_string(),
        None => format!("{:?}", String::from_utf8_lossy(row_key)),
    }
}

pub(super) fn malformed_version() -> Error {
    corrupted("the latest version has the wrong length")
}

pub(super) fn malformed_expiry() -> Error {
    corrupted("a row of the expiry index cannot be decoded")
}

/// Maps an error of redb that only means that the call failed.
pub(super) fn backend(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            Error::Unavailable(error.into())
        }
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            corrupted(BEYOND_END)
        }
        redb::Error::TransactionInProgress => {
            Error::Unavailable("another process is reading the file".into())
        }
        error => Error::Backend(source(error)),
    }
}

/// Returns the error of the storage below redb if `error` carries one, and `error` itself otherwise.
pub(super) fn source(error: redb::Error) -> BoxError {
    match error {
        redb::Error::Io(error) => error.into(),
        redb::Error::Backend(error) => error,
        redb::Error::PreviousIo => {
            "the file failed earlier: drop all handles to it and open it again".into()
        }
        error => Box::new(SharedError::from(error)),
    }
}

/// An error that several callers receive.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct SharedError(Arc<dyn std::error::Error + Send + Sync>);

impl From<redb::Error> for SharedError {
    fn from(error: redb::Error) -> Self {
        SharedError(Arc::new(error))
    }
}

impl From<BoxError> for SharedError {
    fn from(error: BoxError) -> Self {
        SharedError(error.into())
    }
}

/// Maps an error of redb when it opens the file called `name`.
pub(super) fn open_error(name: &str, shared: bool, error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            let problem = if shared {
                "without `shared`: open it with `shared` there too, or wait until it is closed"
            } else {
                "perhaps with `shared`: wait until it is closed, or open it with `shared` everywhere"
            };
            Error::Unavailable(
                format!(
                    "{name} is already open, in another process or through another handle, {problem}"
                )
                .into(),
            )
        }
        DatabaseError::LockProtocolMismatch => Error::Unavailable(
            format!("{name} is shared by processes with another version of redb, whose locks are different: use one version").into(),
        ),
        DatabaseError::Storage(StorageError::Unsupported) => Error::InvalidInput(format!(
            "{name} cannot be shared: its file system or storage has no locks of byte ranges"
        )),
        DatabaseError::UpgradeRequired(version) => Error::InvalidInput(format!(
            "{name} is a redb file of the older format {version}"
        )),
        DatabaseError::RepairAborted => Error::InvalidInput(format!(
            "{name} was not closed properly, or its length was changed: open it for writing once, which repairs it or reports the damage"
        )),
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            io::ErrorKind::InvalidData => {
                Error::InvalidInput(format!("{name} is not a redb file: {error}"))
            }
            io::ErrorKind::TimedOut => Error::Unavailable(error.into()),
            io::ErrorKind::UnexpectedEof => corrupted(&format!("{name}: {BEYOND_END}")),
            _ => cannot_open(name, "opened", error),
        },
        DatabaseError::Storage(StorageError::Corrupted(problem)) => {
            corrupted(&format!("{name}: {problem}"))
        }
        error => Error::Backend(source(error.into())),
    }
}

/// Returns the error for a file that cannot be opened, or in which way else `verb` says.
pub(super) fn cannot_open(name: &str, verb: &'static str, source: impl Into<BoxError>) -> Error {
    Error::Backend(Box::new(CannotOpen {
        name: name.to_owned(),
        verb,
        source: source.into(),
    }))
}

#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be {verb}")]
struct CannotOpen {
    name: String,
    verb: &'static str,
    source: BoxError,
}
