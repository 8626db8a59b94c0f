//! What is read from a file: items, pages, locks and counts, each in one read transaction. Rows are
//! copied out, and decoded by the caller when the transaction has ended.

use super::encoding::{
    self, EXPIRIES, ITEMS, Kind, LATEST, LOCKS, META, RawBytes, RowKey, prefix_upper_bound,
};
use super::error::{
    backend, corrupted, malformed_expiry, malformed_item, malformed_key, malformed_lock,
    malformed_version, misplaced_row,
};
use super::file::File;
use super::handle::Handle;
use crate::{Query, Result, Version};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition};
use std::ops::{Bound, Range};

/// A live item that a query found.
#[derive(Debug)]
pub(super) struct QueryRow {
    pub(super) sk: String,
    pub(super) item: EncodedItem,
}

/// A stored item, not yet decoded.
#[derive(Debug)]
pub(super) struct EncodedItem {
    pub(super) ttl: u64,
    pub(super) data: Option<Vec<u8>>,
}

/// The state of the lock at a key.
pub(super) enum LockState {
    /// A live lock, with its version and `ttl`.
    Live(Version, u64),
    /// No live lock and no live item.
    Missing,
    /// A live item is stored at the key.
    Item,
}

impl File {
    /// Returns the latest version that a lock has had, if any lock was ever created.
    pub(super) fn latest_version(&self) -> Result<Option<Version>> {
        self.with_table(META, |meta| {
            let row = meta.get(LATEST).map_err(backend)?;
            row.map(|row| encoding::read_version(row.value()).ok_or_else(malformed_version))
                .transpose()
        })
    }

    /// Returns the item at `key`, live or expired.
    pub(super) fn item(&self, key: &[u8]) -> Result<Option<EncodedItem>> {
        self.with_table(ITEMS, |items| item_at(items, key))
    }

    /// Returns the live items at `keys`, as a snapshot.
    pub(super) fn items(&self, keys: &[RowKey], now: u64) -> Result<Vec<Option<EncodedItem>>> {
        self.with_table(ITEMS, |items| {
            let live = |key: &RowKey| {
                let found = item_at(items, key)?;
                Ok(found.filter(|found| now <= found.ttl))
            };
            keys.iter().map(live).collect()
        })
    }

    /// Returns the live items that `query` selects, as a snapshot, and whether there are more: at
    /// most `max` items, and no further ones once they hold `max_bytes` of data.
    pub(super) fn select(
        &self,
        query: &Query,
        after: Option<&str>,
        max: usize,
        max_bytes: usize,
        now: u64,
    ) -> Result<(Vec<QueryRow>, bool)> {
        let partition = encoding::partition(&query.pk);
        let Some((from, to)) = bounds(&partition, query, after) else {
            return Ok((Vec::new(), false));
        };
        self.with_table(ITEMS, |items| {
            let bounds = from.as_slice()..to.as_slice();
            let mut range = items.range::<&[u8]>(bounds.clone()).map_err(backend)?;
            let mut found = Vec::new();
            let mut size = 0;
            let mut previous: Option<RowKey> = None;
            loop {
                let next = if query.reverse {
                    range.next_back()
                } else {
                    range.next()
                };
                let Some(next) = next else {
                    return Ok((found, false));
                };
                let (key, row) = next.map_err(backend)?;
                let key = key.value();
                if !is_in_place(key, previous.as_deref(), query.reverse, &bounds) {
                    return Err(misplaced_row(key));
                }
                let previous = previous.get_or_insert_default();
                previous.clear();
                previous.extend_from_slice(key);
                let malformed = || malformed_item(key);
                let (ttl, data) = encoding::read_item(row.value()).ok_or_else(malformed)?;
                if ttl < now {
                    continue;
                }
                if found.len() == max || size >= max_bytes {
                    return Ok((found, true));
                }
                let sk = key.get(partition.len()..).unwrap_or_default();
                let sk = std::str::from_utf8(sk);
                size += data.map_or(0, <[u8]>::len);
                found.push(QueryRow {
                    sk: sk.map_err(|_| malformed_key(key))?.to_owned(),
                    item: EncodedItem {
                        ttl,
                        data: data.map(<[u8]>::to_vec),
                    },
                });
            }
        })
    }

    /// Returns the state of the lock at `key`.
    pub(super) fn lock(&self, key: &[u8], now: u64) -> Result<LockState> {
        self.wait_for_other_writers();
        self.with_read_txn(|read| {
            let locks = open_table(read, LOCKS)?;
            if let Some(row) = locks.get(key).map_err(backend)? {
                let malformed = || malformed_lock(key);
                let (version, ttl) = encoding::read_lock(row.value()).ok_or_else(malformed)?;
                return Ok(if now <= ttl {
                    LockState::Live(version, ttl)
                } else {
                    LockState::Missing
                });
            }
            let items = open_table(read, ITEMS)?;
            Ok(match item_at(&items, key)? {
                Some(item) if now <= item.ttl => LockState::Item,
                _ => LockState::Missing,
            })
        })
    }

    /// Counts the live items: all items, less those that the expiry index lists as expired.
    pub(super) fn len(&self, now: u64) -> Result<u64> {
        self.with_read_txn(|read| {
            let mut count = open_table(read, ITEMS)?.len().map_err(backend)?;
            let end = now.to_be_bytes();
            let expiries = open_table(read, EXPIRIES)?;
            let expired = expiries.range::<&[u8]>(..end.as_slice()).map_err(backend)?;
            for row in expired {
                let (key, _) = row.map_err(backend)?;
                let (_, kind, _) =
                    encoding::read_expiry(key.value()).ok_or_else(malformed_expiry)?;
                count = count.saturating_sub(u64::from(kind == Kind::Item));
            }
            Ok(count)
        })
    }

    /// Checks the checksums of a writable file and repairs it if necessary, then checks the rows.
    /// Returns whether no repair was necessary.
    pub(super) fn check_integrity(&self) -> Result<bool> {
        self.with_exclusive(|handle| {
            let intact = match handle {
                Handle::Writable(database) => database.check_integrity().map_err(backend)?,
                Handle::ReadOnly(_) | Handle::Closed => true,
            };
            check_rows(&handle.begin_read()?)?;
            Ok(intact)
        })
    }

    fn with_table<K: redb::Key, V: redb::Value, R>(
        &self,
        table: TableDefinition<'static, K, V>,
        read: impl FnOnce(&ReadOnlyTable<K, V>) -> Result<R>,
    ) -> Result<R> {
        self.with_read_txn(|transaction| read(&open_table(transaction, table)?))
    }
}

/// Checks that every row can be decoded, that the expiry index has exactly one row for each `ttl`,
/// and that no key holds both an item and a lock.
fn check_rows(read: &ReadTransaction) -> Result<()> {
    let (items, locks) = (open_table(read, ITEMS)?, open_table(read, LOCKS)?);
    let expiries = open_table(read, EXPIRIES)?;
    let mut expiring = 0;
    let mut check = |kind: Kind, key: &[u8], ttl: u64| {
        encoding::read_key(key).ok_or_else(|| malformed_key(key))?;
        if ttl != encoding::NEVER {
            expiring += 1;
            let expiry = encoding::expiry_key(ttl, kind, key);
            if expiries.get(expiry.as_slice()).map_err(backend)?.is_none() {
                return Err(corrupted("a ttl is missing from the expiry index"));
            }
        }
        Ok(())
    };
    for row in items.iter().map_err(backend)? {
        let (key, row) = row.map_err(backend)?;
        let malformed = || malformed_item(key.value());
        let (ttl, _) = encoding::read_item(row.value()).ok_or_else(malformed)?;
        check(Kind::Item, key.value(), ttl)?;
    }
    for row in locks.iter().map_err(backend)? {
        let (key, row) = row.map_err(backend)?;
        let malformed = || malformed_lock(key.value());
        let (_, ttl) = encoding::read_lock(row.value()).ok_or_else(malformed)?;
        check(Kind::Lock, key.value(), ttl)?;
        if items.get(key.value()).map_err(backend)?.is_some() {
            return Err(corrupted("a key holds an item and a lock"));
        }
    }
    if expiries.len().map_err(backend)? == expiring {
        Ok(())
    } else {
        Err(corrupted("the expiry index refers to missing rows"))
    }
}

pub(super) fn open_table<K: redb::Key, V: redb::Value>(
    read: &ReadTransaction,
    table: TableDefinition<'static, K, V>,
) -> Result<ReadOnlyTable<K, V>> {
    read.open_table(table).map_err(backend)
}

fn item_at(items: &ReadOnlyTable<RawBytes, RawBytes>, key: &[u8]) -> Result<Option<EncodedItem>> {
    let Some(row) = items.get(key).map_err(backend)? else {
        return Ok(None);
    };
    let (ttl, data) = encoding::read_item(row.value()).ok_or_else(|| malformed_item(key))?;
    let data = data.map(<[u8]>::to_vec);
    Ok(Some(EncodedItem { ttl, data }))
}

/// Returns whether a row belongs into the range of a query, and after the previous row. In a damaged
/// file, a table may contain rows in any order.
fn is_in_place(key: &[u8], previous: Option<&[u8]>, reverse: bool, bounds: &Range<&[u8]>) -> bool {
    let follows = previous.is_none_or(|previous| {
        if reverse {
            key < previous
        } else {
            key > previous
        }
    });
    follows && bounds.contains(&key)
}

/// Returns the half-open range of rows that `query` selects after `after`, or `None` if it is empty.
fn bounds(partition: &[u8], query: &Query, after: Option<&str>) -> Option<(RowKey, RowKey)> {
    let row_key = |sk: &str| {
        let mut key = RowKey::from_slice(partition);
        key.extend_from_slice(sk.as_bytes());
        key
    };
    // In the order of bytes, no key is between a key and the same key with a NUL appended.
    let successor = |sk: &str| {
        let mut key = row_key(sk);
        key.push(0);
        key
    };
    let mut from = row_key(&query.prefix);
    let mut to = prefix_upper_bound(&from);
    match &query.range.0 {
        Bound::Included(start) => from = from.max(row_key(start)),
        Bound::Excluded(start) => from = from.max(successor(start)),
        Bound::Unbounded => {}
    }
    match &query.range.1 {
        Bound::Included(end) => to = to.min(successor(end)),
        Bound::Excluded(end) => to = to.min(row_key(end)),
        Bound::Unbounded => {}
    }
    match after.or(query.after.as_deref()) {
        Some(after) if query.reverse => to = to.min(row_key(after)),
        Some(after) => from = from.max(successor(after)),
        None => {}
    }
    // Inverted bounds are never given to redb.
    (from < to).then_some((from, to))
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_in_place_only_within_the_range_and_after_the_previous_row() {
        let bounds = b"b".as_slice()..b"e".as_slice();
        for reverse in [false, true] {
            let in_place = |key: &str, previous: Option<&str>| {
                let previous = previous.map(str::as_bytes);
                is_in_place(key.as_bytes(), previous, reverse, &bounds)
            };
            for key in ["b", "c", "d", "dzz"] {
                assert!(in_place(key, None));
                assert!(!in_place(key, Some(key)));
            }
            for key in ["", "a", "e", "ea"] {
                assert!(!in_place(key, None));
            }
            assert_eq!(in_place("d", Some("c")), !reverse);
            assert_eq!(in_place("c", Some("d")), reverse);
        }
    }
}
