//! Items, locks, keys, versions, batches, streams and clocks, each on its own.

use crate::common::{Call, HookedDb, Moment};
use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, Lock, ManualClock, MemoryDb, Query, SystemClock,
    Version, VersionGenerator,
};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[test]
fn an_item_returns_its_key_data_and_ttl() {
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
fn equal_items_have_equal_keys_data_and_ttls() {
    let item = Item::new("a", "b", 1).expires_at(100);
    assert_eq!(item, Item::new("a", "b", 1).expires_at(100));
    for other in [
        Item::new("c", "b", 1).expires_at(100),
        Item::new("a", "c", 1).expires_at(100),
        Item::new("a", "b", 2).expires_at(100),
        Item::without_data("a", "b").expires_at(100),
        Item::new("a", "b", 1).expires_at(101),
        Item::new("a", "b", 1),
        // The same joined text.
        Item::new("ab", "", 1).expires_at(100),
    ] {
        assert_ne!(item, other);
    }
}

#[test]
fn a_lock_returns_its_key_version_and_ttl_and_is_live_up_to_it() {
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
fn equal_locks_have_equal_keys_versions_and_ttls() {
    let version = Version::from_u128(1);
    let lock = Lock::new(("a", "b"), version, 100);
    assert_eq!(lock, Lock::new(("a", "b"), version, 100));
    assert_eq!(lock, lock.clone());
    for other in [
        Lock::new(("c", "b"), version, 100),
        Lock::new(("a", "c"), version, 100),
        Lock::new(("ab", ""), version, 100),
        Lock::new(("a", "b"), Version::from_u128(2), 100),
        Lock::new(("a", "b"), version, 101),
        Lock::new(("a", "b"), version, u64::MAX),
    ] {
        assert_ne!(lock, other);
    }
}

#[test]
fn owned_keys_are_compared_and_hashed_like_borrowed_ones() {
    let hasher = RandomState::new();
    let keys = [("", ""), ("", "b"), ("a", ""), ("a", "b"), ("ab", "")].map(Key::from);
    for left in keys {
        for right in keys {
            let (order, equal) = (left.cmp(&right), left == right);
            let (owned_left, owned_right) = (left.to_buf(), right.to_buf());
            assert_eq!(owned_left.cmp(&owned_right), order);
            assert_eq!(owned_left.partial_cmp(&owned_right), Some(order));
            assert_eq!(owned_left == owned_right, equal);
            assert_eq!(owned_left == right, equal);
            assert_eq!(left == owned_right, equal);
        }
        assert_eq!(hasher.hash_one(left.to_buf()), hasher.hash_one(left));
    }
}

#[test]
fn display_and_debug_of_keys_quote_both_parts() {
    let key = Key::new("a:b", "c\"");
    assert_eq!(key.to_string(), r#"("a:b", "c\"")"#);
    assert_eq!(key.to_buf().to_string(), key.to_string());
    assert_eq!(format!("{key:?}"), r#"Key("a:b", "c\"")"#);
    assert_eq!(format!("{:?}", key.to_buf()), r#"KeyBuf("a:b", "c\"")"#);
}

#[test]
fn a_batch_with_any_one_entry_is_not_empty() {
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
fn a_version_begins_with_the_milliseconds_of_its_generation() {
    let versions = VersionGenerator::new();
    let version = versions.next(Duration::from_millis(1_700_000_000_123));
    assert_eq!(version.as_u128() >> 80, 1_700_000_000_123);
    // A clock that goes back does not set versions back.
    let next = versions.next(Duration::from_millis(1_600_000_000_123));
    assert_eq!(next.as_u128() >> 80, 1_700_000_000_123);
}

#[test]
fn the_text_form_of_a_version_round_trips_and_keeps_the_order() {
    let bits: Vec<u128> = (0..128)
        .flat_map(|shift| [1_u128 << shift, (1 << shift) - 1, u128::MAX >> shift])
        .collect();
    let mut versions: Vec<Version> = bits.into_iter().map(Version::from_u128).collect();
    versions.sort();
    versions.dedup();
    let texts: Vec<String> = versions.iter().map(Version::to_string).collect();
    assert!(texts.is_sorted());
    for (version, text) in versions.iter().zip(&texts) {
        assert_eq!(text.len(), 26);
        assert_eq!(text.parse::<Version>().unwrap(), *version);
        assert_eq!(text.to_lowercase().parse::<Version>().unwrap(), *version);
        assert_eq!(Version::from_u128(version.as_u128()), *version);
    }
    assert_eq!(texts[0], "0".repeat(26));
    assert_eq!(texts[texts.len() - 1], format!("7{}", "Z".repeat(25)));
    assert_eq!(format!("{:>30}", versions[0]).len(), 30);
}

#[test]
fn text_that_is_not_a_version_is_refused() {
    let good = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    assert!(good.parse::<Version>().is_ok());
    let mut bad: Vec<String> = vec![
        String::new(),
        good[1..].into(),
        format!("{good}0"),
        format!(" {}", &good[1..]),
        "é".repeat(13),
        format!("{}é", &good[..24]),
        format!("8{}", &good[1..]),
        format!("Z{}", &good[1..]),
    ];
    for letter in "ILOUilou-_+\0".chars() {
        for index in [0, 1, 25] {
            let mut text = good.to_owned();
            text.replace_range(index..=index, &letter.to_string());
            bad.push(text);
        }
    }
    for text in bad {
        let refused = text.parse::<Version>();
        assert!(matches!(refused, Err(Error::InvalidInput(_))), "{text:?}");
    }
}

#[test]
fn a_stream_reads_no_page_after_its_limit_is_reached() {
    let pages = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pages);
    let db = HookedDb::new(MemoryDb::new(), move |call, moment| {
        if (call, moment) == (Call::Page, Moment::Before) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    for sk in ["1", "2", "3"] {
        db.set(&[Item::new("log", sk, ())]).unwrap();
    }
    // A trait object is streamed in pages.
    let db: &dyn AtomicDb<Data = ()> = &db;
    assert_eq!((&db).stream(Query::new("log").limit(2)).count(), 2);
    assert_eq!(pages.load(Ordering::Relaxed), 1);
}

#[test]
fn the_system_clock_shows_the_systems_time() {
    let now_of_system = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = now_of_system();
    let now = SystemClock.now();
    assert!((before..=now_of_system()).contains(&now));
}

#[test]
fn sleep_of_the_system_clock_blocks() {
    let pause = Duration::from_millis(5);
    let start = Instant::now();
    SystemClock.sleep(pause);
    assert!(start.elapsed() >= pause);
}

#[test]
fn a_manual_clock_moves_by_hand_even_in_an_arc() {
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
