use atomic_db::{AtomicDb, AtomicDbExt, Clock, Item, MemoryDb, Result, SystemClock};
use std::time::Duration;

/// How long a client may repeat a request.
const REPEATABLE: Duration = Duration::from_secs(24 * 60 * 60);

/// Adds `amount` to the balance of `account`, once for each `request`. Returns the balance, as it was
/// returned the first time.
pub fn deposit(
    db: &impl AtomicDb<Data = i64>,
    clock: &dyn Clock,
    account: &str,
    request: &str,
    amount: i64,
) -> Result<i64> {
    let receipt = format!("request#{request}");
    db.transact(|tx| {
        tx.lock((account, "lock"))?;
        let found = tx.get_many(&[(account, receipt.as_str()), (account, "balance")])?;
        let data = |index: usize| found[index].as_ref().and_then(Item::data).copied();
        if let Some(answer) = data(0) {
            return Ok(answer);
        }
        let balance = data(1).unwrap_or(0) + amount;
        tx.set(Item::new(account, "balance", balance))?;
        tx.set(Item::new(account, &receipt, balance).expires_in(REPEATABLE, clock))?;
        Ok(balance)
    })
}

pub fn main() -> Result<()> {
    let db = MemoryDb::new();
    assert_eq!(deposit(&db, &SystemClock, "account#1", "7f3a", 50)?, 50);
    assert_eq!(deposit(&db, &SystemClock, "account#1", "91c0", 20)?, 70);
    // The first request arrives again, and gets the same response.
    assert_eq!(deposit(&db, &SystemClock, "account#1", "7f3a", 50)?, 50);
    assert_eq!(deposit(&db, &SystemClock, "account#1", "c2d4", 0)?, 70);
    Ok(())
}
