//! The primitives that threads meet at, named in one place.
//!
//! Nothing else in the crate names a mutex, an atomic or a thread, so that a model checker can be
//! put under the whole of it here. The locks are `parking_lot`'s: they cannot be poisoned, so a
//! panic in a caller's code leaves every database usable.

pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
pub(crate) use std::thread;
