//! Writing a batch of items, and its items one by one if it is refused.

use super::error::TransferError;
use crate::{AtomicDb, Error, Item};
use std::slice;

/// Writes `items` to `db`, and returns how many were written.
///
/// A database refuses a call if it cannot hold one of its items, and then writes none of them. In that
/// case they are written one by one, and `on_refused` is given the index of each refused item, and the
/// reason.
///
/// # Errors
///
/// [`TransferError::Write`], and those of `on_refused`, after which no further items are written.
pub(super) fn write_batch<D: AtomicDb + ?Sized>(
    db: &D,
    items: &[Item<D::Data>],
    mut on_refused: impl FnMut(usize, Error) -> Result<(), TransferError>,
) -> Result<u64, TransferError> {
    match db.set(items) {
        Ok(()) => return Ok(items.len() as u64),
        Err(error) if is_refusal(&error) => {}
        Err(error) => return Err(TransferError::Write(error)),
    }
    let mut written = 0;
    for (index, item) in items.iter().enumerate() {
        match db.set(slice::from_ref(item)) {
            Ok(()) => written += 1,
            Err(error) if is_refusal(&error) => on_refused(index, error)?,
            Err(error) => return Err(TransferError::Write(error)),
        }
    }
    Ok(written)
}

/// Returns whether `error` means that an item cannot be stored, and that nothing was written.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidInput(_) | Error::LimitExceeded { .. } | Error::Codec { .. }
    )
}
