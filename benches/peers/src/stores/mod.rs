//! The stores that are compared: atomic-db's databases and their peers, each by the fastest correct use
//! of its own interface.
//!
//! A caller keeps its keys in the form that the store takes, made before anything is measured. What a
//! store takes ownership of (the key of a new entry, the entry) is made by the call.

mod files;
mod maps;
mod memory_db;
mod postgres;
mod store;
mod transactional;
mod tx_map;

pub(crate) use files::{FileStore, FjallStore, RawRedb, Record, RedbDbStore, SqliteWal};
pub(crate) use maps::{
    DashMapStore, MutexBTreeMap, MutexHashMap, PapayaStore, SccStore, TreeIndexStore,
};
pub(crate) use memory_db::MemoryDbStore;
pub(crate) use postgres::{ByHand, PostgresDbStore, SqlStore};
pub(crate) use store::{Account, Hasher, Operation, Store};
pub(crate) use transactional::{RedbInMemory, SqliteInMemory, SurrealStore};
pub(crate) use tx_map::TxMapStore;
