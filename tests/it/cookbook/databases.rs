//! The databases on which each recipe runs.

use atomic_db::{LruCache, ManualClock, MemoryDb, Scan};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// In 2033, so that a server that deletes expired rows by its own clock finds none.
const START: u64 = 2_000_000_000;

pub(super) type SharedScan<T> = Arc<dyn Scan<Data = T> + Send + Sync>;

/// A new, empty database, and its clock.
pub(super) struct Database<T> {
    pub(super) name: &'static str,
    pub(super) db: SharedScan<T>,
    pub(super) clock: ManualClock,
}

impl<T> Database<T> {
    fn new<D>(name: &'static str, make: impl FnOnce(ManualClock) -> D) -> Self
    where
        D: Scan<Data = T> + Send + Sync + 'static,
    {
        let clock = ManualClock::new(START);
        let db = Arc::new(make(clock.clone()));
        Database { name, db, clock }
    }
}

/// Creates one database of each kind. `PostgresDb` and `DynamoDb` are left out without their servers.
pub(super) fn databases<T>() -> Vec<Database<T>>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let memory = |clock| MemoryDb::builder().clock(clock).build();
    // Without features, there are only these.
    #[allow(unused_mut)]
    let mut databases = vec![
        Database::new("MemoryDb", memory),
        Database::new("LruCache", |clock| {
            let inner = memory(clock.clone());
            LruCache::builder(inner).capacity(8).clock(clock).build()
        }),
    ];
    #[cfg(feature = "redb")]
    databases.push(Database::new("RedbDb", |clock| {
        use crate::redb::temporary::Temporary;
        use atomic_db::{Durability, RedbDb};

        let builder = RedbDb::builder().clock(clock);
        Temporary::open(builder.durability(Durability::Deferred))
    }));
    #[cfg(feature = "postgres")]
    if let Some(server) = crate::postgres::server::Server::shared() {
        use crate::postgres::server::new_name;
        use atomic_db::PostgresDb;

        databases.push(Database::new("PostgresDb", |clock| {
            let builder = PostgresDb::builder()
                .table(new_name("cookbook"))
                .clock(clock);
            builder.connect(server.url()).unwrap()
        }));
    }
    #[cfg(feature = "dynamodb")]
    if let Some(endpoint) = crate::dynamodb::server::endpoint() {
        databases.push(Database::new("DynamoDb", |clock| {
            let builder = crate::dynamodb::server::builder(endpoint, clock);
            builder.open().unwrap()
        }));
    }
    databases
}
