use super::bench::{Bench, on_each_database, on_threads};
use super::recipes::counter::{increment, increment_shard, total};
use atomic_db::{AtomicDb, Error, Item, Key, Result};

/// Increments from several threads, and returns the least and the greatest possible count.
fn increment_all(bench: &Bench<u64>, increment: impl Fn(u64) -> Result<()> + Sync) -> (u64, u64) {
    let counts = on_threads(|thread| {
        let (mut done, mut unknown) = (0, 0);
        for _ in 0..20 {
            match increment(thread) {
                Ok(()) => done += 1,
                Err(Error::OutcomeUnknown(_)) => unknown += 1,
                Err(Error::Unavailable(_)) => {}
                Err(error) => panic!("{}: {error:?}", bench.name),
            }
        }
        (done, unknown)
    });
    let done: u64 = counts.iter().map(|(done, _)| done).sum();
    let unknown: u64 = counts.iter().map(|(_, unknown)| unknown).sum();
    (done, done + unknown)
}

#[test]
fn no_increment_is_lost_or_counted_twice() {
    on_each_database::<u64>(|bench| {
        let (least, most) = increment_all(bench, |_| increment(&bench.db, "page#1"));
        let count = bench
            .plain()
            .get_fresh(Key::new("page#1", "visits"))
            .unwrap();
        let count = count.and_then(Item::into_data).unwrap();
        assert!(
            (least..=most).contains(&count),
            "{}: {count} of {least}..={most}",
            bench.name
        );
    });
}

#[test]
fn no_increment_of_a_shard_is_lost_or_counted_twice() {
    on_each_database::<u64>(|bench| {
        // Two threads share a shard, and 17 is the shard 1 again.
        let (least, most) = increment_all(bench, |thread| {
            increment_shard(&bench.db, "page#1", thread as u32 / 2 * 17)
        });
        let count = total(bench.plain(), "page#1").unwrap();
        assert!(
            (least..=most).contains(&count),
            "{}: {count} of {least}..={most}",
            bench.name
        );
        assert_eq!(bench.items("page#1/").len(), 2, "{}", bench.name);
    });
}
