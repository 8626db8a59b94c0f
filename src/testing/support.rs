//! Reads and assertions that several cases share.

use super::fixture::Database;
use crate::{Error, Item, Key, Query, Result};
use std::fmt::Debug;

/// Results of calls that must succeed here.
pub(super) trait Must<T> {
    /// Returns the result of `call`. Panics with its name and its error if it failed.
    fn must(self, call: &str) -> T;
}

impl<T> Must<T> for Result<T> {
    #[track_caller]
    fn must(self, call: &str) -> T {
        self.unwrap_or_else(|error| panic!("{call} failed: {error} ({error:?})"))
    }
}

pub(super) fn item(pk: &str, sk: &str, data: impl ToString) -> Item<String> {
    Item::new(pk, sk, data.to_string())
}

pub(super) fn key<'a>(pk: &'a str, sk: &'a str) -> Key<'a> {
    Key::new(pk, sk)
}

/// Returns the data of an item, by value.
pub(super) fn data(item: Option<Item<String>>) -> Option<String> {
    item.and_then(Item::into_data)
}

/// Returns the number that an item holds, or 0 if there is no item.
pub(super) fn number(item: Option<Item<String>>) -> u64 {
    data(item).map_or(0, |text| {
        let number = text.parse();
        number.unwrap_or_else(|_| panic!("an item holds {text:?}, which no call has written"))
    })
}

/// Reads the data at a key with every point read, and asserts that they agree.
pub(super) fn read<D: Database>(db: &D, pk: &str, sk: &str) -> Option<String> {
    let key = Key::new(pk, sk);
    let get = data(db.get(key).must("get"));
    assert_eq!(
        data(db.get_fresh(key).must("get_fresh")),
        get,
        "get_fresh of {key} differs from get"
    );
    let many = db.get_many(&[key]).must("get_many");
    assert_eq!(many.len(), 1, "get_many of one key returned {many:?}");
    assert_eq!(
        data(many.into_iter().next().flatten()),
        get,
        "get_many of {key} differs from get"
    );
    let fresh = db.get_many_fresh(&[key]).must("get_many_fresh");
    assert_eq!(
        data(fresh.into_iter().next().flatten()),
        get,
        "get_many_fresh of {key} differs from get"
    );
    get
}

/// Asserts that every point read of a key returns `expected`.
#[track_caller]
pub(super) fn assert_data<D: Database>(
    db: &D,
    (pk, sk): (&str, &str),
    expected: Option<&str>,
    when: &str,
) {
    assert_eq!(read(db, pk, sk).as_deref(), expected, "{pk}/{sk}, {when}");
}

pub(super) fn sort_keys(items: &[Item<String>]) -> Vec<String> {
    items.iter().map(|item| item.sk().to_owned()).collect()
}

/// Reads the sort keys of a query with `query`, `stream` and `page`, and asserts that they agree.
pub(super) fn found<D: Database>(db: &D, query: &Query) -> Vec<String> {
    let queried = sort_keys(&db.query(query).must("query"));
    let streamed: Result<Vec<_>> = db.stream(query.clone()).collect();
    assert_eq!(
        sort_keys(&streamed.must("a stream")),
        queried,
        "stream differs from query: {query:?}"
    );
    assert_eq!(
        paged(db, query),
        queried,
        "the pages differ from query: {query:?}"
    );
    queried
}

/// Reads the sort keys of a query page by page, with the rest of its limit for each page.
fn paged<D: Database>(db: &D, query: &Query) -> Vec<String> {
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let left = query.limit.map(|limit| limit - found.len());
        let rest = match left {
            Some(0) => return found,
            Some(left) => query.clone().limit(left),
            None => query.clone(),
        };
        let page = db.page(&rest, after.as_deref()).must("page");
        let len = page.items.len();
        assert!(
            left.is_none_or(|left| len <= left),
            "a page has {len} items: {rest:?}"
        );
        found.extend(sort_keys(&page.items));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

/// Asserts that a commit failed with a race condition that names exactly the locks at `expected`.
#[track_caller]
pub(super) fn assert_race<T: Debug>(outcome: Result<T>, expected: &[(&str, &str)]) {
    match outcome {
        Err(Error::RaceCondition { keys }) => {
            let keys: Vec<_> = keys.iter().map(|key| (key.pk(), key.sk())).collect();
            assert_eq!(
                keys, expected,
                "the error names other locks than those that changed"
            );
        }
        other => panic!("a commit under the changed locks {expected:?} returned {other:?}"),
    }
}

/// Asserts that a call was refused with an error that says what is wrong.
#[track_caller]
pub(super) fn assert_invalid<T: Debug>(outcome: Result<T>, what: &str) {
    match outcome {
        Err(Error::InvalidInput(text)) => {
            assert!(
                !text.is_empty(),
                "{what}: the error does not say what is wrong"
            );
        }
        other => panic!("{what} returned {other:?} instead of InvalidInput"),
    }
}
