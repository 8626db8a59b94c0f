//! Opening a file: creates it if it is missing, waits for other processes, and checks its format.

use super::builder::{Durability, Options};
use super::create::{create, has_other_names, remove_leftovers};
use super::error::{cannot_open, catch_panic, open_error};
use super::format;
use super::handle::Handle;
use super::waiting::{BoundedWait, poll, with_deadline};
use crate::{Error, Result};
use redb::backends::FileBackend;
use redb::{ConcurrencyMode, Database, DatabaseError, StorageBackend};
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

/// How a file is opened.
#[derive(Debug)]
pub(super) struct Settings {
    /// The name of the file in error messages.
    pub(super) name: String,
    pub(super) codec: &'static str,
    pub(super) options: Options,
}

/// A file that was opened by its path.
pub(super) struct Opened {
    pub(super) handle: Handle,
    /// The same file, to open it again even if it was renamed.
    pub(super) file: fs::File,
}

/// Opens the file at `path`, and creates it if it is missing. If it is open elsewhere, tries again until
/// the wait of the options is over.
pub(super) fn open_path(path: &Path, settings: &Settings) -> Result<Opened> {
    settings.validate()?;
    let opener = Opener { path, settings };
    let wait = settings.options.wait();
    // With one deadline for the attempts, and for the locks that each of them waits for.
    with_deadline(wait, || {
        poll(wait, || match opener.open_once() {
            blocked @ Err(Error::Unavailable(_)) => ControlFlow::Continue(blocked),
            result => ControlFlow::Break(result),
        })
    })
}

/// Opens a file again, whose last handle was closed.
pub(super) fn reopen(file: &fs::File, settings: &Settings) -> Result<Handle> {
    let wait = settings.options.wait();
    with_deadline(wait, || settings.open_file(file))
}

/// Opens a file that is kept in `storage`.
pub(super) fn open_storage(storage: impl StorageBackend, settings: &Settings) -> Result<Handle> {
    settings.validate()?;
    with_deadline(settings.options.wait(), || settings.open(storage))
}

struct Opener<'a> {
    path: &'a Path,
    settings: &'a Settings,
}

impl Opener<'_> {
    fn open_once(&self) -> Result<Opened> {
        let Settings { name, options, .. } = self.settings;
        match fs::metadata(self.path) {
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
                create(self.path, name, |path| self.open_existing(path))
            }
            Ok(found) if has_other_names(&found) && !options.read_only => {
                let opened = self.open_existing(self.path)?;
                remove_leftovers(self.path);
                Ok(opened)
            }
            // Any other problem is reported when the file is opened.
            _ => self.open_existing(self.path),
        }
    }

    fn open_existing(&self, path: &Path) -> Result<Opened> {
        let options = &self.settings.options;
        let file = fs::OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .create(!options.read_only)
            .truncate(false)
            .open(path);
        let file = file.map_err(|error| self.settings.cannot_open(error))?;
        let handle = self.settings.open_file(&file)?;
        Ok(Opened { handle, file })
    }
}

impl Settings {
    fn open_file(&self, file: &fs::File) -> Result<Handle> {
        self.open(self.backend(file)?)
    }

    /// Returns a backend with another descriptor of the same open file. All of them own the same locks.
    pub(super) fn backend(&self, file: &fs::File) -> Result<FileBackend> {
        let file = file.try_clone().map_err(|error| self.cannot_open(error))?;
        FileBackend::new(file).map_err(|error| self.open_error(error))
    }

    fn open(&self, storage: impl StorageBackend) -> Result<Handle> {
        if self.options.shared {
            let wait = self.options.wait();
            self.open_inner(BoundedWait { storage, wait })
        } else {
            self.open_inner(storage)
        }
    }

    fn open_inner(&self, storage: impl StorageBackend) -> Result<Handle> {
        catch_panic(|| {
            let bytes = storage.len().map_err(|error| self.cannot_open(error))?;
            let mut builder = Database::builder();
            builder
                .set_cache_size(self.options.cache_size)
                .set_check_integrity_on_open(self.options.checks_on_open(bytes));
            if self.options.shared {
                builder.set_concurrency_mode(ConcurrencyMode::MultiWriter);
            }
            let opened = if self.options.read_only {
                let database = builder.open_read_only_with_backend(storage);
                database.map(Handle::ReadOnly)
            } else {
                builder.create_with_backend(storage).map(Handle::Writable)
            };
            let handle = opened.map_err(|error| self.open_error(error))?;
            match format::create_or_check(&handle, &self.name, self.codec) {
                Ok(()) => Ok(handle),
                Err(Error::Backend(source)) => Err(cannot_open(&self.name, "read", source)),
                Err(error) => Err(error),
            }
        })
    }

    fn cannot_open(&self, error: io::Error) -> Error {
        let verb = if self.options.read_only {
            "opened"
        } else {
            "opened for writing"
        };
        cannot_open(&self.name, verb, error)
    }

    fn open_error(&self, error: DatabaseError) -> Error {
        open_error(&self.name, self.options.shared, error)
    }

    /// Refuses options that contradict each other.
    fn validate(&self) -> Result<()> {
        if self.options.shared && self.options.durability == Durability::Deferred {
            return Err(Error::InvalidInput(
                "Durability::Deferred cannot be combined with a shared file: other processes see only durable commits"
                    .into(),
            ));
        }
        Ok(())
    }
}
