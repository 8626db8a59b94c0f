//! The interface of a store under measurement.

use crate::keys::Span;

/// The hasher of every store that hashes: the one of atomic-db.
pub(crate) type Hasher = hashbrown::DefaultHashBuilder;

/// The operations that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Clones a handle to the value, reads the value and drops the handle.
    Get,
    /// Reads the value under the store's own guard, without a handle.
    GetInPlace,
    GetMiss,
    Set,
    /// Looks the entry up and changes its value in place.
    SetInPlace,
    Insert,
    Delete,
    GetLock,
    SetAtomic,
    Transfer,
    /// A transfer by a closure that may run again.
    Transact,
    /// Adds one to a balance by hand: reads the lock and the item, and writes the item.
    AddByHand,
    AddByTransact,
    AddByUpdate,
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
            Operation::AddByHand => "add to one item",
            Operation::AddByTransact => "add to one item by transact",
            Operation::AddByUpdate => "add to one item by update",
            Operation::Query => "query of 100 items",
        }
    }
}

/// The two keys of an account: its balance, and the lock that guards it where a store needs one.
#[derive(Debug)]
pub(crate) struct Account<K> {
    pub(crate) balance: K,
    pub(crate) lock: K,
}

/// A store under measurement. A method is called only if `OPERATIONS` contains its operation.
pub(crate) trait Store: Sync + Sized {
    const NAME: &'static str;
    const OPERATIONS: &'static [Operation];

    /// A key, in the form that the store takes.
    type Key: Send + Sync;

    /// A range of keys, in the form that the store takes.
    type Range: Send + Sync;

    /// The version that a conditional write checks.
    type Lock: Send;

    fn new() -> Self;

    fn key(pk: &str, sk: &str) -> Self::Key;

    fn range(span: &Span) -> Self::Range;

    /// Fills the store.
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

    /// Reads the lock of an account, and creates it if it is missing. `()` if the store detects
    /// conflicts itself.
    fn get_lock(&self, account: &Account<Self::Key>) -> Self::Lock;

    /// Writes `value` if `lock` is unchanged, which it always is here, and updates `lock` to its new
    /// version.
    fn set_atomic(&self, _: &Account<Self::Key>, _: &mut Self::Lock, _: u64) {
        unreachable!("{} has no transactions", Self::NAME)
    }

    /// Moves one unit: reads and writes both balances atomically, and retries after a conflict.
    fn transfer(&self, _: &Account<Self::Key>, _: &Account<Self::Key>) {
        unreachable!("{} has no transactions", Self::NAME)
    }

    fn transact(&self, _: &Account<Self::Key>, _: &Account<Self::Key>) {
        unreachable!("{} has no transactions", Self::NAME)
    }

    /// Adds one to a balance by one of the `Add` operations.
    fn add(&self, _: &Account<Self::Key>, _: Operation) {
        unreachable!("{} has no transactions", Self::NAME)
    }

    /// Collects handles to all values of the range in a vector and returns their number.
    fn query(&self, _: &Self::Range) -> usize {
        unreachable!("{} has no order", Self::NAME)
    }
}
