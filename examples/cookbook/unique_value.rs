use atomic_db::{AtomicDb, AtomicDbExt, Error, Item, MemoryDb, Result};

/// Makes `address` the e-mail address of `user`, in place of the previous one. Returns `false` if it
/// belongs to another user.
pub fn set_address(db: &impl AtomicDb<Data = String>, user: &str, address: &str) -> Result<bool> {
    let pk = |address: &str| format!("address#{}", address.to_lowercase());
    let new = pk(address);
    let outcome = db.transact(|tx| {
        tx.lock((user, "lock"))?;
        let found = tx.get_many(&[(user, "address"), (new.as_str(), "owner")])?;
        if let Some(owner) = &found[1] {
            return Ok(owner.data().is_some_and(|owner| owner == user));
        }
        if let Some(old) = found[0].as_ref().and_then(Item::data) {
            tx.delete((&pk(old), "owner"))?;
        }
        // Of two users who want the same address, one creates this item.
        tx.create(Item::new(&new, "owner", user.to_owned()))?;
        tx.set(Item::new(user, "address", address.to_owned()))?;
        Ok(true)
    });
    match outcome {
        // Another user took the address after it was read.
        Err(Error::AlreadyExists { .. }) => Ok(false),
        other => other,
    }
}

pub fn main() -> Result<()> {
    let db = MemoryDb::new();
    assert!(set_address(&db, "user#1", "ada@example.org")?);
    assert!(!set_address(&db, "user#2", "Ada@example.org")?);
    assert!(set_address(&db, "user#1", "lovelace@example.org")?);
    assert!(set_address(&db, "user#2", "ada@example.org")?);
    Ok(())
}
