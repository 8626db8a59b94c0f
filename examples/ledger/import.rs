//! Importing bookings. An import is known by its content, whatever the name of its file.

use crate::book::{Booking, book_all};
use crate::error::CommandError;
use crate::store::{IMPORTS, Import, LOCKS, Ledger, Record};
use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, Query};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::thread;
use std::time::Duration;

/// The number of lines that are booked in one commit.
const LINES_PER_COMMIT: usize = 200;

/// How long the file is left to other processes between two commits: longer than they pause before they
/// try again to open it.
const TURN: Duration = Duration::from_millis(5);

/// How to proceed if the first lines of a file are those of an earlier import.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Known {
    /// Refuse the import.
    Refuse,
    /// Book only the lines after those that are booked.
    BookRest,
    /// Book all lines.
    BookAll,
}

/// Books `bookings`, and returns how many of them were not booked before. An import that was interrupted
/// continues where it stopped.
pub(crate) fn import(
    open: impl Fn() -> Result<Ledger, CommandError>,
    bookings: &[Booking],
    known: Known,
) -> Result<usize, CommandError> {
    let bar = ProgressBar::new(bookings.len() as u64);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} lines, {per_sec}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let hashes = prefix_hashes(bookings)?;
    let mut booked = 0;
    loop {
        let ledger = open()?;
        let (first, last) = book_some(&ledger, bookings, &hashes, known)?;
        booked += last - first;
        bar.set_position(last as u64);
        if last == bookings.len() {
            bar.finish_and_clear();
            return Ok(booked);
        }
        drop(ledger);
        thread::sleep(TURN);
    }
}

/// Books the next lines, together with the progress of the import in one commit. Returns the numbers of
/// lines that are booked before and after it.
fn book_some(
    ledger: &Ledger,
    bookings: &[Booking],
    hashes: &[String],
    known: Known,
) -> Result<(usize, usize), CommandError> {
    let of = bookings.len();
    let key = Key::new(IMPORTS, &hashes[of]);
    ledger.try_transact(|tx| {
        tx.lock((LOCKS, "imports"))?;
        // The progress is read outside the transaction, because a transaction reads all of its locks
        // first, and the accounts to lock depend on the progress. The lock above guards it.
        let first = match ledger.get_fresh(key)?.and_then(Item::into_data) {
            Some(Record::Import(import)) => import.lines,
            _ => lines_of_earlier_import(ledger, hashes, known)?,
        };
        let first = usize::try_from(first).unwrap_or(of).min(of);
        let last = of.min(first + LINES_PER_COMMIT);
        book_all(tx, &bookings[first..last], true)?;
        if first < last {
            let progress = Import {
                lines: last as u64,
                of: of as u64,
            };
            tx.set(Item::at(key, Record::Import(progress)))?;
        }
        Ok((first, last))
    })
}

/// Returns how many of the first lines an earlier import has booked, whose lines are the first ones of
/// this import.
fn lines_of_earlier_import(
    ledger: &Ledger,
    hashes: &[String],
    known: Known,
) -> Result<u64, CommandError> {
    if known == Known::BookAll {
        return Ok(0);
    }
    let mut earlier: Option<Import> = None;
    for item in ledger.stream(Query::new(IMPORTS)) {
        let item = item?;
        if let Some(Record::Import(import)) = item.data() {
            let hash = usize::try_from(import.of)
                .ok()
                .and_then(|of| hashes.get(of));
            let is_longer = earlier.is_none_or(|earlier| earlier.of < import.of);
            if is_longer && hash.is_some_and(|hash| hash == item.sk()) {
                earlier = Some(*import);
            }
        }
    }
    match earlier {
        None => Ok(0),
        Some(Import { lines, .. }) if known == Known::BookRest => Ok(lines),
        Some(Import { lines, of }) => Err(CommandError::Refused(format!(
            "the first {of} lines are those of an earlier import, which has booked {lines} of them: \
             import with --rest to book only the lines after these, or with --all to book all lines"
        ))),
    }
}

/// Returns the hashes of the first 0, 1, 2 and so on bookings. They depend on the contents of the
/// lines, and not on their form.
fn prefix_hashes(bookings: &[Booking]) -> Result<Vec<String>, CommandError> {
    let mut hasher = Sha256::new();
    let mut hashes = Vec::with_capacity(bookings.len() + 1);
    let hash = |hasher: &Sha256| {
        let digest = hasher.clone().finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    hashes.push(hash(&hasher));
    for booking in bookings {
        let text = serde_json::to_vec(booking);
        hasher.update(text.map_err(|error| CommandError::Input(error.to_string()))?);
        hasher.update(b"\n");
        hashes.push(hash(&hasher));
    }
    Ok(hashes)
}
