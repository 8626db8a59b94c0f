//! Guarantees 12 and 15 to 18 on a single thread: the life of a lock.

use super::fixture::{Database, Fixture};
use super::support::{Must, assert_data, assert_invalid, assert_race, item, key};
use crate::{Batch, Clock, Error, KeyBuf, Lock};
use std::collections::HashSet;

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

fn get_lock<D: Database>(fixture: &Fixture<D>) -> Lock {
    fixture.db.get_lock(key("pk", "lock")).must("get_lock")
}

/// Commits an item under `lock`, and reports whether the commit succeeds. If so, the stored lock has
/// a new version.
#[track_caller]
fn commits<D: Database>(fixture: &Fixture<D>, lock: &Lock) -> bool {
    match fixture
        .db
        .set_atomic(&[item("pk", "a", "")], &[lock.clone()])
    {
        Ok(_) => true,
        Err(Error::RaceCondition { keys }) => {
            assert_eq!(
                keys,
                [KeyBuf::from(lock.key())],
                "the error names other locks than the one of the commit"
            );
            false
        }
        Err(error) => panic!("a commit under {lock:?} returned {error:?}"),
    }
}

/// Guarantees 12 and 18: a commit succeeds under a lock that is live (`now <= ttl`), and not after.
/// The same holds for a check. The stored `ttl` decides, not that of the caller's copy.
pub fn commits_under_a_lock_succeed_until_its_ttl_has_passed<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let lock = get_lock(fixture);
    let checked = db.get_lock(key("pk", "checked")).must("get_lock");
    clock.set(lock.ttl());
    db.commit(&Batch::new().check(checked.clone()))
        .expect("a check at the last second of a lock's life");
    let expired_copy = Lock::new(lock.key(), lock.version(), 0);
    let version = db
        .set_atomic(&[item("pk", "a", "in time")], &[expired_copy])
        .expect("a commit at the last second of a lock's life");
    clock.set(lock.ttl() + 1);
    for ttl in [lock.ttl(), u64::MAX] {
        assert!(
            !commits(fixture, &Lock::new(lock.key(), version, ttl)),
            "a commit succeeded after the lock's ttl; the ttl of the caller's copy is {ttl}"
        );
        let checked = Lock::new(checked.key(), checked.version(), ttl);
        let batch = Batch::new().check(checked).set(item("pk", "a", "late"));
        assert_race(db.commit(&batch), &[("pk", "checked")]);
    }
    let when = "after commits under expired locks";
    assert_data(db, ("pk", "a"), Some("in time"), when);
}

/// Guarantees 4 and 15: `get_locks` returns the locks in the order asked, repeats included, and creates
/// the missing ones, each as `get_lock` does. A live item at one of the keys is `InvalidInput`.
pub fn get_locks_returns_the_locks_in_the_order_asked<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let keys = ["1", "2", "3", "4", "1", "3"].map(|sk| key("pk", sk));
    let first = db.get_lock(keys[0]).must("get_lock");
    clock.set(clock.epoch_seconds() + DAY - HOUR / 2);
    // The second lock is new, and the first one is due for a refresh.
    let second = db.get_lock(keys[1]).must("get_lock");
    let locks = db.get_locks(&keys).must("get_locks");
    let found: Vec<_> = locks.iter().map(|lock| lock.key()).collect();
    assert_eq!(found, keys, "the keys of the locks");
    assert_eq!(locks[1], second, "a live lock");
    assert_eq!(
        (locks[0].version(), locks[0].ttl()),
        (first.version(), clock.epoch_seconds() + DAY),
        "a lock in the last hour of its life is extended and keeps its version"
    );
    assert_eq!(
        (&locks[4], &locks[5]),
        (&locks[0], &locks[2]),
        "repeated keys"
    );
    for lock in &locks {
        assert_eq!(
            &db.get_lock(lock.key()).must("get_lock"),
            lock,
            "get_lock afterwards"
        );
    }
    let versions: HashSet<_> = locks[..4].iter().map(|lock| lock.version()).collect();
    assert_eq!(versions.len(), 4, "two locks share a version: {locks:?}");
    assert!(db.get_locks(&[]).must("get_locks").is_empty(), "no keys");

    db.set(&[item("pk", "item", "")]).must("set");
    assert_invalid(
        db.get_locks(&[keys[0], key("pk", "item")]),
        "get_locks at the key of an item",
    );
}

/// Guarantee 15: `get_lock` creates a missing or expired lock with a new version that lives for 24
/// hours. While it is live, all callers get the same one.
pub fn get_lock_creates_a_lock_that_lives_for_24_hours<D: Database>(fixture: &Fixture<D>) {
    let clock = &fixture.clock;
    let now = clock.epoch_seconds();
    let created = get_lock(fixture);
    assert_eq!(created.key(), key("pk", "lock"), "the key of a new lock");
    assert_eq!(created.ttl(), now + DAY, "the ttl of a new lock");
    assert_eq!(get_lock(fixture), created, "the second get_lock");
    clock.set(now + 22 * HOUR);
    assert_eq!(get_lock(fixture), created, "get_lock 22 hours later");

    clock.set(now + DAY + 1);
    let recreated = get_lock(fixture);
    assert_ne!(
        recreated.version(),
        created.version(),
        "get_lock returned an expired lock"
    );
    assert_eq!(
        recreated.ttl(),
        now + DAY + 1 + DAY,
        "the ttl of a lock that replaced an expired one"
    );
    assert!(
        !commits(fixture, &created),
        "a commit under an expired lock succeeded"
    );
    assert!(
        commits(fixture, &recreated),
        "a commit under a lock that replaced an expired one failed"
    );
}

/// Guarantee 16: within the last hour of a lock's life `get_lock` extends it by 24 hours and keeps
/// its version. Commits of callers that read the lock before the refresh succeed.
pub fn a_refresh_extends_a_lock_and_keeps_its_version<D: Database>(fixture: &Fixture<D>) {
    let clock = &fixture.clock;
    let created = get_lock(fixture);
    clock.set(created.ttl() - HOUR);
    assert_eq!(
        get_lock(fixture),
        created,
        "a lock that lives for another hour was refreshed"
    );

    clock.set(created.ttl() - HOUR + 1);
    let refreshed = get_lock(fixture);
    assert_eq!(
        refreshed.version(),
        created.version(),
        "a refresh changed the version"
    );
    assert_eq!(
        refreshed.ttl(),
        created.ttl() - HOUR + 1 + DAY,
        "the ttl of a refreshed lock"
    );
    assert_eq!(get_lock(fixture), refreshed, "get_lock after a refresh");

    clock.set(created.ttl() + 1);
    assert_eq!(
        get_lock(fixture),
        refreshed,
        "a refreshed lock expired at its previous ttl"
    );
    assert!(
        commits(fixture, &created),
        "a refresh made the commit of a caller fail that had read the lock before"
    );

    // A refresh at the last second.
    let last = get_lock(fixture);
    clock.set(last.ttl());
    let refreshed = get_lock(fixture);
    assert_eq!(
        refreshed.version(),
        last.version(),
        "a refresh at the last second changed the version"
    );
    assert_eq!(
        refreshed.ttl(),
        last.ttl() + DAY,
        "the ttl of a lock that was refreshed at the last second"
    );
}

/// Guarantee 17: versions are never reused, neither by commits nor after a lock was deleted, expired
/// or was replaced, and was created again.
pub fn versions_are_never_reused<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let mut seen = HashSet::new();
    for turn in 0..40 {
        let created = get_lock(fixture);
        let other = db
            .get_lock(key("other", &turn.to_string()))
            .must("get_lock");
        let version = db.set_atomic(&[], &[created.clone()]).must("set_atomic");
        for version in [created.version(), other.version(), version] {
            assert!(seen.insert(version), "version {version} was used twice");
        }
        match turn % 4 {
            0 => db.delete(&[key("pk", "lock")]).must("delete"),
            1 => clock.set(clock.epoch_seconds() + DAY + 1),
            2 => {
                db.set(&[item("pk", "lock", "")]).must("set");
                db.delete(&[key("pk", "lock")]).must("delete");
            }
            // A clock that is set back must not cause a version to be used again.
            _ => {
                db.delete(&[key("pk", "lock")]).must("delete");
                clock.set(clock.epoch_seconds() - DAY);
            }
        }
    }
}

/// Guarantee 18: commits under a deleted, expired or replaced lock fail, even after a lock was
/// created in its place.
pub fn commits_under_a_deleted_expired_or_replaced_lock_fail<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let ends: [(&str, &dyn Fn()); 4] = [
        ("deleted", &|| {
            db.delete(&[key("pk", "lock")]).must("delete");
        }),
        ("deleted by a commit", &|| {
            let batch = Batch::new().delete(("pk", "lock"));
            db.commit(&batch).must("commit");
        }),
        ("replaced by an item that expired", &|| {
            let replacement = item("pk", "lock", "").expires_at(clock.epoch_seconds());
            db.set(&[replacement]).must("set");
            clock.set(clock.epoch_seconds() + 1);
        }),
        ("expired", &|| clock.set(clock.epoch_seconds() + DAY + 1)),
    ];
    for (what, end) in ends {
        let lock = get_lock(fixture);
        end();
        assert!(
            !commits(fixture, &lock),
            "a commit under a lock that was {what} succeeded"
        );
        let created = get_lock(fixture);
        assert_ne!(
            created.version(),
            lock.version(),
            "a lock that was {what} was created again with the same version"
        );
        assert!(
            !commits(fixture, &lock),
            "a commit under a lock that was {what} and created again succeeded"
        );
        assert!(
            commits(fixture, &created),
            "a commit under a lock that replaced one that was {what} failed"
        );
    }
}

/// Guarantee 18: a commit does not extend a lock's life. It does not shorten it either, whatever
/// `ttl` the caller's copy has.
pub fn a_commit_does_not_extend_a_lock<D: Database>(fixture: &Fixture<D>) {
    let clock = &fixture.clock;
    let created = get_lock(fixture);
    clock.set(created.ttl() - 2 * HOUR);
    for ttl in [created.ttl(), 0, u64::MAX] {
        let lock = get_lock(fixture);
        let copy = Lock::new(lock.key(), lock.version(), ttl);
        assert!(commits(fixture, &copy), "a commit under a live lock failed");
        assert_eq!(
            get_lock(fixture).ttl(),
            created.ttl(),
            "a commit changed the ttl of a lock; that of the caller's copy is {ttl}"
        );
    }
    let renewed = get_lock(fixture);
    clock.set(created.ttl() + 1);
    assert!(
        !commits(fixture, &renewed),
        "a commit extended the life of a lock"
    );
}
