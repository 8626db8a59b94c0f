use atomic_db::{AtomicDb, AtomicDbExt, Item, MemoryDb, Result, Scan};
use serde::{Deserialize, Serialize};

/// A user, as the program sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub first: String,
    pub last: String,
    pub visits: u64,
}

/// A user, as it is stored. The formats are distinguished by their fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stored {
    New(User),
    /// As older versions of the program wrote it.
    Old {
        name: String,
        visits: u64,
    },
}

impl Stored {
    pub fn to_user(&self) -> User {
        match self {
            Stored::New(user) => user.clone(),
            Stored::Old { name, visits } => {
                let (first, last) = name.split_once(' ').unwrap_or((name, ""));
                let (first, last) = (first.to_owned(), last.to_owned());
                User {
                    first,
                    last,
                    visits: *visits,
                }
            }
        }
    }
}

/// Counts a visit. A user that is changed is written in the new format.
pub fn visit(db: &impl AtomicDb<Data = Stored>, user: &str) -> Result<()> {
    let change = |stored: Option<&Stored>| {
        let user = stored?.to_user();
        Some(Stored::New(User {
            visits: user.visits + 1,
            ..user
        }))
    };
    db.update((user, "profile"), (user, "lock"), change)
        .map(drop)
}

/// Rewrites all users that are in the old format, while the program is running.
pub fn upgrade_all(db: &impl Scan<Data = Stored>) -> Result<()> {
    for item in db.scan() {
        let item = item?;
        if matches!(item.data(), Some(Stored::Old { .. })) {
            // The item of the scan may have changed since it was read: `update` reads it again.
            let change = |stored: Option<&Stored>| Some(Stored::New(stored?.to_user()));
            db.update(&item, (item.pk(), "lock"), change)?;
        }
    }
    Ok(())
}

pub fn main() -> Result<()> {
    let db = MemoryDb::new();
    let old = Stored::Old {
        name: "Ada Lovelace".into(),
        visits: 2,
    };
    db.set_one(Item::new("user#1", "profile", old))?;
    upgrade_all(&db)?;
    visit(&db, "user#1")?;
    let user = db
        .get(("user#1", "profile").into())?
        .and_then(Item::into_data);
    let new = User {
        first: "Ada".into(),
        last: "Lovelace".into(),
        visits: 3,
    };
    assert_eq!(user, Some(Stored::New(new)));
    Ok(())
}
