//! Scans: the items in the order of their rows, a page in each read transaction.

use super::encoding::{self, ITEMS, RowKey};
use super::error::{backend, malformed_item, malformed_key, misplaced_row};
use super::file::File;
use super::read::{EncodedItem, open_table};
use crate::scan::{PagedScan, RowPage};
use crate::{Codec, Item, KeyBuf, RedbDb, Result, Scan};
use std::ops::Bound;

/// The largest number of items in a page, and the number of bytes of data that fill it.
const PAGE_SIZE: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

/// Items are yielded in the order of their keys. Each page is a snapshot.
impl<T, C: Codec<T>> Scan for RedbDb<T, C> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<T>>> + '_> {
        let read_page = |after: Option<RowKey>| {
            let now = self.now();
            self.shared.file.page_of_all(after.as_deref(), now)
        };
        let decode = |(key, item): (KeyBuf, EncodedItem)| self.decode(key.as_key(), item).map(Some);
        Box::new(PagedScan::new(read_page, decode))
    }
}

impl File {
    /// Returns the live items in the rows after `after`, and the last row key if there are more: at
    /// most [`PAGE_SIZE`] items, and no further ones once they hold [`PAGE_BYTES`] of data.
    fn page_of_all(
        &self,
        after: Option<&[u8]>,
        now: u64,
    ) -> Result<RowPage<(KeyBuf, EncodedItem), RowKey>> {
        self.with_read_txn(|read| {
            let items = open_table(read, ITEMS)?;
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let rows = items
                .range::<&[u8]>((from, Bound::Unbounded))
                .map_err(backend)?;
            let mut page = RowPage {
                rows: Vec::new(),
                next: None,
            };
            let mut last: Option<RowKey> = after.map(RowKey::from_slice);
            let mut size = 0;
            for row in rows {
                let (row_key, row) = row.map_err(backend)?;
                if page.rows.len() == PAGE_SIZE || size >= PAGE_BYTES {
                    page.next = last;
                    break;
                }
                let row_key = row_key.value();
                // A damaged file may have rows in any order, in which a scan would go round in circles.
                if last.as_deref().is_some_and(|last| last >= row_key) {
                    return Err(misplaced_row(row_key));
                }
                last = Some(RowKey::from_slice(row_key));
                let (ttl, data) =
                    encoding::read_item(row.value()).ok_or_else(|| malformed_item(row_key))?;
                if now <= ttl {
                    let (pk, sk) =
                        encoding::read_key(row_key).ok_or_else(|| malformed_key(row_key))?;
                    size += data.map_or(0, <[u8]>::len);
                    let data = data.map(<[u8]>::to_vec);
                    page.rows
                        .push((KeyBuf::new(pk, sk), EncodedItem { ttl, data }));
                }
            }
            Ok(page)
        })
    }
}
