//! An open redb file: opening it, its transactions, and closing it.

use super::builder::{Durability, Options};
use super::encoding::{CODEC, EXPIRIES, FORMAT, FORMAT_1, ITEMS, LOCKS, META};
use super::error::{backend, cannot_open, catch_panic, open_error};
use crate::sync::RwLock;
use crate::{Error, Result, VersionGenerator};
use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, StorageBackend,
    StorageError, TableError, TableHandle, WriteTransaction,
};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// An open file.
///
/// A transaction holds `handle` for reading for as long as it lives. An operation on the whole file
/// holds it for writing. See the lock order at the head of `mod.rs`.
pub(super) struct File {
    handle: RwLock<Handle>,
    pub(super) durability: Durability,
    /// The name of the file in error messages.
    pub(super) name: String,
}

pub(super) enum Handle {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
    /// The file is being dropped.
    Closed,
}

impl File {
    pub(super) fn open(path: &Path, codec: &str, options: &Options) -> Result<Self> {
        let name = format!("{path:?}");
        match fs::metadata(path) {
            Ok(found) if !found.is_file() => {
                let kind = if found.is_dir() {
                    "directory"
                } else {
                    "device or pipe"
                };
                Err(Error::InvalidInput(format!(
                    "{name} is not a regular file: it is a {kind}"
                )))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !options.read_only => {
                File::create(path, name, codec, options)
            }
            // Let redb report any other problem.
            _ => File::open_existing(path, name, codec, options),
        }
    }

    /// Creates the file under a temporary name and links it to its own name when it is complete,
    /// because redb cannot open a file whose creation was interrupted.
    fn create(path: &Path, name: String, codec: &str, options: &Options) -> Result<Self> {
        let mut temporary = path.file_name().unwrap_or_default().to_owned();
        temporary.push(format!(
            ".{}.new",
            VersionGenerator::new().next(Duration::ZERO)
        ));
        let temporary = path.with_file_name(temporary);
        let file = File::open_existing(&temporary, name.clone(), codec, options);
        let linked = match &file {
            Ok(_) => fs::hard_link(&temporary, path),
            Err(_) => Ok(()),
        };
        // An error is ignored: the file was never created, or an extra link to it is harmless.
        let _ = fs::remove_file(&temporary);
        match linked {
            Ok(()) => {
                let file = file?;
                let synced = sync_parent_directory(path);
                synced.map_err(|error| cannot_open(&name, error))?;
                Ok(file)
            }
            // Another process created the file first, or the file system has no hard links.
            Err(_) => {
                drop(file);
                File::open_existing(path, name, codec, options)
            }
        }
    }

    fn open_existing(path: &Path, name: String, codec: &str, options: &Options) -> Result<Self> {
        File::open_inner(name, codec, options, |builder| {
            if options.read_only {
                builder.open_read_only(path).map(Handle::ReadOnly)
            } else {
                builder.create(path).map(Handle::Writable)
            }
        })
    }

    pub(super) fn open_with(
        storage: impl StorageBackend,
        codec: &str,
        options: &Options,
    ) -> Result<Self> {
        let name = "the storage".to_owned();
        File::open_inner(name, codec, options, |builder| {
            if options.read_only {
                let database = builder.open_read_only_with_backend(storage);
                database.map(Handle::ReadOnly)
            } else {
                builder.create_with_backend(storage).map(Handle::Writable)
            }
        })
    }

    fn open_inner(
        name: String,
        codec: &str,
        options: &Options,
        open: impl FnOnce(&redb::Builder) -> Result<Handle, DatabaseError>,
    ) -> Result<Self> {
        catch_panic(|| {
            let mut builder = Database::builder();
            builder
                .set_cache_size(options.cache_size)
                .set_check_integrity_on_open(options.check_on_open);
            let handle = open(&builder).map_err(|error| open_error(&name, error))?;
            let file = File {
                handle: RwLock::new(handle),
                durability: options.durability,
                name,
            };
            file.check_format(codec)?;
            Ok(file)
        })
    }

    /// Creates the tables of an empty file, and refuses a file with other tables, another format or
    /// another codec.
    fn check_format(&self, codec: &str) -> Result<()> {
        let handle = self.handle.read();
        let read = handle.begin_read()?;
        let tables = read.list_tables().map_err(backend)?;
        let tables: Vec<String> = tables.map(|table| table.name().to_owned()).collect();
        let schema_error = |error| self.schema_error(error);
        if tables.iter().any(|name| name == META.name()) {
            let meta = read.open_table(META).map_err(schema_error)?;
            let format = meta.get(FORMAT).map_err(backend)?;
            let format = format.map(|row| row.value().to_vec());
            if format.as_deref() != Some(FORMAT_1) {
                return Err(Error::InvalidInput(format!(
                    "{} has format {}, but this version of atomic-db supports only format 1",
                    self.name,
                    format.map_or("none".into(), |format| String::from_utf8_lossy(&format)
                        .into_owned())
                )));
            }
            let found = meta.get(CODEC).map_err(backend)?;
            // Files of early versions do not name their codec, which was `Json`.
            let found = found.map_or("json".into(), |row| {
                String::from_utf8_lossy(row.value()).into_owned()
            });
            if found != codec {
                return Err(Error::InvalidInput(format!(
                    "{} stores data with the codec {found:?}, but was opened with the codec {codec:?}",
                    self.name
                )));
            }
            read.open_table(ITEMS).map_err(schema_error)?;
            read.open_table(LOCKS).map_err(schema_error)?;
            read.open_table(EXPIRIES).map_err(schema_error)?;
            return Ok(());
        }
        if let Some(table) = tables.first() {
            return Err(Error::InvalidInput(format!(
                "{} is a redb file of another program: it has a table {table:?}",
                self.name
            )));
        }
        let Handle::Writable(database) = &*handle else {
            return Err(Error::InvalidInput(format!(
                "{} does not contain a database yet: open it for writing once",
                self.name
            )));
        };
        let write = database.begin_write().map_err(backend)?;
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

    fn schema_error(&self, error: TableError) -> Error {
        match error {
            TableError::Storage(error) => backend(error),
            error => Error::InvalidInput(format!(
                "{} is not an atomic-db database: {error}",
                self.name
            )),
        }
    }

    /// Runs `read` in one read transaction, which is a snapshot.
    pub(super) fn with_read_txn<R>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<R>,
    ) -> Result<R> {
        catch_panic(|| {
            let handle = self.handle.read();
            let transaction = handle.begin_read()?;
            read(&transaction)
        })
    }

    /// Runs `write` with a write transaction. A panic is left to the caller, which knows whether
    /// the commit had begun.
    pub(super) fn with_write_txn<R>(
        &self,
        write: impl FnOnce(WriteTransaction) -> Result<R>,
    ) -> Result<R> {
        match &*self.handle.read() {
            Handle::Writable(database) => write(database.begin_write().map_err(backend)?),
            Handle::ReadOnly(_) | Handle::Closed => Err(self.read_only_error()),
        }
    }

    /// Runs `op` while no transaction is open and none can begin.
    pub(super) fn with_exclusive<R>(&self, op: impl FnOnce(&mut Handle) -> Result<R>) -> Result<R> {
        catch_panic(|| op(&mut self.handle.write()))
    }

    pub(super) fn compact(&self) -> Result<bool> {
        self.with_exclusive(|handle| match handle {
            Handle::Writable(database) => database.compact().map_err(backend),
            Handle::ReadOnly(_) | Handle::Closed => Err(self.read_only_error()),
        })
    }

    fn read_only_error(&self) -> Error {
        Error::InvalidInput(format!("{} was opened read-only", self.name))
    }
}

/// Closing a file writes to it, and a storage may panic there.
impl Drop for File {
    fn drop(&mut self) {
        let handle = std::mem::replace(&mut *self.handle.write(), Handle::Closed);
        let closed = catch_panic(|| {
            drop(handle);
            Ok(())
        });
        // An error on close is ignored: a caller that needs to see it calls `flush`.
        drop(closed);
    }
}

impl Handle {
    pub(super) fn begin_read(&self) -> Result<ReadTransaction> {
        match self {
            Handle::Writable(database) => database.begin_read(),
            Handle::ReadOnly(database) => database.begin_read(),
            Handle::Closed => Err(StorageError::DatabaseClosed.into()),
        }
        .map_err(backend)
    }
}

/// Syncs the directory of `path`, so that the new directory entry is durable.
fn sync_parent_directory(path: &Path) -> io::Result<()> {
    // Other systems cannot open a directory, and write its entries through.
    if cfg!(unix) {
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}
