//! Export of a whole ledger, and import into a new file.

use crate::error::CommandError;
use crate::store::{self, Ledger};
use atomic_db::json_lines;
use std::fs;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use tempfile::{NamedTempFile, TempPath};

/// Writes all records of `ledger` to `out`, and returns their number.
pub(crate) fn export(ledger: &Ledger, out: impl Write) -> Result<u64, CommandError> {
    Ok(json_lines::export(ledger, out, |_| {})?)
}

/// Writes all records of `ledger` to a new file, which appears under its name when it is complete.
pub(crate) fn export_to_file(ledger: &Ledger, path: &Path) -> Result<u64, CommandError> {
    let mut file = new_file_next_to(path)?;
    let records = export(ledger, BufWriter::new(&mut file))?;
    file.as_file().sync_all()?;
    persist(file.into_temp_path(), path)?;
    Ok(records)
}

/// Writes the records in an exported ledger to a new ledger, which appears under its name when it is
/// complete. Returns their number.
pub(crate) fn import(file: &Path, exported: &str) -> Result<u64, CommandError> {
    if fs::symlink_metadata(file).is_ok() {
        return Err(already_exists(file));
    }
    let temporary = new_file_next_to(file)?.into_temp_path();
    // An empty file is a new ledger.
    let ledger = store::open_or_create(&temporary)?;
    let records = json_lines::import(&ledger, exported.as_bytes())?.items;
    drop(ledger);
    persist(temporary, file)?;
    Ok(records)
}

fn new_file_next_to(path: &Path) -> Result<NamedTempFile, CommandError> {
    let file = tempfile::Builder::new()
        .prefix(".ledger-")
        .tempfile_in(directory_of(path));
    file.map_err(|error| cannot_create(path, &error))
}

fn directory_of(path: &Path) -> &Path {
    let parent = path.parent();
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Gives a file its name, unless there is a file of this name.
fn persist(temporary: TempPath, path: &Path) -> Result<(), CommandError> {
    temporary
        .persist_noclobber(path)
        .map_err(|error| match error.error.kind() {
            ErrorKind::AlreadyExists => already_exists(path),
            _ => cannot_create(path, &error.error),
        })?;
    // The name is durable when the directory is. Other systems cannot open one.
    if cfg!(unix) {
        let synced = fs::File::open(directory_of(path)).and_then(|directory| directory.sync_all());
        synced.map_err(|error| cannot_create(path, &error))?;
    }
    Ok(())
}

fn already_exists(path: &Path) -> CommandError {
    CommandError::Refused(format!("{path:?} already exists"))
}

fn cannot_create(path: &Path, error: &io::Error) -> CommandError {
    CommandError::Refused(format!("cannot create {path:?}: {error}"))
}
