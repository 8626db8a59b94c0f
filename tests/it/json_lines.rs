//! Export and import as JSON lines.

use crate::common::{Call, HookedDb, Moment, contents, numbered};
use atomic_db::json_lines::{BadLine, Import, ImportProgress, MAX_LINE_BYTES, export, import};
use atomic_db::{AtomicDb, Error, Item, Key, Lock, ManualClock, MemoryDb, Scan, TransferError};
use atomic_db_test_support::faulty_db::{Fault, FaultyDb};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn exported<D>(db: &D) -> String
where
    D: Scan<Data: serde::Serialize + serde::de::DeserializeOwned>,
{
    let mut output = Vec::new();
    export(db, &mut output, |_| {}).unwrap();
    String::from_utf8(output).unwrap()
}

/// Lines of items with the data 0, 1 and so on.
fn lines(count: usize) -> Vec<String> {
    let line = |number| format!(r#"{{"pk":"pk","sk":"{number:06}","data":{number}}}"#);
    (0..count).map(line).collect()
}

fn imported(
    lines: &[String],
    options: Import<'_>,
) -> (MemoryDb<u32>, Result<ImportProgress, TransferError>) {
    let db = MemoryDb::new();
    let text = lines.join("\n");
    let outcome = options.run(&db, text.as_bytes());
    (db, outcome)
}

#[test]
fn an_import_of_an_export_restores_all_items_and_no_locks() {
    let clock = ManualClock::new(1_000);
    let new = || MemoryDb::<u32>::builder().clock(clock.clone()).build();
    for count in [0, 1, 997, 998, 999, 2_345] {
        let (from, to) = (new(), new());
        from.set(&numbered(count)).unwrap();
        from.set(&[
            Item::new("odd\n", "\0\u{10ffff}\"", 1).expires_at(1_000),
            Item::without_data("a", "without data"),
            Item::new("expired", "", 1).expires_at(999),
        ])
        .unwrap();
        let lock = from.get_lock(Key::new("a", "lock")).unwrap();
        let mut output = Vec::new();
        let mut progress = Vec::new();
        let items = export(&from, &mut output, |items| progress.push(items)).unwrap();
        assert_eq!(items, u64::from(count) + 2);
        assert_eq!(progress.last(), Some(&items));
        assert!(progress.is_sorted());

        let done = import(&to, output.as_slice()).unwrap();
        assert_eq!((done.lines, done.items, done.bad_lines), (items, items, 0));
        assert_eq!(contents(&to), contents(&from));
        assert_ne!(to.get_lock(lock.key()).unwrap(), lock);
    }
}

#[test]
fn an_item_is_one_line_with_the_fields_in_order() {
    let db = MemoryDb::builder().clock(ManualClock::new(1_000)).build();
    let line = |item: Item<Value>| {
        db.set(&[item.clone()]).unwrap();
        let line = exported(&db);
        db.delete(&[item.key()]).unwrap();
        line
    };
    let item = Item::new("user#1", "profile", json!({"name": "Ada\n", "age": 36}));
    assert_eq!(
        line(item.expires_at(1_900_000_000)),
        concat!(
            r#"{"pk":"user#1","sk":"profile","data":{"age":36,"name":"Ada\n"},"ttl":1900000000}"#,
            "\n"
        )
    );
    assert_eq!(
        line(Item::without_data("a", "b")),
        "{\"pk\":\"a\",\"sk\":\"b\"}\n"
    );
    assert_eq!(
        line(Item::new("a", "b", Value::Null)),
        "{\"pk\":\"a\",\"sk\":\"b\",\"data\":null}\n"
    );
}

#[test]
fn bad_lines_are_reported_by_number_and_no_other_line_is_lost() {
    let mut lines = lines(3_000);
    let bad = [1, 2, 57, 1_000, 1_001, 1_500, 2_998, 3_000];
    for number in bad {
        lines[number - 1] = match number % 4 {
            0 => "not JSON".to_owned(),
            1 => r#"{"pk":"bad","data":1}"#.to_owned(),
            2 => r#"{"pk":"bad","sk":"bad","data":"not a number"}"#.to_owned(),
            // An export that was interrupted.
            _ => r#"{"pk":"bad","sk":"b"#.to_owned(),
        };
    }
    let mut reported: Vec<BadLine> = Vec::new();
    let mut progress = Vec::new();
    let options = Import::new()
        .on_bad_line(|line| reported.push(line))
        .on_progress(|done| progress.push(done));
    let (db, done) = imported(&lines, options);
    let done = done.unwrap();
    assert_eq!((done.lines, done.items, done.bad_lines), (3_000, 2_992, 8));
    assert_eq!(progress.last(), Some(&done));
    let numbers: Vec<usize> = reported
        .iter()
        .map(|line| usize::try_from(line.number).unwrap())
        .collect();
    assert_eq!(numbers, bad);
    for line in &reported {
        assert!(!line.reason.is_empty());
        assert!(
            line.to_string()
                .starts_with(&format!("line {}: ", line.number))
        );
    }
    let found: Vec<u32> = contents(&db)
        .values()
        .map(|item| *item.data().unwrap())
        .collect();
    let expected = (0..3_000).filter(|number| !bad.contains(&(*number as usize + 1)));
    assert!(found.into_iter().eq(expected));
}

#[test]
fn an_import_stops_at_the_first_bad_line_unless_they_are_handled() {
    for number in [1, 2, 1_000, 1_001, 2_500, 3_000] {
        let mut lines = lines(3_000);
        lines[number - 1] = "{}".to_owned();
        let mut progress = ImportProgress::default();
        let (db, outcome) = imported(&lines, Import::new().on_progress(|done| progress = done));
        match outcome {
            Err(TransferError::BadLine(line)) => {
                assert_eq!(line.number, number as u64);
                assert!(line.reason.contains("`pk`"), "{line}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(db.len(), number - 1);
        assert_eq!(progress.lines, number as u64 - 1);
    }
}

/// The database refuses the whole batch. Only the item that it cannot hold is left out.
#[test]
fn items_that_the_database_refuses_are_bad_lines() {
    let mut lines = lines(2_500);
    for number in [1, 1_200, 1_201, 2_500] {
        lines[number - 1] = format!(r#"{{"pk":"pk","sk":"","data":{number}}}"#);
    }
    // This database refuses empty sort keys.
    let db = FaultyDb::<u32>::new(Fault::LateKeyRefusal, ManualClock::new(1_000));
    let mut reported = Vec::new();
    let done = Import::new()
        .on_bad_line(|line| reported.push(line.number))
        .run(&db, lines.join("\n").as_bytes())
        .unwrap();
    assert_eq!(reported, [1, 1_200, 1_201, 2_500]);
    assert_eq!((done.lines, done.items, done.bad_lines), (2_500, 2_496, 4));
    assert_eq!(db.scan().count(), 2_496);

    let db = FaultyDb::<u32>::new(Fault::LateKeyRefusal, ManualClock::new(1_000));
    match import(&db, lines[1..].join("\n").as_bytes()) {
        Err(TransferError::BadLine(line)) => assert_eq!(line.number, 1_199),
        other => panic!("{other:?}"),
    }
    assert_eq!(db.scan().count(), 1_198);
}

#[test]
fn a_byte_order_mark_empty_lines_and_carriage_returns_are_ignored() {
    let text = "\u{feff}{\"pk\":\"a\",\"sk\":\"1\",\"data\":1}\r\n\r\n  \n{\"pk\":\"a\",\"sk\":\"2\",\"data\":2}";
    let db = MemoryDb::<u32>::new();
    let done = import(&db, text.as_bytes()).unwrap();
    assert_eq!((done.lines, done.items), (4, 2));
    assert_eq!(db.len(), 2);
}

#[test]
fn of_several_lines_with_one_key_the_last_one_wins() {
    for count in [2, 1_500, 2_500] {
        let line = |number| format!(r#"{{"pk":"pk","sk":"sk","data":{number}}}"#);
        let lines: Vec<String> = (0..count).map(line).collect();
        let (db, done) = imported(&lines, Import::new());
        assert_eq!(done.unwrap().items, u64::from(count));
        let item = db.get(Key::new("pk", "sk")).unwrap();
        assert_eq!(item.and_then(Item::into_data), Some(count - 1));
    }
}

#[test]
fn an_import_replaces_items_and_locks_and_keeps_others() {
    let db = MemoryDb::<u32>::new();
    let lock: Lock = db.get_lock(Key::new("pk", "000000")).unwrap();
    db.set(&[Item::new("pk", "000001", 99), Item::new("other", "sk", 1)])
        .unwrap();
    import(&db, lines(2).join("\n").as_bytes()).unwrap();
    assert!(db.set_atomic(&[], &[lock]).unwrap_err().is_race_condition());
    let item = db.get(Key::new("pk", "000001")).unwrap();
    assert_eq!(item.and_then(Item::into_data), Some(1));
    assert_eq!(db.len(), 3);
}

/// Each import of a file is interrupted by an error of the database, and the next one continues after
/// the last reported line.
#[test]
fn an_interrupted_import_is_resumed_after_the_lines_that_are_done() {
    let text = lines(10_500).join("\n");
    let inner = MemoryDb::<u32>::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let db = {
        let calls = Arc::clone(&calls);
        HookedDb::new(inner.clone(), move |call, moment| {
            let is_third = || calls.fetch_add(1, Ordering::Relaxed) % 3 == 2;
            match (call, moment) {
                (Call::Set, Moment::Before) if is_third() => {
                    Err(Error::Unavailable("lost the connection".into()))
                }
                _ => Ok(()),
            }
        })
    };
    let (mut after, mut items, mut runs) = (0, 0, 0);
    loop {
        runs += 1;
        let mut last = ImportProgress::default();
        let outcome = Import::new()
            .after_line(after)
            .on_progress(|done| last = done)
            .run(&db, text.as_bytes());
        items += last.items;
        match outcome {
            Ok(done) => {
                assert_eq!(done.lines, 10_500);
                break;
            }
            Err(TransferError::Write(Error::Unavailable(_))) => {
                assert_eq!(last.lines, after + 2_000, "run {runs}");
                after = last.lines;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(runs, 6);
    assert_eq!(items, 10_500, "lines were written twice or never");
    assert_eq!(inner.len(), 10_500);
    // A resumed import of a file without further lines.
    let done = Import::new()
        .after_line(20_000)
        .run(&db, text.as_bytes())
        .unwrap();
    assert_eq!((done.lines, done.items), (10_500, 0));
}

/// Bytes, and then an error.
struct FailingReader<'a>(&'a [u8]);

impl Read for FailingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Ok(0) => Err(io::Error::other("a bad sector")),
            read => read,
        }
    }
}

#[test]
fn items_that_were_read_before_an_error_of_the_input_are_written() {
    for count in [0, 1, 1_000, 1_300] {
        let text: String = lines(count)
            .iter()
            .map(|line| format!("{line}\n"))
            .collect();
        let half_a_line = format!("{text}{{\"pk\":");
        let db = MemoryDb::<u32>::new();
        let input = BufReader::new(FailingReader(half_a_line.as_bytes()));
        let mut lines_done = 0;
        let outcome = Import::new()
            .on_progress(|done| lines_done = done.lines)
            .run(&db, input);
        assert!(matches!(outcome, Err(TransferError::Io(_))), "{outcome:?}");
        assert_eq!(db.len(), count);
        assert_eq!(lines_done, count as u64);
    }
}

/// Endless bytes without a newline, of which no more may be read than a line can have.
struct EndlessLine {
    read: usize,
}

impl Read for EndlessLine {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        unreachable!("the import reads whole buffers")
    }
}

impl BufRead for EndlessLine {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        const BUFFER: &[u8] = &[b' '; 1 << 20];
        if self.read > 2 * MAX_LINE_BYTES {
            return Ok(b"\n");
        }
        Ok(BUFFER)
    }

    fn consume(&mut self, bytes: usize) {
        self.read += bytes;
        if bytes == 1 {
            self.read = 0;
        }
    }
}

#[test]
fn a_line_that_is_too_long_is_a_bad_line_and_takes_bounded_memory() {
    let db = MemoryDb::<u32>::new();
    match import(&db, EndlessLine { read: 0 }) {
        Err(TransferError::BadLine(line)) => {
            assert_eq!(line.number, 1);
            assert!(line.reason.contains(&MAX_LINE_BYTES.to_string()), "{line}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_of_large_items_is_bounded_by_their_lines() {
    let data = "x".repeat(300_000);
    let line = |number| format!(r#"{{"pk":"pk","sk":"{number}","data":"{data}"}}"#);
    let text: Vec<String> = (0..20).map(line).collect();
    let db = MemoryDb::<String>::new();
    let mut written = Vec::new();
    Import::new()
        .on_progress(|done| written.push(done.items))
        .run(&db, text.join("\n").as_bytes())
        .unwrap();
    assert_eq!(written, [4, 8, 12, 16, 20, 20]);
}

/// Accepts some bytes, and then fails.
struct FullDisk(usize);

impl Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.0);
        self.0 -= len;
        match len {
            0 => Err(io::ErrorKind::StorageFull.into()),
            len => Ok(len),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0 {
            0 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

#[test]
fn an_export_reports_that_its_output_cannot_be_written() {
    let db = MemoryDb::new();
    db.set(&numbered(100)).unwrap();
    let len = exported(&db).len();
    // Even if only the last flush fails.
    for capacity in [0, 10, len - 1, len] {
        match export(&db, FullDisk(capacity), |_| {}) {
            Err(TransferError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(export(&db, FullDisk(len + 1), |_| {}).unwrap(), 100);
}

#[test]
fn an_export_reports_errors_of_the_database_and_of_data() {
    let db = HookedDb::new(MemoryDb::new(), |call, _| match call {
        Call::ScannedItem => Err(Error::Unavailable("lost the connection".into())),
        _ => Ok(()),
    });
    db.set(&numbered(10)).unwrap();
    let outcome = export(&db, io::sink(), |_| {});
    assert!(
        matches!(outcome, Err(TransferError::Read(Error::Unavailable(_)))),
        "{outcome:?}"
    );

    // JSON has only strings as keys.
    let db = MemoryDb::new();
    db.set(&[Item::new("pk", "sk", BTreeMap::from([(vec![1], 1)]))])
        .unwrap();
    match export(&db, io::sink(), |_| {}) {
        Err(TransferError::Refused {
            key,
            source: Error::Codec { source, .. },
        }) => {
            assert_eq!(key, Key::new("pk", "sk"));
            assert!(
                source.to_string().contains("key must be a string"),
                "{source}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_transfer_error_has_its_cause_as_source_and_not_in_its_text() {
    let db = MemoryDb::new();
    db.set(&numbered(1)).unwrap();
    let error = export(&db, FullDisk(0), |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "the input or output failed");
    assert!(error.source().is_some());
    let error = import(&db, "{".as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with("line 1: "), "{error}");
    assert!(error.source().is_none());
}

#[cfg(feature = "redb")]
#[test]
fn a_file_is_exported_and_imported_into_another_one() {
    let from = atomic_db::RedbDb::<Value>::builder().in_memory().unwrap();
    let item = |number: u32| {
        Item::new(
            format!("pk {}", number % 3),
            number.to_string(),
            json!([number]),
        )
    };
    from.set(&(0..1_000).map(item).collect::<Vec<_>>()).unwrap();
    let text = exported(&from);
    let to = atomic_db::RedbDb::<Value>::builder().in_memory().unwrap();
    assert_eq!(import(&to, text.as_bytes()).unwrap().items, 1_000);
    // The items of a file are in the order of their keys, so equal files have equal exports.
    assert_eq!(exported(&to), text);

    // A key that a file cannot hold is a bad line.
    let long = format!(r#"{{"pk":"pk","sk":"{}","data":1}}"#, "k".repeat(65_536));
    let mut reasons = Vec::new();
    let done = Import::new()
        .on_bad_line(|line| reasons.push(line.reason))
        .run(&to, long.as_bytes())
        .unwrap();
    assert_eq!((done.items, done.bad_lines), (0, 1));
    assert!(reasons[0].contains("65535"), "{reasons:?}");
}
