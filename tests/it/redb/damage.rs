//! Damaged files: random damage, with processes that must survive it, and rows that other programs wrote.
//!
//! `ATOMIC_DB_DAMAGED_IMAGES` sets the number of damaged images, which is 300 by default. If it is set,
//! the file has about a megabyte.

use super::child::{KilledOnDrop, child};
use super::storage::Disk;
use crate::common::HANG_LIMIT;
use atomic_db::testing::with_timeout;
use atomic_db::{AtomicDb, Batch, Error, Item, Key, Lock, ManualClock, Query, RedbDb, Result};
use redb::{Database, TableDefinition, TypeName};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::env;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

const IMAGES: &str = "ATOMIC_DB_DAMAGED_IMAGES";
const SEED: &str = "ATOMIC_DB_DAMAGE_SEED";

const NOW: u64 = 2_000_000_000;
const PARTITIONS: u64 = 7;

/// Steele, Lea and Flood's splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ bits >> 31) >> 32) as usize % end.max(1)
    }
}

/// The intact contents of a file.
struct Contents {
    image: Vec<u8>,
    items: BTreeMap<String, Vec<Item<String>>>,
    locks: Vec<Lock>,
}

fn open(image: Vec<u8>) -> Result<RedbDb<String>> {
    let builder = RedbDb::builder().clock(ManualClock::new(NOW));
    builder.open_with(Disk::with_image(image))
}

fn partition(number: u64) -> String {
    format!("partition {}", number % PARTITIONS)
}

impl Contents {
    /// Writes items of various sizes, some of which expire or are deleted, in several commits.
    fn new(count: u64) -> Self {
        let disk = Disk::default();
        let builder = RedbDb::builder().clock(ManualClock::new(NOW));
        let db: RedbDb<String> = builder.open_with(disk.clone()).unwrap();
        let items: Vec<_> = (0..count)
            .map(|number| {
                let length = 50 + number * number % 600;
                let data = format!("{number} {}", "x".repeat(length as usize));
                let item = Item::new(partition(number), format!("{number:06}"), data);
                match number % 5 {
                    0 => item.expires_at(NOW + number),
                    _ => item,
                }
            })
            .collect();
        items.chunks(97).for_each(|some| db.set(some).unwrap());
        let (deleted, kept): (Vec<_>, Vec<_>) =
            (0..).zip(items).partition(|(number, _)| number % 11 == 3);
        let deleted: Vec<_> = deleted.iter().map(|(_, item)| item.key()).collect();
        db.delete(&deleted).unwrap();
        let locks = (0..PARTITIONS).map(|number| {
            let lock = db.get_lock(Key::new(&partition(number), "lock")).unwrap();
            let version = db.commit(&Batch::new().lock(lock.clone())).unwrap();
            lock.with_version(version)
        });
        let locks = locks.collect();
        let mut items = BTreeMap::<_, Vec<_>>::new();
        for (_, item) in kept {
            items.entry(item.pk().to_owned()).or_default().push(item);
        }
        drop(db);
        Contents {
            image: disk.current(),
            items,
            locks,
        }
    }

    /// Opens a damaged image and calls every method. Returns whether it was refused. An error is
    /// correct, and so are the intact contents; a panic ends the process.
    fn check(&self, image: Vec<u8>) -> bool {
        let db = match open(image) {
            Err(Error::InvalidInput(_) | Error::Backend(_)) => return true,
            Err(other) => panic!("{other:?}"),
            Ok(db) => db,
        };
        self.check_reads(&db, 0);
        let lock = self.locks[0].clone();
        let new = Item::new("new", "item", "new".to_owned());
        let batch = Batch::new().lock(lock).create(new.clone());
        let written = self.expect(db.commit(&batch)).is_some();
        self.expect(db.purge_expired());
        self.expect(db.compact());
        self.expect(db.check_integrity());
        self.check_reads(&db, usize::from(written));
        if written {
            assert!(
                self.expect(db.get(new.key()))
                    .is_none_or(|found| found == Some(new))
            );
        }
        false
    }

    fn check_reads(&self, db: &RedbDb<String>, more: usize) {
        for (pk, items) in &self.items {
            for query in [Query::new(pk.as_str()), Query::new(pk.as_str()).reverse()] {
                let mut items = items.clone();
                if query.reverse {
                    items.reverse();
                }
                let found = self.expect(db.query(&query));
                assert!(found.is_none_or(|found| found == items), "{query:?}");
            }
            let keys: Vec<_> = items.iter().map(Item::key).collect();
            if let Some(found) = self.expect(db.get_many(&keys)) {
                assert!(found.into_iter().flatten().eq(items.iter().cloned()));
            }
        }
        let count = self.items.values().map(Vec::len).sum::<usize>() + more;
        assert!(self.expect(db.len()).is_none_or(|found| found == count));
        for lock in &self.locks[more..] {
            let found = self.expect(db.get_lock(lock.key()));
            assert!(found.is_none_or(|found| found.version() == lock.version()));
        }
    }

    /// Returns what a call returned, or `None` after an error that reports damage.
    fn expect<R>(&self, result: Result<R>) -> Option<R> {
        match result {
            Ok(result) => Some(result),
            Err(Error::Backend(_) | Error::OutcomeUnknown(_)) => None,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Flips bits, cuts, copies a page over another one, or overwrites a part.
fn damage(image: &[u8], random: &mut Random) -> Vec<u8> {
    const PAGE: usize = 4_096;
    let mut image = image.to_vec();
    let len = image.len();
    // The header is small, and every byte of it matters.
    let end = if random.below(5) == 0 { PAGE } else { len };
    match random.below(10) {
        0..=4 => {
            for _ in 0..1 + random.below(3) * random.below(3) {
                let at = random.below(end);
                image[at] ^= 1 << random.below(8);
            }
        }
        // An empty file would become a new database.
        5 => image.truncate(1 + random.below(end - 1)),
        6 => {
            let (from, to) = (random.below(len / PAGE), random.below(len / PAGE));
            image.copy_within(from * PAGE..(from + 1) * PAGE, to * PAGE);
        }
        7 => {
            let at = random.below(end);
            let end = len.min(at + 1 + random.below(PAGE));
            image[at..end].fill(0);
        }
        8 => {
            let at = random.below(end);
            let end = len.min(at + 1 + random.below(64));
            image[at..end].fill_with(|| random.below(256) as u8);
        }
        _ => image.resize(len + random.below(3 * PAGE), random.below(256) as u8),
    }
    image
}

fn images() -> usize {
    let images = env::var(IMAGES).ok();
    images.map_or(300, |images| images.parse().expect("a number of images"))
}

/// Checks damaged images, and announces each of them.
#[test]
#[ignore = "the child process of the test below"]
fn child_process_that_opens_damaged_images() {
    let Ok(seed) = env::var(SEED) else {
        return;
    };
    let contents = Contents::new(if env::var(IMAGES).is_ok() { 1_000 } else { 300 });
    assert!(!contents.check(contents.image.clone()));
    let bytes = contents.image.len();
    let seed: u64 = seed.parse().unwrap();
    let mut refused = 0;
    for number in 0..images() as u64 {
        io::stdout()
            .write_all(format!("\nimage {number}\n").as_bytes())
            .unwrap();
        let image = damage(
            &contents.image,
            &mut Random(seed.wrapping_add(number << 32)),
        );
        refused += usize::from(contents.check(image));
    }
    println!(
        "\nrefused {refused} of {} images of {bytes} bytes",
        images()
    );
}

#[test]
fn no_damage_to_a_closed_file_ends_the_process_or_changes_an_answer() {
    let seed = RandomState::new().build_hasher().finish() >> 16;
    let process = child("redb::damage::child_process_that_opens_damaged_images")
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        // redb may panic, which is caught and reported as an error.
        .stderr(Stdio::null())
        .spawn();
    let mut process = KilledOnDrop(process.unwrap());
    let stdout = BufReader::new(process.0.stdout.take().unwrap());
    with_timeout(HANG_LIMIT, move |progress| {
        let mut last = String::new();
        let mut summary = None;
        for line in stdout.lines().map_while(std::result::Result::ok) {
            if line.starts_with("image ") {
                last = line;
                progress();
            } else if line.starts_with("refused ") {
                summary = Some(line);
            }
        }
        let status = process.0.wait().unwrap();
        assert!(status.success(), "{last} of seed {seed}: {status}");
        println!("{}", summary.expect("a summary"));
    });
}

fn source<R>(result: Result<R>) -> String {
    match result {
        Err(Error::Backend(source)) => source.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the call succeeded"),
    }
}

const ITEMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("atomic_db/items");
const LOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("atomic_db/locks");

/// Creates a file and writes to it as another program might.
fn with_raw_rows(path: &Path, write: impl FnOnce(&redb::WriteTransaction)) -> RedbDb<String> {
    drop(RedbDb::<String>::open(path).unwrap());
    let database = Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    write(&transaction);
    transaction.commit().unwrap();
    drop(database);
    RedbDb::open(path).unwrap()
}

#[test]
fn a_row_that_cannot_be_decoded_is_named_in_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let db = with_raw_rows(&directory.path().join("db.redb"), |transaction| {
        let mut items = transaction.open_table(ITEMS).unwrap();
        items.insert(&b"pk\0short"[..], &b"1234567"[..]).unwrap();
        items
            .insert(&b"broken\0\xF0\x80"[..], &[0xFF; 8][..])
            .unwrap();
        let mut locks = transaction.open_table(LOCKS).unwrap();
        locks.insert(&b"pk\0lock"[..], &[0; 23][..]).unwrap();
    });
    let short = Key::new("pk", "short");
    let named = r#"the item at ("pk", "short") is too short"#;
    for error in [
        source(db.get(short)),
        source(db.get_many(&[short])),
        source(db.query(&Query::new("pk"))),
        source(db.page(&Query::new("pk").reverse(), None)),
        source(db.set(&[Item::new("pk", "short", String::new())])),
        source(db.commit(&Batch::new().create(Item::new("pk", "short", String::new())))),
        source(db.delete(&[short])),
    ] {
        assert!(error.contains(named), "{error}");
    }
    let error = source(db.get_lock(Key::new("pk", "lock")));
    assert!(
        error.contains(r#"the lock at ("pk", "lock") has"#),
        "{error}"
    );
    let error = source(db.query(&Query::new("broken")));
    assert!(
        error.contains(r#""broken\0"#) && error.contains("not a key"),
        "{error}"
    );
    let error = source(db.check_integrity());
    assert!(error.contains("broken"), "{error}");
    // Other items can be read and written.
    let item = Item::new("another", "item", "data".to_owned());
    db.set(std::slice::from_ref(&item)).unwrap();
    assert_eq!(db.get(item.key()).unwrap(), Some(item));
}

/// A row key with another order: by the last byte.
#[derive(Debug)]
struct ByLastByte;

impl redb::Value for ByLastByte {
    type SelfType<'a> = &'a [u8];
    type AsBytes<'a> = &'a [u8];

    fn fixed_width() -> Option<usize> {
        None
    }

    fn from_bytes<'a>(data: &'a [u8]) -> &'a [u8]
    where
        Self: 'a,
    {
        data
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b [u8]) -> &'a [u8] {
        value
    }

    fn type_name() -> TypeName {
        <&[u8] as redb::Value>::type_name()
    }
}

impl redb::Key for ByLastByte {
    fn compare(left: &[u8], right: &[u8]) -> Ordering {
        left.last().cmp(&right.last())
    }
}

#[test]
fn a_query_that_meets_a_row_in_the_wrong_place_fails_and_names_it() {
    const WRONG: TableDefinition<'_, ByLastByte, &[u8]> = TableDefinition::new("atomic_db/items");
    // Another partition, and rows out of order.
    let other_partition = ["a\0b1", "z\0b2", "a\0b3", "a\0b4", "a\0b5"];
    let disordered = ["a\0b1", "a\0d2", "a\0c3", "a\0e4", "a\0f5"];
    let query = || Query::new("a");
    for (rows, query, misplaced) in [
        // In ascending order, redb ends at such a row.
        (other_partition, query().reverse(), r#"("z", "b2")"#),
        (disordered, query(), r#"("a", "c3")"#),
        (disordered, query().reverse(), r#"("a", "d2")"#),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let db = with_raw_rows(&directory.path().join("db.redb"), |transaction| {
            let mut items = transaction.open_table(WRONG).unwrap();
            for row in rows {
                items.insert(row.as_bytes(), &[0xFF; 8][..]).unwrap();
            }
        });
        let expected = format!("the item at {misplaced} is in the wrong place");
        for error in [source(db.query(&query)), source(db.page(&query, None))] {
            assert!(error.contains(&expected), "{error}");
        }
        assert_eq!(db.query(&query.limit(1)).unwrap().len(), 1);
    }
}

/// Returns an image in which one byte of an item's data is changed, and no other.
fn image_with_damaged_data() -> Vec<u8> {
    let disk = Disk::default();
    let db: RedbDb<String> = RedbDb::builder().open_with(disk.clone()).unwrap();
    let items = (0..200).map(|number| Item::new("pk", number.to_string(), "x".repeat(1_000)));
    db.set(&items.collect::<Vec<_>>()).unwrap();
    drop(db);
    let mut image = disk.current();
    let data = image.windows(100).position(|bytes| bytes == [b'x'; 100]);
    image[data.unwrap()] = b'y';
    image
}

#[test]
fn a_small_file_is_checked_on_open_unless_the_check_is_turned_off() {
    let image = image_with_damaged_data();
    let builder = RedbDb::<String>::builder;
    let disk = || Disk::with_image(image.clone());
    source(builder().open_with(disk()));
    source(builder().check_on_open(true).open_with(disk()));
    let db = builder().check_on_open(false).open_with(disk()).unwrap();
    let found = db.query(&Query::new("pk")).unwrap();
    let changed = found
        .iter()
        .filter(|item| item.data().unwrap().contains('y'));
    assert_eq!(changed.count(), 1);
}

#[test]
fn a_damaged_file_is_not_compacted() {
    with_timeout(HANG_LIMIT, |_| {
        let disk = Disk::with_image(image_with_damaged_data());
        let builder = RedbDb::<String>::builder().check_on_open(false);
        let db = builder.open_with(disk.clone()).unwrap();
        db.delete(&[Key::new("pk", "7")]).unwrap();
        let before = disk.current().len();
        source(db.compact());
        assert_eq!(disk.current().len(), before);
    });
}
