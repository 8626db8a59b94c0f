//! Writing all items of a database as lines.

use super::line;
use crate::transfer::error::TransferError;
use crate::{Error, Scan};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;

/// The number of items after which progress is reported.
const PROGRESS_INTERVAL: u64 = 100;

/// Writes all items of `db` to `output`, one a line in the [format](crate::json_lines#format) of this module, and
/// returns their number. `on_progress` is called with the number of items so far, after every hundred
/// items and at the end.
///
/// The items are in the order of the [scan](Scan::scan), which is not a snapshot. One line is in memory at
/// a time, in addition to the page of the scan. Give it a [`BufWriter`](std::io::BufWriter), because each
/// line is one write; it is flushed at the end.
///
/// # Errors
///
/// `output` then has the lines before the error, and perhaps a part of another one. The database is as it
/// was.
///
/// - [`TransferError::Read`]: `db` could not be read.
/// - [`TransferError::Refused`]: the data of an item cannot be represented as JSON. The source is
///   [`Error::Codec`].
/// - [`TransferError::Io`]: `output` could not be written.
///
/// # Examples
///
/// ```no_run
/// use atomic_db::{MemoryDb, json_lines};
/// use std::fs::File;
/// use std::io::BufWriter;
///
/// let db: MemoryDb<String> = MemoryDb::new();
/// let file = File::create("items.jsonl")?;
/// let items = json_lines::export(&db, BufWriter::new(file), |items| println!("{items} items"))?;
/// # let _: u64 = items;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn export<D>(
    db: &D,
    mut output: impl Write,
    mut on_progress: impl FnMut(u64),
) -> Result<u64, TransferError>
where
    D: Scan<Data: Serialize + DeserializeOwned> + ?Sized,
{
    let mut exported = 0;
    let mut buffer = Vec::new();
    for item in db.scan() {
        let item = item.map_err(TransferError::Read)?;
        line::encode(&item, &mut buffer).map_err(|source| {
            let key = item.key().to_buf();
            TransferError::Refused {
                key: key.clone(),
                source: Error::Codec { key, source },
            }
        })?;
        output.write_all(&buffer).map_err(TransferError::Io)?;
        exported += 1;
        if exported % PROGRESS_INTERVAL == 0 {
            on_progress(exported);
        }
    }
    output.flush().map_err(TransferError::Io)?;
    on_progress(exported);
    Ok(exported)
}
