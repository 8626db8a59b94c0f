//! What an error or a panic of redb means to the caller, and the errors of this module itself.

use crate::sync::Arc;
use crate::{BoxError, Error, Result};
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

pub(super) fn malformed_item() -> Error {
    corrupted("an item's row is too short")
}

pub(super) fn malformed_lock() -> Error {
    corrupted("a lock's row has the wrong length")
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
            "{name} was not closed properly: open it for writing once to repair it"
        )),
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            io::ErrorKind::InvalidData => {
                Error::InvalidInput(format!("{name} is not a redb file: {error}"))
            }
            io::ErrorKind::TimedOut => Error::Unavailable(error.into()),
            io::ErrorKind::UnexpectedEof => corrupted(&format!("{name} is truncated")),
            _ => cannot_open(name, error),
        },
        DatabaseError::Storage(StorageError::Corrupted(problem)) => {
            corrupted(&format!("{name}: {problem}"))
        }
        error => Error::Backend(source(error.into())),
    }
}

pub(super) fn cannot_open(name: &str, source: io::Error) -> Error {
    Error::Backend(Box::new(CannotOpen {
        name: name.to_owned(),
        source,
    }))
}

#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be opened")]
struct CannotOpen {
    name: String,
    source: io::Error,
}
