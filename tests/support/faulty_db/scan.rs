//! The scans of the database.

use super::db::FaultyDb;
use super::fault::Fault;
use atomic_db::{Item, KeyBuf, Result, Scan};
use std::iter;

/// Where the next page of a scan begins.
#[derive(Clone)]
enum Position {
    Start,
    After(KeyBuf),
    Offset(usize),
}

impl<T: Clone> Scan for FaultyDb<T> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<T>>> + '_> {
        let lock = || {
            let mut section = self.lock_all();
            section.stale = self.has(Fault::StaleScan);
            section
        };
        let held = self.has(Fault::ScanHoldsMutex).then(lock);
        let mut page = Vec::new().into_iter();
        let (mut position, mut ended, mut restarted) = (Position::Start, false, false);
        Box::new(iter::from_fn(move || {
            while page.len() == 0 && !ended {
                let rows = match &held {
                    Some(section) => section.all_rows(),
                    None => lock().all_rows(),
                };
                (page, position) = self.page_of_all(rows, position.clone());
                ended = matches!(position, Position::Start) || self.has(Fault::ScanEndsAfterPage);
                if self.has(Fault::ScanRestarts) && !restarted {
                    restarted = true;
                    position = Position::Start;
                }
            }
            let item = page.next();
            if item.is_none() && self.has(Fault::ScanNotFused) {
                ended = false;
            }
            item.map(Ok)
        }))
    }
}

impl<T: Clone> FaultyDb<T> {
    /// Returns the items of the page at `position`, and the next position, which is the start after the
    /// last page.
    fn page_of_all(
        &self,
        mut rows: Vec<(KeyBuf, Option<Item<T>>)>,
        position: Position,
    ) -> (std::vec::IntoIter<Item<T>>, Position) {
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        let (offset, lost) = match &position {
            Position::Start => (0, false),
            Position::Offset(offset) => (*offset, false),
            Position::After(after) => {
                let offset = rows.partition_point(|(key, _)| key <= after);
                (offset, offset == 0 || rows[offset - 1].0 != *after)
            }
        };
        if self.has(Fault::ScanSkipsSmallPartitions) {
            let pks: Vec<String> = rows.iter().map(|(key, _)| key.pk().to_owned()).collect();
            let is_small = |pk: &str| pks.iter().filter(|other| *other == pk).count() == 1;
            for (key, item) in &mut rows {
                item.take_if(|_| is_small(key.pk()));
            }
        }
        let lost = lost && self.has(Fault::ScanLosesPosition);
        rows.drain(..rows.len().min(offset));
        let more = rows.len() > self.page_size && !lost;
        rows.truncate(if lost { 0 } else { self.page_size });
        let next = match rows.last() {
            Some(_) if more && self.has(Fault::OffsetScan) => Position::Offset(offset + rows.len()),
            Some((key, _)) if more => Position::After(key.clone()),
            _ => Position::Start,
        };
        let items: Vec<_> = rows.into_iter().filter_map(|(_, item)| item).collect();
        (items.into_iter(), next)
    }
}
