//! Scans: stripe by stripe, and the rows of a stripe in the order of their numbers.

use super::stripe::RemovedRows;
use crate::scan::{PagedScan, RowPage};
use crate::{Item, MemoryDb, Result, Scan};

/// How many rows are read each time a mutex is held.
const ROWS_PER_PAGE: usize = 256;

/// Where the next page of a scan begins.
#[derive(Clone, Copy)]
struct Position {
    stripe: usize,
    row: usize,
    /// The number of row numbers that the stripe had used at the beginning. Later ones are not read, so
    /// that the scan ends even if its loop body adds items. `None` before the first page.
    end: Option<usize>,
}

impl Position {
    fn start_of(stripe: usize) -> Self {
        Position {
            stripe,
            row: 0,
            end: None,
        }
    }
}

/// Expired items and locks on the way are removed. A scan ends, even if its loop body adds items
/// without end.
impl<T> Scan for MemoryDb<T> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<T>>> + '_> {
        let read_page = |position: Option<Position>| {
            Ok(self.read_rows(position.unwrap_or_else(|| Position::start_of(0))))
        };
        Box::new(PagedScan::new(read_page, |item| Ok(Some(item))))
    }
}

impl<T> MemoryDb<T> {
    fn read_rows(&self, position: Position) -> RowPage<Item<T>, Position> {
        let now = self.now();
        let mut removed = RemovedRows::new();
        let mut stripe = self.lock_stripe(position.stripe);
        let end = position.end.unwrap_or_else(|| stripe.row_numbers());
        let to = end.min(position.row + ROWS_PER_PAGE);
        let rows = stripe.live_items_of_rows(position.row..to, now, &mut removed);
        drop(stripe);
        let next = if to < end {
            Some(Position {
                row: to,
                end: Some(end),
                ..position
            })
        } else {
            let following = position.stripe + 1;
            (following < self.stripe_count()).then(|| Position::start_of(following))
        };
        RowPage { rows, next }
    }
}
