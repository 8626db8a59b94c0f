//! Queries whose prefix ends in a character that has no successor.

use crate::common::sks;
use atomic_db::{AtomicDb, Item, Query, RedbDb};

/// Sort keys, ascending, around the last character of all and the last one before the surrogates.
const SORT_KEYS: [&str; 16] = [
    "",
    "a",
    "a\u{d7ff}",
    "a\u{d7ff}\u{d7ff}",
    "a\u{d7ff}\u{10ffff}",
    "a\u{e000}",
    "a\u{10ffff}",
    "a\u{10ffff}\u{10ffff}",
    "b",
    "\u{d7ff}",
    "\u{d7ff}z",
    "\u{d7ff}\u{10ffff}",
    "\u{e000}",
    "\u{10ffff}",
    "\u{10ffff}a",
    "\u{10ffff}\u{10ffff}",
];

/// Every sort key serves as a prefix and as `after`. Neighbouring partitions hold the same sort keys,
/// so that a bound that is too high finds their items.
#[test]
fn a_prefix_that_ends_in_the_last_character_selects_exactly_its_items() {
    assert!(SORT_KEYS.is_sorted());
    let db: RedbDb<String> = RedbDb::builder().in_memory().unwrap();
    for pk in ["pj\u{10ffff}", "pk", "pk\0", "pk\u{10ffff}", "pl"] {
        let items = SORT_KEYS.map(|sk| Item::new(pk, sk, pk.to_owned()));
        db.set(&items).unwrap();
    }
    for prefix in SORT_KEYS {
        for after in std::iter::once(None).chain(SORT_KEYS.map(Some)) {
            let ascending = Query::new("pk").prefix(prefix);
            let selected = SORT_KEYS.into_iter().filter(|sk| sk.starts_with(prefix));
            let greater: Vec<_> = selected
                .clone()
                .filter(|sk| after.is_none_or(|after| *sk > after))
                .collect();
            assert_query(&db, ascending.clone(), after, &greater);

            let smaller: Vec<_> = selected
                .rev()
                .filter(|sk| after.is_none_or(|after| *sk < after))
                .collect();
            assert_query(&db, ascending.reverse(), after, &smaller);
        }
    }
}

fn assert_query(db: &RedbDb<String>, query: Query, after: Option<&str>, expected: &[&str]) {
    let page = db.page(&query, after).unwrap();
    assert_eq!(sks(&page.items), expected, "{query:?}, after {after:?}");
    let query = match after {
        Some(after) => query.after(after),
        None => query,
    };
    let found = db.query(&query).unwrap();
    assert_eq!(sks(&found), expected, "{query:?}");
    assert!(found.iter().all(|item| item.data().unwrap() == "pk"));
}
