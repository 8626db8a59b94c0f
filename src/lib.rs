#![doc = include_str!("../README.md")]
//!
//! # The trait at a glance
//!
//! ```text
//! trait AtomicDb {
//!     type Data;
//!
//!     fn get(&self, key: Key) -> Result<Option<Item<Data>>>;         // may be answered by a cache
//!     fn get_fresh(&self, key: Key) -> Result<Option<Item<Data>>>;   // bypasses caches
//!     fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item<Data>>>>;
//!     fn get_many_fresh(&self, keys: &[Key]) -> Result<Vec<Option<Item<Data>>>>;
//!     fn get_lock(&self, key: Key) -> Result<Lock>;                  // created if it is missing
//!     fn get_locks(&self, keys: &[Key]) -> Result<Vec<Lock>>;
//!     fn set(&self, items: &[Item<Data>]) -> Result<()>;             // unconditional
//!     fn commit(&self, batch: &Batch<Data>) -> Result<Version>;      // all or nothing
//!     fn delete(&self, keys: &[Key]) -> Result<()>;
//!     fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Data>>;
//!
//!     // implemented in terms of the above
//!     fn set_atomic(&self, items: &[Item<Data>], locks: &[Lock]) -> Result<Version>;
//!     fn query(&self, query: &Query) -> Result<Vec<Item<Data>>>;
//!     fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Data>>>;
//!     fn retry_queue(&self) -> Option<&RetryQueue>;                  // turns under contention
//!     fn transaction_observer(&self) -> Option<&dyn Observer>;       // for logs and metrics
//! }
//! ```
//!
//! # Consistency
//!
//! - [`get_fresh`](AtomicDb::get_fresh) sees every write that completed before the call. So does
//!   [`get`](AtomicDb::get), except that through an [`LruCache`] it may miss writes that bypassed the
//!   cache.
//! - A [`commit`](AtomicDb::commit) is atomic: every read sees all of it or nothing. With a
//!   [`MemoryDb`], a `RedbDb` or a `PostgresDb`, one [`get_many`](AtomicDb::get_many) and one
//!   [`query`](AtomicDb::query) are each a snapshot.
//! - A [`stream`](AtomicDb::stream) is not a snapshot. Items that are present for its whole duration
//!   are yielded exactly once; items that are added or removed during that time may or may not be.
//! - A [`scan`](Scan::scan) gives the same assurance for all partitions, in no stated order.
//! - Two reads are two points in time. To tie them together, read a lock before both, and renew or
//!   check it in the commit.
//! - Cloned handles refer to the same database.
//!
//! # Recipes
//!
//! **Several types in one database**: use an enum as the data type.
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
//! **Validating a read without writing to it**: check the lock instead of renewing it. Transactions
//! that only check a lock do not conflict with each other.
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
//! The [cookbook](_documentation::cookbook) has longer ones, each with its guarantee, cost and limits:
//! unique values, idempotency keys, an outbox, a work queue, counters, secondary indexes, ranges, locks
//! that are found by reading, a leader, sessions, ETags, moving to another database, changing a data
//! type, and what to do after an unknown outcome.
//!
//! # Documents
//!
//! - [Cookbook](_documentation::cookbook): recipes that are tested on every database.
//! - [Design](_documentation::design): why it is built this way, and what was left out.
//! - [Testing](_documentation::testing): what is tested, how, and what the tests do not show.
//! - [Testing your code](_documentation::testing_your_code): time, injected faults, and contention.
//! - [Contributing](_documentation::contributing): building, testing, adding a backend.
#![cfg_attr(
    feature = "dynamodb",
    doc = "- [DynamoDB-compatible servers](_documentation::dynamodb): what they must be able to do, and which ones were tried."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod _documentation;
mod batch;
#[cfg(any(feature = "dynamodb", feature = "postgres"))]
mod blocking_runtime;
mod cache;
mod clock;
#[cfg(feature = "json-lines")]
mod codec;
mod db;
mod deferred_drop;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod error;
mod expiry;
mod hash;
mod item;
mod key;
mod lock;
mod memory;
mod observe;
#[cfg(feature = "postgres")]
mod postgres;
mod query;
mod random;
#[cfg(feature = "redb")]
mod redb;
mod scan;
#[cfg(feature = "serde")]
mod serde_impls;
mod sharding;
mod stopwatch;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod transact;
mod transfer;
mod unwind_safe;
mod version;

pub use batch::Batch;
pub use cache::{CacheStats, LruCache, LruCacheBuilder};
pub use clock::{Clock, ManualClock, SystemClock};
#[cfg(feature = "json-lines")]
pub use codec::{Bytes, Codec, Json};
pub use db::{AtomicDb, SharedDb};
#[cfg(feature = "dynamodb")]
pub use dynamodb::{DynamoDb, DynamoDbBuilder, DynamoDbError};
pub use error::{BoxError, Error, Result};
pub use item::Item;
pub use key::{Key, KeyBuf};
pub use lock::Lock;
pub use memory::{MemoryDb, MemoryDbBuilder, Sweeper};
pub use observe::{
    CallEvent, ConflictEvent, Counters, CountersSnapshot, ErrorKind, HotLock, Observed, Observer,
    Operation, OperationStats, Quantiles, TransactionEnd, TransactionEvent, TransactionStats,
};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresDb, PostgresDbBuilder, PostgresDbError};
pub use query::{Page, Query, SortKeyRange};
#[cfg(feature = "redb")]
pub use redb::{Durability, RedbDb, RedbDbBuilder};
pub use scan::Scan;
pub use transact::{AtomicDbExt, Retry, RetryQueue, Transaction};
#[cfg(feature = "json-lines")]
pub use transfer::json_lines;
pub use transfer::{TransferError, copy};
pub use version::{Version, VersionGenerator};
