//! Operations, limits and options that only `RedbDb` has.

use super::storage::{Disk, SurvivingWrites};
use super::temporary::Temporary;
use crate::common::{HANG_LIMIT, sks};
use atomic_db::testing::with_timeout;
use atomic_db::{
    AtomicDb, Batch, Clock, Durability, Error, Item, Key, Lock, ManualClock, Query, RedbDb, Result,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

fn in_memory() -> RedbDb<String> {
    RedbDb::builder().in_memory().unwrap()
}

fn item(sk: &str) -> Item<String> {
    Item::new("pk", sk, format!("data of {sk}"))
}

#[test]
fn a_purge_removes_expired_rows_from_every_table() {
    let clock = ManualClock::new(1_000_000);
    let db: RedbDb<String> = RedbDb::builder().clock(clock.clone()).in_memory().unwrap();
    let expiring = (0..5_000).map(|number| item(&number.to_string()).expires_at(1_000_100));
    db.set(&expiring.collect::<Vec<_>>()).unwrap();
    db.set(&[item("stays")]).unwrap();
    db.get_lock(Key::new("pk", "lock")).unwrap();
    assert_eq!(db.purge_expired().unwrap(), 0);
    clock.set(1_000_100);
    assert_eq!(db.len().unwrap(), 5_001);
    clock.advance(Duration::from_secs(1));
    assert_eq!(db.len().unwrap(), 1);
    assert_eq!(db.purge_expired().unwrap(), 5_000);
    clock.advance(Duration::from_secs(2 * Lock::LIFETIME));
    assert_eq!(db.purge_expired().unwrap(), 1);
    assert_eq!(db.purge_expired().unwrap(), 0);
    assert!(db.check_integrity().unwrap());
}

#[test]
fn compacting_shrinks_the_file_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let db = RedbDb::open(&path).unwrap();
    let items: Vec<_> = (0..2_000)
        .map(|number| Item::new("pk", number.to_string(), "x".repeat(1_000)))
        .collect();
    db.set(&items).unwrap();
    let keys: Vec<_> = items.iter().skip(1).map(Item::key).collect();
    db.delete(&keys).unwrap();
    let before = fs::metadata(&path).unwrap().len();
    assert!(db.compact().unwrap());
    let after = fs::metadata(&path).unwrap().len();
    assert!(after < before / 2, "{after} after {before}");
    assert_eq!(sks(&db.query(&Query::new("pk")).unwrap()), ["0"]);
    assert!(db.check_integrity().unwrap());
    db.set(&[item("a")]).unwrap();
}

#[test]
fn deferred_writes_are_durable_after_a_flush_and_after_closing() {
    let disk = Disk::default();
    let open = |disk: Disk| {
        let builder = RedbDb::<String>::builder().durability(Durability::Deferred);
        builder.open_with(disk).unwrap()
    };
    let durable = |disk: &Disk| {
        let image = disk.after_power_cut(SurvivingWrites::None);
        open(Disk::with_image(image)).len().unwrap()
    };
    let db = open(disk.clone());
    db.set(&[item("a")]).unwrap();
    assert_eq!((db.len().unwrap(), durable(&disk)), (1, 0));
    db.flush().unwrap();
    assert_eq!(durable(&disk), 1);
    db.set(&[item("b")]).unwrap();
    assert_eq!(durable(&disk), 1);
    drop(db);
    assert_eq!(durable(&disk), 2);
}

#[test]
fn with_quick_repair_a_commit_syncs_twice_and_an_open_after_a_crash_repairs_nothing() {
    let measure = |durability| {
        let disk = Disk::default();
        let builder = RedbDb::builder().durability(durability);
        let db = builder.open_with(disk.clone()).unwrap();
        db.set(&[item("a")]).unwrap();
        let before = disk.syncs();
        for _ in 0..10 {
            db.set(&[item("b")]).unwrap();
        }
        let syncs_of_commits = disk.syncs() - before;
        let crashed = Disk::with_image(disk.after_power_cut(SurvivingWrites::None));
        let builder = RedbDb::<String>::builder().check_on_open(false);
        let db = builder.open_with(crashed.clone()).unwrap();
        let syncs_of_open = crashed.syncs();
        assert_eq!(db.len().unwrap(), 2);
        (syncs_of_commits, syncs_of_open)
    };
    let (commits, open_with_repair) = measure(Durability::Immediate);
    let (quick_commits, open) = measure(Durability::QuickRepair);
    assert_eq!(commits, 10);
    // The first one prepares the file for quick repair.
    assert!((20..=21).contains(&quick_commits), "{quick_commits}");
    // A repair ends with a commit.
    assert!(open < open_with_repair, "{open} and {open_with_repair}");
}

#[test]
fn a_commit_that_fails_validation_does_not_wait_for_the_disk() {
    let disk = Disk::default();
    let db: RedbDb<String> = RedbDb::builder().open_with(disk.clone()).unwrap();
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    db.set_atomic(&[item("a")], &[lock.clone()]).unwrap();
    let before = disk.operations();
    let conflict = db.set_atomic(&[item("a")], &[lock]).unwrap_err();
    assert!(conflict.is_race_condition());
    db.get_lock(Key::new("pk", "lock")).unwrap();
    let exists = db.commit(&Batch::new().create(item("a"))).unwrap_err();
    assert!(matches!(exists, Error::AlreadyExists { .. }));
    assert_eq!(disk.operations(), before);
}

#[test]
fn each_handle_reads_its_own_type() {
    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Account {
        cents: i64,
    }

    let names = in_memory();
    let accounts = names.with_data::<Account>();
    names
        .set(&[Item::new("names", "1", "Ada".to_owned())])
        .unwrap();
    accounts
        .set(&[Item::new("accounts", "1", Account { cents: 5 })])
        .unwrap();
    let account = accounts.get(Key::new("accounts", "1")).unwrap().unwrap();
    assert_eq!(account.data(), Some(&Account { cents: 5 }));
    // Locks have no type.
    let lock = names.get_lock(Key::new("names", "lock")).unwrap();
    accounts.set_atomic(&[], &[lock]).unwrap();

    for error in [
        accounts.get(Key::new("names", "1")).unwrap_err(),
        accounts.get_many(&[Key::new("names", "1")]).unwrap_err(),
        accounts.query(&Query::new("names")).unwrap_err(),
        accounts.page(&Query::new("names"), None).unwrap_err(),
        accounts
            .stream(Query::new("names"))
            .next()
            .unwrap()
            .unwrap_err(),
    ] {
        match error {
            Error::Codec { key, .. } => assert_eq!(key, Key::new("names", "1")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn keys_and_data_over_the_limits_are_refused_before_anything_is_written() {
    let assert_limit = |result: Result<()>, expected: usize| match result {
        Err(Error::LimitExceeded { limit, actual, .. }) => {
            assert_eq!((limit, actual), (expected, expected + 1));
        }
        other => panic!("{other:?}"),
    };
    let db = in_memory();
    let max = 65_535;
    let (longest, too_long) = ("x".repeat(max), "x".repeat(max + 1));
    for key in [Key::new(&too_long, ""), Key::new("", &too_long)] {
        assert_limit(db.get(key).map(drop), max);
        assert_limit(db.get_many(&[key]).map(drop), max);
        assert_limit(db.get_lock(key).map(drop), max);
        assert_limit(db.delete(&[key]), max);
        let items = [item("a"), Item::without_data(key.pk, key.sk)];
        assert_limit(db.set(&items), max);
        let batch = Batch::new().set(item("a")).delete(key);
        assert_limit(db.commit(&batch).map(drop), max);
    }
    assert_limit(db.query(&Query::new(too_long.as_str())).map(drop), max);
    // The JSON of a string has two quotes in addition.
    let max = 16 << 20;
    let too_large = Item::new("pk", "large", "x".repeat(max - 1));
    assert_limit(db.set(&[item("a"), too_large]), max);
    assert!(db.is_empty().unwrap());

    db.set(&[Item::new(&longest, &longest, "x".repeat(max - 2))])
        .unwrap();
    let found = db.get(Key::new(&longest, &longest)).unwrap().unwrap();
    assert_eq!(found.data().unwrap().len(), max - 2);
    let query = Query::new(longest.as_str()).prefix(&*longest);
    assert_eq!(db.query(&query).unwrap().len(), 1);
}

#[test]
fn a_page_of_large_items_holds_few_of_them() {
    let db = in_memory();
    let items: Vec<_> = (0..9)
        .map(|number| Item::new("pk", number.to_string(), "x".repeat(400_000)))
        .collect();
    db.set(&items).unwrap();
    let page = db.page(&Query::new("pk"), None).unwrap();
    assert_eq!(page.items.len(), 3);
    assert_eq!(db.stream(Query::new("pk").reverse()).count(), 9);
}

/// A clock that writes to the database, as it may because no lock is held when it is read.
#[derive(Debug)]
struct WritingClock(OnceLock<RedbDb<String>>);

impl Clock for WritingClock {
    fn now(&self) -> Duration {
        if let Some(db) = self.0.get() {
            db.set(&[Item::without_data("clock", "was read")]).unwrap();
        }
        Duration::from_secs(1_000)
    }

    fn sleep(&self, _duration: Duration) {}
}

/// A clock that shows a later time each time it is read. Before that, it replaces the item with one that
/// is live then, so that there is a live item at any time.
#[derive(Debug)]
struct ReplacingClock {
    db: OnceLock<RedbDb<String>>,
    now: AtomicU64,
}

impl ReplacingClock {
    const STEP: u64 = 50;
    const ITEM: Key<'static> = Key::new("pk", "item");
}

impl Clock for ReplacingClock {
    fn now(&self) -> Duration {
        let now = self.now.fetch_add(Self::STEP, Ordering::SeqCst) + Self::STEP;
        if let Some(db) = self.db.get() {
            let item = Item::at(Self::ITEM, now.to_string());
            db.set(&[item.expires_at(now)]).unwrap();
        }
        Duration::from_secs(now)
    }

    fn sleep(&self, _duration: Duration) {}
}

#[test]
fn an_item_that_is_replaced_just_before_it_expires_is_found() {
    let clock = Arc::new(ReplacingClock {
        db: OnceLock::new(),
        now: AtomicU64::new(1_000),
    });
    let builder = RedbDb::builder().clock(Arc::clone(&clock));
    let db: RedbDb<String> = builder.in_memory().unwrap();
    clock.db.set(db.clone()).unwrap();
    let before = Item::at(ReplacingClock::ITEM, "before".to_owned());
    db.set(&[before.expires_at(1_000)]).unwrap();
    for _ in 0..10 {
        for found in [
            db.get(ReplacingClock::ITEM).unwrap(),
            db.get_fresh(ReplacingClock::ITEM).unwrap(),
            db.get_many(&[ReplacingClock::ITEM]).unwrap().remove(0),
            db.query(&Query::new("pk")).unwrap().pop(),
            db.page(&Query::new("pk"), None).unwrap().items.pop(),
        ] {
            assert!(found.is_some());
        }
    }
}

#[test]
fn an_item_that_expired_is_not_found_even_if_it_expires_while_it_is_read() {
    /// A clock on which time passes with each look at it.
    #[derive(Debug)]
    struct PassingClock(AtomicU64);

    impl Clock for PassingClock {
        fn now(&self) -> Duration {
            Duration::from_secs(self.0.fetch_add(1, Ordering::SeqCst))
        }

        fn sleep(&self, _duration: Duration) {}
    }

    let clock = PassingClock(AtomicU64::new(1_000));
    let db: RedbDb<String> = RedbDb::builder().clock(clock).in_memory().unwrap();
    db.set(&[item("a").expires_at(1_005)]).unwrap();
    let found: Vec<_> = (0..20)
        .map(|_| db.get(Key::new("pk", "a")).unwrap().is_some())
        .collect();
    // Once it has expired, it stays so.
    assert!(found[0] && !found[19] && found.is_sorted_by(|earlier, later| earlier >= later));
}

#[test]
fn a_clock_may_write_to_the_database() {
    with_timeout(HANG_LIMIT, |_| {
        let clock = Arc::new(WritingClock(OnceLock::new()));
        let db: RedbDb<String> = RedbDb::builder()
            .clock(Arc::clone(&clock))
            .in_memory()
            .unwrap();
        clock.0.set(db.clone()).unwrap();
        let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
        db.set_atomic(&[item("a").expires_at(5_000)], &[lock])
            .unwrap();
        assert!(db.get(Key::new("pk", "a")).unwrap().is_some());
        db.query(&Query::new("pk")).unwrap();
        db.purge_expired().unwrap();
        db.len().unwrap();
    });
}

#[test]
fn debug_output_shows_the_file_but_no_data() {
    let db = Temporary::open(RedbDb::<String>::builder());
    db.set(&[item("secret")]).unwrap();
    let shown = format!("{:?}", db.db);
    assert!(
        shown.contains("db.redb") && !shown.contains("secret"),
        "{shown}"
    );
}
