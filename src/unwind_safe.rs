//! Which handles may be used after a caught panic.
//!
//! The mutexes and the clocks in them are opaque to the compiler. No user code runs while a mutex is
//! held (guarantee 22), so a panic leaves the state behind a handle consistent, and a call after it
//! behaves as any other. Data and wrapped databases decide for themselves.

use crate::{AtomicDb, Counters, LruCache, ManualClock, MemoryDb, Observed, Retry, RetryQueue};
use std::panic::{RefUnwindSafe, UnwindSafe};

impl UnwindSafe for Counters {}
impl RefUnwindSafe for Counters {}

impl UnwindSafe for ManualClock {}
impl RefUnwindSafe for ManualClock {}

impl UnwindSafe for Retry {}
impl RefUnwindSafe for Retry {}

impl UnwindSafe for RetryQueue {}
impl RefUnwindSafe for RetryQueue {}

impl<T: RefUnwindSafe> UnwindSafe for MemoryDb<T> {}
impl<T: RefUnwindSafe> RefUnwindSafe for MemoryDb<T> {}

impl<D: AtomicDb<Data: RefUnwindSafe> + UnwindSafe> UnwindSafe for LruCache<D> {}
impl<D: AtomicDb<Data: RefUnwindSafe> + RefUnwindSafe> RefUnwindSafe for LruCache<D> {}

impl<D: UnwindSafe, O: UnwindSafe> UnwindSafe for Observed<D, O> {}
impl<D: RefUnwindSafe, O: RefUnwindSafe> RefUnwindSafe for Observed<D, O> {}

#[cfg(feature = "redb")]
impl<T, C: UnwindSafe> UnwindSafe for crate::RedbDb<T, C> {}
#[cfg(feature = "redb")]
impl<T, C: RefUnwindSafe> RefUnwindSafe for crate::RedbDb<T, C> {}

#[cfg(feature = "testing")]
impl<D: UnwindSafe> UnwindSafe for crate::testing::FaultyDb<D> {}
#[cfg(feature = "testing")]
impl<D: RefUnwindSafe> RefUnwindSafe for crate::testing::FaultyDb<D> {}

#[cfg(feature = "testing")]
impl<T> UnwindSafe for crate::testing::Recorder<T> {}
#[cfg(feature = "testing")]
impl<T> RefUnwindSafe for crate::testing::Recorder<T> {}

#[cfg(feature = "testing")]
impl<D: AtomicDb + RefUnwindSafe> UnwindSafe for crate::testing::Recorded<D> {}
#[cfg(feature = "testing")]
impl<D: AtomicDb + RefUnwindSafe> RefUnwindSafe for crate::testing::Recorded<D> {}
