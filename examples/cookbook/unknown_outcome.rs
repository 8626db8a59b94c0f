use atomic_db::{AtomicDb, AtomicDbExt, Clock, Error, Item, MemoryDb, Result, SystemClock};
use std::time::Duration;

/// How long the mark of an operation is kept, and its outcome can be determined.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Takes `amount` from `account`. Returns `false` if the balance does not suffice, or if the write
/// was not applied. `operation` is a unique name of this call.
pub fn withdraw(
    db: &impl AtomicDb<Data = i64>,
    clock: &dyn Clock,
    account: &str,
    operation: &str,
    amount: i64,
) -> Result<bool> {
    let outcome = db.transact(|tx| {
        tx.lock((account, "lock"))?;
        let balance = tx
            .get((account, "balance"))?
            .and_then(Item::into_data)
            .unwrap_or(0);
        if balance < amount {
            return Ok(false);
        }
        tx.set(Item::new(account, "balance", balance - amount))?;
        // The mark is written in the same commit, so it shows whether the commit was applied.
        tx.create(Item::without_data(account, operation).expires_in(KEPT, clock))?;
        Ok(true)
    });
    match outcome {
        Err(Error::OutcomeUnknown(_)) => settle(db, clock, account, operation),
        outcome => outcome,
    }
}

/// Returns `true` if the operation was applied. After `false`, it cannot be applied any more. After an
/// error, the outcome is still unknown: keep the name of the operation, and call again later.
pub fn settle(
    db: &impl AtomicDb<Data = i64>,
    clock: &dyn Clock,
    account: &str,
    operation: &str,
) -> Result<bool> {
    let mut pause = Duration::from_millis(50);
    loop {
        let outcome = db.transact(|tx| {
            // This commit renews the lock. A request that is still under way has the old version.
            tx.lock((account, "lock"))?;
            Ok(tx.get((account, operation))?.is_some())
        });
        match outcome {
            Err(Error::OutcomeUnknown(_) | Error::Unavailable(_)) if pause.as_secs() < 10 => {
                clock.sleep(pause);
                pause *= 2;
            }
            outcome => return outcome,
        }
    }
}

pub fn main() -> Result<()> {
    let (db, clock) = (MemoryDb::new(), SystemClock);
    db.set_one(Item::new("account#1", "balance", 100))?;
    assert!(withdraw(&db, &clock, "account#1", "withdrawal#1", 70)?);
    assert!(!withdraw(&db, &clock, "account#1", "withdrawal#2", 70)?);
    assert!(settle(&db, &clock, "account#1", "withdrawal#1")?);
    assert!(!settle(&db, &clock, "account#1", "withdrawal#2")?);
    Ok(())
}
