//! Keys, data and expiries: what can be stored, and how rows are read.

use super::data_type::DataType;
use crate::{Codec, Error, Item, Key, Result, Version};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

/// The row of an index has at most 2,704 bytes, of which some are its own. Compression lets some
/// longer keys pass, but a limit that depends on the contents helps no caller.
const MAX_KEY_LEN: usize = 2_600;

const MAX_DATA_LEN: usize = 16 << 20;

/// The largest size of what one statement is given. The server's own limit is 1 GiB.
const MAX_STATEMENT_BYTES: usize = 256 << 20;

/// Checks that `key` can be stored.
///
/// # Errors
///
/// `InvalidInput` for a NUL, which PostgreSQL's text cannot contain, and `LimitExceeded`.
pub(super) fn check_key(key: Key<'_>) -> Result<()> {
    if key.pk.contains('\0') || key.sk.contains('\0') {
        return Err(Error::InvalidInput(format!(
            "the key {key} contains a NUL, which PostgreSQL cannot store"
        )));
    }
    check_limit(
        "the length of a partition key and a sort key together in bytes",
        MAX_KEY_LEN,
        key.pk.len() + key.sk.len(),
    )
}

pub(super) fn check_limit(what: &'static str, limit: usize, actual: usize) -> Result<()> {
    if actual <= limit {
        return Ok(());
    }
    Err(Error::LimitExceeded {
        what,
        limit,
        actual,
    })
}

/// Checks the size of the keys and the data of one statement.
pub(super) fn check_statement_size(bytes: usize) -> Result<()> {
    check_limit(
        "the size of the keys and the data of one statement in bytes",
        MAX_STATEMENT_BYTES,
        bytes,
    )
}

/// Converts a time to the type of the column `ttl`. No clock can show a later one.
pub(super) fn seconds(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// An item as it is stored.
#[derive(Debug)]
pub(super) struct EncodedItem {
    pub(super) data: Option<Vec<u8>>,
    pub(super) ttl: Option<i64>,
}

impl EncodedItem {
    pub(super) fn encode<T, C: Codec<T>>(
        item: &Item<T>,
        codec: &C,
        data_type: DataType,
    ) -> Result<Self> {
        check_key(item.key())?;
        let ttl = match item.ttl() {
            None => None,
            Some(ttl) => Some(i64::try_from(ttl).map_err(|_| Error::LimitExceeded {
                what: "the expiry of an item in epoch seconds",
                limit: usize::try_from(i64::MAX).unwrap_or(usize::MAX),
                actual: usize::try_from(ttl).unwrap_or(usize::MAX),
            })?),
        };
        let codec_error = |source| Error::Codec {
            key: item.key().to_buf(),
            source,
        };
        let data = match item.data() {
            None => None,
            Some(data) => {
                let mut buffer = Vec::new();
                codec.encode(data, &mut buffer).map_err(codec_error)?;
                Some(buffer)
            }
        };
        if let Some(data) = &data {
            check_limit("an item's encoded data in bytes", MAX_DATA_LEN, data.len())?;
            if data_type == DataType::Text
                && (data.contains(&0) || std::str::from_utf8(data).is_err())
            {
                return Err(codec_error("JSON must be UTF-8 without NUL".into()));
            }
        }
        Ok(EncodedItem { data, ttl })
    }

    pub(super) fn len(&self) -> usize {
        self.data.as_ref().map_or(0, Vec::len)
    }
}

/// Decodes an item, whose data and `ttl` are the columns of `row` from `first` on.
pub(super) fn decode<T, C: Codec<T>>(
    row: &Row,
    first: usize,
    key: Key<'_>,
    codec: &C,
) -> Result<Item<T>> {
    let is_bytes = row.columns().get(first).map(|column| column.type_()) == Some(&Type::BYTEA);
    let data: Option<Vec<u8>> = if is_bytes {
        column(row, first)?
    } else {
        column::<Option<&str>>(row, first)?.map(|text| text.as_bytes().to_vec())
    };
    let item = match data {
        None => Item::without_data(key.pk, key.sk),
        Some(data) => {
            let data = codec.decode(data);
            Item::at(
                key,
                data.map_err(|source| Error::Codec {
                    key: key.to_buf(),
                    source,
                })?,
            )
        }
    };
    Ok(match column::<Option<i64>>(row, first + 1)? {
        None => item,
        Some(ttl) => item.expires_at(u64::try_from(ttl).map_err(|_| negative_ttl())?),
    })
}

/// What is stored at a key, for a caller that wants a lock.
#[derive(Debug, PartialEq)]
pub(super) enum LockRow {
    Lock { version: Version, ttl: u64 },
    Item { ttl: Option<i64> },
}

/// Decodes a version and a `ttl`, the columns of `row` from `first` on.
pub(super) fn decode_lock(row: &Row, first: usize) -> Result<LockRow> {
    let version: Option<&str> = column(row, first)?;
    let ttl: Option<i64> = column(row, first + 1)?;
    let Some(version) = version else {
        return Ok(LockRow::Item { ttl });
    };
    let version = version.parse();
    Ok(LockRow::Lock {
        version: version.map_err(|error: Error| Error::Backend(Box::new(error)))?,
        // A negative expiry has passed.
        ttl: ttl.and_then(|ttl| u64::try_from(ttl).ok()).unwrap_or(0),
    })
}

/// Returns a column of `row`.
///
/// # Errors
///
/// `Backend` if the server sent something else.
pub(super) fn column<'a, V: FromSql<'a>>(row: &'a Row, index: usize) -> Result<V> {
    row.try_get(index)
        .map_err(|error| Error::Backend(Box::new(error)))
}

fn negative_ttl() -> Error {
    Error::Backend("the server returned an item with a negative expiry".into())
}
