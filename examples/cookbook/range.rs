use atomic_db::{AtomicDb, AtomicDbExt, Error, Item, MemoryDb, Query, Result};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Booking {
    pub end: u64,
    pub guest: String,
}

/// Books `room` from `start` until before `end`. Returns `false` if it is taken in that time.
pub fn book(
    db: &impl AtomicDb<Data = Booking>,
    room: &str,
    start: u64,
    end: u64,
    guest: &str,
) -> Result<bool> {
    if start >= end {
        return Err(Error::InvalidInput("a booking ends after its start".into()));
    }
    let sk = |start: u64| format!("booking#{start:020}");
    let booking = Item::new(
        room,
        sk(start),
        Booking {
            end,
            guest: guest.to_owned(),
        },
    );
    db.transact(|tx| {
        // The lock of the partition protects all bookings of the room, also those that do not exist.
        tx.lock((room, "lock"))?;
        // Bookings do not overlap, so of those that start before `end`, the last one ends last.
        let before_end = Query::new(room).range(sk(0)..sk(end)).reverse().limit(1);
        match tx.query(&before_end)?.first() {
            // A call that is repeated finds its own booking.
            Some(last) if last.data().is_some_and(|last| last.end > start) => Ok(*last == booking),
            _ => tx.set(booking.clone()).map(|()| true),
        }
    })
}

pub fn main() -> Result<()> {
    let db = MemoryDb::new();
    assert!(book(&db, "room#1", 10, 12, "Ada")?);
    assert!(book(&db, "room#1", 8, 10, "Bob")?);
    assert!(!book(&db, "room#1", 11, 14, "Eve")?);
    assert!(!book(&db, "room#1", 7, 20, "Eve")?);
    assert!(book(&db, "room#1", 10, 12, "Ada")?);
    Ok(())
}
