//! Reading a whole database.
//!
//! - `mod.rs`: the trait [`Scan`], and forwarding for `&D`, `Box<D>` and `Arc<D>`.
//! - `pages.rs`: the iterator that the databases of this crate return.

mod pages;

pub(crate) use pages::{PagedScan, RowPage};

use crate::sync::Arc;
use crate::{AtomicDb, Item, Result};

/// A database whose items can all be read, for copies, exports and statistics.
///
/// All databases and wrappers of this crate implement it. The trait is dyn-compatible, and
/// implemented for `&D`, `Box<D>` and `Arc<D>` with `D: ?Sized`. A trait object of it is itself an
/// [`AtomicDb`], so a program that scans can share `Arc<dyn Scan<Data = T> + Send + Sync>` in place of a
/// [`SharedDb`](crate::SharedDb):
///
/// ```
/// use atomic_db::{AtomicDb, Item, LruCache, MemoryDb, Scan};
/// use std::sync::Arc;
///
/// let db: Arc<dyn Scan<Data = u32> + Send + Sync> = Arc::new(LruCache::new(MemoryDb::new(), 100));
/// db.set(&[Item::new("user#1", "visits", 3)])?;
/// assert_eq!(db.scan().count(), 1);
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// # Contract
///
/// - A scan yields the live items of all partitions, in no stated order. Locks and expired items are
///   not shown.
/// - Each item that is present throughout the scan is yielded exactly once, even if it is replaced in
///   that time. An item that is added, removed, or removed and added again, may be yielded or not; if
///   its key was written again, it may be yielded more than once.
/// - A scan is not a snapshot: of a concurrent commit, it may yield some items and not others. An item
///   is as it was at some point in time during the scan, and was live then. Like a `stream`, a scan
///   is not answered from a cache.
/// - It is lazy: it buffers at most a page, or two where the database documents that it fetches one
///   ahead, and holds no lock or read transaction between pages. So the loop body may call any method
///   of the same database. A loop that adds items may meet them again: collect such writes, or check
///   that the loop ends.
/// - The iterator is fused, and ends after the first error. Items that could be read before it have
///   been yielded.
///
/// A scan costs as much as reading every item, lock and expired item that is stored.
///
/// An item whose data is not a `Data` ends the scan with [`Codec`](crate::Error::Codec). If a
/// database holds several types, scan it through a handle that can read all of them, such as one for
/// `serde_json::Value`.
pub trait Scan: AtomicDb {
    /// Returns an iterator over all live items.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, Item, MemoryDb, Scan};
    ///
    /// let db = MemoryDb::new();
    /// db.set(&[Item::new("user#1", "visits", 3), Item::new("user#2", "visits", 4)])?;
    ///
    /// let mut total = 0;
    /// for item in db.scan() {
    ///     total += item?.data().copied().unwrap_or(0);
    /// }
    /// assert_eq!(total, 7);
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The iterator yields one error at most, and then ends. Nothing was written.
    ///
    /// - [`Codec`](crate::Error::Codec): a stored value cannot be decoded as `Data`.
    /// - [`Unavailable`](crate::Error::Unavailable), [`Backend`](crate::Error::Backend): the items
    ///   could not be read.
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<Self::Data>>> + '_>;
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<D: Scan + ?Sized> Scan for $pointer {
            fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<Self::Data>>> + '_> {
                (**self).scan()
            }
        }
    )*};
}

forward!(&D, Box<D>, Arc<D>);
