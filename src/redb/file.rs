//! An open file, its transactions, and closing it.

use super::builder::{Durability, Options};
use super::error::{backend, catch_panic};
use super::handle::Handle;
use super::open::{Opened, Settings, open_path, open_storage, reopen};
use super::waiting::{OtherWriters, with_deadline};
use crate::sync::RwLock;
use crate::{Error, Result};
use redb::{ReadTransaction, StorageBackend, WriteTransaction};
use std::path::Path;
use std::{fs, io};

/// An open file.
///
/// A transaction holds `handle` for reading for as long as it lives. An operation on the whole file
/// holds it for writing. See the lock order at the head of `mod.rs`.
pub(super) struct File {
    handle: RwLock<Handle>,
    settings: Settings,
    /// The file, to open it again after the disk was full. `None` if it is kept in another storage.
    file: Option<fs::File>,
    /// The other processes that write to the file, if it is shared.
    other_writers: Option<OtherWriters>,
}

impl File {
    pub(super) fn open(path: &Path, codec: &'static str, options: Options) -> Result<Self> {
        let settings = Settings {
            name: format!("{path:?}"),
            codec,
            options,
        };
        let Opened { handle, file } = open_path(path, &settings)?;
        let other_writers = if settings.options.shared {
            Some(OtherWriters::new(settings.backend(&file)?))
        } else {
            None
        };
        Ok(File {
            handle: RwLock::new(handle),
            settings,
            file: Some(file),
            other_writers,
        })
    }

    pub(super) fn open_with(
        storage: impl StorageBackend,
        codec: &'static str,
        options: Options,
    ) -> Result<Self> {
        let settings = Settings {
            name: "the storage".to_owned(),
            codec,
            options,
        };
        Ok(File {
            handle: RwLock::new(open_storage(storage, &settings)?),
            settings,
            file: None,
            other_writers: None,
        })
    }

    /// Returns the name of the file in error messages.
    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    /// Returns whether other processes may write to the file at the same time.
    pub(super) fn is_shared(&self) -> bool {
        self.settings.options.shared
    }

    pub(super) fn durability(&self) -> Durability {
        self.settings.options.durability
    }

    /// Runs `read` in one read transaction, which is a snapshot.
    pub(super) fn with_read_txn<R>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<R>,
    ) -> Result<R> {
        catch_panic(|| {
            self.with_handle(|handle| {
                let transaction = self.wait_for_others(|| handle.begin_read())?;
                read(&transaction)
            })
        })
    }

    /// Runs `write` with a write transaction. A panic is left to the caller, which knows whether
    /// the commit had begun.
    pub(super) fn with_write_txn<R>(
        &self,
        write: impl FnOnce(WriteTransaction) -> Result<R>,
    ) -> Result<R> {
        self.with_handle(|handle| match handle {
            Handle::Writable(database) => {
                let transaction = self.wait_for_others(|| database.begin_write());
                write(transaction.map_err(backend)?)
            }
            Handle::ReadOnly(_) | Handle::Closed => Err(self.read_only_error()),
        })
    }

    /// Runs `op` with the handle, which is opened again first if that failed before.
    fn with_handle<R>(&self, op: impl FnOnce(&Handle) -> Result<R>) -> Result<R> {
        {
            let handle = self.handle.read();
            if !handle.is_closed() {
                return op(&handle);
            }
        }
        self.reopen_if(Handle::is_closed)?;
        op(&self.handle.read())
    }

    /// Opens the file again if `error` reports that the disk was full. redb refuses to write after an
    /// I/O error, until the file is opened again.
    ///
    /// Other I/O errors are not forgiven: after a failed sync, the system may have dropped writes that
    /// an open would still read. With deferred durability, acknowledged writes would disappear.
    pub(super) fn recover(&self, error: &(dyn std::error::Error + 'static)) {
        if is_disk_full(error) && self.durability() != Durability::Deferred {
            // If this fails, the next call tries again.
            let _ = self.reopen_if(|_| true);
        }
    }

    /// Opens the file again if the handle fulfils the condition once no transaction is open.
    fn reopen_if(&self, condition: impl FnOnce(&Handle) -> bool) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut handle = self.handle.write();
        if condition(&handle) {
            close(std::mem::replace(&mut *handle, Handle::Closed));
            *handle = reopen(file, &self.settings)?;
        }
        Ok(())
    }

    /// Waits for a write transaction of another process, but not for long.
    pub(super) fn wait_for_other_writers(&self) {
        if let Some(others) = &self.other_writers {
            others.wait();
        }
    }

    /// Begins a transaction, with one deadline for all locks that it takes.
    fn wait_for_others<R>(&self, begin: impl FnOnce() -> R) -> R {
        if self.is_shared() {
            with_deadline(self.settings.options.wait(), begin)
        } else {
            begin()
        }
    }

    /// Runs `op` while no transaction of this process is open and none can begin.
    pub(super) fn with_exclusive<R>(&self, op: impl FnOnce(&mut Handle) -> Result<R>) -> Result<R> {
        let result = catch_panic(|| {
            self.reopen_if(Handle::is_closed)?;
            op(&mut self.handle.write())
        });
        if let Err(Error::Backend(source)) = &result {
            self.recover(&**source);
        }
        result
    }

    pub(super) fn compact(&self) -> Result<bool> {
        self.with_exclusive(|handle| match handle {
            Handle::Writable(database) => {
                // On a damaged file, redb's compaction may never end.
                database.check_integrity().map_err(backend)?;
                database.compact().map_err(backend)
            }
            Handle::ReadOnly(_) | Handle::Closed => Err(self.read_only_error()),
        })
    }

    fn read_only_error(&self) -> Error {
        Error::InvalidInput(format!("{} was opened read-only", self.name()))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        close(std::mem::replace(&mut *self.handle.write(), Handle::Closed));
    }
}

/// Closes a file, which writes to it. A storage may panic there. An error is ignored: a caller that needs
/// to see it calls `flush`.
fn close(handle: Handle) {
    let closed = catch_panic(|| {
        drop(handle);
        Ok(())
    });
    drop(closed);
}

fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge))
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_could_not_be_opened_again_is_opened_by_the_next_call_that_can() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.redb");
        let open = || File::open(&path, "json", Options::default());
        let file = open().unwrap();
        close(std::mem::replace(&mut *file.handle.write(), Handle::Closed));
        // Another process is faster.
        let other = open().unwrap();
        for result in [
            file.len(0).map(drop),
            file.with_write_txn(|_| Ok(())),
            file.compact().map(drop),
            file.check_integrity().map(drop),
        ] {
            assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
        }
        drop(other);
        for _ in 0..2 {
            assert_eq!(file.len(0).unwrap(), 0);
            file.with_write_txn(|_| Ok(())).unwrap();
        }
    }
}
