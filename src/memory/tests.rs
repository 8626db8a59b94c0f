use super::*;
use crate::testing::with_timeout;
use crate::{ManualClock, RetryQueue};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a database whose stripes hold at most `max_rows` rows each.
fn db_with_max_rows(stripes: usize, max_rows: usize) -> MemoryDb<u32> {
    let hasher = KeyHasher::default();
    let stripe = |_| CachePadded(Mutex::new(Stripe::new(hasher.clone(), 0, max_rows)));
    MemoryDb {
        shared: Arc::new(DbState {
            number: random_u64(),
            stripes: (0..stripes).map(stripe).collect(),
            versions: CachePadded(VersionGenerator::new()),
            clock: Arc::new(ManualClock::new(1_000)),
            hasher,
            retry_queue: RetryQueue::new(),
        }),
    }
}

fn is_full(result: &Result<impl Sized>) -> bool {
    matches!(result, Err(Error::Backend(_)))
}

#[test]
fn the_default_is_32_stripes_per_core_and_at_most_1024() {
    let expected = (32 * available_cores()).next_power_of_two().min(1_024);
    let db = MemoryDb::<u32>::new();
    assert_eq!(db.shared.stripes.len(), expected);
    let stripe = size_of::<CachePadded<Mutex<Stripe<u32>>>>();
    assert_eq!(stripe, 256, "as the builder documents");
    for (asked, stripes) in [(0, 1), (1, 1), (5, 8), (64, 64), (usize::MAX, 1 << 16)] {
        let db = MemoryDb::<u32>::builder().stripes(asked).build();
        assert_eq!(db.shared.stripes.len(), stripes, "{asked} asked for");
    }
}

/// It remembers its row in the database that it was read from, which may have more stripes.
#[test]
fn a_lock_of_another_database_is_found_by_its_key() {
    let other = MemoryDb::<u32>::builder().stripes(1_024).build();
    let db = MemoryDb::<u32>::builder().stripes(1).build();
    for number in 0..100 {
        let pk = number.to_string();
        let key = Key::new(&pk, "lock");
        let foreign = other.get_lock(key).unwrap();
        let own = db.get_lock(key).unwrap();
        let item = [Item::new(&pk, "item", number)];
        match db.set_atomic(&item, &[foreign.clone()]) {
            Err(Error::RaceCondition { keys }) => assert_eq!(keys, [key.to_buf()]),
            outcome => panic!("{outcome:?}"),
        }
        let same_version = foreign.with_version(own.version());
        db.set_atomic(&item, &[same_version]).unwrap();
        assert_ne!(db.get_lock(key).unwrap().version(), own.version());
    }
}

#[test]
fn a_commit_to_a_full_stripe_writes_nothing() {
    with_timeout(TIMEOUT, |_| {
        let db = db_with_max_rows(1, 4);
        let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
        db.set(&[Item::new("pk", "a", 1)]).unwrap();
        let new = |sk: &str| Item::new("pk", sk, 2);
        let batch = || Batch::new().lock(lock.clone()).delete(("pk", "a"));
        for too_many in [
            batch().set(new("b")).set(new("c")).set(new("d")),
            batch().set(new("b")).create(new("c")).create(new("d")),
            batch().create(new("b")).create(new("c")).create(new("d")),
        ] {
            assert!(is_full(&db.commit(&too_many)));
            let items = db.query(&Query::new("pk")).unwrap();
            assert_eq!(items, [Item::new("pk", "a", 1)]);
        }

        // The lock is unchanged, and a batch that fits is written.
        let batch = Batch::new().lock(lock.clone());
        db.commit(&batch.create(new("b")).set(new("c"))).unwrap();
        assert_eq!(db.len(), 3);
        assert!(is_full(&db.set(&[new("d")])));
        assert!(is_full(&db.get_lock(Key::new("pk", "other"))));
        db.delete(&[Key::new("pk", "a")]).unwrap();
        db.set(&[new("d")]).unwrap();
    });
}

#[test]
fn a_commit_over_several_stripes_writes_nothing_if_any_of_them_is_full() {
    with_timeout(TIMEOUT, |_| {
        for full in 0..3 {
            let db = db_with_max_rows(4, 3);
            // One partition in each of the first three stripes.
            let pks: Vec<String> = (0..3)
                .map(|stripe| {
                    let mut pks = (0..).map(|number: u32| number.to_string());
                    let is_there = |pk: &String| db.locate((pk.as_bytes(), b"")).stripe == stripe;
                    pks.find(is_there).unwrap()
                })
                .collect();
            for sk in ["a", "b", "c"] {
                db.set(&[Item::new(&pks[full], sk, 1)]).unwrap();
            }
            let items = pks.iter().map(|pk| Item::new(pk, "new", 2));
            let batch = items.fold(Batch::new(), Batch::set);
            assert!(is_full(&db.commit(&batch)), "stripe {full} is full");
            assert_eq!(db.len(), 3, "stripe {full} is full");
            db.delete(&["a", "b", "c"].map(|sk| Key::new(&pks[full], sk)))
                .unwrap();
            db.commit(&batch).unwrap();
            assert_eq!(db.len(), 3);
        }
    });
}

/// Returns two keys with one hash, of one partition.
fn colliding_sks(db: &MemoryDb<u32>) -> [String; 2] {
    let mut sks = HashMap::new();
    for number in 0_u32.. {
        let sk = number.to_string();
        let hash = db.locate((b"pk", sk.as_bytes())).key_hash;
        if let Some(other) = sks.insert(hash, sk.clone()) {
            return [other, sk];
        }
    }
    unreachable!("there are more numbers than hashes");
}

/// Runs `body` with a database and two keys with one hash, in either order. Of two rows with one
/// hash, the hash table finds one first.
fn with_colliding_keys(body: impl Fn(&MemoryDb<u32>, &ManualClock, [Key<'_>; 2]) + Send + 'static) {
    with_timeout(TIMEOUT, move |_| {
        for swapped in [false, true] {
            let clock = ManualClock::new(1_000);
            let db = MemoryDb::builder().clock(clock.clone()).build();
            let sks = colliding_sks(&db);
            let mut keys = [Key::new("pk", &sks[0]), Key::new("pk", &sks[1])];
            if swapped {
                keys.reverse();
            }
            body(&db, &clock, keys);
        }
    });
}

/// Checks that every read path finds `expected` at `keys`, and nothing else.
fn check_reads(db: &MemoryDb<u32>, keys: [Key<'_>; 2], expected: [Option<&Item<u32>>; 2]) {
    for (key, expected) in keys.into_iter().zip(expected) {
        assert_eq!(db.get(key).unwrap().as_ref(), expected);
        assert_eq!(db.get_fresh(key).unwrap().as_ref(), expected);
        let query = Query::new(key.pk).prefix(key.sk);
        let mut found = db.query(&query).unwrap();
        found.retain(|item| item.sk() == key.sk);
        assert_eq!(found.first(), expected);
    }
    let found = db.get_many(&keys).unwrap();
    assert_eq!([found[0].as_ref(), found[1].as_ref()], expected);
}

#[test]
fn an_item_is_not_confused_with_another_of_the_same_hash() {
    with_colliding_keys(|db, clock, [a, b]| {
        let item = |key: Key<'_>, data| Item::new(key.pk, key.sk, data);
        // With and without a time to live, which take different paths.
        for ttl in [u64::MAX, 2_000] {
            let [item_a, item_b] = [item(a, 1), item(b, 2)].map(|item| item.expires_at(ttl));
            db.set(std::slice::from_ref(&item_a)).unwrap();
            check_reads(db, [a, b], [Some(&item_a), None]);
            db.commit(&Batch::new().create(item_b.clone())).unwrap();
            check_reads(db, [a, b], [Some(&item_a), Some(&item_b)]);
            let exists = db.commit(&Batch::new().create(item_b.clone()));
            assert!(matches!(exists, Err(Error::AlreadyExists { key }) if key.as_key() == b));
            db.delete(&[a]).unwrap();
            check_reads(db, [a, b], [None, Some(&item_b)]);
            db.set(std::slice::from_ref(&item_a)).unwrap();
            check_reads(db, [a, b], [Some(&item_a), Some(&item_b)]);
            db.delete(&[a, b]).unwrap();
            check_reads(db, [a, b], [None, None]);
        }

        // One of them expires.
        let (short, long) = (item(a, 1).expires_at(1_000), item(b, 2).expires_at(1_001));
        db.commit(&Batch::new().set(short).set(long.clone()))
            .unwrap();
        clock.set(1_001);
        check_reads(db, [a, b], [None, Some(&long)]);
        clock.set(1_002);
        check_reads(db, [a, b], [None, None]);
    });
}

#[test]
fn a_lock_does_not_hide_an_item_of_the_same_hash() {
    with_colliding_keys(|db, _, [a, b]| {
        for ttl in [u64::MAX, 2_000] {
            let item = Item::new(b.pk, b.sk, 1).expires_at(ttl);
            let lock = db.get_lock(a).unwrap();
            db.set(std::slice::from_ref(&item)).unwrap();
            check_reads(db, [a, b], [None, Some(&item)]);
            assert_eq!(db.get_lock(a).unwrap(), lock);
            assert!(matches!(db.get_lock(b), Err(Error::InvalidInput(_))));
            db.set_atomic(std::slice::from_ref(&item), &[lock]).unwrap();
            check_reads(db, [a, b], [None, Some(&item)]);

            // In the other order of writing.
            db.delete(&[a]).unwrap();
            db.get_lock(a).unwrap();
            check_reads(db, [a, b], [None, Some(&item)]);
            db.delete(&[a, b]).unwrap();
        }
    });
}

#[test]
fn a_commit_does_not_confuse_locks_of_the_same_hash() {
    with_colliding_keys(|db, _, [a, b]| {
        let [lock_a, lock_b] = [a, b].map(|key| db.get_lock(key).unwrap());
        assert_ne!(lock_a.version(), lock_b.version());
        assert_eq!([lock_a.key(), lock_b.key()], [a, b]);

        // A commit renews one of them, and the other stays as it was.
        let version = db.set_atomic(&[], std::slice::from_ref(&lock_a)).unwrap();
        assert_eq!(db.get_lock(a).unwrap().version(), version);
        assert_eq!(db.get_lock(b).unwrap(), lock_b);
        let conflict = db.commit(&Batch::new().lock(lock_b.clone()).check(lock_a.clone()));
        match conflict {
            Err(Error::RaceCondition { keys }) => assert_eq!(keys, [a.to_buf()]),
            other => panic!("{other:?}"),
        }

        // Two locks with the same version are still different locks.
        let lock_a = lock_a.with_version(version);
        let version = db
            .set_atomic(&[], &[lock_a.clone(), lock_b.clone()])
            .unwrap();
        let [lock_a, lock_b] = [lock_a, lock_b].map(|lock| lock.with_version(version));
        db.delete(&[a]).unwrap();
        assert!(
            db.set_atomic(&[], &[lock_a])
                .unwrap_err()
                .is_race_condition()
        );
        db.set_atomic(&[], &[lock_b]).unwrap();
        assert_ne!(db.get_lock(a).unwrap().version(), version);
    });
}

/// A clock that moves on by a second each time that it is asked.
#[derive(Debug)]
struct TickingClock(AtomicU64);

impl Clock for TickingClock {
    fn now(&self) -> Duration {
        let seconds = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Duration::from_secs(seconds)
    }

    fn sleep(&self, _: Duration) {}
}

#[test]
fn len_does_not_count_items_that_expire_while_it_purges() {
    with_timeout(TIMEOUT, |_| {
        let clock = TickingClock(AtomicU64::new(1_000));
        let db = MemoryDb::builder().clock(clock).build();
        // It is live when the purge begins.
        db.set(&[Item::new("pk", "a", 1).expires_at(1_000)])
            .unwrap();
        db.set(&[Item::new("pk", "b", 1)]).unwrap();
        assert_eq!(db.len(), 1);
    });
}
