//! How rows are written: keys in the order of their bytes, items and locks as values. Nothing here
//! knows of files.

use crate::{Key, Version};
use smallvec::SmallVec;

/// A `(pk, sk)` as one byte string. Most keys are short, and looked up without an allocation.
pub(super) type RowKey = SmallVec<[u8; 64]>;

/// Ends a partition key.
const END: u8 = 0x00;

/// Follows a NUL that is a partition key's own. No UTF-8 holds this byte, so a sort key does not
/// begin with it.
const ESCAPE: u8 = 0xFF;

/// The `ttl` of what never expires; it has no place in the index of expiries.
pub(super) const NEVER: u64 = u64::MAX;

/// `pk` with every NUL followed by 0xFF, then a NUL, then `sk`.
pub(super) fn row_key(key: Key<'_>) -> RowKey {
    let mut row = partition(key.pk);
    row.extend_from_slice(key.sk.as_bytes());
    row
}

/// What the keys of all rows of a partition begin with, and no others do.
pub(super) fn partition(pk: &str) -> RowKey {
    let pk = pk.as_bytes();
    let mut row = RowKey::with_capacity(pk.len() + 1);
    let mut parts = pk.split(|byte| *byte == END);
    row.extend_from_slice(parts.next().unwrap_or_default());
    for part in parts {
        row.extend_from_slice(&[END, ESCAPE]);
        row.extend_from_slice(part);
    }
    row.push(END);
    row
}

/// The least byte string that is greater than every key that begins with `prefix`, which ends within
/// a sort key or just before one: what follows there is UTF-8, and so below 0xFF.
pub(super) fn after_all(prefix: &[u8]) -> RowKey {
    let mut row = RowKey::from_slice(prefix);
    row.push(ESCAPE);
    row
}

/// The partition key and the sort key of a row, or `None` if this is no row's key.
pub(super) fn read_key(row: &[u8]) -> Option<(String, &str)> {
    let mut pk = Vec::new();
    let mut rest = row;
    loop {
        let end = rest.iter().position(|byte| *byte == END)?;
        let (part, from_end) = rest.split_at(end);
        pk.extend_from_slice(part);
        match from_end {
            [END, ESCAPE, more @ ..] => {
                pk.push(END);
                rest = more;
            }
            [END, sk @ ..] => {
                return Some((String::from_utf8(pk).ok()?, std::str::from_utf8(sk).ok()?));
            }
            _ => return None,
        }
    }
}

/// An item's row is its `ttl`, 8 bytes big-endian, and its data as JSON, nothing if it has none.
pub(super) fn item_header(ttl: Option<u64>) -> [u8; 8] {
    ttl.unwrap_or(NEVER).to_be_bytes()
}

/// The `ttl` and the JSON of an item's row.
pub(super) fn read_item(row: &[u8]) -> Option<(u64, &[u8])> {
    let (ttl, json) = row.split_first_chunk()?;
    Some((u64::from_be_bytes(*ttl), json))
}

/// A lock's row is its version and its `ttl`, 16 and 8 bytes big-endian.
pub(super) fn lock_row(version: Version, ttl: u64) -> [u8; 24] {
    let mut row = [0; 24];
    row[..16].copy_from_slice(&version.as_u128().to_be_bytes());
    row[16..].copy_from_slice(&ttl.to_be_bytes());
    row
}

/// The version and the `ttl` of a lock's row.
pub(super) fn read_lock(row: &[u8]) -> Option<(Version, u64)> {
    let (version, ttl) = row.split_first_chunk()?;
    let ttl = ttl.try_into().ok()?;
    let version = Version::from_u128(u128::from_be_bytes(*version));
    Some((version, u64::from_be_bytes(ttl)))
}

/// What a row of the index of expiries points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Item = b'i',
    Lock = b'l',
}

/// A row of the index of expiries: the `ttl`, 8 bytes big-endian, the kind, and the row's key.
pub(super) fn expiry_key(ttl: u64, kind: Kind, row: &[u8]) -> RowKey {
    let mut key = RowKey::with_capacity(9 + row.len());
    key.extend_from_slice(&ttl.to_be_bytes());
    key.push(kind as u8);
    key.extend_from_slice(row);
    key
}

/// The `ttl`, the kind and the row's key of a row of the index of expiries.
pub(super) fn read_expiry(key: &[u8]) -> Option<(u64, Kind, &[u8])> {
    let (ttl, rest) = key.split_first_chunk()?;
    let (kind, row) = rest.split_first()?;
    let kind = match *kind {
        b'i' => Kind::Item,
        b'l' => Kind::Lock,
        _ => return None,
    };
    Some((u64::from_be_bytes(*ttl), kind, row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Texts that put NUL and the greatest characters where they could do harm.
    fn text() -> impl Strategy<Value = String> {
        "[\0\u{1}ab\u{7f}\u{80}é\u{ffff}\u{10ffff}]{0,4}"
    }

    proptest! {
        #[test]
        fn keys_come_back_and_keep_their_order(a in text(), b in text(), c in text(), d in text()) {
            let (left, right) = (Key::new(&a, &b), Key::new(&c, &d));
            prop_assert_eq!(row_key(left).cmp(&row_key(right)), left.cmp(&right));
            let row = row_key(left);
            prop_assert_eq!(read_key(&row), Some((a.clone(), b.as_str())));
        }

        #[test]
        fn a_prefix_and_its_end_hold_exactly_what_begins_with_it(
            pk in text(), prefix in text(), other in text(), sk in text()
        ) {
            let mut from = partition(&pk);
            from.extend_from_slice(prefix.as_bytes());
            let to = after_all(&from);
            let row = row_key(Key::new(&other, &sk));
            let within = (&from..&to).contains(&&row);
            prop_assert_eq!(within, other == pk && sk.starts_with(&prefix));
        }

        #[test]
        fn no_bytes_are_too_odd_to_be_read(bytes: Vec<u8>) {
            if let Some((pk, sk)) = read_key(&bytes) {
                let row = row_key(Key::new(&pk, sk));
                prop_assert_eq!(row.as_slice(), bytes.as_slice());
            }
            let _ = (read_item(&bytes), read_lock(&bytes), read_expiry(&bytes));
        }
    }

    #[test]
    fn values_come_back() {
        let mut row = item_header(Some(7)).to_vec();
        assert_eq!(read_item(&row), Some((7, &[][..])));
        row.extend_from_slice(b"null");
        assert_eq!(read_item(&row), Some((7, &b"null"[..])));
        assert_eq!(read_item(&item_header(None)), Some((NEVER, &[][..])));

        let version = Version::from_u128(1 << 100 | 5);
        assert_eq!(read_lock(&lock_row(version, 9)), Some((version, 9)));
        let key = expiry_key(3, Kind::Lock, b"a\0b");
        assert_eq!(read_expiry(&key), Some((3, Kind::Lock, &b"a\0b"[..])));
    }
}
