//! Transfers of items between databases and files.
//!
//! | file | contents |
//! | --- | --- |
//! | `error` | why a transfer stopped |
//! | `batch` | writes items in batches |
//! | `copy` | from one database to another |
//! | `json_lines` | to a file and back |

mod batch;
mod copy;
mod error;
#[cfg(feature = "json-lines")]
pub mod json_lines;

pub use copy::copy;
pub use error::TransferError;
