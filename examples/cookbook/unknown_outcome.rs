use atomic_db::{AtomicDb, AtomicDbExt, Clock, Error, Item, Key, MemoryDb, Result, SystemClock};
use std::time::Duration;

/// How long the mark of an operation is kept, and its outcome can be determined.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Takes `amount` from `account`. Returns `false` if the balance does not suffice, or if the write
/// was not applied. `mark` is the account and a unique name of this operation.
pub fn withdraw(
    db: &impl AtomicDb<Data = i64>,
    clock: &dyn Clock,
    mark: Key<'_>,
    amount: i64,
) -> Result<bool> {
    let outcome = db.transact(|tx| {
        tx.lock((mark.pk, "lock"))?;
        let balance = tx.get((mark.pk, "balance"))?;
        let balance = balance.and_then(Item::into_data).unwrap_or(0);
        if balance < amount {
            return Ok(false);
        }
        tx.set(Item::new(mark.pk, "balance", balance - amount))?;
        // The mark is written in the same commit, so it shows whether the commit was applied.
        tx.create(Item::without_data(mark.pk, mark.sk).expires_in(KEPT, clock))?;
        Ok(true)
    });
    match outcome {
        Err(Error::OutcomeUnknown(_)) => settle(db, clock, mark),
        outcome => outcome,
    }
}

/// Returns `true` if the operation was applied. After `false`, it cannot be applied any more. After an
/// error, the outcome is still unknown: keep the mark, and call again later.
pub fn settle(db: &impl AtomicDb<Data = i64>, clock: &dyn Clock, mark: Key<'_>) -> Result<bool> {
    let mut pause = Duration::from_millis(50);
    loop {
        let outcome = db.transact(|tx| {
            // This commit renews the lock. A request that is still under way has the old version.
            tx.lock((mark.pk, "lock"))?;
            Ok(tx.get(mark)?.is_some())
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
    let [first, second] = ["1", "2"].map(|name| Key::new("account#1", name));
    assert!(withdraw(&db, &clock, first, 70)?);
    assert!(!withdraw(&db, &clock, second, 70)?);
    assert!(settle(&db, &clock, first)?);
    assert!(!settle(&db, &clock, second)?);
    Ok(())
}
