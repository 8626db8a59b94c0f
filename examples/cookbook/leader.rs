use atomic_db::{AtomicDb, Batch, Clock, Item, Key, Lock, MemoryDb, Result, SystemClock};
use std::time::Duration;

/// How long a leader may be silent before another candidate takes over.
pub const TERM: Duration = Duration::from_secs(30);

/// A term of leadership. The version of its lock is the fencing token.
pub struct Leader {
    lock: Lock,
}

/// Makes `name` the leader if there is no other one, or begins another term of the same leader.
pub fn campaign(
    db: &impl AtomicDb<Data = String>,
    clock: &dyn Clock,
    name: &str,
) -> Result<Option<Leader>> {
    let lock = db.get_lock(Key::new("leader", "lock"))?;
    let leader = db.get_fresh(Key::new("leader", "name"))?;
    if leader.is_some_and(|leader| leader.data().is_none_or(|leader| leader != name)) {
        return Ok(None);
    }
    let term = Item::new("leader", "name", name.to_owned()).expires_in(TERM, clock);
    match db.set_atomic(&[term], &[lock.clone()]) {
        Ok(version) => Ok(Some(Leader {
            lock: lock.with_version(version),
        })),
        Err(error) if error.is_race_condition() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `item` as the leader. Returns `false`, and writes nothing, if another term has begun since.
pub fn write(
    db: &impl AtomicDb<Data = String>,
    leader: &Leader,
    item: Item<String>,
) -> Result<bool> {
    match db.commit(&Batch::new().check(leader.lock.clone()).set(item)) {
        Ok(_) => Ok(true),
        Err(error) if error.is_race_condition() => Ok(false),
        Err(error) => Err(error),
    }
}

pub fn main() -> Result<()> {
    let (db, clock) = (MemoryDb::new(), SystemClock);
    let ada = campaign(&db, &clock, "ada")?.expect("there is no other leader");
    assert!(campaign(&db, &clock, "bob")?.is_none());
    let next = campaign(&db, &clock, "ada")?.expect("the leader begins another term");
    let plan = |text: &str| Item::new("plan", "1", text.to_owned());
    assert!(write(&db, &next, plan("from the second term"))?);
    assert!(!write(&db, &ada, plan("from the first term"))?);
    Ok(())
}
