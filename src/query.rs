use crate::{Item, Result};
use std::fmt;
use std::vec;

/// Which items of one partition to read, and in which order.
///
/// Items are ordered by the bytes of their sort keys.
///
/// ```
/// use atomic_db::{AtomicDb, Item, MemoryDb, Query};
///
/// let db = MemoryDb::new();
/// for day in ["2026-01-01", "2026-01-02", "2026-02-01"] {
///     db.set(&[Item::new("log", day, ())])?;
/// }
/// let query = Query::new("log").prefix("2026-01").reverse().limit(1);
/// let latest = db.query(&query)?;
/// assert_eq!(latest[0].sk(), "2026-01-02");
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Query {
    /// The partition to read.
    pub pk: String,
    /// The prefix of the sort keys to read; empty if there is none.
    pub prefix: String,
    /// Whether the order is descending.
    pub reverse: bool,
    /// The largest number of items to return, if there is a limit.
    pub limit: Option<usize>,
    /// The sort key after which to begin, if one was given.
    pub after: Option<String>,
}

impl Query {
    /// All items of the partition `pk`, ascending.
    #[must_use]
    pub fn new(pk: impl Into<String>) -> Self {
        Query {
            pk: pk.into(),
            prefix: String::new(),
            reverse: false,
            limit: None,
            after: None,
        }
    }

    /// Only items whose sort key begins with `sk_prefix`.
    #[must_use]
    pub fn prefix(mut self, sk_prefix: impl Into<String>) -> Self {
        self.prefix = sk_prefix.into();
        self
    }

    /// In descending order.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// At most `items` of them; none if that is zero.
    #[must_use]
    pub fn limit(mut self, items: usize) -> Self {
        self.limit = Some(items);
        self
    }

    /// Only items that come after `sk` in the order of this query: greater ones, or smaller ones
    /// if it is in reverse. No item need be there.
    #[must_use]
    pub fn after(mut self, sk: impl Into<String>) -> Self {
        self.after = Some(sk.into());
        self
    }
}

/// One bounded read of a [`Query`], and where to go on.
///
/// ```
/// use atomic_db::{AtomicDb, Item, MemoryDb, Query};
///
/// let db = MemoryDb::new();
/// db.set(&[Item::new("log", "1", ()), Item::new("log", "2", ()), Item::new("log", "3", ())])?;
///
/// let query = Query::new("log").limit(2);
/// let first = db.page(&query, None)?;
/// let second = db.page(&query, first.next.as_deref())?;
/// assert_eq!((first.items.len(), second.items.len()), (2, 1));
/// assert_eq!(second.next, None);
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items, in the order of the query.
    pub items: Vec<Item<T>>,
    /// The sort key after which the next page begins, or `None` if there is no more. There may be
    /// a next page that turns out to be empty.
    pub next: Option<String>,
}

/// The iterator behind `AtomicDb::stream`. It buffers one page and holds nothing of the database
/// between pages (guarantee 6).
pub(crate) struct Stream<T, F> {
    /// Reads one page of a query, after the sort key given.
    read_page: F,
    query: Query,
    page: vec::IntoIter<Item<T>>,
    next: NextPage,
}

#[derive(Debug, PartialEq)]
enum NextPage {
    /// There may be more pages; the next one begins after this sort key.
    After(Option<String>),
    /// The buffered page is the last one.
    Done,
}

impl<T, F> Stream<T, F>
where
    F: FnMut(&Query, Option<&str>) -> Result<Page<T>>,
{
    pub(crate) fn new(query: Query, read_page: F) -> Self {
        Stream {
            read_page,
            query,
            page: Vec::new().into_iter(),
            next: NextPage::After(None),
        }
    }

    /// Reads the next page. The query's own limit counts down, so that no page holds more items
    /// than are still wanted.
    fn fetch_page(&mut self, after: Option<&str>) -> Result<()> {
        let Page { mut items, next } = (self.read_page)(&self.query, after)?;
        if let Some(limit) = &mut self.query.limit {
            items.truncate(*limit);
            *limit -= items.len();
        }
        let done = self.query.limit == Some(0);
        self.page = items.into_iter();
        self.next = match next {
            Some(next) if !done => NextPage::After(Some(next)),
            _ => NextPage::Done,
        };
        Ok(())
    }
}

impl<T, F> Iterator for Stream<T, F>
where
    F: FnMut(&Query, Option<&str>) -> Result<Page<T>>,
{
    type Item = Result<Item<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.page.next() {
                return Some(Ok(item));
            }
            // Assume the end until a page is read, so that the iterator also ends after an error or
            // a panic of the database.
            match std::mem::replace(&mut self.next, NextPage::Done) {
                NextPage::Done => return None,
                NextPage::After(after) => {
                    if let Err(error) = self.fetch_page(after.as_deref()) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

impl<T, F> std::iter::FusedIterator for Stream<T, F> where
    F: FnMut(&Query, Option<&str>) -> Result<Page<T>>
{
}

/// Shows the query and the position, but no data.
impl<T, F> fmt::Debug for Stream<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("query", &self.query)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_of_a_stream_shows_its_query_and_position_but_no_data() {
        let mut pages = vec![Some("1".to_owned()), None].into_iter();
        let mut stream = Stream::new(
            Query::new("log").limit(2),
            move |_: &Query, _: Option<&str>| {
                Ok(Page {
                    items: vec![Item::new("log", "1", "secret")],
                    next: pages.next().flatten(),
                })
            },
        );
        assert!(format!("{stream:?}").contains("After(None)"));
        assert!(stream.next().is_some());
        assert!(format!("{stream:?}").contains(r#"After(Some("1"))"#));
        assert!(stream.next().is_some());
        let shown = format!("{stream:?}");
        assert!(shown.contains(r#"pk: "log""#) && shown.contains("Done"));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
