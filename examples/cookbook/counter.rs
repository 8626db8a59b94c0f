use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, KeyBuf, MemoryDb, Result};

const SHARDS: u32 = 16;

/// Adds one to a counter that few writers change.
pub fn increment(db: &impl AtomicDb<Data = u64>, page: &str) -> Result<()> {
    let add_one = |count: Option<&u64>| Some(count.copied().unwrap_or(0) + 1);
    db.update((page, "visits"), (page, "lock"), add_one)
        .map(drop)
}

/// Adds one to a counter that many writers change. Each writer uses one shard: the number of its
/// thread, or a random number.
pub fn increment_shard(db: &impl AtomicDb<Data = u64>, page: &str, writer: u32) -> Result<()> {
    increment(db, &shard(page, writer % SHARDS))
}

/// Returns the sum of all shards.
pub fn total(db: &impl AtomicDb<Data = u64>, page: &str) -> Result<u64> {
    let keys: Vec<KeyBuf> = (0..SHARDS)
        .map(|index| KeyBuf::new(shard(page, index), "visits"))
        .collect();
    let keys: Vec<Key<'_>> = keys.iter().map(KeyBuf::as_key).collect();
    let counts = db.get_many_fresh(&keys)?;
    Ok(counts.iter().flatten().filter_map(Item::data).sum())
}

/// Returns the partition of a shard.
fn shard(page: &str, index: u32) -> String {
    format!("{page}/{index}")
}

pub fn main() -> Result<()> {
    let db = MemoryDb::new();
    for writer in 0..100 {
        increment(&db, "page#1")?;
        increment_shard(&db, "page#2", writer)?;
    }
    assert_eq!(
        db.get(Key::new("page#1", "visits"))?
            .and_then(Item::into_data),
        Some(100)
    );
    assert_eq!(total(&db, "page#2")?, 100);
    Ok(())
}
