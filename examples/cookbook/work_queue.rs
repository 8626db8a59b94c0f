use atomic_db::{AtomicDb, Batch, Error, Item, Key, Lock, MemoryDb, Query, Result, Version};

/// How long a claimed job is invisible to other workers, in seconds.
pub const VISIBILITY_TIMEOUT: u64 = 60;

/// A job of a worker: its place in the queue, and its lock as the claim left it.
pub struct Claim {
    pub entry: Item<String>,
    pub lock: Lock,
}

fn entry(visible_from: u64, job: &str) -> Item<String> {
    let sk = format!("{visible_from:020}#{job}");
    Item::new("queue", sk, job.to_owned())
}

/// Adds a job at `now`, in epoch seconds. A repeated call adds nothing.
pub fn push(db: &impl AtomicDb<Data = String>, now: u64, job: &str, task: &str) -> Result<()> {
    let task = Item::new(job, "task", task.to_owned());
    match db.commit(&Batch::new().create(task).set(entry(now, job))) {
        Err(Error::AlreadyExists { .. }) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Claims a job that is visible at `now`, and hides it from other workers until the timeout.
pub fn claim(db: &impl AtomicDb<Data = String>, now: u64) -> Result<Option<Claim>> {
    let visible = Query::new("queue").range(..format!("{:020}", now + 1));
    for old in db.query(&visible.limit(10).fresh())? {
        let Some(job) = old.data() else { continue };
        let lock = db.get_lock(Key::new(job, "lock"))?;
        if db.get_fresh(old.key())?.is_none() {
            continue; // claimed or finished by another worker
        }
        let entry = entry(now + VISIBILITY_TIMEOUT, job);
        let batch = Batch::new().lock(lock.clone()).delete(old.key());
        if let Some(version) = try_commit(db, batch.set(entry.clone()))? {
            let lock = lock.with_version(version);
            return Ok(Some(Claim { entry, lock }));
        }
    }
    Ok(None)
}

/// Stores the result and removes the job. Returns `false`, and writes nothing, if another worker has
/// claimed the job since, or if an earlier call has finished it.
pub fn finish(db: &impl AtomicDb<Data = String>, claim: &Claim, result: &str) -> Result<bool> {
    let result = Item::new(claim.lock.key().pk, "result", result.to_owned());
    let batch = Batch::new().lock(claim.lock.clone()).set(result);
    let version = try_commit(db, batch.delete(claim.entry.key()))?;
    Ok(version.is_some())
}

fn try_commit(db: &impl AtomicDb<Data = String>, batch: Batch<String>) -> Result<Option<Version>> {
    match db.commit(&batch) {
        Err(error) if error.is_race_condition() => Ok(None),
        outcome => outcome.map(Some),
    }
}

pub fn main() -> Result<()> {
    let (db, now) = (MemoryDb::new(), 1_000);
    push(&db, now, "job#1", "resize the image")?;
    let job = claim(&db, now)?.expect("a visible job");
    assert!(claim(&db, now + 59)?.is_none());
    assert!(finish(&db, &job, "resized")?);
    assert!(!finish(&db, &job, "resized again")?);
    Ok(())
}
