use super::bench::{on_each_database, on_threads, repeat};
use super::recipes::idempotency_key::deposit;
use atomic_db::{AtomicDb, Item, Key};
use std::time::Duration;

const REQUESTS: u32 = 12;

#[test]
fn a_request_that_arrives_several_times_is_applied_once() {
    on_each_database::<i64>(|bench| {
        let answers = on_threads(|thread| {
            let mut answers = vec![0; REQUESTS as usize];
            for number in 0..REQUESTS {
                let request = (number + thread as u32) % REQUESTS;
                answers[request as usize] = repeat(|| {
                    let name = request.to_string();
                    deposit(&bench.db, &bench.clock, "account#1", &name, 1 << request)
                });
            }
            answers
        });
        for other in &answers[1..] {
            assert_eq!(*other, answers[0], "{}", bench.name);
        }
        let balance = bench.plain().get_fresh(Key::new("account#1", "balance"));
        let balance = balance.unwrap().and_then(Item::into_data);
        assert_eq!(balance, Some((1 << REQUESTS) - 1), "{}", bench.name);
    });
}

#[test]
fn a_request_is_remembered_for_a_day() {
    on_each_database::<i64>(|bench| {
        let send = || repeat(|| deposit(&bench.db, &bench.clock, "account#1", "a", 5));
        assert_eq!(send(), 5);
        bench.clock.advance(Duration::from_secs(24 * 60 * 60));
        assert_eq!(send(), 5, "{}", bench.name);
        bench.clock.advance(Duration::from_secs(1));
        assert_eq!(send(), 10, "{}", bench.name);
    });
}
