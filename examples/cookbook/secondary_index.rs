use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, MemoryDb, Query, Result};

/// Returns the partition of the index that lists the users of `city`.
fn index(city: &str) -> String {
    format!("city#{city}")
}

/// Stores the city of `user`, and moves the user in the index of cities.
pub fn set_city(db: &impl AtomicDb<Data = String>, user: &str, city: &str) -> Result<()> {
    db.transact(|tx| {
        tx.lock((user, "lock"))?;
        if let Some(old) = tx.get((user, "city"))?.and_then(Item::into_data) {
            tx.delete((&index(&old), user))?;
        }
        tx.set(Item::without_data(index(city), user))?;
        tx.set(Item::new(user, "city", city.to_owned()))
    })
}

/// Returns the users of `city`, in the order of their keys.
pub fn users_of(db: &impl AtomicDb<Data = String>, city: &str) -> Result<Vec<String>> {
    let entries = db.query(&Query::new(index(city)).fresh())?;
    let keys: Vec<Key<'_>> = entries
        .iter()
        .map(|entry| Key::new(entry.sk(), "city"))
        .collect();
    let users = db.get_many_fresh(&keys)?;
    // A user may have moved between the two reads.
    let users = users
        .into_iter()
        .flatten()
        .filter(|user| user.data().is_some_and(|now| now == city));
    Ok(users.map(|user| user.pk().to_owned()).collect())
}

pub fn main() -> Result<()> {
    let db = MemoryDb::new();
    set_city(&db, "user#1", "Rome")?;
    set_city(&db, "user#2", "Rome")?;
    set_city(&db, "user#1", "Oslo")?;
    assert_eq!(users_of(&db, "Rome")?, ["user#2"]);
    assert_eq!(users_of(&db, "Oslo")?, ["user#1"]);
    Ok(())
}
