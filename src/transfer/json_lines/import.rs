//! Reading lines, and writing their items to a database.

use super::line;
use super::reader::{LineReader, MAX_LINE_BYTES, RawLine};
use crate::transfer::batch::write_batch;
use crate::transfer::error::{BadLine, TransferError};
use crate::{AtomicDb, Item};
use serde::de::DeserializeOwned;
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, BufRead};

/// The number of items that fill a batch, and the number of bytes of their lines. They bound memory, and
/// share the cost of a commit to a file.
const BATCH_SIZE: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;

/// Writes the items in the lines of `input` to `db`, as [`Import::run`] does with the default options: it
/// stops at the first line that is not an item.
///
/// # Errors
///
/// Those of [`Import::run`].
pub fn import<D>(db: &D, input: impl BufRead) -> Result<ImportProgress, TransferError>
where
    D: AtomicDb<Data: DeserializeOwned> + ?Sized,
{
    Import::new().run(db, input)
}

/// An import of JSON lines, with its options.
///
/// # Defaults
///
/// It begins with the first line, stops at the first line that is not an item, and reports no progress.
///
/// ```
/// use atomic_db::{MemoryDb, json_lines::Import};
///
/// let input = r#"
/// {"pk": "user#1", "sk": "name", "data": "Ada"}
/// {"pk": "user#2", "sk": "name", "data": 7}
/// {"pk": "user#3", "sk": "name", "data": "Bob"}
/// "#;
/// let db: MemoryDb<String> = MemoryDb::new();
/// let mut bad_lines = Vec::new();
/// let imported = Import::new()
///     .on_bad_line(|line| bad_lines.push(line.number))
///     .run(&db, input.as_bytes())?;
/// assert_eq!((imported.items, bad_lines), (2, vec![3]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
#[must_use = "an import does nothing until it is run"]
pub struct Import<'a> {
    after_line: u64,
    on_progress: Option<Box<dyn FnMut(ImportProgress) + 'a>>,
    on_bad_line: Option<Box<dyn FnMut(BadLine) + 'a>>,
}

/// How far an import has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ImportProgress {
    /// The number of the last line that is done: its item and those of all lines before it are written,
    /// or reported as bad. [`Import::after_line`] continues from here.
    pub lines: u64,
    /// The number of items that this import has written. An item of a repeated key counts each time.
    pub items: u64,
    /// The number of bad lines that this import has reported.
    pub bad_lines: u64,
}

impl<'a> Import<'a> {
    /// Returns an import with the default options.
    pub fn new() -> Self {
        Import::default()
    }

    /// Skips the first `lines` lines, which an earlier import has [done](ImportProgress::lines).
    ///
    /// This saves time and is never necessary: an import that is run again writes the same items again.
    pub fn after_line(mut self, lines: u64) -> Self {
        self.after_line = lines;
        self
    }

    /// Calls `on_progress` each time that a batch of items has been written.
    pub fn on_progress(mut self, on_progress: impl FnMut(ImportProgress) + 'a) -> Self {
        self.on_progress = Some(Box::new(on_progress));
        self
    }

    /// Calls `on_bad_line` for each line that is not an item, or whose item the database cannot hold, and
    /// goes on with the next line. Nothing is written for such a line.
    pub fn on_bad_line(mut self, on_bad_line: impl FnMut(BadLine) + 'a) -> Self {
        self.on_bad_line = Some(Box::new(on_bad_line));
        self
    }

    /// Writes the items in the lines of `input` to `db`, in their order, as [`set`](AtomicDb::set) does:
    /// an item replaces the item or lock under its key, and of several lines with one key the last one
    /// wins.
    ///
    /// At most a thousand items are in memory, and no further ones once their lines have a mebibyte. Items
    /// that have expired are written, too, and are not visible. Because it can be repeated, an import into a
    /// file may use `Durability::Deferred` and a `flush` at the end.
    ///
    /// # Errors
    ///
    /// The items of the lines up to the last reported [progress](Import::on_progress) are written, and
    /// those of later lines may be. An import that is run again, from the beginning or from there, writes
    /// the same items.
    ///
    /// - [`TransferError::BadLine`]: a line is not an item, or the database cannot hold its item, and
    ///   [`on_bad_line`](Import::on_bad_line) was not used. The items before it are written.
    /// - [`TransferError::Io`]: `input` could not be read. The items before this are written.
    /// - [`TransferError::Write`]: `db` could not be written.
    pub fn run<D>(mut self, db: &D, input: impl BufRead) -> Result<ImportProgress, TransferError>
    where
        D: AtomicDb<Data: DeserializeOwned> + ?Sized,
    {
        let mut reader = LineReader::new(input, MAX_LINE_BYTES);
        while reader.lines() < self.after_line {
            if !reader.skip().map_err(TransferError::Io)? {
                break;
            }
        }
        let mut batch = Batch::new();
        loop {
            let end = match read_item(&mut reader) {
                Ok(Line::Empty) => continue,
                Ok(Line::Item(item, bytes)) => {
                    batch.push(item, reader.lines(), bytes);
                    if !batch.is_full() {
                        continue;
                    }
                    None
                }
                Ok(Line::Bad(reason)) => {
                    let number = reader.lines();
                    match self.report(&mut batch.progress, BadLine { number, reason }) {
                        Ok(()) => continue,
                        Err(error) => Some(Err(error)),
                    }
                }
                Ok(Line::End) => Some(Ok(())),
                Err(error) => Some(Err(TransferError::Io(error))),
            };
            // Before the import ends, even if it ends with an error, the items so far are written.
            batch.progress.lines = match &end {
                Some(Err(TransferError::BadLine(line))) => line.number - 1,
                _ => reader.lines(),
            };
            self.write(&mut batch, db)?;
            match end {
                None => {}
                Some(Ok(())) => return Ok(batch.progress),
                Some(Err(error)) => return Err(error),
            }
        }
    }

    /// Writes and clears `batch`.
    fn write<D>(&mut self, batch: &mut Batch<D::Data>, db: &D) -> Result<(), TransferError>
    where
        D: AtomicDb + ?Sized,
    {
        let Batch {
            items,
            numbers,
            progress,
            ..
        } = batch;
        let mut refused = ImportProgress::default();
        let written = write_batch(db, items, |index, error| {
            let reason = with_sources(&error);
            let number = numbers[index];
            self.report(&mut refused, BadLine { number, reason })
        })?;
        progress.items += written;
        progress.bad_lines += refused.bad_lines;
        if let Some(on_progress) = &mut self.on_progress {
            on_progress(*progress);
        }
        batch.clear();
        Ok(())
    }

    /// Counts and reports a bad line.
    ///
    /// # Errors
    ///
    /// [`TransferError::BadLine`] if the import stops at bad lines.
    fn report(
        &mut self,
        progress: &mut ImportProgress,
        line: BadLine,
    ) -> Result<(), TransferError> {
        match &mut self.on_bad_line {
            Some(on_bad_line) => {
                progress.bad_lines += 1;
                on_bad_line(line);
                Ok(())
            }
            None => Err(TransferError::BadLine(line)),
        }
    }
}

impl fmt::Debug for Import<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import")
            .field("after_line", &self.after_line)
            .finish_non_exhaustive()
    }
}

/// A line of the input.
enum Line<T> {
    /// An item, and the number of bytes of its line.
    Item(Item<T>, usize),
    Empty,
    /// The line is not an item, for this reason.
    Bad(String),
    End,
}

fn read_item<T: DeserializeOwned>(reader: &mut LineReader<impl BufRead>) -> io::Result<Line<T>> {
    Ok(match reader.next()? {
        None => Line::End,
        Some(RawLine::TooLong) => Line::Bad(format!("it has more than {MAX_LINE_BYTES} bytes")),
        Some(RawLine::Text(text)) if text.trim_ascii().is_empty() => Line::Empty,
        Some(RawLine::Text(text)) => match line::decode(text) {
            Ok(item) => Line::Item(item, text.len()),
            Err(reason) => Line::Bad(reason),
        },
    })
}

/// Items that are written together, and the numbers of their lines.
struct Batch<T> {
    items: Vec<Item<T>>,
    numbers: Vec<u64>,
    bytes: usize,
    progress: ImportProgress,
}

impl<T> Batch<T> {
    fn new() -> Self {
        Batch {
            items: Vec::with_capacity(BATCH_SIZE),
            numbers: Vec::with_capacity(BATCH_SIZE),
            bytes: 0,
            progress: ImportProgress::default(),
        }
    }

    fn push(&mut self, item: Item<T>, number: u64, bytes: usize) {
        self.items.push(item);
        self.numbers.push(number);
        self.bytes += bytes;
    }

    fn is_full(&self) -> bool {
        self.items.len() >= BATCH_SIZE || self.bytes >= BATCH_BYTES
    }

    fn clear(&mut self) {
        self.items.clear();
        self.numbers.clear();
        self.bytes = 0;
    }
}

fn with_sources(error: &dyn StdError) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {}", with_sources(source)),
    }
}
