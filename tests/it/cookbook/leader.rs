use super::bench::{Tally, on_each_database, on_threads, repeat};
use super::recipes::leader::{TERM, campaign, write};
use atomic_db::{AtomicDb, Item, Key};
use std::time::Duration;

const STATE: Key<'static> = Key::new("state", "count");

/// Each leader reads the count when its term begins, and increments it from memory. A write of a leader
/// that was replaced would set the count back.
#[test]
fn a_leader_that_was_replaced_cannot_write() {
    on_each_database::<String>(|bench| {
        let tallies = on_threads(|thread| {
            let name = format!("candidate {thread}");
            let mut tally = Tally::default();
            for _ in 0..25 {
                let Ok(Some(leader)) = campaign(&bench.db, &bench.clock, &name) else {
                    bench.clock.advance(Duration::from_secs(5));
                    continue;
                };
                let state = repeat(|| bench.db.get_fresh(STATE)).and_then(Item::into_data);
                let mut count: u64 = state.map_or(0, |count| count.parse().unwrap());
                for _ in 0..4 {
                    if bench.random.one_in(3) {
                        bench.clock.advance(TERM + Duration::from_secs(1));
                        std::thread::yield_now();
                    }
                    count += 1;
                    let written = write(&bench.db, &leader, Item::at(STATE, count.to_string()));
                    let is_leader = matches!(written, Ok(true));
                    if !matches!(written, Ok(false)) {
                        tally.count(written.map(drop));
                    }
                    if !is_leader {
                        break;
                    }
                }
            }
            tally
        });
        let state = bench.plain().get_fresh(STATE).unwrap();
        let count = state.and_then(Item::into_data).unwrap().parse().unwrap();
        let tally: Tally = tallies.into_iter().sum();
        tally.assert_possible(count, &bench.name);
    });
}

#[test]
fn a_term_lasts_as_long_as_the_leader_renews_it() {
    on_each_database::<String>(|bench| {
        // After an error, the caller may or may not be the leader, and calls again.
        let is_leader = |name| repeat(|| campaign(&bench.db, &bench.clock, name)).is_some();
        // The first attempt may fail because of a conflict that was injected.
        let becomes_leader = |name| (0..100).any(|_| is_leader(name));
        assert!(becomes_leader("ada"), "{}", bench.name);
        for _ in 0..3 {
            bench.clock.advance(TERM);
            assert!(!is_leader("bob"), "{}", bench.name);
            assert!(becomes_leader("ada"), "{}", bench.name);
        }
        bench.clock.advance(TERM + Duration::from_secs(1));
        assert!(becomes_leader("bob"), "{}", bench.name);
        assert!(!is_leader("ada"), "{}", bench.name);
    });
}
