//! An iterator that reports what it has yielded once it is dropped.

use crate::{Item, Result};
use std::mem;

pub(super) struct Collected<T, I, F: FnMut(&[Item<T>], bool)> {
    items: Vec<Item<T>>,
    /// Whether the iterator has yielded all of its items.
    has_ended: bool,
    inner: I,
    report: F,
}

impl<T, I, F: FnMut(&[Item<T>], bool)> Collected<T, I, F> {
    /// `report` is called with the items, and with whether these are all.
    pub(super) fn new(inner: I, report: F) -> Self {
        Collected {
            items: Vec::new(),
            has_ended: false,
            inner,
            report,
        }
    }
}

impl<T, I, F> Iterator for Collected<T, I, F>
where
    I: Iterator<Item = Result<Item<T>>>,
    F: FnMut(&[Item<T>], bool),
{
    type Item = Result<Item<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.inner.next();
        match &next {
            Some(Ok(item)) => self.items.push(item.clone()),
            Some(Err(_)) => {}
            None => self.has_ended = true,
        }
        next
    }
}

impl<T, I, F: FnMut(&[Item<T>], bool)> Drop for Collected<T, I, F> {
    fn drop(&mut self) {
        let items = mem::take(&mut self.items);
        (self.report)(&items, self.has_ended);
    }
}
