//! An open file, its transactions, and closing it.

use super::builder::{Durability, Options};
use super::error::{backend, catch_panic};
use super::handle::Handle;
use super::open::{Settings, open_path, open_storage};
use super::waiting::with_deadline;
use crate::sync::RwLock;
use crate::{Error, Result};
use redb::{ReadTransaction, StorageBackend, WriteTransaction};
use std::path::Path;

/// An open file.
///
/// A transaction holds `handle` for reading for as long as it lives. An operation on the whole file
/// holds it for writing. See the lock order at the head of `mod.rs`.
pub(super) struct File {
    handle: RwLock<Handle>,
    settings: Settings,
}

impl File {
    pub(super) fn open(path: &Path, codec: &'static str, options: Options) -> Result<Self> {
        let settings = Settings {
            name: format!("{path:?}"),
            codec,
            options,
        };
        Ok(File {
            handle: RwLock::new(open_path(path, &settings)?),
            settings,
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
            let handle = self.handle.read();
            let transaction = self.wait_for_others(|| handle.begin_read())?;
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
            Handle::Writable(database) => {
                let transaction = self.wait_for_others(|| database.begin_write());
                write(transaction.map_err(backend)?)
            }
            Handle::ReadOnly(_) | Handle::Closed => Err(self.read_only_error()),
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
        catch_panic(|| op(&mut self.handle.write()))
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
