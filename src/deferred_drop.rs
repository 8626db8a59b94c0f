//! Values that are removed while a mutex is held, and dropped after it is released.

use smallvec::SmallVec;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// Collects removed values. Declare it before a mutex guard, so that it is dropped after the guard: a
/// value's `Drop` may call the database, or panic (guarantee 22).
#[derive(Debug)]
pub(crate) struct DeferredDrop<V> {
    values: SmallVec<[V; 4]>,
}

impl<V> DeferredDrop<V> {
    pub(crate) fn new() -> Self {
        DeferredDrop {
            values: SmallVec::new(),
        }
    }

    pub(crate) fn push(&mut self, value: V) {
        self.values.push(value);
    }

    #[cfg(test)]
    pub(crate) fn values(&self) -> &[V] {
        &self.values
    }
}

impl<V> Extend<V> for DeferredDrop<V> {
    fn extend<I: IntoIterator<Item = V>>(&mut self, values: I) {
        self.values.extend(values);
    }
}

impl<V> Drop for DeferredDrop<V> {
    #[inline]
    fn drop(&mut self) {
        if !self.values.is_empty() {
            drop_all(&mut self.values);
        }
    }
}

/// Drops every value, even if some of these drops panic, and then resumes the first panic. A second
/// panic while the first one unwinds would abort the process.
fn drop_all<V>(values: &mut SmallVec<[V; 4]>) {
    let mut first = None;
    while !values.is_empty() {
        let rest = AssertUnwindSafe(|| while values.pop().is_some() {});
        if let Err(panic) = catch_unwind(rest) {
            first.get_or_insert(panic);
        }
    }
    if let Some(panic) = first {
        if !thread::panicking() {
            resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Panics<'a>(&'a Cell<u32>);

    impl Drop for Panics<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            panic!("dropped");
        }
    }

    #[test]
    fn every_value_is_dropped_even_if_all_drops_panic() {
        let dropped = Cell::new(0);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let mut removed = DeferredDrop::new();
            removed.extend((0..10).map(|_| Panics(&dropped)));
        }));
        assert!(caught.is_err(), "the panic was swallowed");
        assert_eq!(dropped.get(), 10);
    }
}
