#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod batch;
mod cache;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod db;
mod error;
mod hash;
mod item;
mod key;
mod lock;
mod memory;
mod query;
mod sync;
mod transact;
mod version;

pub use batch::Batch;
pub use cache::{LruCache, LruCacheBuilder, Stats};
pub use clock::{Clock, ManualClock, SystemClock};
pub use db::AtomicDb;
pub use error::{Error, Result, Source};
pub use item::Item;
pub use key::{Key, KeyBuf};
pub use lock::Lock;
pub use memory::{MemoryDb, MemoryDbBuilder, Sweeper};
pub use query::{Page, Query};
pub use transact::{AtomicDbExt, Retry, Transaction};
pub use version::{Version, VersionGenerator};
