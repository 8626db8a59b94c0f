//! Counters on a server that is disturbed. After each run they equal the number of markers that were
//! committed with them, no commit that returned is missing, and none that failed is there.

use super::server::new_name;
use atomic_db::{AtomicDb, AtomicDbExt, Error, Item, Key, PostgresDb, PostgresDbBuilder, Query};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const THREADS: usize = 8;

/// A call takes this long if the server is there and an answer is lost without notice.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Returns a builder of a database with a new table.
pub(crate) fn builder() -> PostgresDbBuilder<u64> {
    let db = PostgresDb::builder().table(new_name("counters"));
    db.timeout(ANSWER_LIMIT * 2).attempt_timeout(ANSWER_LIMIT)
}

/// The markers of a run, by their outcome.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    done: BTreeSet<String>,
    pub(crate) failed: BTreeSet<String>,
    pub(crate) unknown: BTreeSet<String>,
    longest: Duration,
}

/// Whether the threads share one counter.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Counters {
    Shared,
    Own,
}

/// Increments counters on threads while `disturb` runs. Each commit creates a marker in addition.
pub(crate) fn run(db: &PostgresDb<u64>, counters: Counters, disturb: impl FnOnce()) -> Outcomes {
    let outcomes = Mutex::new(Outcomes::default());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (outcomes, is_over) = (&outcomes, &is_over);
            scope.spawn(move || {
                let counter = match counters {
                    Counters::Shared => "shared".to_owned(),
                    Counters::Own => thread.to_string(),
                };
                for round in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let marker = format!("{thread}-{round}");
                    let start = Instant::now();
                    let outcome = db.transact(|tx| {
                        tx.lock((&counter, "lock"))?;
                        let count = tx.get((&counter, "count"))?;
                        let count = count.and_then(Item::into_data).unwrap_or(0);
                        tx.set(Item::new(&counter, "count", count + 1))?;
                        tx.create(Item::new("markers", &marker, 0))?;
                        // Deletes an absent key now and then: two statements in one transaction.
                        if round % 3 == 0 {
                            tx.delete((&counter, "absent"))?;
                        }
                        Ok(())
                    });
                    let mut outcomes = outcomes.lock().unwrap();
                    outcomes.longest = outcomes.longest.max(start.elapsed());
                    let group = match outcome {
                        Ok(()) => &mut outcomes.done,
                        Err(Error::OutcomeUnknown(_)) => &mut outcomes.unknown,
                        Err(_) => &mut outcomes.failed,
                    };
                    group.insert(marker);
                }
            });
        }
        disturb();
        is_over.store(true, Ordering::Relaxed);
    });
    outcomes.into_inner().unwrap()
}

/// Checks that nothing was lost, done twice, or reported wrongly.
pub(crate) fn assert_exact(db: &PostgresDb<u64>, outcomes: &Outcomes, counters: Counters) {
    let found = db.query(&Query::new("markers")).unwrap();
    let found: BTreeSet<String> = found.iter().map(|item| item.sk().to_owned()).collect();
    let names: Vec<String> = match counters {
        Counters::Shared => vec!["shared".to_owned()],
        Counters::Own => (0..THREADS).map(|thread| thread.to_string()).collect(),
    };
    let counts = names.iter().map(|name| {
        let count = db.get(Key::new(name, "count")).unwrap();
        count.and_then(Item::into_data).unwrap_or(0)
    });
    let Outcomes {
        done,
        failed,
        unknown,
        longest,
    } = outcomes;
    println!(
        "{} done, {} failed, {} unknown of which {} were done, longest call {longest:?}",
        done.len(),
        failed.len(),
        unknown.len(),
        unknown.intersection(&found).count()
    );
    assert_eq!(
        counts.sum::<u64>(),
        found.len() as u64,
        "an increment was lost or doubled"
    );
    assert_eq!(
        done.difference(&found).next(),
        None,
        "a commit that returned is missing"
    );
    assert_eq!(
        failed.intersection(&found).next(),
        None,
        "a commit that failed is there"
    );
    assert!(*longest < ANSWER_LIMIT, "an answer was lost without notice");
    assert!(done.len() > 50, "hardly anything was committed");
}
