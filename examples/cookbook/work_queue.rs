use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, Lock, MemoryDb, Query, Result, SystemClock,
};

/// How long a claimed job is invisible to other workers, in seconds.
pub const VISIBILITY_TIMEOUT: u64 = 60;

/// A job of a worker: its place in the queue, and its lock as the claim left it.
pub struct Claim {
    pub entry: Item<String>,
    pub lock: Lock,
}

fn entry(visible_from: u64, job: &str) -> Item<String> {
    Item::without_data("queue", format!("{visible_from:020}#{job}"))
}

/// Adds a job. A repeated call adds nothing.
pub fn push(
    db: &impl AtomicDb<Data = String>,
    clock: &dyn Clock,
    job: &str,
    task: &str,
) -> Result<()> {
    let task = Item::new(job, "task", task.to_owned());
    let batch = Batch::new()
        .create(task)
        .set(entry(clock.epoch_seconds(), job));
    match db.commit(&batch) {
        Err(Error::AlreadyExists { .. }) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Claims a visible job, and hides it from other workers until the timeout.
pub fn claim(db: &impl AtomicDb<Data = String>, clock: &dyn Clock) -> Result<Option<Claim>> {
    let now = clock.epoch_seconds();
    let visible = Query::new("queue")
        .range(..format!("{:020}", now + 1))
        .limit(10);
    for old in db.query(&visible.fresh())? {
        let Some((_, job)) = old.sk().split_once('#') else {
            continue;
        };
        let lock = db.get_lock(Key::new(job, "lock"))?;
        if db.get_fresh(old.key())?.is_none() {
            continue; // claimed or finished by another worker
        }
        let new = entry(now + VISIBILITY_TIMEOUT, job);
        let batch = Batch::new()
            .lock(lock.clone())
            .delete(old.key())
            .set(new.clone());
        match db.commit(&batch) {
            Ok(version) => {
                return Ok(Some(Claim {
                    entry: new,
                    lock: lock.with_version(version),
                }));
            }
            Err(error) if error.is_race_condition() => continue,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Stores the result and removes the job. Returns `false`, and writes nothing, if another worker has
/// claimed the job since, or if an earlier call has finished it.
pub fn finish(db: &impl AtomicDb<Data = String>, claim: &Claim, result: &str) -> Result<bool> {
    let result = Item::new(claim.lock.key().pk, "result", result.to_owned());
    let batch = Batch::new()
        .lock(claim.lock.clone())
        .delete(claim.entry.key())
        .set(result);
    match db.commit(&batch) {
        Ok(_) => Ok(true),
        Err(error) if error.is_race_condition() => Ok(false),
        Err(error) => Err(error),
    }
}

pub fn main() -> Result<()> {
    let (db, clock) = (MemoryDb::new(), SystemClock);
    push(&db, &clock, "job#1", "resize the image")?;
    let job = claim(&db, &clock)?.expect("a visible job");
    assert!(claim(&db, &clock)?.is_none());
    assert!(finish(&db, &job, "resized")?);
    assert!(!finish(&db, &job, "resized again")?);
    Ok(())
}
