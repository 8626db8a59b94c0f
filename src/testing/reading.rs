//! Promises 1 to 7: what reads answer.

use super::{Database, Fixture, found, held, item, key, read, sort_keys, with_timeout};
use crate::{Batch, Clock, Error, Item, Key, Query};
use std::time::Duration;

/// Keys are pairs: pairs that join to the same text are different keys, with every usual separator.
pub fn keys_are_pairs_and_are_never_joined<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for separator in ["", ":", "/", "#", "|", "-", ".", ",", "\u{1}", "\u{1f}"] {
        let joined = format!("b{separator}c");
        let left = format!("a{separator}b");
        db.set(&[item("a", &joined, "right"), item(&left, "c", "left")])
            .unwrap();
        assert_eq!(
            read(db, "a", &joined).as_deref(),
            Some("right"),
            "joined by {separator:?}"
        );
        assert_eq!(
            read(db, &left, "c").as_deref(),
            Some("left"),
            "joined by {separator:?}"
        );
        assert_eq!(found(db, &Query::new(left.as_str())), ["c"]);
        db.delete(&[key(&left, "c")]).unwrap();
        assert_eq!(
            read(db, "a", &joined).as_deref(),
            Some("right"),
            "joined by {separator:?}"
        );
    }
}

/// Odd keys are ordinary, or refused with `InvalidInput` or `LimitExceeded` before anything happens.
pub fn odd_keys_are_ordinary_or_refused_before_anything_is_written<D: Database>(
    fixture: &Fixture<D>,
) {
    let db = &*fixture.db;
    let long = "k".repeat(3_000);
    let odd = [
        "",
        " ",
        "\0",
        "a\0b",
        "/",
        "#",
        "..",
        "%",
        "\"",
        "'",
        "\\",
        "\n",
        "\u{7f}",
        "é",
        "e\u{301}",
        "日本語",
        "🦀",
        "\u{fffd}",
        "\u{10ffff}",
        &long,
    ];
    let pairs = odd
        .iter()
        .flat_map(|odd| [("pk", *odd), (*odd, "sk"), (*odd, *odd)]);
    for (pk, sk) in pairs {
        let key = Key::new(pk, sk);
        match db.set(&[item(pk, sk, "odd")]) {
            Ok(()) => {
                assert_eq!(read(db, pk, sk).as_deref(), Some("odd"), "{key}");
                let there = found(db, &Query::new(pk));
                assert!(
                    there.iter().any(|other| other == sk),
                    "{key} is not queried"
                );
                db.delete(&[key]).unwrap();
                assert_eq!(read(db, pk, sk), None, "{key}");
                let lock = db.get_lock(key).unwrap();
                assert_eq!(lock.key(), key);
                db.commit(&Batch::new().lock(lock)).unwrap();
            }
            Err(Error::InvalidInput(_) | Error::LimitExceeded { .. }) => {
                let batch = Batch::new()
                    .set(item("whole", "batch", ""))
                    .set(item(pk, sk, ""));
                assert_refused(db.commit(&batch).map(drop), key);
                assert_refused(db.set(&[item("whole", "set", ""), item(pk, sk, "")]), key);
                assert_refused(db.get_lock(key).map(drop), key);
                assert_eq!(
                    found(db, &Query::new("whole")),
                    [""; 0],
                    "{key} was refused too late"
                );
            }
            Err(error) => panic!("{key} is refused as {error:?}"),
        }
    }
}

fn assert_refused(outcome: crate::Result<()>, key: Key<'_>) {
    let refused = matches!(
        outcome,
        Err(Error::InvalidInput(_) | Error::LimitExceeded { .. })
    );
    assert!(refused, "{key} is refused sometimes: {outcome:?}");
}

/// Data comes back as it was written, whatever its size; an item without data is an item.
pub fn items_are_read_back_as_written<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let large = "0123456789".repeat(20_000);
    for data in [
        "",
        " ",
        "null",
        "\"quoted\"",
        "line\nfeed",
        "\0",
        "日本語 🦀",
        &large,
    ] {
        let ttl = fixture.clock.epoch_seconds() + 60;
        let written = item("pk", "sk", data).expires_at(ttl);
        db.set(&[written.clone()]).unwrap();
        let read = db
            .get(key("pk", "sk"))
            .unwrap()
            .expect("what was set is there");
        assert_eq!(read, written);
        assert_eq!(read.ttl(), Some(ttl));
        assert_eq!(db.query(&Query::new("pk")).unwrap(), [written]);
    }
    let bare = Item::without_data("pk", "bare");
    db.set(&[bare.clone()]).unwrap();
    let read = db.get(key("pk", "bare")).unwrap();
    assert_eq!(read, Some(bare));
}

/// `get_many` answers in the order asked, repeats included, and `None` where there is none.
pub fn get_many_returns_results_in_the_order_asked<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[
        item("a", "1", "a1"),
        item("b", "1", "b1"),
        item("a", "2", "a2"),
    ])
    .unwrap();
    let asked = [
        ("b", "1"),
        ("a", "2"),
        ("a", "none"),
        ("a", "1"),
        ("b", "1"),
        ("none", "1"),
        ("b", "1"),
    ];
    // Twice: a cache answers the second time.
    for _ in 0..2 {
        let answers = db.get_many(&asked.map(Key::from)).unwrap();
        let answers: Vec<Option<String>> = answers.into_iter().map(held).collect();
        let expected = [
            Some("b1"),
            Some("a2"),
            None,
            Some("a1"),
            Some("b1"),
            None,
            Some("b1"),
        ];
        assert_eq!(answers, expected.map(|data| data.map(str::to_owned)));
    }
}

/// `get_many` takes any number of keys, also more than a store takes at once.
pub fn get_many_accepts_any_number_of_keys<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let sks: Vec<String> = (0..250).map(|number| format!("{number:03}")).collect();
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, sk)).collect();
    db.set(&items).unwrap();
    let mut keys: Vec<Key<'_>> = sks.iter().rev().map(|sk| key("pk", sk)).collect();
    keys.insert(100, key("pk", "none"));
    keys.push(keys[7]);
    for keys in [&keys[..], &keys[..1]] {
        let answers = db.get_many(keys).unwrap();
        assert_eq!(answers.len(), keys.len());
        for (answer, key) in answers.into_iter().zip(keys) {
            let expected = (key.sk != "none").then(|| key.sk.to_owned());
            assert_eq!(held(answer), expected);
        }
    }
}

/// `get`, `get_fresh` and `get_many` see an item while now is at most its ttl, and not after.
pub fn point_reads_return_an_item_until_its_ttl_has_passed<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let now = clock.epoch_seconds();
    db.set(&[
        item("pk", "ten", "").expires_at(now + 10),
        item("pk", "now", "").expires_at(now),
        item("pk", "past", "").expires_at(now - 1),
        item("pk", "epoch", "").expires_at(0),
        item("pk", "ever", ""),
        item("pk", "never", "").expires_at(u64::MAX),
    ])
    .unwrap();
    let there = |sk| read(db, "pk", sk).is_some();
    assert!(there("now") && there("ten") && there("ever") && there("never"));
    assert!(!there("past") && !there("epoch"));
    clock.set(now + 1);
    assert!(!there("now"), "an item is there after its ttl");
    clock.set(now + 10);
    assert!(there("ten"), "an item is gone before its ttl has passed");
    clock.set(now + 11);
    assert!(!there("ten"), "an item is there after its ttl");
    assert!(there("ever") && there("never"));

    // Another ttl replaces the old one.
    db.set(&[item("pk", "again", "").expires_at(now + 20)])
        .unwrap();
    assert!(there("again"));
    db.set(&[item("pk", "again", "").expires_at(now + 40)])
        .unwrap();
    clock.set(now + 21);
    assert!(
        there("again"),
        "an item is gone by the ttl that it had before"
    );
    db.set(&[item("pk", "again", "")]).unwrap();
    clock.set(now + 41);
    assert!(
        there("again"),
        "an item is gone by the ttl that it had before"
    );
}

/// `query`, `page` and `stream` see an item while now is at most its ttl, and not after.
pub fn queries_return_an_item_until_its_ttl_has_passed<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let now = clock.epoch_seconds();
    for number in 0..20 {
        let sk = format!("{number:02}");
        db.set(&[item("pk", &sk, "").expires_at(now + number % 4)])
            .unwrap();
    }
    for passed in 0..5 {
        clock.set(now + passed);
        let live = (0..20).filter(|number| number % 4 >= passed);
        let live: Vec<String> = live.map(|number| format!("{number:02}")).collect();
        let query = Query::new("pk");
        assert_eq!(found(db, &query), live, "{passed} s later");
        let reversed: Vec<String> = live.iter().rev().cloned().collect();
        assert_eq!(found(db, &query.reverse()), reversed, "{passed} s later");
    }
}

/// Where an item has expired, an item can be created and a lock be made.
pub fn expired_items_do_not_block_create_or_get_lock<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let ttl = clock.epoch_seconds() + 5;
    db.set(&[
        item("pk", "a", "old").expires_at(ttl),
        item("pk", "b", "old").expires_at(ttl),
    ])
    .unwrap();
    clock.set(ttl + 1);
    db.commit(&Batch::new().create(item("pk", "a", "new")))
        .unwrap();
    assert_eq!(read(db, "pk", "a").as_deref(), Some("new"));
    let lock = db.get_lock(key("pk", "b")).unwrap();
    db.commit(&Batch::new().lock(lock)).unwrap();
    assert_eq!(found(db, &Query::new("pk")), ["a"]);
}

/// Locks are never seen by `get`, `get_fresh`, `get_many`, `query`, `page` and `stream`.
pub fn reads_never_return_locks<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for sk in ["a-lock", "b-lock", "z-lock"] {
        db.get_lock(key("pk", sk)).unwrap();
    }
    assert_eq!(found(db, &Query::new("pk")), [""; 0], "a query sees a lock");
    db.set(&[item("pk", "b", "")]).unwrap();
    assert_eq!(read(db, "pk", "a-lock"), None, "a point read sees a lock");
    for query in [
        Query::new("pk"),
        Query::new("pk").reverse(),
        Query::new("pk").prefix("b"),
    ] {
        assert_eq!(found(db, &query), ["b"], "a query sees a lock: {query:?}");
    }
}

/// `query` and `stream` are in the order of the bytes of the sort keys, either way.
pub fn queries_are_in_byte_order_either_way<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    // By bytes, and neither by length, locale, number nor UTF-16 unit: U+FFFD comes before U+1F980
    // in UTF-8 and after it in UTF-16.
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
        db.set(&[item("pk", sk, "")]).unwrap();
    }
    let rest: Vec<Item<String>> = sks.iter().rev().map(|sk| item("pk", sk, "")).collect();
    db.set(&rest).unwrap();
    db.set(&[item("pj", "other", ""), item("pkk", "other", "")])
        .unwrap();
    assert!(sks.is_sorted());
    assert_eq!(found(db, &Query::new("pk")), sks);
    sks.reverse();
    assert_eq!(found(db, &Query::new("pk").reverse()), sks);
}

/// A query with a prefix sees the sort keys that begin with it, and no other.
pub fn queries_honour_the_prefix<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let sks = [
        "a",
        "a:1",
        "a:2",
        "a;",
        "aé",
        "aê",
        "b",
        "b:1",
        "é",
        "ézz",
        "ê",
        "\u{10ffff}!",
    ];
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, "")).collect();
    db.set(&items).unwrap();
    for prefix in [
        "a",
        "a:",
        "a:1",
        "a:12",
        "b",
        "c",
        "é",
        "aé",
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

/// A query begins strictly after its `after`, whether or not an item is there, and ends at its limit.
pub fn queries_honour_after_and_limit<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let sks = ["a1", "a3", "a5", "a7", "b1", "b3"];
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, "")).collect();
    db.set(&items).unwrap();
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

/// A limit counts items that are returned: what is hidden does not use it up.
pub fn the_limit_counts_returned_items<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let ttl = clock.epoch_seconds();
    for number in 0..10 {
        db.get_lock(key("pk", &format!("{number}-0 lock"))).unwrap();
        let expired = item("pk", &format!("{number}-1 expired"), "").expires_at(ttl);
        db.set(&[expired, item("pk", &format!("{number}-2 live"), "")])
            .unwrap();
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

/// Pages follow each other without gap or repeat, whatever their size; the last one ends the way.
pub fn pages_are_contiguous_and_do_not_overlap<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let sks: Vec<String> = (0..300).map(|number| format!("{number:03}")).collect();
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, "")).collect();
    db.set(&items).unwrap();
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
                let page = db.page(&query, after.as_deref()).unwrap();
                assert!(
                    page.items.len() <= size,
                    "a page of {size} holds {}",
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

/// A stream yields what a query does, over many pages, and stops at the limit.
pub fn streams_yield_the_items_of_a_query<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let sks: Vec<String> = (0..1_200).map(|number| format!("{number:04}")).collect();
    let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, sk)).collect();
    db.set(&items).unwrap();
    assert_eq!(found(db, &Query::new("pk")), sks);
    assert_eq!(
        found(db, &Query::new("pk").limit(1_100).after("0050")),
        sks[51..1_151]
    );
    assert_eq!(found(db, &Query::new("none")), [""; 0]);
    let taken: Vec<_> = db
        .stream(Query::new("pk").reverse())
        .take(3)
        .map(Result::unwrap)
        .collect();
    assert_eq!(sort_keys(&taken), ["1199", "1198", "1197"]);
}

/// A stream that has ended stays ended, also when items come after its end.
pub fn streams_are_fused<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "1", "")]).unwrap();
    let mut stream = db.stream(Query::new("pk"));
    assert!(stream.next().is_some());
    assert!(stream.next().is_none());
    db.set(&[item("pk", "2", "")]).unwrap();
    assert!(stream.next().is_none(), "a stream went on after its end");
    assert!(stream.next().is_none());
}

/// A stream holds nothing of the database between two items: its body may call any method.
pub fn the_loop_body_of_a_stream_may_call_any_method<D: Database>(fixture: &Fixture<D>) {
    let db = std::sync::Arc::clone(&fixture.db);
    with_timeout(Duration::from_secs(10), move |step| {
        let db = &*db;
        let sks: Vec<String> = (0..40).map(|number| format!("{number:02}")).collect();
        let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, "")).collect();
        db.set(&items).unwrap();
        let mut seen = 0;
        for streamed in db.stream(Query::new("pk")) {
            let streamed = streamed.unwrap();
            let key = streamed.key();
            assert_eq!(read(db, key.pk, key.sk), Some(String::new()));
            db.set(&[item(key.pk, key.sk, "seen")]).unwrap();
            let lock = db.get_lock(Key::new("locks", key.sk)).unwrap();
            db.set_atomic(&[item("pk", key.sk, "seen twice")], &[lock])
                .unwrap();
            db.commit(&Batch::new().create(item("copies", key.sk, "")))
                .unwrap();
            db.page(&Query::new("pk").limit(1), None).unwrap();
            assert_eq!(db.query(&Query::new("pk")).unwrap().len(), sks.len());
            assert_eq!(db.stream(Query::new("pk")).count(), sks.len());
            db.delete(&[Key::new("copies", key.sk)]).unwrap();
            seen += 1;
            step();
        }
        assert_eq!(seen, sks.len());
    });
}

/// What is there throughout a stream is yielded exactly once, whatever is written meanwhile.
pub fn streams_yield_items_present_throughout_exactly_once<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lasting: Vec<String> = (0..600).map(|number| format!("{number:04}")).collect();
    let items: Vec<Item<String>> = lasting.iter().map(|sk| item("pk", sk, "")).collect();
    db.set(&items).unwrap();
    for reverse in [false, true] {
        let query = match reverse {
            false => Query::new("pk"),
            true => Query::new("pk").reverse(),
        };
        let mut seen = Vec::new();
        for (turn, streamed) in db.stream(query).enumerate() {
            let streamed = streamed.unwrap();
            let sk = streamed.sk();
            // Items come and go at the stream's place and after it, others are replaced; and there
            // are more and more of them behind it, and then fewer.
            if turn % 10 == 0 {
                let passing = [format!("{sk}-"), format!("{turn:04}+"), "0300*".to_owned()];
                for passing in &passing {
                    db.set(&[item("pk", passing, "")]).unwrap();
                }
                db.set(&[item("pk", sk, "replaced"), item("pk", "0299", "replaced")])
                    .unwrap();
                db.delete(&[key("pk", &passing[0]), key("pk", &passing[1])])
                    .unwrap();
                let behind = if reverse { "~" } else { "!" };
                match turn < 300 {
                    true => db
                        .set(&[item("pk", &format!("{behind}{turn}"), "")])
                        .unwrap(),
                    false => db
                        .delete(&[key("pk", &format!("{behind}{}", turn - 300))])
                        .unwrap(),
                }
            }
            if sk.len() == 4 {
                seen.push(sk.to_owned());
            }
        }
        if reverse {
            seen.reverse();
        }
        assert_eq!(seen, lasting, "reverse: {reverse}");
    }
}

/// Queries that lie outside of everything, or ask for all there could be, are answered.
pub fn extreme_queries_do_not_panic<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "m", "")]).unwrap();
    let all = Query::new("pk").limit(usize::MAX);
    assert_eq!(found(db, &all), ["m"]);
    assert_eq!(found(db, &Query::new("pk").limit(0)), [""; 0]);
    let before = Query::new("pk").prefix("m").after("a");
    assert_eq!(found(db, &before), ["m"]);
    assert_eq!(found(db, &before.reverse()), [""; 0]);
    let behind = Query::new("pk").prefix("m").after("z");
    assert_eq!(found(db, &behind), [""; 0]);
    assert_eq!(found(db, &behind.reverse()), ["m"]);
    let page = db.page(&all, Some("m")).unwrap();
    assert_eq!(page.items, []);
}
