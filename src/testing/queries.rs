//! Guarantees 5 and 6, on a single thread: queries, pages and streams.

use super::fixture::{Database, Fixture};
use super::support::{Must, assert_data, found, item, key, sort_keys};
use super::threads::with_timeout;
use crate::sync::Arc;
use crate::{Batch, Clock, Item, Key, Query};
use std::ops::Bound;
use std::time::Duration;

/// Guarantee 5: `query` and `stream` are in the byte order of the sort key, either way.
pub fn queries_are_in_byte_order_either_way<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    // Byte order differs from the order by length, locale, number and UTF-16 unit: U+FFFD comes
    // before U+1F980 in UTF-8 and after it in UTF-16.
    let mut sks = vec![
        "!",
        "10",
        "9",
        "A",
        "B",
        "Z",
        "_",
        "a",
        "a!",
        "aa",
        "ab",
        "b",
        "zz",
        "~",
        "Ä",
        "é",
        "日",
        "\u{fffd}",
        "\u{1f980}",
    ];
    for sk in ["b", "\u{1f980}", "10", "a!", "~", "A", "日", "zz", "_", "9"] {
        db.set(&[item("pk", sk, "")]).must("set");
    }
    let rest: Vec<Item<String>> = sks.iter().rev().map(|sk| item("pk", sk, "")).collect();
    db.set(&rest).must("set");
    db.set(&[item("pj", "other", ""), item("pkk", "other", "")])
        .must("set");
    assert!(sks.is_sorted(), "the case's own keys are in order: {sks:?}");
    assert_eq!(found(db, &Query::new("pk")), sks, "in ascending order");
    sks.reverse();
    assert_eq!(
        found(db, &Query::new("pk").reverse()),
        sks,
        "in descending order"
    );
}

/// Guarantee 5: a query with a prefix returns the items whose sort keys begin with it, and no
/// others.
pub fn queries_honour_the_prefix<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    // Some prefixes end in the last character before the surrogates, or the last of all: the next
    // string that does not begin with them is not found by adding 1 to that character.
    let sks = [
        "a",
        "a:1",
        "a:2",
        "a;",
        "aé",
        "aê",
        "a\u{10ffff}",
        "a\u{10ffff}z",
        "b",
        "b:1",
        "é",
        "ézz",
        "ê",
        "\u{d7ff}",
        "\u{d7ff}z",
        "\u{e000}",
        "\u{10ffff}!",
    ];
    assert!(sks.is_sorted(), "the case's own keys are in order: {sks:?}");
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, "")).collect();
    db.set(&items).must("set");
    for prefix in [
        "a",
        "a:",
        "a:1",
        "a:12",
        "a\u{10ffff}",
        "b",
        "c",
        "é",
        "aé",
        "\u{d7ff}",
        "\u{10ffff}",
        "0",
        "a:2",
    ] {
        let expected: Vec<&str> = sks
            .iter()
            .copied()
            .filter(|sk| sk.starts_with(prefix))
            .collect();
        let query = Query::new("pk").prefix(prefix);
        assert_eq!(found(db, &query), expected, "prefix {prefix:?}");
        let reversed: Vec<&str> = expected.into_iter().rev().collect();
        assert_eq!(
            found(db, &query.reverse()),
            reversed,
            "prefix {prefix:?} in reverse"
        );
    }
}

/// Guarantee 5: a query returns the items whose sort keys are in its range, with every kind of bound
/// and together with prefix, direction, `after` and limit. An empty or inverted range selects nothing.
pub fn queries_honour_the_range<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let sks = ["a", "a\u{1}", "ab", "b", "b\u{10ffff}", "c"];
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, "")).collect();
    db.set(&items).must("set");
    db.set(&[item("other", "b", "")]).must("set");
    db.get_lock(key("pk", "b lock")).must("get_lock");

    let bounds = |sk: &str| {
        let sk = sk.to_owned();
        [Bound::Included(sk.clone()), Bound::Excluded(sk)]
    };
    let edges = ["a", "aa", "b"];
    let edges: Vec<Bound<String>> = edges
        .into_iter()
        .flat_map(bounds)
        .chain([Bound::Unbounded])
        .collect();
    for start in &edges {
        for end in &edges {
            for (prefix, after, limit) in [
                ("", None, None),
                ("b", None, None),
                ("", Some("ab"), None),
                ("a", Some("a"), Some(1)),
            ] {
                for reverse in [false, true] {
                    let range = (start.clone(), end.clone());
                    let mut query = Query::new("pk").prefix(prefix).range(range);
                    query.after = after.map(str::to_owned);
                    query.limit = limit;
                    query.reverse = reverse;
                    let mut expected = sks.to_vec();
                    expected.retain(|sk| query.matches(("pk", *sk)));
                    if reverse {
                        expected.reverse();
                    }
                    expected.truncate(limit.unwrap_or(usize::MAX));
                    assert_eq!(found(db, &query), expected, "{query:?}");
                }
            }
        }
    }
    let query = |range: Query| found(db, &range);
    assert_eq!(
        query(Query::new("pk").range("ab".."c")),
        ["ab", "b", "b\u{10ffff}"],
        "range ab..c"
    );
    assert_eq!(
        query(Query::new("pk").range("ab"..="b")),
        ["ab", "b"],
        "range ab..=b"
    );
    assert_eq!(
        query(Query::new("pk").range(.."ab")),
        ["a", "a\u{1}"],
        "range ..ab"
    );
    assert_eq!(query(Query::new("pk").range("c"..)), ["c"], "range c..");
    assert_eq!(query(Query::new("pk").range(..)), sks, "range ..");
}

/// Guarantee 5: a query begins strictly after its `after`, whether or not an item is stored there,
/// and ends at its limit.
pub fn queries_honour_after_and_limit<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let sks = ["a1", "a3", "a5", "a7", "b1", "b3"];
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, "")).collect();
    db.set(&items).must("set");
    for (prefix, reverse) in [("", false), ("", true), ("a", false), ("a", true)] {
        for after in [
            None,
            Some("a1"),
            Some("a2"),
            Some("a7"),
            Some("b2"),
            Some("b3"),
            Some("zz"),
        ] {
            for limit in [None, Some(0), Some(1), Some(2), Some(6), Some(7)] {
                let mut query = Query::new("pk").prefix(prefix);
                let mut expected = sks.to_vec();
                if reverse {
                    query = query.reverse();
                    expected.reverse();
                }
                expected.retain(|sk| sk.starts_with(prefix));
                if let Some(after) = after {
                    query = query.after(after);
                    expected.retain(|sk| if reverse { *sk < after } else { *sk > after });
                }
                if let Some(limit) = limit {
                    query = query.limit(limit);
                    expected.truncate(limit);
                }
                assert_eq!(found(db, &query), expected, "{query:?}");
            }
        }
    }
}

/// Guarantee 5: a limit counts returned items. Locks and expired items do not use it up.
pub fn the_limit_counts_returned_items<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let ttl = clock.epoch_seconds();
    for number in 0..10 {
        db.get_lock(key("pk", &format!("{number}-0 lock")))
            .must("get_lock");
        let expired = item("pk", &format!("{number}-1 expired"), "").expires_at(ttl);
        db.set(&[expired, item("pk", &format!("{number}-2 live"), "")])
            .must("set");
    }
    clock.set(ttl + 1);
    for limit in 1..=11 {
        let count = limit.min(10);
        let query = Query::new("pk").limit(limit);
        assert_eq!(found(db, &query).len(), count, "limit {limit}");
        assert_eq!(
            found(db, &query.reverse()).len(),
            count,
            "limit {limit} in reverse"
        );
    }
}

/// Guarantee 5: pages are contiguous and do not overlap, whatever their size; the last one has no
/// `next`.
pub fn pages_are_contiguous_and_do_not_overlap<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let sks: Vec<String> = (0..300).map(|number| format!("{number:03}")).collect();
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, "")).collect();
    db.set(&items).must("set");
    for reverse in [false, true] {
        for size in [7, 100, 299, 300, 301] {
            let mut query = Query::new("pk").limit(size);
            let mut expected = sks.clone();
            if reverse {
                query = query.reverse();
                expected.reverse();
            }
            let mut pages = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let page = db.page(&query, after.as_deref()).must("page");
                assert!(
                    page.items.len() <= size,
                    "a page has {} items where the limit is {size}",
                    page.items.len()
                );
                pages.extend(sort_keys(&page.items));
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            assert_eq!(pages, expected, "pages of {size}, reverse: {reverse}");
        }
    }
}

/// Guarantee 5: a `stream` yields the items of the `query`, over many pages, and ends at its limit.
pub fn streams_yield_the_items_of_a_query<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let sks: Vec<String> = (0..1_200).map(|number| format!("{number:04}")).collect();
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, sk)).collect();
    db.set(&items).must("set");
    assert_eq!(
        found(db, &Query::new("pk")),
        sks,
        "the items of a partition of 1200"
    );
    assert_eq!(
        found(db, &Query::new("pk").limit(1_100).after("0050")),
        sks[51..1_151],
        "1100 items after the 51st"
    );
    assert_eq!(
        found(db, &Query::new("none")),
        [""; 0],
        "the items of an empty partition"
    );
    let taken: Vec<_> = db
        .stream(Query::new("pk").reverse())
        .take(3)
        .map(|item| item.must("a stream"))
        .collect();
    assert_eq!(
        sort_keys(&taken),
        ["1199", "1198", "1197"],
        "the first three items of a stream in reverse"
    );
}

/// Guarantees 5 and 23: queries whose bounds lie outside of all keys, or that ask for as many items
/// as there can be, return what they ask for. None panics.
pub fn extreme_queries_do_not_panic<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "m", "")]).must("set");
    let all = Query::new("pk").limit(usize::MAX);
    assert_eq!(found(db, &all), ["m"], "the largest limit");
    assert_eq!(
        found(db, &Query::new("pk").limit(0)),
        [""; 0],
        "the limit 0"
    );
    let before = Query::new("pk").prefix("m").after("a");
    assert_eq!(found(db, &before), ["m"], "{before:?}");
    assert_eq!(
        found(db, &before.clone().reverse()),
        [""; 0],
        "{before:?} in reverse"
    );
    let behind = Query::new("pk").prefix("m").after("z");
    assert_eq!(found(db, &behind), [""; 0], "{behind:?}");
    assert_eq!(
        found(db, &behind.clone().reverse()),
        ["m"],
        "{behind:?} in reverse"
    );
    let page = db.page(&all, Some("m")).must("page");
    assert_eq!(page.items, [], "a page after the last item");
}

/// Guarantee 6: the iterator of a stream is fused. It stays at its end even when items are written
/// after it.
pub fn streams_are_fused<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "1", "")]).must("set");
    let mut stream = db.stream(Query::new("pk"));
    assert!(stream.next().is_some(), "the stream of one item is empty");
    assert!(stream.next().is_none(), "the stream of one item has two");
    db.set(&[item("pk", "2", "")]).must("set");
    assert!(stream.next().is_none(), "a stream went on after its end");
    assert!(stream.next().is_none(), "a stream went on after its end");
}

/// Guarantees 6 and 22: a stream holds no lock between items. The loop body may call any method of
/// the same database.
pub fn the_loop_body_of_a_stream_may_call_any_method<D: Database>(fixture: &Fixture<D>) {
    let db = Arc::clone(&fixture.db);
    with_timeout(Duration::from_secs(10), move |progress| {
        let db = &*db;
        let sks: Vec<String> = (0..40).map(|number| format!("{number:02}")).collect();
        let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, "")).collect();
        db.set(&items).must("set");
        let mut seen = 0;
        for streamed in db.stream(Query::new("pk")) {
            let streamed = streamed.must("a stream");
            let key = streamed.key();
            assert_data(db, (key.pk, key.sk), Some(""), "before it is replaced");
            db.set(&[item(key.pk, key.sk, "seen")]).must("set");
            let lock = db.get_lock(Key::new("locks", key.sk)).must("get_lock");
            db.set_atomic(&[item("pk", key.sk, "seen twice")], &[lock])
                .must("set_atomic");
            db.commit(&Batch::new().create(item("copies", key.sk, "")))
                .must("commit");
            db.page(&Query::new("pk").limit(1), None).must("page");
            let queried = db.query(&Query::new("pk")).must("query").len();
            assert_eq!(queried, sks.len(), "the items of a query within a stream");
            let nested = db.stream(Query::new("pk")).count();
            assert_eq!(nested, sks.len(), "the items of a stream within a stream");
            db.delete(&[Key::new("copies", key.sk)]).must("delete");
            seen += 1;
            progress();
        }
        assert_eq!(seen, sks.len(), "the items of the stream");
    });
}

/// Guarantee 6: items that are present throughout a stream are yielded once, whatever is written
/// while it runs.
pub fn streams_yield_items_present_throughout_exactly_once<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lasting: Vec<String> = (0..600).map(|number| format!("{number:04}")).collect();
    let items: Vec<Item<String>> = lasting.iter().map(|sk| item("pk", sk, "")).collect();
    db.set(&items).must("set");
    for reverse in [false, true] {
        let mut query = Query::new("pk");
        if reverse {
            query = query.reverse();
        }
        let mut seen = Vec::new();
        for (turn, streamed) in db.stream(query).enumerate() {
            let streamed = streamed.must("a stream");
            let sk = streamed.sk();
            // Items are created and deleted at the stream's position and ahead of it, and others
            // are replaced. Behind it, items are added for a while and then deleted.
            if turn % 10 == 0 {
                let passing = [format!("{sk}-"), format!("{turn:04}+"), "0300*".to_owned()];
                for passing in &passing {
                    db.set(&[item("pk", passing, "")]).must("set");
                }
                db.set(&[item("pk", sk, "replaced"), item("pk", "0299", "replaced")])
                    .must("set");
                db.delete(&[key("pk", &passing[0]), key("pk", &passing[1])])
                    .must("delete");
                let behind = if reverse { "~" } else { "!" };
                if turn < 300 {
                    db.set(&[item("pk", &format!("{behind}{turn}"), "")])
                        .must("set");
                } else {
                    db.delete(&[key("pk", &format!("{behind}{}", turn - 300))])
                        .must("delete");
                }
            }
            if sk.len() == 4 {
                seen.push(sk.to_owned());
            }
        }
        if reverse {
            seen.reverse();
        }
        assert_eq!(
            seen, lasting,
            "the items present throughout a stream, reverse: {reverse}"
        );
    }
}
