use super::bench::{Tally, on_each_database, on_threads};
use super::recipes::counter::{increment, increment_shard, total};
use atomic_db::{AtomicDb, Item, Key, Result};

/// Increments from several threads.
fn increment_all(increment: impl Fn(u64) -> Result<()> + Sync) -> Tally {
    let tallies = on_threads(|thread| {
        let mut tally = Tally::default();
        for _ in 0..20 {
            tally.count(increment(thread));
        }
        tally
    });
    tallies.into_iter().sum()
}

#[test]
fn no_increment_is_lost_or_counted_twice() {
    on_each_database::<u64>(|bench| {
        let tally = increment_all(|_| increment(&bench.db, "page#1"));
        let count = bench.plain().get_fresh(Key::new("page#1", "visits"));
        let count = count.unwrap().and_then(Item::into_data);
        tally.assert_possible(count.unwrap(), &bench.name);
    });
}

#[test]
fn no_increment_of_a_shard_is_lost_or_counted_twice() {
    on_each_database::<u64>(|bench| {
        // Two threads share a shard, and 17 is the shard 1 again.
        let tally =
            increment_all(|thread| increment_shard(&bench.db, "page#1", thread as u32 / 2 * 17));
        let count = total(bench.plain(), "page#1").unwrap();
        tally.assert_possible(count, &bench.name);
        assert_eq!(bench.items("page#1/").len(), 2, "{}", bench.name);
    });
}
