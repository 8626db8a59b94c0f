//! Creating a file, so that it appears under its name when it is complete.
//!
//! redb cannot open a file whose creation was interrupted. So a file is created under a temporary name
//! next to its own, and linked to its own name when it is complete. A process that is killed in between
//! leaves the temporary file behind, which the next creation removes.

use super::error::cannot_open;
use crate::{Error, Result, Version, VersionGenerator};
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fs::{self, Metadata};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The suffix of temporary names. A ULID precedes it.
const SUFFIX: &str = ".new";

/// The length up to which a file's name is part of its temporary name, in bytes. File systems limit
/// names to 255 bytes, some to fewer.
const MAX_PREFIX_LEN: usize = 100;

/// How often another process may remove the new file before it is complete, which takes a creation by
/// that process at the same moment.
const ATTEMPTS: usize = 16;

/// Creates the file at `path`, which `open` creates under any name and opens. `name` is the file's name
/// in errors.
pub(super) fn create<F>(path: &Path, name: &str, open: impl Fn(&Path) -> Result<F>) -> Result<F> {
    for _ in 0..ATTEMPTS {
        let temporary = temporary_path(path);
        let opened = open(&temporary);
        let linked = match &opened {
            Ok(_) => fs::hard_link(&temporary, path),
            Err(_) => Ok(()),
        };
        // An error is ignored: the file was never created, or another process removes it later.
        let _ = fs::remove_file(&temporary);
        match linked {
            Ok(()) => match opened {
                Ok(opened) => {
                    let synced = sync_parent_directory(path);
                    synced.map_err(|error| cannot_open(name, "created", error))?;
                    remove_leftovers(path);
                    return Ok(opened);
                }
                // Another process has locked it, to find out whether it is a leftover.
                Err(Error::Unavailable(_)) => {}
                Err(error) => return Err(error),
            },
            // Another process has removed it, as a leftover.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Another process created the file first, or the file system has no hard links.
            Err(_) => break,
        }
    }
    open(path)
}

/// Removes temporary files of killed processes that created the file at `path`. Errors are ignored,
/// because the file itself does not depend on it.
pub(super) fn remove_leftovers(path: &Path) {
    let prefix = temporary_prefix(path);
    let is_temporary = |name: &str| {
        let id = name.strip_prefix(&prefix);
        let id = id.and_then(|rest| rest.strip_suffix(SUFFIX));
        id.is_some_and(|id| id.parse::<Version>().is_ok())
    };
    let Ok(entries) = fs::read_dir(parent(path)) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_temporary) {
            let leftover = entry.path();
            if is_same_file(&leftover, path) || is_unused(&leftover) {
                // Another process may have removed it.
                let _ = fs::remove_file(leftover);
            }
        }
    }
}

/// Returns whether a file may have another name, which a process that was killed may have left behind.
pub(super) fn has_other_names(file: &Metadata) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::nlink(file) > 1;
    #[cfg(not(unix))]
    return false;
}

/// Returns a new temporary name next to `path`.
pub(super) fn temporary_path(path: &Path) -> PathBuf {
    let (prefix, id) = (
        temporary_prefix(path),
        VersionGenerator::new().next(Duration::ZERO),
    );
    path.with_file_name(format!("{prefix}{id}{SUFFIX}"))
}

/// Returns what precedes the ULID in a temporary name.
fn temporary_prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut len = name.len().min(MAX_PREFIX_LEN);
    while !name.is_char_boundary(len) {
        len -= 1;
    }
    format!("{}.", &name[..len])
}

/// Returns whether both are names of one file.
fn is_same_file(left: &Path, right: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
        matches!((id(left), id(right)), (Ok(left), Ok(right)) if left == right)
    }
    #[cfg(not(unix))]
    {
        let _ = (left, right);
        false
    }
}

/// Returns whether no process has the file open as a database.
fn is_unused(path: &Path) -> bool {
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let Some(backend) = file.ok().and_then(|file| FileBackend::new(file).ok()) else {
        return false;
    };
    matches!(
        backend.try_lock_range(Bound::Unbounded, Bound::Unbounded),
        Ok(true)
    )
}

/// Syncs the directory of `path`, so that the new directory entry is durable.
pub(super) fn sync_parent_directory(path: &Path) -> io::Result<()> {
    // Other systems cannot open a directory, and write its entries through.
    if cfg!(unix) {
        fs::File::open(parent(path))?.sync_all()?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}
