use crate::{AtomicDb, Item, Result};
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
pub struct Query {
    pk: String,
    prefix: String,
    reverse: bool,
    limit: Option<usize>,
    after: Option<String>,
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

    /// The partition that is read.
    #[must_use]
    pub fn pk(&self) -> &str {
        &self.pk
    }

    /// What the sort keys begin with; empty if anything will do.
    #[must_use]
    pub fn sk_prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether the order is descending.
    #[must_use]
    pub fn is_reverse(&self) -> bool {
        self.reverse
    }

    /// How many items to read at most, if there is a limit.
    #[must_use]
    pub fn max_items(&self) -> Option<usize> {
        self.limit
    }

    /// The sort key after which to begin, if one was given.
    #[must_use]
    pub fn start_after(&self) -> Option<&str> {
        self.after.as_deref()
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

/// The iterator behind [`AtomicDb::stream`]: a page at a time, nothing held between two of them.
pub(crate) struct Stream<'a, D: AtomicDb + ?Sized> {
    db: &'a D,
    query: Query,
    page: vec::IntoIter<Item<D::Data>>,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    /// More pages may follow, the next one after this sort key.
    More(Option<String>),
    /// The page at hand is the last.
    Last,
}

impl<'a, D: AtomicDb + ?Sized> Stream<'a, D> {
    pub(crate) fn new(db: &'a D, query: Query) -> Self {
        Stream {
            db,
            query,
            page: Vec::new().into_iter(),
            state: State::More(None),
        }
    }

    /// Reads the next page. The query's own limit counts down, so that no page brings more than is
    /// still wanted.
    fn turn(&mut self, after: Option<&str>) -> Result<()> {
        let Page { mut items, next } = self.db.page(&self.query, after)?;
        if let Some(limit) = &mut self.query.limit {
            items.truncate(*limit);
            *limit -= items.len();
        }
        let done = self.query.limit == Some(0);
        self.page = items.into_iter();
        self.state = match next {
            Some(next) if !done => State::More(Some(next)),
            _ => State::Last,
        };
        Ok(())
    }
}

impl<D: AtomicDb + ?Sized> Iterator for Stream<'_, D> {
    type Item = Result<Item<D::Data>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.page.next() {
                return Some(Ok(item));
            }
            // Last until a page says otherwise: also after an error, or a panic in the database.
            match std::mem::replace(&mut self.state, State::Last) {
                State::Last => return None,
                State::More(after) => {
                    if let Err(error) = self.turn(after.as_deref()) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

impl<D: AtomicDb + ?Sized> std::iter::FusedIterator for Stream<'_, D> {}

impl<D: AtomicDb + ?Sized> fmt::Debug for Stream<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("query", &self.query)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDb;

    #[test]
    fn a_stream_shows_what_it_asks_for_and_where_it_is() {
        let db = MemoryDb::new();
        for sk in ["1", "2"] {
            db.set(&[Item::new("log", sk, "secret")]).unwrap();
        }
        let mut stream = Stream::new(&db, Query::new("log").limit(1));
        assert!(format!("{stream:?}").contains("More(None)"));
        assert!(stream.next().is_some());
        let shown = format!("{stream:?}");
        assert!(shown.contains(r#"pk: "log""#) && shown.contains("Last"));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
