//! A first walk: items, locks, what happens when two writers meet, and the loop that takes care of
//! it; then queries, a cache and expiry.
//!
//! ```sh
//! cargo run --example quickstart
//! ```

use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, LruCache, ManualClock, MemoryDb, Query, Result};
use std::slice;
use std::time::Duration;

/// An item's address is a partition key and a sort key.
const BALANCE: Key<'_> = Key::new("account#1", "balance");
/// The lock that guards the whole account. It lives beside the data, under a key of its own.
const LOCK: Key<'_> = Key::new("account#1", "lock");

fn main() -> Result<()> {
    let db = MemoryDb::new();
    items(&db)?;
    a_commit_by_hand(&db)?;
    the_same_by_transact(&db)?;
    queries(&db)?;
    a_cache(&db)?;
    time_to_live()
}

fn items(db: &MemoryDb<u32>) -> Result<()> {
    println!("1. An item has a partition key, a sort key and data");
    println!("   before anything is set: {:?}", db.get(BALANCE)?);
    db.set(&[Item::new("account#1", "balance", 100)])?;
    println!("   after set:              {}", balance(db)?);
    println!();
    Ok(())
}

fn a_commit_by_hand(db: &MemoryDb<u32>) -> Result<()> {
    println!("2. A lock is a version, not a mutex: two may hold the same one");
    // The order matters: the lock first, then a fresh read, then the commit. Only a lock that is
    // older than the data proves that the data has not changed since.
    let mine = db.get_lock(LOCK)?;
    let yours = db.get_lock(LOCK)?;
    println!("   my version:    {}", mine.version());
    println!("   your version:  {}", yours.version());

    let seen = balance(db)?;
    let version = db.set_atomic(&[new_balance(seen + 10)], slice::from_ref(&mine))?;
    println!("   I add 10 to {seen}, and my commit gives the lock a new version");
    println!("   new version:   {version}");

    match db.set_atomic(&[new_balance(seen + 50)], &[yours]) {
        Err(lost) if lost.is_race_condition() => println!("   you add 50 to {seen}: {lost}"),
        Err(error) => return Err(error),
        Ok(_) => unreachable!("the lock is not as it was read"),
    }
    println!("   balance: {}; nothing of yours was written", balance(db)?);

    // The commit told its new version, so whoever made it may go on without reading the lock.
    let seen = balance(db)?;
    db.set_atomic(&[new_balance(seen + 10)], &[mine.with_version(version)])?;
    println!("   I go on with the renewed lock: {}", balance(db)?);
    println!();
    Ok(())
}

fn the_same_by_transact(db: &MemoryDb<u32>) -> Result<()> {
    println!("3. transact runs its closure again after a race");
    let mut run = 0;
    let balance = db.transact(|tx| {
        run += 1;
        tx.lock(LOCK)?;
        let seen = tx.get(BALANCE)?.and_then(Item::into_data).unwrap_or(0);
        println!("   run {run}: I see {seen}");
        if run == 1 {
            // Nobody waits for anybody: while this transaction runs, another one commits.
            let seen = deposit(db, 50, "entry#2026-01-15")?;
            println!("          meanwhile you make it {seen}");
        }
        // Both items are written, or neither.
        tx.set(new_balance(seen + 10))?;
        tx.set(Item::new("account#1", "entry#2026-01-31", 10))?;
        Ok(seen + 10)
    })?;
    println!("   balance: {balance}; nothing was lost");
    println!();
    Ok(())
}

fn queries(db: &MemoryDb<u32>) -> Result<()> {
    println!("4. The items of a partition are ordered by sort key");
    deposit(db, 25, "entry#2026-02-02")?;

    println!("   the entries of January:");
    for item in db.query(&Query::new("account#1").prefix("entry#2026-01"))? {
        println!("     {} {:?}", item.sk(), item.data());
    }
    println!("   all entries as a stream, the latest first:");
    // A stream reads a page at a time and holds nothing in between, so that its loop may write.
    for item in db.stream(Query::new("account#1").prefix("entry#").reverse()) {
        let item = item?;
        println!("     {} {:?}", item.sk(), item.data());
        db.delete_one(item.key())?;
    }
    let left = db.query(&Query::new("account#1").prefix("entry#"))?.len();
    println!("   the loop deleted each entry that it saw; left: {left}");
    println!();
    Ok(())
}

fn a_cache(db: &MemoryDb<u32>) -> Result<()> {
    println!("5. An LruCache is a database in front of another one");
    let cached = LruCache::new(db.clone(), 1_000);
    for _ in 0..3 {
        cached.get(BALANCE)?;
    }
    let stats = cached.stats();
    println!("   3 gets: {} miss, {} hits", stats.misses, stats.hits);

    // Writes go through it, and transactions read past it: a cached item never decides a write.
    let balance = deposit(&cached, 1_000, "entry#2026-03-03")?;
    let seen = cached.get(BALANCE)?.and_then(Item::into_data);
    println!("   after a deposit the balance is {balance}, and a get sees {seen:?}");
    println!();
    Ok(())
}

fn time_to_live() -> Result<()> {
    println!("6. An item with a time to live goes by itself");
    // A clock that is moved by hand; without one, a database uses the system's.
    let clock = ManualClock::new(1_800_000_000);
    let db = MemoryDb::builder().clock(clock.clone()).build();
    let session = Key::new("session", "abc");

    db.set(&[Item::new(session.pk, session.sk, "Ada").expires_at(1_800_000_060)])?;
    clock.advance(Duration::from_secs(60));
    println!("   in its last second: {:?}", data(&db, session)?);
    clock.advance(Duration::from_secs(1));
    println!("   a second later:     {:?}", data(&db, session)?);
    Ok(())
}

/// Adds `amount` to the balance and writes an entry of it, in any database: `transact` is there for
/// each of them. Returns the new balance.
fn deposit(db: &impl AtomicDb<Data = u32>, amount: u32, entry: &str) -> Result<u32> {
    db.transact(|tx| {
        tx.lock(LOCK)?;
        let seen = tx.get(BALANCE)?.and_then(Item::into_data).unwrap_or(0);
        tx.set(new_balance(seen + amount))?;
        tx.set(Item::new("account#1", entry, amount))?;
        Ok(seen + amount)
    })
}

fn balance(db: &MemoryDb<u32>) -> Result<u32> {
    // What is read here decides what is written, so it must not come from a cache.
    let item = db.get_fresh(BALANCE)?;
    Ok(item.and_then(Item::into_data).unwrap_or(0))
}

fn new_balance(amount: u32) -> Item<u32> {
    Item::new(BALANCE.pk, BALANCE.sk, amount)
}

fn data<T: Clone>(db: &MemoryDb<T>, key: Key<'_>) -> Result<Option<T>> {
    Ok(db.get(key)?.and_then(Item::into_data))
}
