use super::bench::{is_injected, on_each_database, on_threads, repeat};
use super::recipes::unknown_outcome::{settle, withdraw};
use atomic_db::{AtomicDb, Batch, Item, Key};

const BALANCE: Key<'static> = Key::new("account#1", "balance");

/// The balance is exact, even though the outcomes of many commits were unknown.
#[test]
fn an_outcome_that_is_determined_later_is_the_right_one() {
    on_each_database::<i64>(|bench| {
        bench.plain().set(&[Item::at(BALANCE, 90)]).unwrap();
        let taken = on_threads(|thread| {
            let mut taken = 0;
            for number in 0..12 {
                let name = format!("withdrawal#{thread}.{number}");
                let mark = Key::new("account#1", &name);
                // After an error, the outcome is determined later.
                let outcome = withdraw(&bench.db, &bench.clock, mark, 3);
                let is_applied = outcome.unwrap_or_else(|error| {
                    assert!(is_injected(&error), "{}: {error:?}", bench.name);
                    repeat(|| settle(&bench.db, &bench.clock, mark))
                });
                taken += 3 * i64::from(is_applied);
            }
            taken
        });
        let balance = bench
            .plain()
            .get_fresh(BALANCE)
            .unwrap()
            .and_then(Item::into_data);
        assert_eq!(
            balance,
            Some(90 - taken.iter().sum::<i64>()),
            "{}",
            bench.name
        );
        assert!(balance >= Some(0), "{}", bench.name);
    });
}

#[test]
fn a_commit_that_arrives_after_it_was_settled_is_refused() {
    on_each_database::<i64>(|bench| {
        bench.plain().set(&[Item::at(BALANCE, 90)]).unwrap();
        let lock = bench
            .plain()
            .get_lock(Key::new("account#1", "lock"))
            .unwrap();
        let late = Batch::new().lock(lock).set(Item::at(BALANCE, 87));
        let late = late.create(Item::without_data("account#1", "withdrawal#1"));
        let is_applied = repeat(|| {
            settle(
                &bench.db,
                &bench.clock,
                Key::new("account#1", "withdrawal#1"),
            )
        });
        assert!(!is_applied, "{}", bench.name);
        let arrived = bench.plain().commit(&late);
        assert!(
            arrived.is_err_and(|error| error.is_race_condition()),
            "{}",
            bench.name
        );
    });
}
