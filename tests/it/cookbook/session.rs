use super::bench::{Bench, Ending, on_each_database, repeat};
use super::recipes::session::{LIFE, log_in, log_out, visit};
use crate::common::{Call, HookedDb, Moment};
use atomic_db::{Error, ManualClock, MemoryDb};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Logs in, and again if the outcome is unknown.
fn begin(bench: &Bench<String>, token: &str) {
    repeat(|| match log_in(&bench.db, &bench.clock, token, "Ada") {
        Err(Error::AlreadyExists { .. }) => Ok(()),
        outcome => outcome,
    });
}

#[test]
fn a_session_that_has_ended_is_not_brought_back_by_a_visit() {
    on_each_database::<String>(|bench| {
        for number in 0..12 {
            let token = format!("session#{number}");
            begin(bench, &token);
            // Each visit extends the session.
            bench.clock.advance(LIFE / 2 + Duration::from_secs(1));
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while !is_over.load(Ordering::SeqCst) {
                            repeat(|| visit(&bench.db, &bench.clock, &token));
                            bench.clock.advance(LIFE / 8);
                        }
                    });
                }
                let _ending = Ending(&is_over);
                repeat(|| log_out(&bench.db, &token));
                for _ in 0..4 {
                    let user = repeat(|| visit(&bench.db, &bench.clock, &token));
                    assert_eq!(user, None, "{}", bench.name);
                }
            });
            assert!(
                bench.items("session#").is_empty(),
                "{}: {number}",
                bench.name
            );
        }
    });
}

#[test]
fn a_session_expires_without_visits_and_slides_with_them() {
    on_each_database::<String>(|bench| {
        begin(bench, "session#1");
        for _ in 0..10 {
            bench.clock.advance(LIFE * 3 / 4);
            let user = repeat(|| visit(&bench.db, &bench.clock, "session#1"));
            assert_eq!(user.as_deref(), Some("Ada"), "{}", bench.name);
        }
        bench.clock.advance(LIFE + Duration::from_secs(1));
        let user = repeat(|| visit(&bench.db, &bench.clock, "session#1"));
        assert_eq!(user, None, "{}", bench.name);
    });
}

#[test]
fn visits_write_once_in_half_of_a_sessions_life() {
    let clock = ManualClock::new(1_000_000);
    let commits = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&commits);
    let db = HookedDb::new(
        MemoryDb::builder().clock(clock.clone()).build(),
        move |call, moment| {
            if (call, moment) == (Call::Commit, Moment::Before) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        },
    );
    log_in(&db, &clock, "session#1", "Ada").unwrap();
    let minutes = 10 * LIFE.as_secs() / 60;
    for _ in 0..minutes {
        clock.advance(Duration::from_secs(60));
        assert!(visit(&db, &clock, "session#1").unwrap().is_some());
    }
    assert_eq!(commits.load(Ordering::Relaxed), 1 + 20);
}
