//! A stress test: threads move money between two accounts, and each body returns an error if their sum
//! is wrong. The sum is always right, so every such error rests on a state that never existed.

#[cfg(feature = "redb")]
use crate::redb::temporary::Temporary;
#[cfg(feature = "redb")]
use atomic_db::RedbDb;
use atomic_db::testing::run_concurrently;
use atomic_db::{AtomicDb, AtomicDbExt, Error, Item, Key, LruCache, MemoryDb};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const ONE: Key<'static> = Key::new("accounts", "one");
const TWO: Key<'static> = Key::new("accounts", "two");
const LOCK: Key<'static> = Key::new("accounts", "lock");
const SUM: u32 = 100;

enum Refusal {
    WrongSum(u32),
    Db(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Db(error)
    }
}

/// Makes four threads move money while `goes_on` holds for the number of a thread's transactions.
/// Returns the number of transactions, and how often a body saw a wrong sum.
fn move_money(
    db: &(impl AtomicDb<Data = u32> + Sync),
    goes_on: impl Fn(u64) -> bool + Sync,
) -> (u64, u64) {
    db.set(&[Item::at(ONE, SUM), Item::at(TWO, 0)]).unwrap();
    let wrong_sums = AtomicU64::new(0);
    let moved = run_concurrently(4, |number| {
        let mut transactions = 0;
        while goes_on(transactions) {
            let moved = db.try_transact(|tx| {
                // Every second thread only audits.
                if number % 2 == 0 {
                    tx.lock(LOCK)?;
                } else {
                    tx.check(LOCK)?;
                }
                let one = tx.get(ONE)?.and_then(Item::into_data).unwrap_or(0);
                // Another thread's commit often comes between the two reads.
                thread::yield_now();
                let two = tx.get(TWO)?.and_then(Item::into_data).unwrap_or(0);
                if one + two != SUM {
                    wrong_sums.fetch_add(1, Ordering::Relaxed);
                    return Err(Refusal::WrongSum(one + two));
                }
                if number % 2 == 0 {
                    tx.set(Item::at(ONE, two))?;
                    tx.set(Item::at(TWO, one))?;
                }
                Ok(())
            });
            match moved {
                Ok(()) => {}
                Err(Refusal::WrongSum(sum)) => {
                    panic!("a false error after {transactions} transactions: the sum is {sum}");
                }
                // Other threads won every race, as the error says.
                Err(Refusal::Db(Error::RetriesExhausted { .. })) => {}
                Err(Refusal::Db(error)) => panic!("a transaction failed: {error:?}"),
            }
            transactions += 1;
        }
        transactions
    });
    (moved.iter().sum(), wrong_sums.into_inner())
}

fn move_a_little(db: &(impl AtomicDb<Data = u32> + Sync), each: u64) {
    let (transactions, wrong_sums) = move_money(db, |transactions| transactions < each);
    println!("{transactions} transactions, {wrong_sums} retried after a wrong sum");
    assert_eq!(transactions, 4 * each);
}

/// Moves money for a minute. Bodies must have seen states that never existed, or the test shows
/// nothing.
fn move_for_a_minute(db: &(impl AtomicDb<Data = u32> + Sync)) {
    let end = Instant::now() + Duration::from_secs(60);
    let (transactions, wrong_sums) = move_money(db, |_| Instant::now() < end);
    println!("{transactions} transactions, {wrong_sums} retried after a wrong sum, 0 false errors");
    assert!(wrong_sums > 0, "no transaction saw another one's commit");
}

#[test]
fn memory_reports_no_false_error() {
    move_a_little(&MemoryDb::new(), 2_000);
}

#[test]
fn a_cache_reports_no_false_error() {
    move_a_little(&LruCache::new(MemoryDb::new(), 10), 2_000);
}

#[cfg(feature = "redb")]
#[test]
fn a_file_reports_no_false_error() {
    move_a_little(&Temporary::open(RedbDb::builder()), 100);
}

#[test]
#[ignore = "runs for a minute"]
fn memory_reports_no_false_error_in_a_minute() {
    move_for_a_minute(&MemoryDb::new());
}

#[test]
#[ignore = "runs for a minute"]
fn a_cache_reports_no_false_error_in_a_minute() {
    move_for_a_minute(&LruCache::new(MemoryDb::new(), 10));
}

#[cfg(feature = "redb")]
#[test]
#[ignore = "runs for a minute"]
fn a_file_reports_no_false_error_in_a_minute() {
    move_for_a_minute(&Temporary::open(RedbDb::builder()));
}
