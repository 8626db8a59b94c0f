//! Uses a database from async code without blocking the runtime: many tasks increment one counter
//! through `spawn_blocking`, and no increment is lost.
//!
//! ```sh
//! cargo run --example spawn_blocking
//! ```

use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, MemoryDb};
use std::error::Error;
use tokio::task::{JoinSet, spawn_blocking};

const TASKS: u64 = 16;
const INCREMENTS: u64 = 250;
const COUNTER: Key<'_> = Key::new("visits", "count");

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let db = MemoryDb::new();

    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        // A clone is another handle to the same data. It is `'static`, so a task can own it.
        let db = db.clone();
        tasks.spawn(async move {
            for _ in 0..INCREMENTS {
                increment(&db).await?;
            }
            Ok::<(), BoxError>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }

    // A direct call from async code works too, but the thread runs no other task until it returns.
    // That is harmless for one read from memory. A transaction may sleep between its attempts, and
    // another database may wait for a disk or a network, so these belong in `spawn_blocking`.
    let total = db.get(COUNTER)?.and_then(Item::into_data).unwrap_or(0);

    println!("{TASKS} tasks incremented one counter, {INCREMENTS} times each");
    println!("total: {total}, expected: {}", TASKS * INCREMENTS);
    if total != TASKS * INCREMENTS {
        return Err("an increment was lost".into());
    }
    Ok(())
}

/// Increments the counter on a thread that may block. The whole transaction runs there, as ordinary
/// blocking code, and only its result is sent back to the task.
async fn increment(db: &MemoryDb<u64>) -> Result<u64, BoxError> {
    let db = db.clone();
    let count = spawn_blocking(move || {
        db.transact(|tx| {
            tx.lock(("visits", "lock"))?;
            let count = tx.get(COUNTER)?.and_then(Item::into_data).unwrap_or(0) + 1;
            tx.set(Item::new(COUNTER.pk, COUNTER.sk, count))?;
            Ok(count)
        })
    });
    // The outer error means that the closure panicked; the inner one is the database's.
    Ok(count.await??)
}
