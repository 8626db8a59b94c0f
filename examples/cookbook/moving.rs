use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, MemoryDb, Result, Scan, TransferError, copy};

const LOCK: Key<'_> = Key::new("moved", "lock");
const FLAG: Key<'_> = Key::new("moved", "flag");

/// Writes `item` as all writers do from before the move on. Returns `false` if this database is being
/// moved or was moved: the caller then writes to the other one.
pub fn write(db: &impl AtomicDb<Data = String>, item: &Item<String>) -> Result<bool> {
    db.transact(|tx| {
        // Checks of the same lock do not conflict with each other.
        tx.check(LOCK)?;
        if tx.get(FLAG)?.is_some() {
            return Ok(false);
        }
        tx.set(item.clone()).map(|()| true)
    })
}

/// Moves all items of `from` to `to`. May be called again after an error.
pub fn move_all(
    from: &impl Scan<Data = String>,
    to: &impl AtomicDb<Data = String>,
) -> Result<(), TransferError> {
    let flag = |text: &str| Item::at(FLAG, text.to_owned());
    let found = from.get_fresh(FLAG).map_err(TransferError::Read)?;
    if found != Some(flag("copied")) {
        // Writers wait until everything is there, so the copy overwrites none of their items.
        to.set(&[flag("not copied")])
            .map_err(TransferError::Write)?;
        let stopped = from.transact(|tx| {
            // This commit renews the lock, so writers that have checked it before fail.
            tx.lock(LOCK)?;
            tx.set(flag("not copied"))
        });
        stopped.map_err(TransferError::Write)?;
        copy(from, to, |_| {})?;
        // If this function is called again, it does not copy again.
        from.set(&[flag("copied")]).map_err(TransferError::Write)?;
    }
    to.delete(&[FLAG]).map_err(TransferError::Write)
}

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (old, new) = (MemoryDb::new(), MemoryDb::new());
    let item = Item::new("user#1", "name", "Ada".to_owned());
    assert!(write(&old, &item)?);
    move_all(&old, &new)?;
    assert_eq!(new.get(item.key())?, Some(item.clone()));
    assert!(!write(&old, &item)?);
    assert!(write(&new, &item)?);
    Ok(())
}
