//! The format of the file: its tables, and how keys and values are encoded.

use crate::{BoxError, Key, Version};
use redb::TableDefinition;
use smallvec::SmallVec;

/// The type of keys and values in the tables.
pub(super) type RawBytes = &'static [u8];

pub(super) const META: TableDefinition<RawBytes, RawBytes> = TableDefinition::new("atomic_db/meta");
pub(super) const ITEMS: TableDefinition<RawBytes, RawBytes> =
    TableDefinition::new("atomic_db/items");
pub(super) const LOCKS: TableDefinition<RawBytes, RawBytes> =
    TableDefinition::new("atomic_db/locks");
pub(super) const EXPIRIES: TableDefinition<RawBytes, ()> =
    TableDefinition::new("atomic_db/expiries");

/// The row of `META` that holds the format, and the only format that this version supports.
pub(super) const FORMAT: &[u8] = b"format";
pub(super) const FORMAT_1: &[u8] = b"1";

/// The row of `META` that holds the name of the codec.
pub(super) const CODEC: &[u8] = b"codec";

/// The row of `META` that holds the latest version that a lock has had, or a later one.
pub(super) const LATEST: &[u8] = b"latest";

/// A `(pk, sk)` as one byte string, whose order is that of the pairs. A short key needs no allocation.
pub(super) type RowKey = SmallVec<[u8; 64]>;

/// Terminates a partition key.
const END: u8 = 0x00;

/// Follows a NUL within a partition key. UTF-8 never contains this byte, so no sort key begins
/// with it.
const ESCAPE: u8 = 0xFF;

/// The `ttl` of an item that never expires. It has no row in the expiry index.
pub(super) const NEVER: u64 = u64::MAX;

/// Encodes a key: `pk` with 0xFF after every NUL, then a NUL, then `sk`.
pub(super) fn row_key(key: Key<'_>) -> RowKey {
    let mut row = partition(key.pk);
    row.extend_from_slice(key.sk.as_bytes());
    row
}

/// Returns the prefix that all row keys of the partition `pk` have, and no other row keys.
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

/// Returns an exclusive upper bound for all row keys that begin with `prefix`, which must contain the
/// whole partition key. Only UTF-8 can follow it, which never contains 0xFF, so appending 0xFF suffices.
pub(super) fn prefix_upper_bound(prefix: &[u8]) -> RowKey {
    let mut row = RowKey::from_slice(prefix);
    row.push(ESCAPE);
    row
}

/// Decodes a row key into its partition key and sort key, or returns `None` if it is malformed.
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

/// Precedes encoded data that is empty or begins with this byte. So empty data differs from no data,
/// and JSON, which never contains this byte, is stored as it is.
const DATA_ESCAPE: u8 = 0x00;

/// Encodes the start of an item's row: its `ttl`, 8 bytes big-endian. The encoded data follows, or
/// nothing if the item has none.
pub(super) fn item_header(ttl: Option<u64>) -> [u8; 8] {
    ttl.unwrap_or(NEVER).to_be_bytes()
}

/// Encodes an item's row. `encode` appends the encoded data, and returns `false` if there is none.
///
/// # Errors
///
/// Those of `encode`, and an error if it changed the header, which would change the item's `ttl`.
pub(super) fn item_row(
    ttl: Option<u64>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<bool, BoxError>,
) -> Result<Vec<u8>, BoxError> {
    let header = item_header(ttl);
    let mut row = Vec::with_capacity(128);
    row.extend_from_slice(&header);
    let has_data = encode(&mut row)?;
    match row.strip_prefix(&header) {
        None => return Err("the codec changed bytes that were in its buffer".into()),
        Some([] | [DATA_ESCAPE, ..]) if has_data => row.insert(header.len(), DATA_ESCAPE),
        Some(_) => {}
    }
    Ok(row)
}

/// Decodes an item's row into its `ttl` and its encoded data, if it has any.
pub(super) fn read_item(row: &[u8]) -> Option<(u64, Option<&[u8]>)> {
    let (ttl, data) = row.split_first_chunk()?;
    let data = match data {
        [] => None,
        [DATA_ESCAPE, data @ ..] => Some(data),
        data => Some(data),
    };
    Some((u64::from_be_bytes(*ttl), data))
}

/// Encodes a lock's row: its version, 16 bytes, and its `ttl`, 8 bytes, both big-endian.
pub(super) fn lock_row(version: Version, ttl: u64) -> [u8; 24] {
    let mut row = [0; 24];
    row[..16].copy_from_slice(&version.as_u128().to_be_bytes());
    row[16..].copy_from_slice(&ttl.to_be_bytes());
    row
}

/// Decodes a lock's row into its version and its `ttl`.
pub(super) fn read_lock(row: &[u8]) -> Option<(Version, u64)> {
    let (version, ttl) = row.split_first_chunk()?;
    let ttl = ttl.try_into().ok()?;
    let version = Version::from_u128(u128::from_be_bytes(*version));
    Some((version, u64::from_be_bytes(ttl)))
}

/// Decodes the row of the latest version.
pub(super) fn read_version(row: &[u8]) -> Option<Version> {
    let bits = row.try_into().ok()?;
    Some(Version::from_u128(u128::from_be_bytes(bits)))
}

/// The table of the row that a row of the expiry index refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Item = b'i',
    Lock = b'l',
}

/// Encodes a row of the expiry index: the `ttl`, 8 bytes big-endian, the kind, and the row key.
pub(super) fn expiry_key(ttl: u64, kind: Kind, row: &[u8]) -> RowKey {
    let mut key = RowKey::with_capacity(9 + row.len());
    key.extend_from_slice(&ttl.to_be_bytes());
    key.push(kind as u8);
    key.extend_from_slice(row);
    key
}

/// Decodes a row of the expiry index into the `ttl`, the kind and the row key.
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

    /// Strings with NUL, and with the last characters of each UTF-8 length and before the surrogates.
    fn text() -> impl Strategy<Value = String> {
        "[\0\u{1}ab\u{7f}\u{80}é\u{d7ff}\u{e000}\u{ffff}\u{10ffff}]{0,4}"
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_keep_their_order(a in text(), b in text(), c in text(), d in text()) {
            let (left, right) = (Key::new(&a, &b), Key::new(&c, &d));
            prop_assert_eq!(row_key(left).cmp(&row_key(right)), left.cmp(&right));
            let row = row_key(left);
            prop_assert_eq!(read_key(&row), Some((a.clone(), b.as_str())));
        }

        #[test]
        fn a_prefix_and_its_upper_bound_enclose_exactly_the_keys_with_the_prefix(
            pk in text(), prefix in text(), other in text(), sk in text()
        ) {
            let mut from = partition(&pk);
            from.extend_from_slice(prefix.as_bytes());
            let to = prefix_upper_bound(&from);
            let row = row_key(Key::new(&other, &sk));
            let within = (&from..&to).contains(&&row);
            prop_assert_eq!(within, other == pk && sk.starts_with(&prefix));
        }

        #[test]
        fn decoding_any_bytes_does_not_panic(bytes: Vec<u8>) {
            if let Some((pk, sk)) = read_key(&bytes) {
                let row = row_key(Key::new(&pk, sk));
                prop_assert_eq!(row.as_slice(), bytes.as_slice());
            }
            let _ = (read_item(&bytes), read_lock(&bytes), read_expiry(&bytes));
        }
    }

    #[test]
    fn values_round_trip() {
        let row = item_row(None, |_| Ok(false)).unwrap();
        assert_eq!(row, item_header(None));
        assert_eq!(read_item(&row), Some((NEVER, None)));
        for data in ["null", "", "\0", "\0\0", "a\0"] {
            let append = |row: &mut Vec<u8>| {
                row.extend_from_slice(data.as_bytes());
                Ok(true)
            };
            let row = item_row(Some(7), append).unwrap();
            assert_eq!(read_item(&row), Some((7, Some(data.as_bytes()))));
        }

        let version = Version::from_u128(1 << 100 | 5);
        assert_eq!(read_lock(&lock_row(version, 9)), Some((version, 9)));
        let key = expiry_key(3, Kind::Lock, b"a\0b");
        assert_eq!(read_expiry(&key), Some((3, Kind::Lock, &b"a\0b"[..])));
    }

    #[test]
    fn a_codec_that_changes_the_header_of_a_row_is_refused() {
        let clear = |row: &mut Vec<u8>| {
            row.clear();
            row.extend_from_slice(&item_header(Some(8)));
            Ok(true)
        };
        assert!(item_row(Some(7), clear).is_err());
        let truncate = |row: &mut Vec<u8>| {
            row.truncate(3);
            Ok(true)
        };
        assert!(item_row(Some(7), truncate).is_err());
    }
}
