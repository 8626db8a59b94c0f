//! Promises 4 and 14 to 17: the life of a lock.

use super::{Database, Fixture, found, item, key, read};
use crate::{Batch, Clock, Error, KeyBuf, Lock, Query};
use std::collections::HashSet;

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

fn lock<D: Database>(fixture: &Fixture<D>) -> Lock {
    fixture.db.get_lock(key("pk", "lock")).unwrap()
}

/// Whether a commit under `lock` succeeds. If so it has a new version.
fn commits<D: Database>(fixture: &Fixture<D>, lock: &Lock) -> bool {
    match fixture
        .db
        .set_atomic(&[item("pk", "a", "")], &[lock.clone()])
    {
        Ok(_) => true,
        Err(Error::RaceCondition { keys }) => {
            assert_eq!(keys, [KeyBuf::from(lock.key())]);
            false
        }
        Err(error) => panic!("a commit ended in {error:?}"),
    }
}

/// `get_lock` makes a lock that is not there, for 24 hours; while it lives, all get the same one.
pub fn get_lock_creates_a_lock_that_lives_for_24_hours<D: Database>(fixture: &Fixture<D>) {
    let clock = &fixture.clock;
    let now = clock.epoch_seconds();
    let made = lock(fixture);
    assert_eq!(made.key(), key("pk", "lock"));
    assert_eq!(made.ttl(), now + DAY);
    assert_eq!(lock(fixture), made);
    clock.set(now + 22 * HOUR);
    assert_eq!(lock(fixture), made);

    clock.set(now + DAY + 1);
    let anew = lock(fixture);
    assert_ne!(
        anew.version(),
        made.version(),
        "a lock that had expired came back"
    );
    assert_eq!(anew.ttl(), now + DAY + 1 + DAY);
    assert!(!commits(fixture, &made));
    assert!(commits(fixture, &anew));
}

/// A key holds an item or a lock, never both: an item replaces a lock, and a lock no item.
pub fn a_key_holds_an_item_or_a_lock_never_both<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    db.set(&[item("pk", "a", "there")]).unwrap();
    match db.get_lock(key("pk", "a")) {
        Err(Error::InvalidInput(_)) => {}
        other => panic!("asking for a lock where an item lives ended in {other:?}"),
    }
    assert_eq!(read(db, "pk", "a").as_deref(), Some("there"));
    db.delete(&[key("pk", "a")]).unwrap();
    db.get_lock(key("pk", "a")).unwrap();

    let replaced = lock(fixture);
    db.set(&[item("pk", "lock", "an item")]).unwrap();
    assert_eq!(read(db, "pk", "lock").as_deref(), Some("an item"));
    assert_eq!(found(db, &Query::new("pk")), ["lock"]);
    assert!(!commits(fixture, &replaced));
    let asked = db.get_lock(key("pk", "lock"));
    assert!(matches!(asked, Err(Error::InvalidInput(_))), "{asked:?}");
}

/// Within the last hour of its life `get_lock` gives a lock 24 hours more, and it keeps its version:
/// nobody who holds it loses.
pub fn a_refresh_extends_a_lock_and_keeps_its_version<D: Database>(fixture: &Fixture<D>) {
    let clock = &fixture.clock;
    let made = lock(fixture);
    clock.set(made.ttl() - HOUR);
    assert_eq!(
        lock(fixture),
        made,
        "a lock with an hour to live was refreshed"
    );

    clock.set(made.ttl() - HOUR + 1);
    let refreshed = lock(fixture);
    assert_eq!(
        refreshed.version(),
        made.version(),
        "a refresh gave a new version"
    );
    assert_eq!(refreshed.ttl(), made.ttl() - HOUR + 1 + DAY);
    assert_eq!(lock(fixture), refreshed);

    clock.set(made.ttl() + 1);
    assert_eq!(
        lock(fixture),
        refreshed,
        "a lock that was refreshed expired all the same"
    );
    assert!(commits(fixture, &made), "a refresh failed a holder");

    // At the very end of its life.
    let last = lock(fixture);
    clock.set(last.ttl());
    assert_eq!(lock(fixture).version(), last.version());
    assert_eq!(lock(fixture).ttl(), last.ttl() + DAY);
}

/// A lock can be committed under while now is at most its ttl, and not after; the same for a check.
pub fn commits_under_a_lock_succeed_until_its_ttl_has_passed<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let held = lock(fixture);
    let checked = db.get_lock(key("pk", "checked")).unwrap();
    clock.set(held.ttl());
    db.commit(&Batch::new().check(checked.clone())).unwrap();
    let version = db
        .set_atomic(&[item("pk", "a", "in time")], &[held.clone()])
        .unwrap();
    clock.set(held.ttl() + 1);
    assert!(
        !commits(fixture, &held.with_version(version)),
        "a lock was committed under after its ttl"
    );
    let outcome = db.commit(&Batch::new().check(checked).set(item("pk", "a", "late")));
    assert!(
        matches!(outcome, Err(Error::RaceCondition { .. })),
        "{outcome:?}"
    );
    assert_eq!(read(db, "pk", "a").as_deref(), Some("in time"));
}

/// A commit gives a lock a new version, and no longer life.
pub fn a_commit_does_not_extend_a_lock<D: Database>(fixture: &Fixture<D>) {
    let clock = &fixture.clock;
    let made = lock(fixture);
    clock.set(made.ttl() - 2 * HOUR);
    assert!(commits(fixture, &made));
    let renewed = lock(fixture);
    assert_eq!(renewed.ttl(), made.ttl(), "a commit changed a lock's life");
    clock.set(made.ttl() + 1);
    assert!(
        !commits(fixture, &renewed),
        "a commit lengthened a lock's life"
    );
}

/// A lock that was deleted, has expired or was replaced fails whoever still holds it, also when
/// another one has been made in its place.
pub fn commits_under_a_deleted_expired_or_replaced_lock_fail<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let ends: [&dyn Fn(); 4] = [
        &|| db.delete(&[key("pk", "lock")]).unwrap(),
        &|| {
            let batch = Batch::new().delete(("pk", "lock"));
            db.commit(&batch).unwrap();
        },
        &|| {
            let replaced = item("pk", "lock", "").expires_at(clock.epoch_seconds());
            db.set(&[replaced]).unwrap();
            clock.set(clock.epoch_seconds() + 1);
        },
        &|| clock.set(clock.epoch_seconds() + DAY + 1),
    ];
    for (number, end) in ends.iter().enumerate() {
        let held = lock(fixture);
        end();
        assert!(!commits(fixture, &held), "end {number} failed nobody");
        let made = lock(fixture);
        assert_ne!(
            made.version(),
            held.version(),
            "end {number}: a version was reused"
        );
        assert!(
            !commits(fixture, &held),
            "end {number}: a lock made anew is the old one"
        );
        assert!(commits(fixture, &made), "end {number}");
    }
}

/// Versions are never handed out twice: not by commits, nor after a lock was deleted, expired,
/// replaced and made again.
pub fn versions_are_never_reused<D: Database>(fixture: &Fixture<D>) {
    let (db, clock) = (&*fixture.db, &fixture.clock);
    let mut seen = HashSet::new();
    for turn in 0..40 {
        let made = lock(fixture);
        let other = db.get_lock(key("other", &turn.to_string())).unwrap();
        let version = db.set_atomic(&[], &[made.clone()]).unwrap();
        for version in [made.version(), other.version(), version] {
            assert!(seen.insert(version), "{version} was handed out twice");
        }
        match turn % 4 {
            0 => db.delete(&[key("pk", "lock")]).unwrap(),
            1 => clock.set(clock.epoch_seconds() + DAY + 1),
            2 => {
                db.set(&[item("pk", "lock", "")]).unwrap();
                db.delete(&[key("pk", "lock")]).unwrap();
            }
            // Time that goes back must not bring back a version.
            _ => {
                db.delete(&[key("pk", "lock")]).unwrap();
                clock.set(clock.epoch_seconds() - DAY);
            }
        }
    }
}
