use crate::sync::Arc;
use crate::{Clock, SystemClock};
use std::marker::PhantomData;

/// Configures a [`MemoryDb`](crate::MemoryDb).
///
/// # Defaults
///
/// 32 stripes per core and at most 1,024, no reserved capacity, the [`SystemClock`].
///
/// ```
/// use atomic_db::{ManualClock, MemoryDb};
///
/// let db: MemoryDb<String> = MemoryDb::builder()
///     .stripes(64)
///     .capacity(100_000)
///     .clock(ManualClock::new(1_700_000_000))
///     .build();
/// assert!(db.is_empty());
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until it builds a database"]
pub struct MemoryDbBuilder<T> {
    pub(super) stripes: Option<usize>,
    pub(super) capacity: usize,
    pub(super) clock: Arc<dyn Clock>,
    data: PhantomData<fn() -> T>,
}

impl<T> MemoryDbBuilder<T> {
    pub(super) fn new() -> Self {
        MemoryDbBuilder {
            stripes: None,
            capacity: 0,
            clock: Arc::new(SystemClock),
            data: PhantomData,
        }
    }

    /// Sets the number of stripes. It is rounded up to a power of two, and is at least one and at
    /// most 65,536. More stripes reduce contention between threads; an empty one takes 256 bytes.
    pub fn stripes(mut self, stripes: usize) -> Self {
        self.stripes = Some(stripes);
        self
    }

    /// Reserves memory for this many items and locks. This is a hint, not a limit. A stripe that
    /// receives more than its share of the keys still grows.
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items;
        self
    }

    /// Sets the clock that decides which items and locks have expired.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }
}
