//! Codecs: what they refuse, what they store, and files that are opened with another one.

use super::storage::Disk;
use crate::common::HANG_LIMIT;
use atomic_db::testing::with_timeout;
use atomic_db::{
    AtomicDb, Batch, BoxError, Bytes, Codec, Error, Item, Key, KeyBuf, Query, RedbDb, Result,
};
use proptest::prelude::*;
use redb::{Database, ReadableDatabase, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, OnceLock};

const META: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("atomic_db/meta");
const ITEMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("atomic_db/items");

fn assert_codec_error<R: Debug>(result: Result<R>, expected: &str) {
    match result {
        Err(Error::Codec { key, source }) => {
            assert_eq!(key, KeyBuf::new("pk", "bad"));
            assert!(source.to_string().contains(expected), "{source}");
        }
        other => panic!("{other:?}"),
    }
}

/// Writes `bad` in every way, next to good data.
fn assert_refused<T: Clone + Debug + Serialize + DeserializeOwned>(good: T, bad: T, why: &str) {
    let db: RedbDb<T> = RedbDb::builder().in_memory().unwrap();
    let good = Item::new("pk", "good", good);
    let bad = Item::new("pk", "bad", bad);
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    assert_codec_error(db.set(&[good.clone(), bad.clone()]), why);
    let batch = Batch::new().lock(lock.clone()).set(good.clone());
    assert_codec_error(db.commit(&batch.create(bad.clone())), why);
    let batch = Batch::new().set(bad.clone()).create(good.clone());
    assert_codec_error(db.commit(&batch), why);
    let items = [good.clone(), bad];
    assert_codec_error(db.set_atomic(&items, std::slice::from_ref(&lock)), why);
    assert!(db.is_empty().unwrap());
    // The lock is unchanged.
    db.set_atomic(&[good], &[lock]).unwrap();
}

#[test]
fn data_that_json_cannot_represent_is_refused_before_anything_is_written() {
    assert_refused(1.0, f64::NAN, "JSON has no NaN");
    assert_refused(None, Some(f32::NEG_INFINITY), "JSON has no -inf");
    let nested = |levels: usize| {
        let innermost = serde_json::Value::Array(Vec::new());
        (1..levels).fold(innermost, |inner, _| vec![inner].into())
    };
    assert_refused(nested(127), nested(128), "more than 127 levels deep");
    let map = BTreeMap::from([(vec![1], 1)]);
    assert_refused(BTreeMap::new(), map, "key must be a string");
}

fn reopen<C: Codec<Vec<u8>>>(codec: C, path: &Path, read_only: bool) -> Result<RedbDb<Vec<u8>, C>> {
    let builder = RedbDb::builder().codec(codec).read_only(read_only);
    builder.open(path)
}

#[test]
fn a_file_with_the_data_of_another_codec_is_refused_with_both_names() {
    fn assert_names_both<R: Debug>(result: Result<R>, stored: &str, given: &str) {
        match result {
            Err(Error::InvalidInput(message)) => {
                let expected =
                    format!("with the codec {stored:?}, but was opened with the codec {given:?}");
                assert!(message.contains(&expected), "{message}");
                assert!(message.contains("db.redb"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    drop(reopen(Bytes, &path, false).unwrap());
    for read_only in [false, true] {
        let json = RedbDb::<u32>::builder().read_only(read_only);
        assert_names_both(json.open(&path), "bytes", "json");
        reopen(Bytes, &path, read_only).unwrap();
    }
    let path = directory.path().join("another db.redb");
    drop(RedbDb::<Vec<u8>>::open(&path).unwrap());
    for read_only in [false, true] {
        assert_names_both(reopen(Bytes, &path, read_only), "json", "bytes");
        assert_names_both(reopen(Wrapping, &path, read_only), "json", "test/wrapping");
    }
    RedbDb::<u32>::open(&path).unwrap();
}

#[test]
fn a_file_that_names_no_codec_stores_json() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let item = Item::new("pk", "sk", vec![1]);
    {
        let db: RedbDb<Vec<u8>> = RedbDb::open(&path).unwrap();
        db.set(std::slice::from_ref(&item)).unwrap();
    }
    let write = Database::create(&path).unwrap().begin_write().unwrap();
    {
        let mut meta = write.open_table(META).unwrap();
        assert!(meta.remove(&b"codec"[..]).unwrap().is_some());
    }
    write.commit().unwrap();
    let db: RedbDb<Vec<u8>> = RedbDb::open(&path).unwrap();
    assert_eq!(db.get(item.key()).unwrap(), Some(item));
    drop(db);
    assert!(reopen(Bytes, &path, false).is_err());
}

#[test]
fn the_format_of_rows_is_the_documented_one() {
    let directory = tempfile::tempdir().unwrap();
    let row = |path: &Path| {
        let database = Database::open(path).unwrap();
        let read = database.begin_read().unwrap();
        let items = read.open_table(ITEMS).unwrap();
        let row = items.get(&b"pk\0sk"[..]).unwrap().unwrap();
        row.value()[8..].to_vec()
    };
    let path = directory.path().join("json.redb");
    let db = RedbDb::open(&path).unwrap();
    db.set(&[Item::new("pk", "sk", ["a", "\0"].map(str::to_owned))])
        .unwrap();
    drop(db);
    assert_eq!(row(&path), br#"["a","\u0000"]"#);

    let path = directory.path().join("bytes.redb");
    for (data, expected) in [
        (Some(vec![7, 0]), &[7, 0][..]),
        (Some(vec![0, 7]), &[0, 0, 7]),
        (Some(vec![]), &[0]),
        (None, &[]),
    ] {
        let db = reopen(Bytes, &path, false).unwrap();
        let without_data = Item::without_data("pk", "sk");
        let item = data.map_or(without_data, |data| Item::new("pk", "sk", data));
        db.set(std::slice::from_ref(&item)).unwrap();
        drop(db);
        assert_eq!(row(&path), expected);
        let db = reopen(Bytes, &path, false).unwrap();
        assert_eq!(db.get(item.key()).unwrap(), Some(item));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Many begin with NULs, or are empty.
    #[test]
    fn bytes_are_read_back_as_written(
        data in prop::collection::vec(prop::option::of("[\0\u{1}a]{0,3}"), 1..20)
    ) {
        let disk = Disk::default();
        let open = || RedbDb::<Vec<u8>, _>::builder().codec(Bytes).open_with(disk.clone()).unwrap();
        let items: Vec<_> = (100..)
            .zip(data)
            .map(|(number, data)| match data {
                Some(data) => Item::new("pk", number.to_string(), data.into_bytes()),
                None => Item::without_data("pk", number.to_string()),
            })
            .collect();
        open().set(&items).unwrap();
        prop_assert_eq!(open().query(&Query::new("pk")).unwrap(), items);
    }
}

#[test]
fn a_megabyte_of_bytes_takes_about_a_megabyte() {
    let disk = Disk::default();
    let db: RedbDb<Vec<u8>, _> = RedbDb::builder()
        .codec(Bytes)
        .open_with(disk.clone())
        .unwrap();
    db.set(&[Item::new("pk", "large", vec![0xFF; 1 << 20])])
        .unwrap();
    drop(db);
    let size = disk.current().len();
    // redb rounds the pages of large values up to a power of two.
    assert!(size <= 5 << 20, "{size} bytes");
}

/// Surrounds bytes with brackets.
#[derive(Clone, Debug)]
struct Wrapping;

impl Codec<Vec<u8>> for Wrapping {
    const NAME: &'static str = "test/wrapping";

    fn encode(&self, data: &Vec<u8>, buffer: &mut Vec<u8>) -> Result<(), BoxError> {
        buffer.push(b'(');
        buffer.extend_from_slice(data);
        buffer.push(b')');
        Ok(())
    }

    fn decode(&self, bytes: Vec<u8>) -> Result<Vec<u8>, BoxError> {
        match bytes.as_slice() {
            [b'(', data @ .., b')'] => Ok(data.to_vec()),
            _ => Err("brackets are missing".into()),
        }
    }
}

/// A number in decimal, with the same name as the codec for bytes.
impl Codec<u32> for Wrapping {
    const NAME: &'static str = "test/wrapping";

    fn encode(&self, data: &u32, buffer: &mut Vec<u8>) -> Result<(), BoxError> {
        buffer.extend_from_slice(data.to_string().as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: Vec<u8>) -> Result<u32, BoxError> {
        Ok(String::from_utf8(bytes)?.parse()?)
    }
}

#[test]
fn every_handle_to_a_file_uses_its_codec() {
    let bytes = RedbDb::builder().codec(Wrapping).in_memory().unwrap();
    let numbers = bytes.with_data::<u32>();
    let item = Item::new("pk", "bytes", b"7".to_vec());
    bytes.clone().set(std::slice::from_ref(&item)).unwrap();
    numbers.set(&[Item::new("pk", "bad", 7)]).unwrap();
    assert_eq!(bytes.get(item.key()).unwrap(), Some(item));
    let bad = Key::new("pk", "bad");
    assert_eq!(numbers.get(bad).unwrap().unwrap().data(), Some(&7));
    assert_codec_error(bytes.get(bad), "brackets are missing");
    assert_codec_error(bytes.get_many(&[bad]), "brackets are missing");
    assert_codec_error(bytes.query(&Query::new("pk")), "brackets are missing");
}

/// Changes what precedes its data in the buffer.
#[derive(Clone, Debug)]
struct Clearing;

impl Codec<u32> for Clearing {
    const NAME: &'static str = "test/clearing";

    fn encode(&self, data: &u32, buffer: &mut Vec<u8>) -> Result<(), BoxError> {
        *buffer = data.to_be_bytes().repeat(3);
        Ok(())
    }

    fn decode(&self, _bytes: Vec<u8>) -> Result<u32, BoxError> {
        Ok(0)
    }
}

#[test]
fn a_codec_that_changes_the_header_of_a_row_is_refused() {
    let db = RedbDb::builder().codec(Clearing).in_memory().unwrap();
    assert_codec_error(db.set(&[Item::new("pk", "bad", 7)]), "changed bytes");
    assert!(db.is_empty().unwrap());
}

/// Reads and writes the database while it encodes and decodes.
#[derive(Clone, Default)]
struct Reentrant(Arc<OnceLock<RedbDb<u64, Reentrant>>>);

impl Reentrant {
    fn call_database(&self) {
        let db = self.0.get().unwrap();
        let lock = db.get_lock(Key::new("log", "lock")).unwrap();
        let item = Item::without_data("log", "called");
        db.set_atomic(&[item], &[lock]).unwrap();
        assert_eq!(db.query(&Query::new("log")).unwrap().len(), 1);
    }
}

impl Codec<u64> for Reentrant {
    const NAME: &'static str = "test/reentrant";

    fn encode(&self, data: &u64, buffer: &mut Vec<u8>) -> Result<(), BoxError> {
        self.call_database();
        buffer.extend_from_slice(&data.to_le_bytes());
        Ok(())
    }

    fn decode(&self, bytes: Vec<u8>) -> Result<u64, BoxError> {
        self.call_database();
        Ok(u64::from_le_bytes(bytes.as_slice().try_into()?))
    }
}

#[test]
fn a_codec_may_call_the_database() {
    with_timeout(HANG_LIMIT, |_| {
        let codec = Reentrant::default();
        let db = RedbDb::builder().codec(codec.clone()).in_memory().unwrap();
        codec.0.set(db.clone()).unwrap();
        let item = Item::new("pk", "sk", 7);
        let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
        let batch = Batch::new().lock(lock).create(item.clone());
        db.commit(&batch).unwrap();
        assert_eq!(db.get(item.key()).unwrap(), Some(item.clone()));
        assert_eq!(db.get_many(&[item.key()]).unwrap(), [Some(item.clone())]);
        assert_eq!(db.query(&Query::new("pk")).unwrap(), [item]);
    });
}
