//! Uses a database from async code without blocking the runtime: many tasks add to one counter
//! through `spawn_blocking`, and none of their additions is lost.
//!
//! ```sh
//! cargo run --example spawn_blocking
//! ```

use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, MemoryDb};
use std::error::Error;
use tokio::task::{JoinSet, spawn_blocking};

const TASKS: u64 = 16;
const ADDITIONS: u64 = 250;
const COUNTER: Key<'_> = Key::new("visits", "count");

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let db = MemoryDb::new();

    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        // A clone is another handle to the same data. It is `'static`, so a task may own it.
        let db = db.clone();
        tasks.spawn(async move {
            for _ in 0..ADDITIONS {
                add_one(&db).await?;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }

    // Straight from async code this works too, but the thread runs no other task until the call is
    // back. That is harmless for one read from memory. A transaction may sleep between its
    // attempts, and another database may wait for a disk or a network: those belong elsewhere.
    let total = db.get(COUNTER)?.and_then(Item::into_data).unwrap_or(0);

    println!("{TASKS} tasks added 1 to the same counter, {ADDITIONS} times each");
    println!("the total is {total}, and should be {}", TASKS * ADDITIONS);
    if total != TASKS * ADDITIONS {
        return Err("an addition was lost".into());
    }
    Ok(())
}

/// Adds one to the counter, on a thread that may block. The whole transaction goes there at once:
/// its closure is ordinary blocking code, and only the result comes back to the task.
async fn add_one(db: &MemoryDb<u64>) -> Result<u64, Failure> {
    let db = db.clone();
    let added = spawn_blocking(move || {
        db.transact(|tx| {
            tx.lock(("visits", "lock"))?;
            let count = tx.get(COUNTER)?.and_then(Item::into_data).unwrap_or(0) + 1;
            tx.set(Item::new(COUNTER.pk, COUNTER.sk, count))?;
            Ok(count)
        })
    });
    // The outer error is a closure that panicked, the inner one is the database's.
    Ok(added.await??)
}
