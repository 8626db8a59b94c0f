//! Backups: copies the items of one snapshot to a new file.

use super::create::{sync_parent_directory, temporary_path};
use super::encoding::{
    self, EXPIRIES, ITEMS, Kind, LOCKS, META, NEVER, RowKey, expiry_key, read_key,
};
use super::error::{backend, cannot_open, malformed_item, malformed_key};
use super::file::File;
use super::read::open_table;
use crate::{Error, RedbDb, Result};
use redb::{Database, ReadTransaction, ReadableTable};
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// The number of bytes that are written in one transaction, which bounds memory.
const BYTES_PER_COMMIT: usize = 16 << 20;

/// The cache of the new file. Its rows are written once and not read.
const CACHE_SIZE: usize = 32 << 20;

impl<T, C> RedbDb<T, C> {
    /// Writes all live items to a new file at `path`, and returns their number. Other handles and threads
    /// may read and write in the meantime.
    ///
    /// The backup is a snapshot: of each commit it has everything or nothing. It is durable when the call
    /// returns, appears at `path` when it is complete, and can be opened like any other file. The items
    /// are copied as they are stored, without decoding them, with a few megabytes of memory.
    ///
    /// Locks are not copied, for the reasons that [`copy`](crate::copy) gives. The latest version is:
    /// a lock that is created in the backup has a greater version than those that existed when it was
    /// made.
    ///
    /// While a backup is made, the space of replaced and deleted data is not reused, and
    /// [`compact`](RedbDb::compact) and [`check_integrity`](RedbDb::check_integrity) wait for its end,
    /// and all other calls for them.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, Item, Key, RedbDb};
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("names.redb");
    /// # let backup_path = directory.path().join("backup.redb");
    /// let db: RedbDb<String> = RedbDb::open(&path)?;
    /// db.set(&[Item::new("user#1", "name", "Ada".to_string())])?;
    /// assert_eq!(db.backup(&backup_path)?, 1);
    ///
    /// let backup: RedbDb<String> = RedbDb::open(&backup_path)?;
    /// assert!(backup.get(Key::new("user#1", "name"))?.is_some());
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// There is no file at `path`, or the one that was there before. If the process is killed, it leaves
    /// a temporary file in the directory, which the next creation of a database at `path` removes.
    ///
    /// - [`Error::InvalidInput`]: there is a file at `path`.
    /// - [`Error::Backend`]: the new file could not be created or written, or this one could not be read
    ///   or is damaged.
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<u64> {
        let path = path.as_ref();
        let now = self.now();
        // Before the work, so that it is not in vain. The file may still appear later.
        if fs::symlink_metadata(path).is_ok() {
            return Err(already_exists(path));
        }
        let temporary = TemporaryFile::next_to(path);
        let items = self.shared.file.copy_items(&temporary.path, now)?;
        temporary.persist(path)?;
        Ok(items)
    }
}

impl File {
    /// Copies the items that are live at `now` to a new file, and returns their number.
    fn copy_items(&self, path: &Path, now: u64) -> Result<u64> {
        self.with_read_txn(|read| {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_SIZE);
            let database = builder.create(path).map_err(backend)?;
            create_tables(&database, read)?;
            let mut copied = 0;
            let mut after = None;
            loop {
                let rows = copy_rows(&database, read, after.as_deref(), now)?;
                copied += rows.items;
                match rows.last {
                    Some(last) => after = Some(last),
                    None => return Ok(copied),
                }
            }
        })
    }
}

/// Creates all tables. The metadata, such as the format and the latest version, is copied.
fn create_tables(database: &Database, read: &ReadTransaction) -> Result<()> {
    let write = database.begin_write().map_err(backend)?;
    {
        let mut meta = write.open_table(META).map_err(backend)?;
        for row in open_table(read, META)?.iter().map_err(backend)? {
            let (key, value) = row.map_err(backend)?;
            meta.insert(key.value(), value.value()).map_err(backend)?;
        }
        write.open_table(ITEMS).map_err(backend)?;
        write.open_table(LOCKS).map_err(backend)?;
        write.open_table(EXPIRIES).map_err(backend)?;
    }
    write.commit().map_err(backend)
}

/// The rows of one transaction.
struct CopiedRows {
    items: u64,
    /// The last row key, or `None` if there are no further rows.
    last: Option<RowKey>,
}

/// Copies the live items in the rows after `after`, in one transaction of about [`BYTES_PER_COMMIT`].
fn copy_rows(
    database: &Database,
    read: &ReadTransaction,
    after: Option<&[u8]>,
    now: u64,
) -> Result<CopiedRows> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let source = open_table(read, ITEMS)?;
    let rows = source
        .range::<&[u8]>((from, Bound::Unbounded))
        .map_err(backend)?;
    let mut copied = CopiedRows {
        items: 0,
        last: None,
    };
    let write = database.begin_write().map_err(backend)?;
    {
        let mut items = write.open_table(ITEMS).map_err(backend)?;
        let mut expiries = write.open_table(EXPIRIES).map_err(backend)?;
        let mut size = 0;
        for row in rows {
            let (key, row) = row.map_err(backend)?;
            let (key, row) = (key.value(), row.value());
            let (ttl, _) = encoding::read_item(row).ok_or_else(|| malformed_item(key))?;
            if ttl < now {
                continue;
            }
            read_key(key).ok_or_else(|| malformed_key(key))?;
            items.insert(key, row).map_err(backend)?;
            if ttl != NEVER {
                let expiry = expiry_key(ttl, Kind::Item, key);
                expiries.insert(expiry.as_slice(), ()).map_err(backend)?;
            }
            copied.items += 1;
            size += key.len() + row.len();
            if size >= BYTES_PER_COMMIT {
                copied.last = Some(RowKey::from_slice(key));
                break;
            }
        }
    }
    write.commit().map_err(backend)?;
    Ok(copied)
}

/// A file that is removed when this is dropped.
struct TemporaryFile {
    path: PathBuf,
}

impl TemporaryFile {
    /// Chooses a name in the directory of `path`.
    fn next_to(path: &Path) -> Self {
        TemporaryFile {
            path: temporary_path(path),
        }
    }

    /// Gives the file its name, unless there is a file of this name.
    fn persist(self, path: &Path) -> Result<()> {
        let linked = match fs::hard_link(&self.path, path) {
            // The file system has no hard links.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => {
                fs::rename(&self.path, path)
            }
            linked => linked,
        };
        let failed = |error| cannot_open(&format!("{path:?}"), "created", error);
        match linked {
            Ok(()) => {
                // Before the directory is synced, so that the temporary name is gone, too.
                drop(self);
                sync_parent_directory(path).map_err(failed)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(already_exists(path)),
            Err(error) => Err(failed(error)),
        }
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // An error is ignored: the file was never created, or has another name now.
        let _ = fs::remove_file(&self.path);
    }
}

fn already_exists(path: &Path) -> Error {
    Error::InvalidInput(format!("{path:?} already exists"))
}
