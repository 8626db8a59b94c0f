//! What is handed in and out: items, locks, keys, versions, batches and clocks, each by itself.

use crate::common::{Call, Hooked, Moment};
use atomic_db::{
    AtomicDb, Batch, Clock, Item, Key, Lock, ManualClock, MemoryDb, Query, SystemClock, Version,
    VersionGenerator,
};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[test]
fn an_item_says_where_and_what_it_is() {
    let item = Item::new("user#1", "name", 7).expires_at(100);
    assert_eq!((item.pk(), item.sk()), ("user#1", "name"));
    assert_eq!(item.key(), Key::new("user#1", "name"));
    assert_eq!((item.data(), item.ttl()), (Some(&7), Some(100)));
    let bare: Item<u32> = Item::without_data("user#1", "name");
    assert_eq!((bare.data(), bare.ttl()), (None, None));
    assert_eq!(
        format!("{item:?}"),
        r#"Item { pk: "user#1", sk: "name", data: Some(7), ttl: Some(100) }"#
    );
}

#[test]
fn equal_items_have_equal_keys_data_and_times_to_live() {
    let item = Item::new("a", "b", 1).expires_at(100);
    assert_eq!(item, Item::new("a", "b", 1).expires_at(100));
    for other in [
        Item::new("c", "b", 1).expires_at(100),
        Item::new("a", "c", 1).expires_at(100),
        Item::new("a", "b", 2).expires_at(100),
        Item::without_data("a", "b").expires_at(100),
        Item::new("a", "b", 1).expires_at(101),
        Item::new("a", "b", 1),
        // The same text, divided elsewhere.
        Item::new("ab", "", 1).expires_at(100),
    ] {
        assert_ne!(item, other);
    }
}

#[test]
fn a_lock_says_what_it_is_and_is_live_up_to_its_last_second() {
    let version = Version::from_u128(1);
    let lock = Lock::new(("user#1", "lock"), version, 100);
    assert_eq!(lock.key(), Key::new("user#1", "lock"));
    assert_eq!((lock.version(), lock.ttl()), (version, 100));
    assert!(lock.is_live(100) && !lock.is_live(101));
    assert_eq!(
        format!("{lock:?}"),
        format!(r#"Lock {{ pk: "user#1", sk: "lock", version: Version({version}), ttl: 100 }}"#)
    );
}

#[test]
fn keys_that_are_owned_are_compared_and_hashed_like_those_that_are_not() {
    let hasher = RandomState::new();
    let keys = [("", ""), ("", "b"), ("a", ""), ("a", "b"), ("ab", "")].map(Key::from);
    for left in keys {
        for right in keys {
            let (order, equal) = (left.cmp(&right), left == right);
            let (kept_left, kept_right) = (left.to_buf(), right.to_buf());
            assert_eq!(kept_left.cmp(&kept_right), order);
            assert_eq!(kept_left.partial_cmp(&kept_right), Some(order));
            assert_eq!(kept_left == kept_right, equal);
            assert_eq!(kept_left == right, equal);
            assert_eq!(left == kept_right, equal);
        }
        assert_eq!(hasher.hash_one(left.to_buf()), hasher.hash_one(left));
    }
}

#[test]
fn keys_show_both_their_parts() {
    let key = Key::new("a:b", "c\"");
    assert_eq!(key.to_string(), r#"("a:b", "c\"")"#);
    assert_eq!(key.to_buf().to_string(), key.to_string());
    assert_eq!(format!("{key:?}"), r#"Key("a:b", "c\"")"#);
    assert_eq!(format!("{:?}", key.to_buf()), r#"KeyBuf("a:b", "c\"")"#);
}

#[test]
fn a_batch_with_any_one_thing_in_it_is_not_empty() {
    assert!(Batch::<u32>::new().is_empty());
    let lock = Lock::new(("a", "lock"), Version::from_u128(1), 100);
    for batch in [
        Batch::new().lock(lock.clone()),
        Batch::new().check(lock),
        Batch::new().set(Item::new("a", "b", 1)),
        Batch::new().create(Item::new("a", "b", 1)),
        Batch::new().delete(("a", "b")),
    ] {
        assert!(!batch.is_empty(), "{batch:?}");
    }
}

#[test]
fn a_version_begins_with_the_milliseconds_of_its_making() {
    let versions = VersionGenerator::new();
    let version = versions.next(Duration::from_millis(1_700_000_000_123));
    assert_eq!(version.as_u128() >> 80, 1_700_000_000_123);
    // A clock that was put back does not put it back.
    let next = versions.next(Duration::from_millis(1_600_000_000_123));
    assert_eq!(next.as_u128() >> 80, 1_700_000_000_123);
}

#[test]
fn generators_that_begin_at_one_moment_hand_out_different_versions() {
    let now = Duration::from_secs(1_700_000_000);
    let mut made: Vec<Version> = (0..100)
        .map(|_| VersionGenerator::new().next(now))
        .collect();
    made.sort_unstable();
    made.dedup();
    assert_eq!(made.len(), 100);
}

#[test]
fn a_stream_reads_no_page_after_its_limit_is_reached() {
    let pages = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pages);
    let db = Hooked::new(MemoryDb::new(), move |call, moment| {
        if (call, moment) == (Call::Page, Moment::Before) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    for sk in ["1", "2", "3"] {
        db.set(&[Item::new("log", sk, ())]).unwrap();
    }
    // A trait object is streamed by its pages.
    let db: &dyn AtomicDb<Data = ()> = &db;
    assert_eq!((&db).stream(Query::new("log").limit(2)).count(), 2);
    assert_eq!(pages.load(Ordering::Relaxed), 1);
}

#[test]
fn the_system_clock_is_the_systems() {
    let since = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = since();
    let now = SystemClock.now();
    assert!((before..=since()).contains(&now));
}

#[test]
fn who_sleeps_on_the_system_clock_waits() {
    let pause = Duration::from_millis(5);
    let begun = Instant::now();
    SystemClock.sleep(pause);
    assert!(begun.elapsed() >= pause);
}

#[test]
fn a_manual_clock_moves_when_it_is_told_to_also_behind_an_arc() {
    let clock = ManualClock::new(100);
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    clock.advance(Duration::from_millis(1_500));
    assert_eq!(shared.now(), Duration::from_millis(101_500));
    assert_eq!(shared.epoch_seconds(), 101);
    Arc::new(Arc::clone(&shared)).sleep(Duration::from_secs(2));
    assert_eq!(
        Arc::new(clock.clone()).now(),
        Duration::from_millis(103_500)
    );
    clock.set(7);
    assert_eq!(shared.now(), Duration::from_secs(7));
}
