//! The stores that are compared: atomic-db's database and its peers, each by the fastest honest use
//! of its own interface.
//!
//! A caller keeps its keys in the form that the store likes best, made before anything is measured.
//! What a store takes for its own (the key of a new entry, the entry itself) is made by the call.

mod files;
mod maps;
mod memory_db;
mod transactional;

use crate::keys::Span;

pub(crate) use files::{Bare, Files, Fjall, OneFile, Record, Wal};
pub(crate) use maps::{Dash, Hashed, Ordered, Papaya, Scc};
pub(crate) use memory_db::Memory;
pub(crate) use transactional::{Redb, Sqlite, Surreal};

/// The one hasher: atomic-db's own.
pub(crate) type Hasher = hashbrown::DefaultHashBuilder;

/// What a store is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A handle on what is there, looked at and dropped.
    Get,
    /// The same, looked at where it is, without a handle.
    GetInPlace,
    GetMiss,
    Set,
    /// The same, by looking the entry up and changing it there.
    SetInPlace,
    Insert,
    Delete,
    GetLock,
    SetAtomic,
    Transfer,
    /// The same, by a closure that may be run again.
    Transact,
    Query,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Get => "get hit",
            Operation::GetInPlace => "get hit, read in place",
            Operation::GetMiss => "get miss",
            Operation::Set => "set of an existing key",
            Operation::SetInPlace => "set of an existing key, in place",
            Operation::Insert => "insert",
            Operation::Delete => "delete",
            Operation::GetLock => "get_lock",
            Operation::SetAtomic => "set_atomic",
            Operation::Transfer => "transfer",
            Operation::Transact => "transfer by transact",
            Operation::Query => "query of 100 items",
        }
    }
}

/// Two keys of an account: the balance, and the lock that guards it where a store needs one.
#[derive(Debug)]
pub(crate) struct Account<K> {
    pub(crate) balance: K,
    pub(crate) lock: K,
}

/// A store under measurement. A method is called only if `OPERATIONS` has its operation.
pub(crate) trait Store: Sync + Sized {
    const NAME: &'static str;
    const OPERATIONS: &'static [Operation];

    /// A key, in the form that the store likes best.
    type Key: Send + Sync;

    /// A part of an order, in the form that the store likes best.
    type Range: Send + Sync;

    /// What a conditional write checks.
    type Lock: Send;

    fn new() -> Self;

    fn key(pk: &str, sk: &str) -> Self::Key;

    fn range(span: &Span) -> Self::Range;

    /// Fills the store, as quickly as it can be.
    fn load(&self, items: &[(Self::Key, u64)]) {
        for (key, value) in items {
            self.set(key, *value);
        }
    }

    fn get(&self, key: &Self::Key) -> Option<u64>;

    fn set(&self, key: &Self::Key, value: u64);

    fn delete(&self, key: &Self::Key);

    fn get_in_place(&self, _: &Self::Key) -> Option<u64> {
        unreachable!("{} cannot read in place", Self::NAME)
    }

    fn set_in_place(&self, _: &Self::Key, _: u64) {
        unreachable!("{} cannot write in place", Self::NAME)
    }

    /// What a write checks, read anew; made if need be. Nothing where the store finds conflicts itself.
    fn get_lock(&self, account: &Account<Self::Key>) -> Self::Lock;

    /// Writes `value` if nobody else has written since `lock` was read, which nobody has; leaves
    /// `lock` as the write left it.
    fn set_atomic(&self, _: &Account<Self::Key>, _: &mut Self::Lock, _: u64) {
        unreachable!("{} has no transactions", Self::NAME)
    }

    /// Moves one unit, reading both balances and writing both, all or nothing; again after a race.
    fn transfer(&self, _: &Account<Self::Key>, _: &Account<Self::Key>) {
        unreachable!("{} has no transactions", Self::NAME)
    }

    fn transact(&self, _: &Account<Self::Key>, _: &Account<Self::Key>) {
        unreachable!("{} has no transactions", Self::NAME)
    }

    /// Handles on everything in the range, in a vector; their number.
    fn query(&self, _: &Self::Range) -> usize {
        unreachable!("{} has no order", Self::NAME)
    }
}
