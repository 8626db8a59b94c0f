//! How many stripes or shards a database in memory is divided into.

use std::thread;

/// The most stripes of a database, and the most shards of a cache.
pub(crate) const MAX_SHARDS: usize = 1 << 16;

/// Returns how many threads the machine runs at the same time, or 1 if that is not known.
pub(crate) fn available_cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
