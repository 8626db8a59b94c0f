//! The rows of the table: how items and locks are stored, and their limits.
//!
//! An item is a row with `pk` S, `sk` S, `data` S (JSON text; absent if the item has no data) and
//! `ttl` N (epoch seconds; absent if it never expires). With a codec other than `Json`, `data` is B, and
//! `codec` S is the codec's name. A lock is a row with `pk`, `sk`, `version`
//! S and `ttl`. A row with a `version` of any type is a lock. The TypeScript package
//! atomic-dynamodb writes the same rows. Two other forms that it writes are accepted as well:
//! gzip-compressed `data` of type B, and a fractional `ttl`.

use super::error::DynamoDbError;
use crate::error::item_at_lock_key;
use crate::{BoxError, Codec, Error, Item, Key, KeyBuf, Lock, Result, Version};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use flate2::read::MultiGzDecoder;
use std::collections::HashMap;
use std::io::Read;

pub(super) type Row = HashMap<String, AttributeValue>;

pub(super) const PK: &str = "pk";
pub(super) const SK: &str = "sk";
pub(super) const DATA: &str = "data";
pub(super) const TTL: &str = "ttl";
pub(super) const VERSION: &str = "version";
const CODEC: &str = "codec";

/// The name of `Json`, whose rows have no `codec`.
const JSON: &str = "json";

// "Quotas in Amazon DynamoDB" in AWS's documentation.
const MAX_PK_BYTES: usize = 2048;
pub(super) const MAX_SK_BYTES: usize = 1024;
const MAX_ITEM_BYTES: usize = 400 * 1024;
const MAX_ACTIONS: usize = 100;
const MAX_COMMIT_BYTES: usize = 4 * 1024 * 1024;

/// The condition that a row is live: `ttl` is absent, or not a number, or zero, or not yet past.
/// `ttl` and `data` are reserved words, so expressions use placeholders for them.
pub(super) const IS_LIVE: &str = "(NOT attribute_type(#t, :n) OR #t = :zero OR #t >= :now)";

/// The condition that a key has no live row, neither an item nor a lock.
pub(super) const IS_VACANT: &str =
    "(attribute_not_exists(#p) OR (attribute_type(#t, :n) AND #t <> :zero AND #t < :now))";

pub(super) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Returns the values that [`IS_LIVE`] and [`IS_VACANT`] compare with.
pub(super) fn time_values(now: u64) -> [(&'static str, AttributeValue); 3] {
    [
        (":n", text("N")),
        (":zero", number(0)),
        (":now", number(now)),
    ]
}

pub(super) fn attributes<V>(
    pairs: impl IntoIterator<Item = (&'static str, V)>,
) -> HashMap<String, V> {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Returns the placeholders of attribute names in expressions.
pub(super) fn names(
    pairs: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> HashMap<String, String> {
    attributes(
        pairs
            .into_iter()
            .map(|(placeholder, name)| (placeholder, name.to_owned())),
    )
}

/// Checks that `key` can be the key of a row.
pub(super) fn check_key(key: Key<'_>) -> Result<()> {
    check_pk(key.pk)?;
    if key.sk.is_empty() {
        return Err(Error::InvalidInput(
            "a sort key must not be empty in DynamoDB".into(),
        ));
    }
    check_sk("a sort key's length in bytes", key.sk)
}

pub(super) fn check_pk(pk: &str) -> Result<()> {
    if pk.is_empty() {
        return Err(Error::InvalidInput(
            "a partition key must not be empty in DynamoDB".into(),
        ));
    }
    check_limit("a partition key's length in bytes", MAX_PK_BYTES, pk.len())
}

/// Checks the length of a sort key, or of a value that sort keys are compared with.
pub(super) fn check_sk(what: &'static str, sk: &str) -> Result<()> {
    check_limit(what, MAX_SK_BYTES, sk.len())
}

pub(super) fn check_actions(actions: usize) -> Result<()> {
    check_limit(
        "a commit's number of locks, checks and writes",
        MAX_ACTIONS,
        actions,
    )
}

pub(super) fn check_commit(bytes: usize) -> Result<()> {
    check_limit("a commit's size in bytes", MAX_COMMIT_BYTES, bytes)
}

fn check_limit(what: &'static str, limit: usize, actual: usize) -> Result<()> {
    if actual <= limit {
        Ok(())
    } else {
        Err(Error::LimitExceeded {
            what,
            limit,
            actual,
        })
    }
}

pub(super) fn key_row(key: Key<'_>) -> Row {
    attributes([(PK, text(key.pk)), (SK, text(key.sk))])
}

/// Returns the key of `row`. Every row of a table has one.
pub(super) fn key_of(row: &Row) -> Result<Key<'_>> {
    match (row.get(PK), row.get(SK)) {
        (Some(AttributeValue::S(pk)), Some(AttributeValue::S(sk))) => Ok(Key { pk, sk }),
        _ => Err(DynamoDbError::Service {
            code: "UnexpectedResponse".to_owned(),
            message: "a row lacks `pk` or `sk`".to_owned(),
        }
        .into_backend()),
    }
}

/// Returns the row of `item`, and its size as DynamoDB counts it.
pub(super) fn encode<T, C: Codec<T>>(item: &Item<T>, codec: &C) -> Result<(Row, usize)> {
    check_key(item.key())?;
    let mut row = key_row(item.key());
    if let Some(data) = item.data() {
        let error = |source| codec_error(item.key(), source);
        let mut bytes = Vec::new();
        codec.encode(data, &mut bytes).map_err(error)?;
        let data = if C::NAME == JSON {
            text(String::from_utf8(bytes).map_err(|source| error(source.into()))?)
        } else {
            row.insert(CODEC.to_owned(), text(C::NAME));
            AttributeValue::B(Blob::new(bytes))
        };
        row.insert(DATA.to_owned(), data);
    }
    if let Some(ttl) = item.ttl() {
        // A ttl of zero means "never" in the table. Both 0 and 1 are long past.
        row.insert(TTL.to_owned(), number(ttl.max(1)));
    }
    let size = size_of(&row);
    check_limit("an item's size in bytes", MAX_ITEM_BYTES, size)?;
    Ok((row, size))
}

/// Returns the size of `row` as in "DynamoDB item sizes and formats" in AWS's documentation: the
/// bytes of the names and the values, where a number has a byte for every two digits and one more.
pub(super) fn size_of(row: &Row) -> usize {
    let size = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        _ => 0,
    };
    row.iter()
        .map(|(name, value)| name.len() + size(value))
        .sum()
}

/// Returns the row of `lock`.
pub(super) fn encode_lock(lock: &Lock) -> Row {
    let mut row = key_row(lock.key());
    row.insert(VERSION.to_owned(), text(lock.version().to_string()));
    row.insert(TTL.to_owned(), number(lock.ttl()));
    row
}

/// Returns the item in `row`, or `None` if the row is a lock or has expired.
///
/// # Errors
///
/// [`Error::Codec`] if `codec` cannot decode the data, or has another name than the one that it was
/// encoded with.
pub(super) fn decode<T, C: Codec<T>>(row: &Row, now: u64, codec: &C) -> Result<Option<Item<T>>> {
    let key = key_of(row)?;
    if is_lock(row) || !is_live(row, now) {
        return Ok(None);
    }
    let data = match row.get(DATA) {
        None => None,
        Some(data) => {
            let bytes = bytes_of(data, name_of_codec(row), C::NAME);
            let data = bytes.and_then(|bytes| codec.decode(bytes));
            Some(data.map_err(|source| codec_error(key, source))?)
        }
    };
    let item = match data {
        Some(data) => Item::new(key.pk, key.sk, data),
        None => Item::without_data(key.pk, key.sk),
    };
    Ok(Some(match ttl(row) {
        Some(ttl) => item.expires_at(ttl),
        None => item,
    }))
}

/// Returns the name of the codec that encoded the data of `row`.
fn name_of_codec(row: &Row) -> &str {
    match row.get(CODEC) {
        Some(AttributeValue::S(name)) => name,
        _ => JSON,
    }
}

/// Returns the encoded bytes in the attribute `data` of a row with the codec `stored`.
fn bytes_of(
    data: &AttributeValue,
    stored: &str,
    expected: &str,
) -> std::result::Result<Vec<u8>, BoxError> {
    if stored != expected {
        return Err(format!(
            "the data was written with the codec {stored:?}, and the database is open with the codec {expected:?}"
        )
        .into());
    }
    match data {
        AttributeValue::S(text) => Ok(text.clone().into_bytes()),
        AttributeValue::B(compressed) if stored == JSON => gunzip(compressed),
        AttributeValue::B(bytes) => Ok(bytes.as_ref().to_vec()),
        _ => Err("`data` is neither text nor binary".into()),
    }
}

/// Returns the decompressed data, which may be as large as an item: a small row could otherwise take up
/// any amount of memory.
fn gunzip(compressed: &Blob) -> std::result::Result<Vec<u8>, BoxError> {
    let mut bytes = Vec::new();
    // One byte more shows that there is more.
    MultiGzDecoder::new(compressed.as_ref())
        .take(MAX_ITEM_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > MAX_ITEM_BYTES {
        return Err(format!("`data` has more than {MAX_ITEM_BYTES} bytes decompressed").into());
    }
    Ok(bytes)
}

fn codec_error(key: Key<'_>, source: impl Into<BoxError>) -> Error {
    Error::Codec {
        key: KeyBuf::from(key),
        source: source.into(),
    }
}

pub(super) fn is_lock(row: &Row) -> bool {
    row.contains_key(VERSION)
}

/// Returns the lock in the row of one. A lock without a `ttl` was written by an older client. Its
/// `ttl` here is zero, so that it is extended, and given one, when it is read.
///
/// # Errors
///
/// Those of [`version_of`].
pub(super) fn lock_of(row: &Row) -> Result<Lock> {
    let ttl = ttl(row).unwrap_or(0);
    Ok(Lock::new(key_of(row)?, version_of(row)?, ttl))
}

/// Returns the version in the row of a lock.
///
/// # Errors
///
/// [`Error::Codec`] if it is not a ULID, or not in the upper case in which it is written and
/// compared: a commit under that lock could never succeed.
pub(super) fn version_of(row: &Row) -> Result<Version> {
    let key = key_of(row)?;
    let Some(AttributeValue::S(text)) = row.get(VERSION) else {
        return Err(codec_error(key, "the lock's `version` is not text"));
    };
    let version: Version = text
        .parse()
        .map_err(|error: Error| codec_error(key, error))?;
    if version.to_string() == *text {
        Ok(version)
    } else {
        Err(codec_error(
            key,
            format!("the lock's version {text:?} is not in upper case"),
        ))
    }
}

/// Returns the lock in `row`, or `None` if it has to be created or extended by
/// [`get_lock`](crate::AtomicDb::get_lock).
///
/// # Errors
///
/// [`Error::InvalidInput`] if the row is a live item; those of [`lock_of`].
pub(super) fn decode_lock(row: &Row, now: u64) -> Result<Option<Lock>> {
    let key = key_of(row)?;
    if !is_live(row, now) {
        return Ok(None);
    }
    if !is_lock(row) {
        return Err(item_at_lock_key(key));
    }
    let lock = lock_of(row)?;
    Ok((lock.refreshed_ttl(now) == lock.ttl()).then_some(lock))
}

pub(super) fn is_live(row: &Row, now: u64) -> bool {
    ttl(row).is_none_or(|ttl| now <= ttl)
}

/// Returns the last epoch second at which the row exists. A `ttl` that is zero or not a number
/// means "never", as it does for the TypeScript package. A fraction is rounded down, because the
/// clock is read in whole seconds.
pub(super) fn ttl(row: &Row) -> Option<u64> {
    let Some(AttributeValue::N(digits)) = row.get(TTL) else {
        return None;
    };
    if let Ok(seconds) = digits.parse::<u64>() {
        return (seconds != 0).then_some(seconds);
    }
    let seconds = digits.parse::<f64>().ok()?;
    // Negative numbers are converted to zero, which is past as well.
    (seconds != 0.0).then_some(seconds.floor() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, Json};

    fn row(pairs: &[(&'static str, AttributeValue)]) -> Row {
        let mut row = key_row(Key::new("pk", "sk"));
        row.extend(attributes(pairs.iter().cloned()));
        row
    }

    fn ttl_of(digits: &str) -> Option<u64> {
        ttl(&row(&[(TTL, AttributeValue::N(digits.to_owned()))]))
    }

    #[test]
    fn a_ttl_is_read_as_whole_seconds() {
        assert_eq!(ttl_of("1700000000"), Some(1_700_000_000));
        assert_eq!(ttl_of("1700000000.9"), Some(1_700_000_000));
        assert_eq!(ttl_of("18446744073709551614"), Some(u64::MAX - 1));
        assert_eq!(ttl_of("1E+3"), Some(1_000));
        assert_eq!(ttl_of("0"), None);
        assert_eq!(ttl_of("0.0"), None);
        assert_eq!(ttl_of("-5"), Some(0));
        assert_eq!(ttl(&row(&[(TTL, text("1700000000"))])), None);
        assert_eq!(ttl(&row(&[])), None);
    }

    #[test]
    fn a_decoded_item_equals_the_encoded_one() {
        for item in [
            Item::new("pk", "sk", vec![1, 2]),
            Item::new("pk", "sk", vec![]).expires_at(5),
            Item::without_data("pk", "sk"),
        ] {
            let (row, _) = encode(&item, &Json).unwrap();
            assert_eq!(decode::<Vec<u32>, _>(&row, 5, &Json).unwrap(), Some(item));
        }
        let (row, _) = encode(&Item::new("pk", "sk", 1).expires_at(0), &Json).unwrap();
        assert_eq!(decode::<u32, _>(&row, 2, &Json).unwrap(), None);
    }

    #[test]
    fn another_codec_is_named_in_the_row_and_no_codec_reads_the_rows_of_another() {
        let item = Item::new("pk", "sk", vec![0_u8, 255]);
        let (bytes, size) = encode(&item, &Bytes).unwrap();
        // "pk" + "pk", "sk" + "sk", "data" + two bytes, "codec" + "bytes".
        assert_eq!(size, 4 + 4 + 6 + 10);
        let read: Option<Item<Vec<u8>>> = decode(&bytes, 0, &Bytes).unwrap();
        assert_eq!(read, Some(item.clone()));
        let (json, _) = encode(&item, &Json).unwrap();
        let errors = [
            decode::<Vec<u8>, _>(&bytes, 0, &Json),
            decode::<Vec<u8>, _>(&json, 0, &Bytes),
        ];
        for error in errors {
            let Err(Error::Codec { key, source }) = error else {
                panic!("{error:?}");
            };
            assert_eq!(key, KeyBuf::new("pk", "sk"));
            let text = source.to_string();
            assert!(
                text.contains("\"json\"") && text.contains("\"bytes\""),
                "{text}"
            );
        }
        let without = Item::<Vec<u8>>::without_data("pk", "sk");
        let (row, _) = encode(&without, &Bytes).unwrap();
        assert_eq!(decode(&row, 0, &Json).unwrap(), Some(without));
    }

    #[test]
    fn data_that_could_not_be_read_back_is_refused() {
        let refused = encode(&Item::new("pk", "sk", f64::NAN), &Json);
        assert!(matches!(refused, Err(Error::Codec { .. })));
    }

    #[test]
    fn an_unreadable_row_is_reported_with_its_key() {
        let version = |version: &str| version_of(&row(&[(VERSION, text(version))]));
        let data = |data| decode::<String, _>(&row(&[(DATA, data)]), 0, &Json).map(drop);
        for unreadable in [
            data(text("{\"broken\": ")),
            data(text("7")),
            data(text("\"\\ud800\"")),
            data(AttributeValue::N("7".into())),
            data(AttributeValue::B(Blob::new("not gzip"))),
            version("1").map(drop),
            version("01arz3ndektsv4rrffq69g5fav").map(drop),
            version_of(&row(&[(VERSION, number(1))])).map(drop),
        ] {
            match unreadable {
                Err(Error::Codec { key, .. }) => assert_eq!(key, KeyBuf::new("pk", "sk")),
                other => panic!("{other:?}"),
            }
        }
        version("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        assert!(matches!(key_of(&Row::new()), Err(Error::Backend(_))));
    }

    #[test]
    fn sizes_are_counted_as_dynamodb_documents_them() {
        // "pk" + "pk", "sk" + "sk", "data" + "\"x\"", "ttl" + ten digits.
        let item = Item::new("pk", "sk", "x".to_owned()).expires_at(1_700_000_000);
        assert_eq!(encode(&item, &Json).unwrap().1, 4 + 4 + 7 + 3 + 6);
        let fits = "x".repeat(MAX_ITEM_BYTES - 14);
        encode(&Item::new("pk", "sk", fits.clone()), &Json).unwrap();
        let too_large = encode(&Item::new("pk", "sk", fits + "x"), &Json).unwrap_err();
        let max = MAX_ITEM_BYTES;
        assert!(
            matches!(too_large, Error::LimitExceeded { limit, actual, .. } if limit == max && actual == max + 1)
        );
    }
}
