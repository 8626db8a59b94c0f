//! The format of an open file: creates it in an empty one, and refuses any other.

use super::encoding::{CODEC, EXPIRIES, FORMAT, FORMAT_1, ITEMS, LOCKS, META};
use super::error::backend;
use super::handle::Handle;
use crate::{Error, Result};
use redb::{
    Database, MultimapTableHandle, ReadTransaction, ReadableDatabase, TableError, TableHandle,
};

/// Creates the tables of an empty file, and refuses a file with other tables, another format or another
/// codec than `codec`. `name` is the file's name in errors.
pub(super) fn create_or_check(handle: &Handle, name: &str, codec: &str) -> Result<()> {
    if is_created(&handle.begin_read()?, name, codec)? {
        return Ok(());
    }
    match handle {
        Handle::Writable(database) => create(database, name, codec),
        Handle::ReadOnly(_) | Handle::Closed => Err(Error::InvalidInput(format!(
            "{name} does not contain a database yet: open it for writing once"
        ))),
    }
}

/// Creates the tables, unless another process that shares the file was faster.
fn create(database: &Database, name: &str, codec: &str) -> Result<()> {
    let write = database.begin_write().map_err(backend)?;
    // No other process writes now, and a new read sees what the last one has committed.
    if is_created(&database.begin_read().map_err(backend)?, name, codec)? {
        return Ok(());
    }
    {
        let mut meta = write.open_table(META).map_err(backend)?;
        meta.insert(FORMAT, FORMAT_1).map_err(backend)?;
        meta.insert(CODEC, codec.as_bytes()).map_err(backend)?;
        write.open_table(ITEMS).map_err(backend)?;
        write.open_table(LOCKS).map_err(backend)?;
        write.open_table(EXPIRIES).map_err(backend)?;
    }
    write.commit().map_err(backend)
}

/// Returns whether the file has the tables of this format, and `false` if it has no tables.
fn is_created(read: &ReadTransaction, name: &str, codec: &str) -> Result<bool> {
    let tables = read.list_tables().map_err(backend)?;
    let tables: Vec<String> = tables.map(|table| table.name().to_owned()).collect();
    if !tables.iter().any(|table| table == META.name()) {
        let multimaps = read.list_multimap_tables().map_err(backend)?;
        let multimaps = multimaps.map(|table| table.name().to_owned());
        return match tables.into_iter().chain(multimaps).next() {
            None => Ok(false),
            Some(table) => Err(Error::InvalidInput(format!(
                "{name} is a redb file of another program: it has a table {table:?}"
            ))),
        };
    }
    let schema_error = |error| schema_error(name, error);
    let meta = read.open_table(META).map_err(schema_error)?;
    let text = |key| -> Result<Option<String>> {
        let row = meta.get(key).map_err(backend)?;
        Ok(row.map(|row| String::from_utf8_lossy(row.value()).into_owned()))
    };
    let format = text(FORMAT)?;
    if format.as_ref().map(String::as_bytes) != Some(FORMAT_1) {
        return Err(Error::InvalidInput(format!(
            "{name} has format {}, but this version of atomic-db supports only format 1",
            format.as_deref().unwrap_or("none")
        )));
    }
    // Files of early versions do not name their codec, which was `Json`.
    let found = text(CODEC)?.unwrap_or_else(|| "json".to_owned());
    if found != codec {
        return Err(Error::InvalidInput(format!(
            "{name} stores data with the codec {found:?}, but was opened with the codec {codec:?}"
        )));
    }
    read.open_table(ITEMS).map_err(schema_error)?;
    read.open_table(LOCKS).map_err(schema_error)?;
    read.open_table(EXPIRIES).map_err(schema_error)?;
    Ok(true)
}

fn schema_error(name: &str, error: TableError) -> Error {
    match error {
        TableError::Storage(error) => backend(error),
        error => Error::InvalidInput(format!("{name} is not an atomic-db database: {error}")),
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;
    use redb::ConcurrencyMode;

    #[test]
    fn a_process_that_creates_the_tables_after_another_one_finds_its_codec() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.redb");
        let open = || {
            let mut builder = Database::builder();
            builder.set_concurrency_mode(ConcurrencyMode::MultiWriter);
            builder.create(&path).unwrap()
        };
        // Both processes have found no tables.
        let (first, second) = (open(), open());
        create(&first, "the file", "json").unwrap();
        create(&second, "the file", "json").unwrap();
        let refused = create(&second, "the file", "bytes");
        assert!(matches!(refused, Err(Error::InvalidInput(_))));
    }
}
