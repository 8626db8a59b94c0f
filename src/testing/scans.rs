//! The contract of [`Scan`]. A database that implements it runs these cases with
//! [`scan_suite!`](crate::testing::scan_suite).

use super::fixture::{Database, Fixture};
use super::support::{Must, item, key};
use super::threads::{run_concurrently, with_timeout};
use crate::sync::Arc;
use crate::{Batch, Clock, Item, Key, KeyBuf, Query, Scan};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Returns the items of a scan, in the order of their keys.
fn scanned<D: Database + Scan>(db: &D) -> Vec<Item<String>> {
    let mut items: Vec<_> = db.scan().map(|item| item.must("a scan")).collect();
    items.sort_by(|one, other| one.key().cmp(&other.key()));
    items
}

/// A scan yields the items of all partitions, small and large ones, as they were written.
pub fn a_scan_yields_the_items_of_all_partitions<D: Database + Scan>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    assert_eq!(scanned(db), [], "a scan of an empty database");
    let ttl = clock.epoch_seconds() + 10;
    let mut items: Vec<Item<String>> = (0..200)
        .map(|number| item(&format!("partition {number:03}"), "sk", number))
        .chain((0..500).map(|number| item("partition", &format!("{number:03}"), number)))
        .chain([
            item("odd keys", "\u{1}", ""),
            item("odd keys", "a\u{10ffff}", ""),
            item("odd/keys#\u{1}", "sk", "").expires_at(ttl),
            Item::without_data("a partition", "without data"),
            Item::without_data("a partition", "without data, with an expiry").expires_at(ttl),
        ])
        .collect();
    db.set(&items).must("set");
    items.sort_by(|one, other| one.key().cmp(&other.key()));
    let found = scanned(db);
    assert_eq!(found.len(), items.len(), "the number of items of a scan");
    assert_eq!(found, items, "the items of a scan");
}

/// A scan sees every write that completed before it: new, replaced and deleted items, committed or
/// not.
pub fn a_scan_sees_every_completed_write<D: Database + Scan>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for turn in 0..20 {
        let (old, new) = (format!("{turn}"), format!("{}", turn + 1));
        db.set(&[item("pk", &old, "a"), item("pk", "last", turn)])
            .must("set");
        let expected = [item("pk", &old, "a"), item("pk", "last", turn)];
        assert_eq!(scanned(db), expected, "after a set");
        // A cache may have the items from now on.
        let keys = [key("pk", &old), key("pk", "last")];
        db.get_many(&keys).must("get_many");
        let lock = db.get_lock(key("pk", "a lock")).must("get_lock");
        let batch = Batch::new().lock(lock).delete(("pk", "last"));
        db.commit(
            &batch
                .set(item("pk", &old, "b"))
                .create(item("pk", &new, "c")),
        )
        .must("commit");
        let mut expected = [item("pk", &old, "b"), item("pk", &new, "c")];
        expected.sort_by(|one, other| one.sk().cmp(other.sk()));
        assert_eq!(scanned(db), expected, "after a commit");
        db.delete(&[key("pk", &old), key("pk", &new)])
            .must("delete");
        assert_eq!(scanned(db), [], "after a deletion");
    }
}

/// Guarantee 4: a scan does not yield locks, even if a partition has no item. Where an item replaced a
/// lock, it yields the item.
pub fn a_scan_does_not_yield_locks<D: Database + Scan>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for number in 0..100 {
        db.get_lock(key("locks", &format!("{number}")))
            .must("get_lock");
        if number % 10 == 0 {
            db.set(&[item("items", &format!("{number:02}"), number)])
                .must("set");
        }
    }
    db.set(&[item("locks", "50", "an item")]).must("set");
    db.set(&[item("items", "a lock", "")]).must("set");
    db.delete(&[key("items", "a lock")]).must("delete");
    db.get_lock(key("items", "a lock")).must("get_lock");
    let items = (0..10).map(|number| item("items", &format!("{number}0"), number * 10));
    let expected: Vec<_> = items.chain([item("locks", "50", "an item")]).collect();
    assert_eq!(scanned(db), expected, "the items among locks");
}

/// Guarantee 3: a scan yields an item until its `ttl` has passed, whether or not it has been removed
/// since.
pub fn a_scan_yields_an_item_until_its_ttl_has_passed<D: Database + Scan>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let now = clock.epoch_seconds();
    for number in 0..100 {
        let expiring = item("pk", &format!("{number:02}"), "").expires_at(now + number / 10);
        db.set(&[expiring]).must("set");
    }
    for seconds in 0..=10 {
        clock.set(now + seconds);
        let count = scanned(db).len();
        let expected = 100 - 10 * usize::try_from(seconds).expect("a few seconds");
        assert_eq!(count, expected, "{seconds} seconds later");
    }
    db.set(&[item("pk", "00", "again")]).must("set");
    assert_eq!(scanned(db), [item("pk", "00", "again")], "a new item");
}

/// The iterator of a scan is fused: it stays at its end even when items are written after it.
pub fn scans_are_fused<D: Database + Scan>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "1", "")]).must("set");
    let mut scan = db.scan();
    assert!(scan.next().is_some(), "the scan of one item is empty");
    assert!(scan.next().is_none(), "the scan of one item has two");
    let items: Vec<_> = (2..100)
        .map(|number| item(&format!("pk{number}"), "1", ""))
        .collect();
    db.set(&items).must("set");
    assert!(scan.next().is_none(), "a scan went on after its end");
    assert!(scan.next().is_none(), "a scan went on after its end");
}

/// Guarantee 22: a scan holds no lock between items. The loop body may call any method of the same
/// database.
pub fn the_loop_body_of_a_scan_may_call_any_method<D: Database + Scan>(fixture: &Fixture<D>) {
    let db = Arc::clone(&fixture.db);
    with_timeout(Duration::from_secs(10), move |progress| {
        let db = &*db;
        let sks: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
        let items: Vec<Item<String>> = sks.iter().map(|sk| item("pk", sk, "")).collect();
        db.set(&items).must("set");
        let mut seen = 0;
        for found in db.scan() {
            let found = found.must("a scan");
            let found_key = found.key();
            db.get(found_key).must("get");
            db.get_fresh(found_key).must("get_fresh");
            db.get_many(&[found_key]).must("get_many");
            db.set(&[item("pk", found_key.sk, "seen")]).must("set");
            let lock = db
                .get_lock(Key::new("locks", found_key.sk))
                .must("get_lock");
            db.set_atomic(&[item("pk", found_key.sk, "seen twice")], &[lock])
                .must("set_atomic");
            let batch = Batch::new().set(item("pk", found_key.sk, "seen three times"));
            db.commit(&batch).must("commit");
            let queried = db.query(&Query::new("pk")).must("query").len();
            assert_eq!(queried, sks.len(), "the items of a query within a scan");
            let nested = db.scan().count();
            assert_eq!(nested, sks.len(), "the items of a scan within a scan");
            db.delete(&[Key::new("locks", found_key.sk)]).must("delete");
            seen += 1;
            progress();
        }
        assert_eq!(seen, sks.len(), "the items of the scan");
    });
}

/// Lasting items in partitions of one, of ten and of many. Their data is large, so that a database that
/// bounds its pages by bytes needs several of them.
fn lasting_items() -> Vec<Item<String>> {
    let data = "x".repeat(4_000);
    let new = |pk: String, sk: String| item(&pk, &sk, &data);
    (0..200)
        .map(|number| new(format!("lasting {number:03}"), "sk".to_owned()))
        .chain((0..200).map(|number| new(format!("ten {}", number / 10), format!("{number:03}"))))
        .chain((0..300).map(|number| new("many".to_owned(), format!("{number:03}"))))
        .collect()
}

fn is_passing(key: Key<'_>) -> bool {
    key.pk.contains("passing") || key.sk.contains("passing")
}

/// Asserts that `seen` has each of the lasting items once.
fn assert_seen_once(seen: Vec<KeyBuf>) {
    let mut counts: BTreeMap<KeyBuf, u32> = BTreeMap::new();
    for key in seen {
        *counts.entry(key).or_default() += 1;
    }
    let lasting = lasting_items();
    let keys = lasting.iter().map(|item| item.key().to_buf());
    let wrong: Vec<_> = keys
        .map(|key| (counts.get(&key).copied().unwrap_or(0), key))
        .filter(|(count, _)| *count != 1)
        .take(5)
        .collect();
    assert!(
        wrong.is_empty(),
        "items that are present throughout a scan are yielded another number of times than once: \
         {wrong:?}"
    );
}

/// Items that are present throughout a scan are yielded once, whatever the loop body writes: partitions
/// that come and go, items added to and removed from the partitions of lasting items, lasting items
/// that are replaced, and locks.
pub fn a_scan_yields_items_present_throughout_exactly_once<D: Database + Scan>(
    fixture: &Fixture<D>,
) {
    let db = &*fixture.db;
    let lasting = lasting_items();
    db.set(&lasting).must("set");
    // Removed while the scan runs, before or behind it.
    let before: Vec<_> = (0..400)
        .map(|number| item(&format!("passing {number:03}"), "sk", ""))
        .collect();
    db.set(&before).must("set");
    let mut seen = Vec::new();
    let mut turns = before.chunks(10).enumerate();
    for (number, found) in db.scan().enumerate() {
        let found = found.must("a scan");
        seen.push(found.key().to_buf());
        if is_passing(found.key()) {
            // At the position of the scan.
            db.delete(&[found.key()]).must("delete");
        }
        if number % 20 != 0 {
            continue;
        }
        let Some((turn, removed)) = turns.next() else {
            continue;
        };
        db.delete(&removed.iter().map(Item::key).collect::<Vec<_>>())
            .must("delete");
        let added = [
            item(found.pk(), &format!("{}, passing", found.sk()), ""),
            item(found.pk(), "a passing item", ""),
            item("many", &format!("{turn:03}, passing"), ""),
            item(&format!("new and passing {turn}"), "sk", ""),
        ];
        db.set(&added).must("set");
        db.set(&[lasting[7 * turn].clone(), lasting[turn].clone()])
            .must("set");
        db.get_lock(key("passing locks", &format!("{turn}")))
            .must("get_lock");
        if turn % 2 == 0 {
            db.delete(&added.each_ref().map(Item::key)).must("delete");
        }
    }
    assert_seen_once(seen);
}

/// Ends the threads that wait for it, even if the one that sets it panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// As [`a_scan_yields_items_present_throughout_exactly_once`], while other threads write.
pub fn concurrent_writes_do_not_hide_or_repeat_items_in_a_scan<D: Database + Scan>(
    fixture: &Fixture<D>,
) {
    let db = &*fixture.db;
    let lasting = lasting_items();
    db.set(&lasting).must("set");
    let (done, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    let wait_for_turn = || {
        let turn = turns.load(Ordering::Relaxed);
        let end = Instant::now() + Duration::from_millis(200);
        while turns.load(Ordering::Relaxed) == turn && Instant::now() < end {
            thread::yield_now();
        }
    };
    run_concurrently(3, |thread| {
        if thread == 0 {
            let _done = SetOnDrop(&done);
            for _ in 0..5 {
                let keys = db.scan().enumerate().map(|(index, item)| {
                    // On a busy machine, a scan could end before another thread writes.
                    if index % 40 == 39 {
                        wait_for_turn();
                    }
                    item.must("a scan").key().to_buf()
                });
                assert_seen_once(keys.collect());
            }
            return;
        }
        let mut added: Vec<Item<String>> = Vec::new();
        let replaced = lasting.iter().step_by(7).cycle();
        for (turn, replaced) in replaced.enumerate() {
            if done.load(Ordering::Relaxed) {
                return;
            }
            added.push(item(&format!("passing {thread} {turn}"), "sk", ""));
            let pk = format!("ten {}", turn % 20);
            added.push(item(&pk, &format!("{turn}, passing {thread}"), ""));
            db.set(&added[added.len() - 2..]).must("set");
            db.set(std::slice::from_ref(replaced)).must("set");
            // The oldest first, from any place of the database.
            if added.len() > 100 {
                let removed: Vec<_> = added.drain(..60).collect();
                db.delete(&removed.iter().map(Item::key).collect::<Vec<_>>())
                    .must("delete");
            }
            turns.fetch_add(1, Ordering::Relaxed);
        }
    });
}
