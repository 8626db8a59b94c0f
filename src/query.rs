use crate::{Item, Key, Result};
use std::fmt;
use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};
use std::vec;

/// The items of one partition to read, and their order: by the bytes of the sort keys, ascending or
/// descending (guarantee 5).
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
    /// The partition key.
    pub pk: String,
    /// The prefix of the sort keys; empty if there is none.
    pub prefix: String,
    /// Whether the order is descending.
    pub reverse: bool,
    /// The largest number of items to return, if there is one.
    pub limit: Option<usize>,
    /// The sort key after which to begin, if there is one.
    pub after: Option<String>,
    /// The lower and the upper bound of the sort keys.
    pub range: (Bound<String>, Bound<String>),
    /// Whether the read must be consistent, even where the handle allows eventually consistent ones.
    pub fresh: bool,
}

impl Query {
    /// Creates a query for all items of the partition `pk`, in ascending order.
    #[must_use]
    pub fn new(pk: impl Into<String>) -> Self {
        Query {
            pk: pk.into(),
            prefix: String::new(),
            reverse: false,
            limit: None,
            after: None,
            range: (Bound::Unbounded, Bound::Unbounded),
            fresh: false,
        }
    }

    /// Selects the items whose sort key begins with `sk_prefix`.
    #[must_use]
    pub fn prefix(mut self, sk_prefix: impl Into<String>) -> Self {
        self.prefix = sk_prefix.into();
        self
    }

    /// Selects the items whose sort key is in `range`, such as `"a".."c"`, `"a"..="b"` or `"a"..`, by
    /// the order of bytes. An empty range, or one whose bounds are in descending order, selects no
    /// items.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, Item, MemoryDb, Query};
    ///
    /// let db = MemoryDb::new();
    /// for day in ["2026-01-31", "2026-02-01", "2026-02-28", "2026-03-01"] {
    ///     db.set(&[Item::new("log", day, ())])?;
    /// }
    /// let february = db.query(&Query::new("log").range("2026-02".."2026-03"))?;
    /// assert_eq!(february.len(), 2);
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    #[must_use]
    pub fn range(mut self, range: impl SortKeyRange) -> Self {
        self.range = range.into_bounds();
        self
    }

    /// Reverses the order to descending.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Limits the result to the first `items` items. Expired items and locks do not count. With zero,
    /// the result is empty.
    #[must_use]
    pub fn limit(mut self, items: usize) -> Self {
        self.limit = Some(items);
        self
    }

    /// Selects the items after `sk` in the order of this query: with greater sort keys, or with
    /// smaller ones if it is reversed. No item has to exist at `sk`.
    #[must_use]
    pub fn after(mut self, sk: impl Into<String>) -> Self {
        self.after = Some(sk.into());
        self
    }

    /// Requires a consistent read, even where the handle allows eventually consistent ones
    /// (guarantee 8).
    #[must_use]
    pub fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// Returns `true` if the query selects `key`, by partition, prefix, range and `after`. The limit
    /// does not matter.
    ///
    /// ```
    /// use atomic_db::{Key, Query};
    ///
    /// let query = Query::new("log").range("b".."d").after("b");
    /// assert!(query.matches(("log", "c")));
    /// assert!(!query.matches(("log", "b")));
    /// ```
    #[must_use]
    pub fn matches<'k>(&self, key: impl Into<Key<'k>>) -> bool {
        let Key { pk, sk } = key.into();
        let is_after = |after: &str| if self.reverse { sk < after } else { sk > after };
        pk == self.pk
            && sk.starts_with(&self.prefix)
            && self.is_in_range(sk)
            && self.after.as_deref().is_none_or(is_after)
    }

    /// Returns `true` if `sk` is within the bounds of the range.
    pub(crate) fn is_in_range(&self, sk: &str) -> bool {
        let (start, end) = &self.range;
        let is_above = match start {
            Bound::Included(start) => sk >= start.as_str(),
            Bound::Excluded(start) => sk > start.as_str(),
            Bound::Unbounded => true,
        };
        let is_below = match end {
            Bound::Included(end) => sk <= end.as_str(),
            Bound::Excluded(end) => sk < end.as_str(),
            Bound::Unbounded => true,
        };
        is_above && is_below
    }
}

mod private {
    pub trait Sealed {}
}

/// A range of sort keys: `..`, `a..`, `..b`, `a..b`, `..=b`, `a..=b`, or a pair of
/// [`Bound`]s, of any strings.
///
/// The trait is sealed. It takes the place of [`RangeBounds`](std::ops::RangeBounds), with which the
/// compiler could not infer the type of the strings of `..`, `&a..&b` and pairs of bounds.
pub trait SortKeyRange: private::Sealed {
    /// Returns the lower and the upper bound.
    fn into_bounds(self) -> (Bound<String>, Bound<String>);
}

macro_rules! sort_key_range {
    ($($range:ty: $self:ident => ($start:expr, $end:expr);)*) => {$(
        impl<S: AsRef<str>> private::Sealed for $range {}

        impl<S: AsRef<str>> SortKeyRange for $range {
            fn into_bounds($self) -> (Bound<String>, Bound<String>) {
                (owned($start), owned($end))
            }
        }
    )*};
}

sort_key_range! {
    Range<S>: self => (Bound::Included(self.start), Bound::Excluded(self.end));
    RangeInclusive<S>: self => (Bound::Included(self.start()), Bound::Included(self.end()));
    RangeFrom<S>: self => (Bound::Included(self.start), Bound::Unbounded::<S>);
    RangeTo<S>: self => (Bound::Unbounded::<S>, Bound::Excluded(self.end));
    RangeToInclusive<S>: self => (Bound::Unbounded::<S>, Bound::Included(self.end));
    (Bound<S>, Bound<S>): self => (self.0, self.1);
}

impl private::Sealed for RangeFull {}

impl SortKeyRange for RangeFull {
    fn into_bounds(self) -> (Bound<String>, Bound<String>) {
        (Bound::Unbounded, Bound::Unbounded)
    }
}

fn owned(bound: Bound<impl AsRef<str>>) -> Bound<String> {
    bound.map(|sk| sk.as_ref().to_owned())
}

/// One page of the result of a [`Query`], and the position to continue from.
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
#[expect(clippy::exhaustive_structs, reason = "backends return pages")]
pub struct Page<T> {
    /// The items, in the order of the query.
    pub items: Vec<Item<T>>,
    /// The sort key after which the next page begins, or `None` if this page is the last one. The
    /// next page may turn out to be empty.
    pub next: Option<String>,
}

/// The iterator of `AtomicDb::stream`. It buffers one page, and holds no lock or read transaction of
/// the database between pages (guarantee 6).
pub(crate) struct Stream<T, F> {
    /// Reads one page of a query, after the given sort key.
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

    /// Reads the page after `after`. The query's limit is reduced by each page, so that no page has
    /// more items than are still to be yielded.
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
            // Assume the end until a page is read, so that the iterator ends after an error or a
            // panic of the database, too.
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
    use crate::Error;
    use std::cell::Cell;

    #[test]
    fn debug_of_a_stream_shows_its_query_and_position_but_no_data() {
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

    /// Pages in the order in which they are read: the data of the items and `next`, or `None` for an
    /// error.
    type Pages = Vec<Option<(Vec<u32>, Option<&'static str>)>>;

    /// Streams the data on `pages`, and counts the pages that are read in `calls`.
    fn stream(
        query: Query,
        pages: Pages,
        calls: &Cell<usize>,
    ) -> impl Iterator<Item = Result<u32>> {
        let read_page = move |_: &Query, _: Option<&str>| {
            let call = calls.replace(calls.get() + 1);
            let page = pages.get(call).expect("a page after the last one was read");
            let (numbers, next) = page.clone().ok_or(Error::Backend("broken".into()))?;
            let item = |number: u32| Item::new("log", number.to_string(), number);
            Ok(Page {
                items: numbers.into_iter().map(item).collect(),
                next: next.map(str::to_owned),
            })
        };
        Stream::new(query, read_page).map(|item| Ok(item?.into_data().unwrap()))
    }

    #[test]
    fn a_stream_yields_an_error_once_and_then_ends() {
        let page = || Some((vec![1], Some("1")));
        for (before, pages) in [(0, vec![None, page()]), (1, vec![page(), None, page()])] {
            let calls = Cell::new(0);
            let mut stream = stream(Query::new("log"), pages, &calls);
            for _ in 0..before {
                assert_eq!(stream.next().unwrap().unwrap(), 1);
            }
            assert!(matches!(stream.next(), Some(Err(Error::Backend(_)))));
            for _ in 0..3 {
                assert!(stream.next().is_none(), "it went on after an error");
            }
            assert_eq!(calls.get(), before + 1);
        }
    }

    #[test]
    fn a_stream_continues_after_an_empty_page_that_has_a_next() {
        let calls = Cell::new(0);
        let empty = |next| Some((vec![], next));
        let pages = vec![
            empty(Some("0")),
            Some((vec![1, 2], Some("2"))),
            empty(Some("3")),
            empty(Some("4")),
            Some((vec![5], Some("5"))),
            empty(None),
        ];
        let mut stream = stream(Query::new("log"), pages, &calls);
        let numbers: Vec<u32> = stream.by_ref().map(Result::unwrap).collect();
        assert_eq!(numbers, [1, 2, 5]);
        assert_eq!(calls.get(), 6);
        assert!(stream.next().is_none());
    }
}
