//! How a file is opened: options, defaults, and what opening can come to.

use super::file::File;
use super::group::Group;
use super::{PATIENCE, RedbDb, Shared};
use crate::sync::Arc;
use crate::{Clock, Result, SystemClock, VersionGenerator};
use std::marker::PhantomData;
use std::path::Path;

/// When a write is safe from a power cut, and what a crash costs the next open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// A call returns when what it wrote is on the disk, after one wait for it. After a crash the
    /// next open reads the whole file to repair what only speeds writes up. The default.
    #[default]
    Immediate,
    /// As [`Immediate`](Durability::Immediate), but with two waits for the disk and some more to
    /// write, so that the next open after a crash takes no longer than any other. For large files.
    QuickRepair,
    /// A call returns without a wait for the disk. What was written is durable when
    /// [`flush`](RedbDb::flush) has returned, or the last handle was dropped; a crash before that,
    /// also of this process alone, undoes it, latest first and each commit as a whole. For imports
    /// that can begin anew, and for tests.
    Deferred,
}

/// Sets up a [`RedbDb`].
///
/// # Defaults
///
/// [`Durability::Immediate`], at most 256 MiB of memory as a cache, for reading and writing, the
/// [`SystemClock`], and no check on opening but those of the format.
///
/// ```
/// use atomic_db::{Durability, ManualClock, RedbDb};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("names.redb");
/// let db: RedbDb<String> = RedbDb::builder()
///     .clock(ManualClock::new(1_700_000_000))
///     .cache_size(16 << 20)
///     .durability(Durability::QuickRepair)
///     .open(&path)?;
/// assert!(db.is_empty()?);
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Debug)]
pub struct RedbDbBuilder<T> {
    options: Options,
    clock: Arc<dyn Clock>,
    data: PhantomData<fn() -> T>,
}

/// How the file is opened.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) durability: Durability,
    pub(super) cache_size: usize,
    pub(super) read_only: bool,
    pub(super) check_on_open: bool,
}

impl<T> RedbDbBuilder<T> {
    pub(super) fn new() -> Self {
        RedbDbBuilder {
            options: Options {
                durability: Durability::default(),
                cache_size: 256 << 20,
                read_only: false,
                check_on_open: false,
            },
            clock: Arc::new(SystemClock),
            data: PhantomData,
        }
    }

    /// The clock that times to live are judged by.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// When a write is safe.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.options.durability = durability;
        self
    }

    /// How much memory may be used to keep parts of the file, in bytes. It is used as it is needed.
    #[must_use]
    pub fn cache_size(mut self, bytes: usize) -> Self {
        self.options.cache_size = bytes;
        self
    }

    /// Opens the file without changing it, beside other processes that do the same. Every write,
    /// and a [`get_lock`](crate::AtomicDb::get_lock) that would be one, is
    /// [`InvalidInput`](crate::Error::InvalidInput).
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.options.read_only = read_only;
        self
    }

    /// Checks the checksums of the whole file on opening, which takes time in proportion to it.
    ///
    /// Without this, an open looks at no more than it must: a file that was damaged from outside may
    /// be noticed when the damaged part is read, or by [`check_integrity`](RedbDb::check_integrity),
    /// or not at all. A crash is no such damage, and always repaired. Without effect on a file that is
    /// opened for reading only.
    #[must_use]
    pub fn check_on_open(mut self, check: bool) -> Self {
        self.options.check_on_open = check;
        self
    }

    /// Opens the file at `path`; unless it is for reading only, makes it if there is none, or an
    /// empty one. If it was not closed properly, it is repaired.
    ///
    /// # Errors
    ///
    /// The file is left as it was in all of these cases, or not made, or empty.
    ///
    /// - [`Error::Unavailable`](crate::Error::Unavailable): another process, or another handle of this
    ///   one that is no clone, has it open.
    /// - [`Error::InvalidInput`](crate::Error::InvalidInput): it is a directory, a device or no file of
    ///   this database; it has a format that this version does not know; it is for reading only and needs a repair.
    /// - [`Error::Backend`](crate::Error::Backend): it is damaged; or it could not be opened, made or
    ///   written, because of rights, a read-only or full disk, or a directory that is not there.
    pub fn open(self, path: impl AsRef<Path>) -> Result<RedbDb<T>> {
        let file = File::open(path.as_ref(), &self.options)?;
        self.over(file)
    }

    /// A database in memory, which goes when the last handle to it does.
    ///
    /// # Errors
    ///
    /// Those of [`open_with`](RedbDbBuilder::open_with), of which none is to be expected.
    pub fn in_memory(self) -> Result<RedbDb<T>> {
        self.open_with(redb::backends::InMemoryBackend::new())
    }

    /// Opens a file that is kept in a storage of your own: encrypted, on a device, or in a test that
    /// makes it fail. It is made if the storage is empty; if that is cut short, the storage must be
    /// emptied before it can be made again. (A path gets its file when it is whole.)
    ///
    /// This is where redb's own types are part of this crate's interface.
    ///
    /// # Errors
    ///
    /// Those of [`open`](RedbDbBuilder::open). What the storage itself returns is an
    /// [`Error::Backend`](crate::Error::Backend).
    pub fn open_with(self, storage: impl redb::StorageBackend) -> Result<RedbDb<T>> {
        let file = File::open_with(storage, &self.options)?;
        self.over(file)
    }

    fn over(self, file: File) -> Result<RedbDb<T>> {
        let versions = match file.latest_version()? {
            None => VersionGenerator::new(),
            Some(latest) => VersionGenerator::after(latest),
        };
        Ok(RedbDb {
            shared: Arc::new(Shared {
                file,
                group: Group::new(PATIENCE),
                versions,
                clock: self.clock,
            }),
            data: PhantomData,
        })
    }
}
