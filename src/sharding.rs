//! The number of stripes of a database in memory, and of shards of a cache.

use std::thread;

/// The largest number of stripes or shards.
pub(crate) const MAX_SHARDS: usize = 1 << 16;

/// Returns the number of threads that the machine runs in parallel, or 1 if it is not known.
pub(crate) fn available_cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
