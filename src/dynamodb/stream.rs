//! A query, page after page, each fetched while the caller works on the one before.

use super::bridge::Pending;
use super::read::Rows;
use super::table::{Row, check_pk, check_sk, decode};
use super::{DynamoDb, finished};
use crate::{Item, Query, Result};
use serde::de::DeserializeOwned;
use std::fmt;
use std::iter::FusedIterator;
use std::time::Instant;
use std::vec;

/// Where in its partition a query begins.
#[derive(Debug, PartialEq)]
pub(super) enum Start {
    /// With the first row that it asks for.
    First,
    /// After this sort key, which has the query's prefix.
    After(String),
    /// Behind all that it asks for.
    End,
}

impl Start {
    /// Where `query` begins if it goes on after `after`.
    ///
    /// DynamoDB refuses to begin at a sort key that lacks the prefix. All sort keys with the prefix
    /// lie on the same side of such a key, so there is no need to ask.
    ///
    /// # Errors
    ///
    /// `InvalidInput` or `LimitExceeded` if the table can hold no such keys.
    pub(super) fn of(query: &Query, after: Option<&str>) -> Result<Self> {
        check_pk(&query.pk)?;
        check_sk("a sort key prefix's length in bytes", &query.prefix)?;
        let Some(after) = after.or(query.after.as_deref()) else {
            return Ok(Start::First);
        };
        check_sk("the length in bytes of the sort key to begin after", after)?;
        let prefix = query.prefix.as_str();
        Ok(match after.starts_with(prefix) && !after.is_empty() {
            true => Start::After(after.to_owned()),
            false if (after <= prefix) == query.reverse => Start::End,
            false => Start::First,
        })
    }
}

/// The iterator behind [`DynamoDb`]'s `stream`.
pub(super) struct Stream<T> {
    db: DynamoDb<T>,
    query: Query,
    /// How many items may still be yielded, if there is a limit.
    left: Option<usize>,
    /// What is left of the page at hand. Rows are decoded one by one, so that one that cannot be
    /// does not hide the others.
    rows: vec::IntoIter<Row>,
    next: Next,
}

/// The page after the one at hand.
enum Next {
    /// To be found out with the first item that is asked for.
    Begin,
    /// After this sort key. It is not fetched yet, for the page at hand may be all that is wanted.
    Known(String),
    /// Being fetched.
    Fetching {
        page: Pending<Result<Rows>>,
        latest: Instant,
    },
    /// There is none.
    End,
}

impl<T: DeserializeOwned> Stream<T> {
    pub(super) fn new(db: DynamoDb<T>, query: Query) -> Self {
        Stream {
            left: query.limit,
            db,
            query,
            rows: Vec::new().into_iter(),
            next: Next::Begin,
        }
    }

    /// Takes the next row of the page at hand that is an item or cannot be read.
    fn next_of_page(&mut self) -> Option<Result<Item<T>>> {
        let now = self.db.now().as_secs();
        self.rows.find_map(|row| decode(&row, now).transpose())
    }

    /// Makes the next page the one at hand, and has the one after it fetched. False at the end.
    fn turn(&mut self) -> Result<bool> {
        // An end until all is well: also after an error.
        let (page, latest) = match std::mem::replace(&mut self.next, Next::End) {
            Next::End => return Ok(false),
            Next::Fetching { page, latest } => (page, latest),
            Next::Known(after) => self.fetch(Some(after), 0),
            Next::Begin => match Start::of(&self.query, None)? {
                Start::First => self.fetch(None, 0),
                Start::After(after) => self.fetch(Some(after), 0),
                Start::End => return Ok(false),
            },
        };
        let Rows { rows, next } = finished(page.wait(latest))??;
        self.next = match next {
            None => Next::End,
            Some(after) if self.left.is_some_and(|left| left <= rows.len()) => Next::Known(after),
            Some(after) => {
                let (page, latest) = self.fetch(Some(after), rows.len());
                Next::Fetching { page, latest }
            }
        };
        self.rows = rows.into_iter();
        Ok(true)
    }

    /// Begins to fetch the page after `after`, while `at_hand` rows are there already.
    fn fetch(&self, after: Option<String>, at_hand: usize) -> (Pending<Result<Rows>>, Instant) {
        let wanted = self.left.map(|left| left.saturating_sub(at_hand));
        self.db.fetch(&self.query, after, wanted)
    }
}

impl<T: DeserializeOwned> Iterator for Stream<T> {
    type Item = Result<Item<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.left == Some(0) {
                // A page that is being fetched is given up.
                self.next = Next::End;
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
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<T: DeserializeOwned> FusedIterator for Stream<T> {}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("query", &self.query)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_query_begins_where_its_prefix_and_its_direction_let_it() {
        let start = |query: Query, after: &str| Start::of(&query, Some(after)).unwrap();
        let (all, some) = (Query::new("pk"), Query::new("pk").prefix("m"));
        let (all_back, some_back) = (all.clone().reverse(), some.clone().reverse());
        assert_eq!(Start::of(&some, None).unwrap(), Start::First);
        assert_eq!(start(all.clone(), "k"), Start::After("k".into()));
        assert_eq!(start(some.clone(), "m1"), Start::After("m1".into()));
        assert_eq!(start(some.clone(), "a"), Start::First);
        assert_eq!(start(some.clone(), "z"), Start::End);
        assert_eq!(start(some_back.clone(), "a"), Start::End);
        assert_eq!(start(some_back.clone(), "z"), Start::First);
        assert_eq!(start(all.clone(), ""), Start::First);
        assert_eq!(start(all_back, ""), Start::End);
        assert_eq!(start(some, ""), Start::First);
        assert_eq!(start(some_back, ""), Start::End);
        let begun = all.after("k");
        assert_eq!(Start::of(&begun, None).unwrap(), Start::After("k".into()));
        assert_eq!(start(begun, "x"), Start::After("x".into()));
        let long = "k".repeat(1025);
        for refused in [
            Start::of(&Query::new(""), None),
            Start::of(&Query::new("k".repeat(2049)), None),
            Start::of(&Query::new("pk").prefix(long.as_str()), None),
            Start::of(&Query::new("pk"), Some(&long)),
        ] {
            assert!(matches!(
                refused,
                Err(Error::InvalidInput(_) | Error::LimitExceeded { .. })
            ));
        }
    }
}
