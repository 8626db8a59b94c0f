//! Copying the items of one database to another.

use super::batch::write_batch;
use super::error::TransferError;
use crate::{AtomicDb, Scan};

/// The number of items that are written in one call. It bounds memory, and shares the cost of a commit
/// to a file.
const BATCH_SIZE: usize = 250;

/// Copies all items of `from` to `to`, and returns their number. `on_progress` is called with the
/// number of items copied so far, after each batch.
///
/// Items keep their keys, data and expiries. An item replaces the item or lock of `to` under its key, as
/// by [`set`](AtomicDb::set); items of `to` under other keys are kept. At most 250 items are in
/// memory, in addition to the page of the [scan](Scan::scan).
///
/// A copy can be repeated after an error: it writes the same items again. It is not a snapshot of `from`
/// (see [`Scan`]), and it overwrites concurrent writes to `to`. So copy while there are no other
/// writers. Because it can be repeated, a copy to a file may use `Durability::Deferred` and a `flush` at
/// the end, which takes a fraction of the time.
///
/// # Locks are not copied
///
/// A version identifies one commit to one database, and is never reused (guarantee 17). A copied lock
/// would have the same version in two databases, and a copy that is restored later would bring back
/// versions that later commits have replaced. A caller that holds such a version could then commit,
/// although the data that it read has changed. Nothing is lost without them, because
/// [`get_lock`](AtomicDb::get_lock) creates a lock with a new version where there is none.
///
/// # Errors
///
/// Items that were copied before the error stay in `to`.
///
/// - [`TransferError::Read`]: `from` could not be read.
/// - [`TransferError::Write`]: `to` could not be written.
/// - [`TransferError::Refused`]: `to` cannot hold an item, which was not written.
///
/// # Examples
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, MemoryDb, copy};
///
/// let (from, to) = (MemoryDb::new(), MemoryDb::new());
/// from.set(&[Item::new("user#1", "name", "Ada"), Item::new("user#2", "name", "Bob")])?;
///
/// let copied = copy(&from, &to, |copied| println!("{copied} items copied"))?;
/// assert_eq!(copied, 2);
/// let name = to.get(Key::new("user#2", "name"))?.and_then(Item::into_data);
/// assert_eq!(name, Some("Bob"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn copy<F, T>(from: &F, to: &T, mut on_progress: impl FnMut(u64)) -> Result<u64, TransferError>
where
    F: Scan + ?Sized,
    T: AtomicDb<Data = F::Data> + ?Sized,
{
    let mut copied = 0;
    let mut scan = from.scan();
    let mut batch = Vec::with_capacity(BATCH_SIZE);
    loop {
        batch.clear();
        let mut failed = None;
        for item in scan.by_ref().take(BATCH_SIZE) {
            match item {
                Ok(item) => batch.push(item),
                Err(error) => {
                    failed = Some(TransferError::Read(error));
                    break;
                }
            }
        }
        if !batch.is_empty() {
            copied += write_batch(to, &batch, |index, source| {
                let key = batch[index].key().to_buf();
                Err(TransferError::Refused { key, source })
            })?;
            on_progress(copied);
        }
        match failed {
            Some(error) => return Err(error),
            None if batch.len() < BATCH_SIZE => return Ok(copied),
            None => {}
        }
    }
}
