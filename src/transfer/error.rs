//! Why a transfer of items stopped.

use crate::{Error, KeyBuf};

/// Why a [`copy`](crate::copy) stopped.
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
}
