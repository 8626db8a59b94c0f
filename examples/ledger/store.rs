//! The file of the ledger, and the records in it.

use crate::error::CommandError;
use atomic_db::{RedbDb, RedbDbBuilder};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The partition of all accounts, so that one query lists them. The entries of each account have their
/// own partition, and so have the locks and the imports.
pub(crate) const ACCOUNTS: &str = "accounts";
pub(crate) const LOCKS: &str = "locks";
pub(crate) const IMPORTS: &str = "imports";

pub(crate) type Ledger = RedbDb<Record>;

#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Record {
    Account(Account),
    Entry(Entry),
    Import(Import),
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Account {
    pub(crate) cents: i64,
    /// How far the balance may go below zero; unlimited if `None`.
    pub(crate) overdraft: Option<i64>,
    /// The number of entries, which is the number of the next one.
    pub(crate) entries: u64,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) date: String,
    pub(crate) cents: i64,
    pub(crate) balance: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) other: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// An import, under a key that is the hash of its lines.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Import {
    /// The number of lines that are booked.
    pub(crate) lines: u64,
    /// The number of lines that it has. It is missing in the ledgers of early versions, which knew
    /// imports by the names of files.
    #[serde(default)]
    pub(crate) of: u64,
}

/// Returns the partition of an account's entries.
pub(crate) fn entries_of(account: &str) -> String {
    format!("entries of {account}")
}

/// Opens a ledger, and creates it if it does not exist.
pub(crate) fn open_or_create(file: &Path) -> Result<Ledger, CommandError> {
    Ok(builder().open(file)?)
}

/// Opens a ledger for writing.
pub(crate) fn open(file: &Path) -> Result<Ledger, CommandError> {
    check_exists(file)?;
    Ok(builder().open(file)?)
}

/// Opens a ledger so that other processes can read it at the same time. If it has to be repaired
/// first, it is opened for writing, which repairs it.
pub(crate) fn open_to_read(file: &Path) -> Result<Ledger, CommandError> {
    check_exists(file)?;
    match builder().read_only(true).open(file) {
        Err(atomic_db::Error::InvalidInput(_)) => Ok(builder().open(file)?),
        opened => Ok(opened?),
    }
}

/// Refuses a file that is missing or empty, in which opening it would create a ledger.
fn check_exists(file: &Path) -> Result<(), CommandError> {
    match fs::metadata(file) {
        Ok(found) if found.is_file() && found.len() == 0 => {
            Err(CommandError::Refused(format!("{file:?} is empty")))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(CommandError::Refused(
            format!("there is no ledger at {file:?}"),
        )),
        // Opening it reports any other problem.
        _ => Ok(()),
    }
}

/// How long a command waits for other processes that have the file open.
const WAIT: Duration = Duration::from_secs(30);

fn builder() -> RedbDbBuilder<Record> {
    RedbDb::builder().wait(WAIT)
}
