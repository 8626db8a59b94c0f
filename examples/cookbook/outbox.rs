use atomic_db::{AtomicDb, Batch, Error, Item, Key, MemoryDb, Query, Result};

/// Stores an order, and in the same commit the message that announces it.
pub fn place(db: &impl AtomicDb<Data = String>, order: &str, text: &str) -> Result<()> {
    let batch = Batch::new()
        .create(Item::new(order, "text", text.to_owned()))
        .create(Item::new("outbox", order, text.to_owned()));
    match db.commit(&batch) {
        Err(Error::AlreadyExists { key }) => {
            // An earlier call with an unknown outcome may have placed this order.
            let stored = db.get_fresh(Key::new(order, "text"))?;
            if stored.is_some_and(|stored| stored.data().is_some_and(|stored| stored == text)) {
                return Ok(());
            }
            Err(Error::AlreadyExists { key })
        }
        outcome => outcome.map(drop),
    }
}

/// Sends the waiting messages, and removes each one after it was sent. Returns their number. A worker
/// calls this in a loop, with a pause after zero.
pub fn deliver(
    db: &impl AtomicDb<Data = String>,
    mut send: impl FnMut(&Item<String>) -> Result<()>,
) -> Result<usize> {
    let messages = db.query(&Query::new("outbox").limit(25).fresh())?;
    for message in &messages {
        send(message)?;
        db.delete(&[message.key()])?;
    }
    Ok(messages.len())
}

pub fn main() -> Result<()> {
    let db = MemoryDb::new();
    place(&db, "order#1", "tea")?;
    place(&db, "order#1", "tea")?; // repeated by the client
    let mut sent = Vec::new();
    let mut send = |message: &Item<String>| {
        sent.push(message.sk().to_owned());
        Ok(())
    };
    assert_eq!(deliver(&db, &mut send)?, 1);
    assert_eq!(deliver(&db, &mut send)?, 0);
    assert_eq!(sent, ["order#1"]);
    Ok(())
}
