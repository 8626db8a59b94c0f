//! An open redb database, for writing or read-only, and its transactions.

use super::error::backend;
use crate::Result;
use redb::{Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, StorageError};

pub(super) enum Handle {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
    /// The file is being dropped, or has to be opened again.
    Closed,
}

impl Handle {
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Handle::Closed)
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction> {
        match self {
            Handle::Writable(database) => database.begin_read(),
            Handle::ReadOnly(database) => database.begin_read(),
            Handle::Closed => Err(StorageError::DatabaseClosed.into()),
        }
        .map_err(backend)
    }
}
