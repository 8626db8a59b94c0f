use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, MemoryDb, Result};

fn user(number: i64) -> String {
    format!("user#{number}")
}

/// Gives `device` to the user `to`, and keeps the number of devices of both users. Which locks that
/// requires depends on the present owner.
pub fn give(db: &impl AtomicDb<Data = i64>, device: &str, to: i64) -> Result<()> {
    loop {
        let owner = db
            .get_fresh(Key::new(device, "owner"))?
            .and_then(Item::into_data);
        let (from_pk, to_pk) = (owner.map(user), user(to));
        let is_given = db.transact(|tx| {
            let mut locks = vec![(device, "lock"), (to_pk.as_str(), "lock")];
            locks.extend(from_pk.iter().map(|from_pk| (from_pk.as_str(), "lock")));
            tx.lock_all(&locks)?;
            // The owner may have changed before the locks were read.
            if tx.get((device, "owner"))?.and_then(Item::into_data) != owner {
                return Ok(false);
            }
            for (pk, change) in from_pk.iter().map(|pk| (pk, -1)).chain([(&to_pk, 1)]) {
                let count = tx
                    .get((pk, "devices"))?
                    .and_then(Item::into_data)
                    .unwrap_or(0);
                tx.set(Item::new(pk, "devices", count + change))?;
            }
            tx.set(Item::new(device, "owner", to))?;
            Ok(true)
        })?;
        if is_given {
            return Ok(());
        }
    }
}

pub fn main() -> Result<()> {
    let db = MemoryDb::new();
    give(&db, "device#1", 7)?;
    give(&db, "device#2", 7)?;
    give(&db, "device#1", 8)?;
    for (pk, devices) in [("user#7", 1), ("user#8", 1)] {
        assert_eq!(
            db.get(Key::new(pk, "devices"))?.and_then(Item::into_data),
            Some(devices)
        );
    }
    Ok(())
}
