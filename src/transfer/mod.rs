//! Transfers of items between databases.
//!
//! | file | contents |
//! | --- | --- |
//! | `error` | why a transfer stopped |
//! | `batch` | writes items in batches |
//! | `copy` | from one database to another |

mod batch;
mod copy;
mod error;

pub use copy::copy;
pub use error::TransferError;
