use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, MemoryDb, Result, Scan};
use serde::{Deserialize, Serialize};

/// A user, as the program sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub visits: u64,
}

/// A user, as it is stored. Older versions of the program stored only the name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stored {
    New(User),
    Old(String),
}

impl Stored {
    pub fn to_user(&self) -> User {
        match self {
            Stored::New(user) => user.clone(),
            Stored::Old(name) => User {
                name: name.clone(),
                visits: 0,
            },
        }
    }
}

/// Counts a visit. A user that is changed is written in the new format.
pub fn visit(db: &impl AtomicDb<Data = Stored>, user: &str) -> Result<()> {
    let change = |stored: Option<&Stored>| {
        let mut user = stored?.to_user();
        user.visits += 1;
        Some(Stored::New(user))
    };
    db.update((user, "profile"), (user, "lock"), change)?;
    Ok(())
}

/// Rewrites all users that are in the old format, while the program is running.
pub fn upgrade_all(db: &impl Scan<Data = Stored>) -> Result<()> {
    for item in db.scan() {
        let item = item?;
        if matches!(item.data(), Some(Stored::Old(_))) {
            // The item of the scan may have changed since it was read: `update` reads it again.
            let change = |stored: Option<&Stored>| Some(Stored::New(stored?.to_user()));
            db.update(&item, (item.pk(), "lock"), change)?;
        }
    }
    Ok(())
}

pub fn main() -> Result<()> {
    let db = MemoryDb::new();
    db.set_one(Item::new("user#1", "profile", Stored::Old("Ada".into())))?;
    upgrade_all(&db)?;
    visit(&db, "user#1")?;
    let stored = db.get(Key::new("user#1", "profile"))?;
    let user = stored.as_ref().and_then(Item::data).map(Stored::to_user);
    assert_eq!(user.map(|user| user.visits), Some(1));
    Ok(())
}
