//! A tour of the library: items, locks, a conflict between two writers, the transaction that retries
//! after one, queries, a cache, and expiry.
//!
//! ```sh
//! cargo run --example quickstart
//! ```

use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, LruCache, ManualClock, MemoryDb, Query, Result};
use std::slice;
use std::time::Duration;

/// The key of an item: a partition key and a sort key.
const BALANCE: Key<'_> = Key::new("account#1", "balance");
/// The lock that guards the whole account. It is stored next to the data, under a key of its own.
const LOCK: Key<'_> = Key::new("account#1", "lock");

fn main() -> Result<()> {
    let db = MemoryDb::new();
    items(&db)?;
    commit_by_hand(&db)?;
    transaction(&db)?;
    queries(&db)?;
    cache(&db)?;
    expiry()
}

fn items(db: &MemoryDb<u32>) -> Result<()> {
    println!("1. An item has a partition key, a sort key and data");
    println!("   before anything is set: {:?}", db.get(BALANCE)?);
    db.set(&[Item::new("account#1", "balance", 100)])?;
    println!("   after set:              {}", balance(db)?);
    println!();
    Ok(())
}

fn commit_by_hand(db: &MemoryDb<u32>) -> Result<()> {
    println!("2. A lock is a version, not a mutex: two writers may hold the same one");
    // The order matters: the lock first, then a fresh read, then the commit. A lock protects only
    // data that is read after it.
    let mine = db.get_lock(LOCK)?;
    let yours = db.get_lock(LOCK)?;
    println!("   my version:    {}", mine.version());
    println!("   your version:  {}", yours.version());

    let seen = balance(db)?;
    let version = db.set_atomic(&[new_balance(seen + 10)], slice::from_ref(&mine))?;
    println!("   I add 10 to {seen}, and my commit gives the lock a new version");
    println!("   new version:   {version}");

    match db.set_atomic(&[new_balance(seen + 50)], &[yours]) {
        Err(race) if race.is_race_condition() => println!("   you add 50 to {seen}: {race}"),
        Err(error) => return Err(error),
        Ok(_) => unreachable!("the lock has a new version"),
    }
    println!("   balance: {}; your commit wrote nothing", balance(db)?);

    // A commit returns the new version, so the next one does not have to read the lock again.
    let seen = balance(db)?;
    db.set_atomic(&[new_balance(seen + 10)], &[mine.with_version(version)])?;
    println!("   I commit again with the new version: {}", balance(db)?);
    println!();
    Ok(())
}

fn transaction(db: &MemoryDb<u32>) -> Result<()> {
    println!("3. transact runs its closure again after a conflict");
    let mut attempt = 0;
    let balance = db.transact(|tx| {
        attempt += 1;
        tx.lock(LOCK)?;
        let seen = tx.get(BALANCE)?.and_then(Item::into_data).unwrap_or(0);
        println!("   attempt {attempt}: I read {seen}");
        if attempt == 1 {
            // A lock does not block: another transaction commits while this one runs.
            let seen = deposit(db, 50, "entry#2026-01-15")?;
            println!("              and you change it to {seen}");
        }
        // Both items are written, or none.
        tx.set(new_balance(seen + 10))?;
        tx.set(Item::new("account#1", "entry#2026-01-31", 10))?;
        Ok(seen + 10)
    })?;
    println!("   balance: {balance}; no update was lost");

    // The short form for one item. It keeps the expiry of the item, if there is one.
    let item = db.update(BALANCE, LOCK, |old| Some(old.copied().unwrap_or(0) + 5))?;
    println!("   update adds 5: {:?}", item.and_then(Item::into_data));
    println!();
    Ok(())
}

fn queries(db: &MemoryDb<u32>) -> Result<()> {
    println!("4. The items of a partition are ordered by sort key");
    deposit(db, 25, "entry#2026-02-02")?;

    println!("   the entries of January:");
    for item in db.query(&Query::new("account#1").range("entry#2026-01".."entry#2026-02"))? {
        println!("     {} {:?}", item.sk(), item.data());
    }
    println!("   all entries as a stream, the latest first:");
    // A stream reads a page at a time and holds no lock between pages, so the loop may write.
    for item in db.stream(Query::new("account#1").prefix("entry#").reverse()) {
        let item = item?;
        println!("     {} {:?}", item.sk(), item.data());
        db.delete_one(item.key())?;
    }
    let left = db.query(&Query::new("account#1").prefix("entry#"))?.len();
    println!("   the loop deleted every entry; {left} are left");
    println!();
    Ok(())
}

fn cache(db: &MemoryDb<u32>) -> Result<()> {
    println!("5. An LruCache is a database in front of another database");
    let cached = LruCache::new(db.clone(), 1_000);
    for _ in 0..3 {
        cached.get(BALANCE)?;
    }
    let stats = cached.stats();
    println!("   3 gets: {} miss, {} hits", stats.misses, stats.hits);

    // Transactions bypass the cache, so a stale item never determines a write. Writes update it.
    let balance = deposit(&cached, 1_000, "entry#2026-03-03")?;
    let seen = cached.get(BALANCE)?.and_then(Item::into_data);
    println!("   after a deposit the balance is {balance}, and get returns {seen:?}");
    println!();
    Ok(())
}

fn expiry() -> Result<()> {
    println!("6. An item expires after its ttl");
    // A clock that is moved by hand. The default is the system's clock.
    let clock = ManualClock::new(1_800_000_000);
    let db = MemoryDb::builder().clock(clock.clone()).build();
    let session = Key::new("session", "abc");

    db.set(&[Item::at(session, "Ada").expires_in(Duration::from_secs(60), &clock)])?;
    clock.advance(Duration::from_secs(60));
    println!("   in its last second: {:?}", data(&db, session)?);
    clock.advance(Duration::from_secs(1));
    println!("   a second later:     {:?}", data(&db, session)?);
    Ok(())
}

/// Adds `amount` to the balance, writes an entry for it, and returns the new balance. Works with any
/// database.
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
    // This value determines what is written, so it must not come from a cache.
    let item = db.get_fresh(BALANCE)?;
    Ok(item.and_then(Item::into_data).unwrap_or(0))
}

fn new_balance(amount: u32) -> Item<u32> {
    Item::at(BALANCE, amount)
}

fn data<T: Clone>(db: &MemoryDb<T>, key: Key<'_>) -> Result<Option<T>> {
    Ok(db.get(key)?.and_then(Item::into_data))
}
