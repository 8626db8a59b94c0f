//! Scans bypass the cache, and leave its entries and counters as they are.

use crate::{Item, LruCache, Result, Scan};

impl<D: Scan> Scan for LruCache<D> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<Self::Data>>> + '_> {
        self.inner().scan()
    }
}
