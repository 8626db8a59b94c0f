use super::bench::{on_each_database, on_threads, repeat};
use super::recipes::work_queue::{VISIBILITY_TIMEOUT, claim, finish, push};
use crate::common::{Call, Gate, Moment};
use atomic_db::{AtomicDb, Clock, Key, ManualClock, MemoryDb, Query};
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

const JOBS: u64 = 10;

#[test]
fn each_job_is_finished_exactly_once_even_if_it_is_processed_several_times() {
    on_each_database::<String>(|bench| {
        for job in 0..JOBS {
            repeat(|| push(&bench.db, bench.now(), &format!("job#{job}"), "task"));
        }
        let timeout = Duration::from_secs(VISIBILITY_TIMEOUT + 1);
        let finished = on_threads(|worker| {
            let mut finished = Vec::new();
            for attempt in 0.. {
                let Some(claim) = repeat(|| claim(&bench.db, bench.now())) else {
                    if bench
                        .plain()
                        .query(&Query::new("queue"))
                        .unwrap()
                        .is_empty()
                    {
                        break;
                    }
                    bench.clock.advance(timeout);
                    continue;
                };
                // Some workers end, and some take longer than the timeout.
                if bench.random.one_in(4) {
                    continue;
                }
                if bench.random.one_in(3) {
                    bench.clock.advance(timeout);
                    thread::yield_now();
                }
                let result = format!("attempt {attempt} of worker {worker}");
                if repeat(|| finish(&bench.db, &claim, &result)) {
                    finished.push((claim.lock.key().pk.to_owned(), result));
                }
            }
            finished
        });
        let results: BTreeMap<String, String> = bench
            .items("job#")
            .into_iter()
            .filter(|item| item.sk() == "result")
            .map(|item| (item.pk().to_owned(), item.data().unwrap().clone()))
            .collect();
        assert_eq!(results.len(), JOBS as usize, "{}", bench.name);
        let finished = finished.concat();
        for (job, result) in &finished {
            assert_eq!(
                results[job], *result,
                "{}: {job} was finished twice",
                bench.name
            );
        }
        // The response to a `finish` may be lost, and a repeated call then returns `false`.
        if !bench.has_faults() {
            assert_eq!(finished.len(), JOBS as usize, "{}", bench.name);
        }
    });
}

#[test]
fn a_claimed_job_is_visible_again_after_the_timeout() {
    on_each_database::<String>(|bench| {
        let now_claim = || repeat(|| claim(&bench.db, bench.now()));
        repeat(|| push(&bench.db, bench.now(), "job#1", "task"));
        repeat(|| push(&bench.db, bench.now(), "job#1", "task"));
        // A claim whose outcome is unknown hides the job, too.
        let first = loop {
            match now_claim() {
                Some(claim) => break claim,
                None => bench.clock.advance(Duration::from_secs(VISIBILITY_TIMEOUT)),
            }
        };
        bench
            .clock
            .advance(Duration::from_secs(VISIBILITY_TIMEOUT - 1));
        assert!(now_claim().is_none(), "{}", bench.name);
        bench.clock.advance(Duration::from_secs(1));
        let second = loop {
            match now_claim() {
                Some(claim) => break claim,
                None => bench.clock.advance(Duration::from_secs(VISIBILITY_TIMEOUT)),
            }
        };
        assert!(
            !repeat(|| finish(&bench.db, &first, "first")),
            "{}",
            bench.name
        );
        repeat(|| finish(&bench.db, &second, "second"));
        let result = bench
            .plain()
            .get_fresh(Key::new("job#1", "result"))
            .unwrap()
            .unwrap();
        assert_eq!(
            result.data().map(String::as_str),
            Some("second"),
            "{}",
            bench.name
        );
    });
}

#[test]
fn a_worker_that_is_paused_while_it_claims_a_job_cannot_finish_it_for_another_one() {
    let clock = ManualClock::new(2_000_000_000);
    let db = MemoryDb::builder().clock(clock.clone()).build();
    push(&db, clock.epoch_seconds(), "job#1", "task").unwrap();
    let (paused, gate) = Gate::new(db.clone(), Call::Commit, Moment::After);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let claim = claim(&paused, clock.epoch_seconds()).unwrap().unwrap();
            finish(&paused, &claim, "first").unwrap()
        });
        gate.wait_until_reached();
        clock.advance(Duration::from_secs(VISIBILITY_TIMEOUT));
        let second = claim(&db, clock.epoch_seconds()).unwrap();
        gate.open();
        assert!(!worker.join().unwrap());
        assert!(finish(&db, &second.unwrap(), "second").unwrap());
    });
}
