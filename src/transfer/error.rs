//! Why a transfer of items stopped.

use crate::{Error, KeyBuf};
#[cfg(feature = "json-lines")]
use std::io;

/// Why a [`copy`](crate::copy), an export or an import stopped.
///
/// Items that were written before the error stay written. A transfer may be repeated: it writes the
/// same items again.
///
/// `Display` does not include the source; [`source`](std::error::Error::source) returns it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// An item could not be read from the source database.
    #[error("the source database could not be read")]
    Read(#[source] Error),

    /// Items could not be written to the target database. Some of the last ones may have been written.
    #[error("the target database could not be written")]
    Write(#[source] Error),

    /// The target cannot hold an item, because of its key, its size or its data. This item was not
    /// written.
    #[error("the item at {key} cannot be written to the target")]
    Refused {
        /// The key of the item.
        key: KeyBuf,
        /// The reason.
        source: Error,
    },

    /// The output of an export could not be written, or the input of an import could not be read.
    #[cfg(feature = "json-lines")]
    #[error("the input or output failed")]
    Io(#[source] io::Error),

    /// A line of an import is not an item, or the database cannot hold its item. It was not written.
    #[cfg(feature = "json-lines")]
    #[error(transparent)]
    BadLine(#[from] BadLine),
}

/// A line of an import that is not an item, or whose item the database cannot hold.
#[cfg(feature = "json-lines")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("line {number}: {reason}")]
#[non_exhaustive]
pub struct BadLine {
    /// The number of the line; the first one has the number 1.
    pub number: u64,
    /// Why it is refused. The text may contain parts of the line, unescaped.
    pub reason: String,
}
