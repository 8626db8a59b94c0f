use atomic_db::{AtomicDb, AtomicDbExt, Clock, Item, Key, MemoryDb, Result, SystemClock};
use std::time::Duration;

/// How long a session lives after a visit, at least half of it.
pub const LIFE: Duration = Duration::from_secs(30 * 60);

/// Begins a session under a random `token`.
pub fn log_in(
    db: &impl AtomicDb<Data = String>,
    clock: &dyn Clock,
    token: &str,
    user: &str,
) -> Result<()> {
    db.create(Item::new(token, "session", user.to_owned()).expires_in(LIFE, clock))
}

/// Returns the user of a live session, and extends its life.
pub fn visit(
    db: &impl AtomicDb<Data = String>,
    clock: &dyn Clock,
    token: &str,
) -> Result<Option<String>> {
    let Some(session) = db.get(Key::new(token, "session"))? else {
        return Ok(None);
    };
    // A visit writes only in the second half of the session's life.
    if session.ttl() > Some((clock.now() + LIFE / 2).as_secs()) {
        return Ok(session.into_data());
    }
    db.transact(|tx| {
        tx.lock((token, "lock"))?;
        let Some(session) = tx.get((token, "session"))? else {
            return Ok(None);
        };
        tx.set(session.clone().expires_in(LIFE, clock))?;
        Ok(session.into_data())
    })
}

/// Ends a session. A visit at the same time cannot bring it back, because it has the same lock.
pub fn log_out(db: &impl AtomicDb<Data = String>, token: &str) -> Result<()> {
    db.transact(|tx| {
        tx.lock((token, "lock"))?;
        tx.delete((token, "session"))
    })
}

pub fn main() -> Result<()> {
    let (db, clock) = (MemoryDb::new(), SystemClock);
    log_in(&db, &clock, "session#5e1f", "Ada")?;
    assert_eq!(visit(&db, &clock, "session#5e1f")?.as_deref(), Some("Ada"));
    log_out(&db, "session#5e1f")?;
    assert_eq!(visit(&db, &clock, "session#5e1f")?, None);
    Ok(())
}
