//! Prefix queries whose prefix ends in a character without a successor (guarantee 5). A backend that
//! computes an upper bound from the prefix must not increment such a character.

use crate::common::sks;
use atomic_db::{AtomicDb, Item, LruCache, MemoryDb, Query};

/// The last character, the last one before the surrogates, and the neighbours of both.
const CHARACTERS: [&str; 6] = [
    "a",
    "\u{d7fe}",
    "\u{d7ff}",
    "\u{e000}",
    "\u{10fffe}",
    "\u{10ffff}",
];

/// Checks all prefixes of up to two of [`CHARACTERS`], in both directions and after every sort key.
pub(crate) fn check_prefixes(db: &impl AtomicDb<Data = ()>) {
    let mut prefixes = vec![String::new()];
    for first in CHARACTERS {
        prefixes.push(first.to_owned());
        prefixes.extend(CHARACTERS.map(|second| format!("{first}{second}")));
    }
    let longer = prefixes
        .iter()
        .flat_map(|prefix| [format!("{prefix}\0"), format!("{prefix}z")]);
    let mut all: Vec<String> = longer.chain(prefixes.iter().cloned()).collect();
    all.sort();
    let items: Vec<Item<()>> = all.iter().map(|sk| Item::new("pk", sk, ())).collect();
    db.set(&items).unwrap();

    for prefix in &prefixes {
        let mut matching: Vec<&str> = all.iter().map(String::as_str).collect();
        matching.retain(|sk| sk.starts_with(prefix));
        let query = Query::new("pk").prefix(prefix);
        check(db, &query, &matching);
        for after in &all {
            let mut rest = matching.clone();
            rest.retain(|sk| *sk > after.as_str());
            check(db, &query.clone().after(after), &rest);
        }

        matching.reverse();
        let query = query.reverse();
        check(db, &query, &matching);
        for after in &all {
            let mut rest = matching.clone();
            rest.retain(|sk| *sk < after.as_str());
            check(db, &query.clone().after(after), &rest);
        }
    }
}

fn check(db: &impl AtomicDb<Data = ()>, query: &Query, expected: &[&str]) {
    assert_eq!(sks(&db.query(query).unwrap()), expected, "{query:?}");
    let page = db.page(query, None).unwrap();
    assert_eq!(sks(&page.items), expected, "{query:?}");
}

#[test]
fn memory_finds_prefixes_that_end_in_a_character_without_a_successor() {
    check_prefixes(&MemoryDb::new());
}

#[test]
fn a_cache_finds_prefixes_that_end_in_a_character_without_a_successor() {
    check_prefixes(&LruCache::new(MemoryDb::new(), 10));
}
