#![doc = include_str!("../README.md")]
//!
//! # The trait at a glance
//!
//! ```text
//! trait AtomicDb {
//!     type Data;
//!
//!     fn get(&self, key: Key) -> Result<Option<Item<Data>>>;         // a cache may answer
//!     fn get_fresh(&self, key: Key) -> Result<Option<Item<Data>>>;   // the database itself
//!     fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item<Data>>>>;
//!     fn get_lock(&self, key: Key) -> Result<Lock>;                  // made if it is not there
//!     fn set(&self, items: &[Item<Data>]) -> Result<()>;             // checks nothing
//!     fn commit(&self, batch: &Batch<Data>) -> Result<Version>;      // all or nothing
//!     fn delete(&self, keys: &[Key]) -> Result<()>;
//!     fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Data>>;
//!
//!     // In terms of these:
//!     fn set_atomic(&self, items: &[Item<Data>], locks: &[Lock]) -> Result<Version>;
//!     fn query(&self, query: &Query) -> Result<Vec<Item<Data>>>;
//!     fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Data>>>;
//! }
//! ```
//!
//! # Consistency
//!
//! - [`get_fresh`](AtomicDb::get_fresh) sees every write that had finished before it began.
//!   [`get`](AtomicDb::get) does so too, except that through an [`LruCache`] it may miss what went
//!   round that cache.
//! - A [`commit`](AtomicDb::commit) happens at one instant. A single read sees all of it or nothing;
//!   so does a [`get_many`](AtomicDb::get_many) or [`query`](AtomicDb::query) of a [`MemoryDb`] or a
//!   `RedbDb`, for each of them sees one instant.
//! - A [`stream`](AtomicDb::stream) is no snapshot: what is there throughout is yielded once, of the
//!   rest some.
//! - Two reads are two instants. What ties them together is a lock that was read before both, and
//!   that a commit then checks or renews.
//! - Clones of a handle are the same database.
//!
//! # Recipes
//!
//! **Several types in one database**: an enum as the data, in Rust's own manner.
//!
//! ```
//! use atomic_db::{AtomicDb, Item, MemoryDb};
//!
//! enum Record {
//!     User { name: String },
//!     Order { total: u32 },
//! }
//!
//! let db = MemoryDb::new();
//! db.set(&[
//!     Item::new("user#1", "profile", Record::User { name: "Ada".into() }),
//!     Item::new("user#1", "order#1", Record::Order { total: 12 }),
//! ])?;
//! # Ok::<(), atomic_db::Error>(())
//! ```
//!
//! **A secondary index**: write its items in the same commit.
//!
//! ```
//! use atomic_db::{AtomicDb, Batch, Item, MemoryDb};
//!
//! let db = MemoryDb::new();
//! db.commit(
//!     &Batch::new()
//!         .create(Item::new("user#1", "profile", "ada@example.org"))
//!         .create(Item::new("user by mail", "ada@example.org", "user#1")),
//! )?;
//! # Ok::<(), atomic_db::Error>(())
//! ```
//!
//! **A read that must not be acted on if it is old**: check the lock that guards it instead of
//! renewing it, so that those who only read do not fail each other.
//!
//! ```
//! use atomic_db::{AtomicDb, AtomicDbExt, Item, MemoryDb};
//!
//! let db = MemoryDb::new();
//! db.set(&[Item::new("shop", "open", "yes")])?;
//! db.transact(|tx| {
//!     tx.check(("shop", "lock"))?;
//!     tx.lock(("user#1", "lock"))?;
//!     if tx.get(("shop", "open"))?.is_some() {
//!         tx.create(Item::new("user#1", "order#1", "tea"))?;
//!     }
//!     Ok(())
//! })?;
//! # Ok::<(), atomic_db::Error>(())
//! ```
//!
//! See [`_documentation::design`] for the rationale, and [`_documentation::testing`] for how the
//! guarantees are tested.

#![forbid(unsafe_code)]

pub mod _documentation;
mod batch;
mod cache;
mod clock;
mod db;
mod deferred_drop;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod error;
mod hash;
mod item;
mod key;
mod lock;
mod memory;
mod query;
mod random;
#[cfg(feature = "redb")]
mod redb;
mod sharding;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod transact;
mod version;

pub use batch::Batch;
pub use cache::{CacheStats, LruCache, LruCacheBuilder};
pub use clock::{Clock, ManualClock, SystemClock};
pub use db::AtomicDb;
#[cfg(feature = "dynamodb")]
pub use dynamodb::{DynamoDb, DynamoDbBuilder, DynamoDbError};
pub use error::{BoxError, Error, Result};
pub use item::Item;
pub use key::{Key, KeyBuf};
pub use lock::Lock;
pub use memory::{MemoryDb, MemoryDbBuilder, Sweeper};
pub use query::{Page, Query};
#[cfg(feature = "redb")]
pub use redb::{Durability, RedbDb, RedbDbBuilder};
pub use transact::{AtomicDbExt, Retry, Transaction};
pub use version::{Version, VersionGenerator};
