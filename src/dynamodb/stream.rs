//! Streams: each page is fetched while the caller works on the one before.

use super::connection::{Call, Connection};
use super::read::{PageGrowth, RowPage};
use super::table::{Row, decode};
use crate::sync::Arc;
use crate::{Codec, Item, Query, Result};
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::vec;

/// The iterator behind `DynamoDb::stream`.
pub(super) struct Stream<'a, T, C> {
    connection: Arc<Connection>,
    codec: &'a C,
    query: Query,
    /// The number of items that may still be yielded, if there is a limit.
    left: Option<usize>,
    /// The rest of the current page. Rows are decoded one by one, so that one that cannot be
    /// decoded does not hide the others.
    rows: vec::IntoIter<Row>,
    next: NextPage,
    /// The growth that the current page asks for.
    growth: PageGrowth,
    data: PhantomData<fn() -> T>,
}

/// The page after the current one.
enum NextPage {
    /// The page after this sort key, or the first page. It is not yet requested: the current page
    /// may suffice.
    After(Option<String>),
    /// A page that has been requested.
    InFlight(Call<RowPage>),
    /// None.
    Done,
}

impl<'a, T, C: Codec<T>> Stream<'a, T, C> {
    pub(super) fn new(connection: Arc<Connection>, codec: &'a C, query: Query) -> Self {
        Stream {
            connection,
            codec,
            left: query.limit,
            query,
            rows: Vec::new().into_iter(),
            next: NextPage::After(None),
            growth: PageGrowth::default(),
            data: PhantomData,
        }
    }

    /// Takes the next row of the current page that is a live item or cannot be decoded.
    fn next_of_page(&mut self) -> Option<Result<Item<T>>> {
        let now = self.connection.now().as_secs();
        let codec = self.codec;
        self.rows
            .find_map(|row| decode(&row, now, codec).transpose())
    }

    /// Makes the next page the current one, and requests the page after it. Returns false at the
    /// end.
    fn turn_page(&mut self) -> Result<bool> {
        // The stream ends here unless the page arrives: it is fused after an error.
        let page = match std::mem::replace(&mut self.next, NextPage::Done) {
            NextPage::Done => return Ok(false),
            NextPage::InFlight(page) => page,
            NextPage::After(after) => match self.spawn_page(after.as_deref(), 0)? {
                Some(page) => page,
                None => return Ok(false),
            },
        };
        let RowPage { rows, next, growth } = page.wait_read()?;
        self.growth = growth;
        self.next = match next {
            None => NextPage::Done,
            Some(after) if self.left.is_some_and(|left| left <= rows.len()) => {
                NextPage::After(Some(after))
            }
            Some(after) => match self.spawn_page(Some(&after), rows.len())? {
                Some(page) => NextPage::InFlight(page),
                None => NextPage::Done,
            },
        };
        self.rows = rows.into_iter();
        Ok(true)
    }

    /// Starts to fetch the page after `after`, if there can be one, while `buffered` rows are still
    /// to be yielded.
    fn spawn_page(&self, after: Option<&str>, buffered: usize) -> Result<Option<Call<RowPage>>> {
        let max_items = self.left.map(|left| left.saturating_sub(buffered));
        self.connection
            .spawn_page(&self.query, after, max_items, self.growth)
    }
}

impl<T, C: Codec<T>> Iterator for Stream<'_, T, C> {
    type Item = Result<Item<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.left == Some(0) {
                // Aborts a request in flight.
                self.next = NextPage::Done;
                return None;
            }
            match self.next_of_page() {
                None => {}
                Some(Ok(item)) => {
                    self.left = self.left.map(|left| left - 1);
                    return Some(Ok(item));
                }
                Some(Err(error)) => return Some(Err(error)),
            }
            match self.turn_page() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<T, C: Codec<T>> FusedIterator for Stream<'_, T, C> {}

impl<T, C> fmt::Debug for Stream<'_, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("query", &self.query)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
