//! `PostgresDb` against the reference model, and by recorded histories.

use super::server::{Server, new_name};
use super::without_nul::WithoutNul;
use crate::histories::{count, on_threads, seeds};
use crate::reference_model::ops;
use atomic_db::testing::history::Workload;
use atomic_db::{AtomicDb, LruCache, ManualClock, PostgresDb, PostgresDbBuilder};
use atomic_db_test_support::reference_model as model;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::sync::Arc;

fn builder<T>(clock: &ManualClock) -> PostgresDbBuilder<T> {
    let builder = PostgresDb::builder().table(new_name("model"));
    builder.clock(clock.clone())
}

#[test]
fn agrees_with_the_reference_model() {
    let Some(server) = Server::shared() else {
        return;
    };
    let mut runner = TestRunner::default();
    let cases = std::env::var("PROPTEST_CASES").ok();
    let cases = cases.map_or(40, |cases| {
        cases.parse().expect("PROPTEST_CASES is a number")
    });
    for case in 0..cases {
        let clock = ManualClock::new(model::START);
        let db = builder(&clock).pooled(case % 3 == 2);
        let db = db.connect(server.url()).unwrap();
        let db = WithoutNul(db);
        let mut ops = ops().new_tree(&mut runner).unwrap().current();
        // Expiries after `i64::MAX` are refused, so time stays before that.
        let latest = i64::MAX.to_string();
        ops.retain(|op| {
            let text = format!("{op:?}");
            !text.contains(&latest) && !text.contains("ToEndOfTime")
        });
        let outcome = if case % 2 == 0 {
            model::run(&ops, &db, &clock)
        } else {
            let cache = LruCache::builder(db).capacity(6);
            model::run(&ops, &cache.clock(clock.clone()).build(), &clock)
        };
        if let Err(mismatch) = outcome {
            panic!("{mismatch}\nafter {ops:#?}");
        }
    }
}

/// With snapshots, deletions, blind writes and recreated locks.
#[test]
fn histories_of_threads_are_strictly_serializable() {
    let Some(server) = Server::shared() else {
        return;
    };
    let count = count(6);
    let mut operations = 0;
    let seeds = seeds().zip([false, true].into_iter().cycle());
    for (seed, cached) in seeds.take(count) {
        let clock = ManualClock::new(model::START);
        let db = builder::<String>(&clock).connect(server.url()).unwrap();
        let db: Arc<dyn AtomicDb<Data = String> + Send + Sync> = if cached {
            Arc::new(LruCache::builder(db).capacity(6).clock(clock).build())
        } else {
            Arc::new(db)
        };
        let workload = Workload::new().calls(150).seed(seed);
        let history = workload.run(&Arc::new(db), None, on_threads);
        if let Err(anomaly) = history.check() {
            panic!("cached: {cached}, {workload:?}: {anomaly}");
        }
        operations += history.ops.len();
    }
    println!("histories {count}, operations {operations}");
}
