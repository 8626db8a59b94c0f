//! atomic-db's `MemoryDb`.

use super::store::{Account, Operation, Store};
use crate::keys::{Pair, Span};
use atomic_db::{AtomicDb, AtomicDbExt, Error, Item, Key, Lock, MemoryDb, Query};

pub(crate) struct MemoryDbStore(pub(crate) MemoryDb<u64>);

/// A range in one partition, in the form that a caller has before it builds a query.
pub(crate) struct Neighbours {
    pk: String,
    prefix: String,
}

fn at(pair: &Pair) -> Key<'_> {
    Key::new(&pair.pk, &pair.sk)
}

fn item(pair: &Pair, value: u64) -> Item<u64> {
    Item::new(&pair.pk, &pair.sk, value)
}

/// Returns `item` with `by` added to its value.
fn added(item: Option<Item<u64>>, key: &Pair, by: u64) -> Item<u64> {
    match item {
        Some(item) => item.with_data(item.data().map_or(by, |value| value.wrapping_add(by))),
        None => Item::at(at(key), by),
    }
}

impl MemoryDbStore {
    /// Returns the stored item with `by` added to its value.
    fn added(&self, key: &Pair, by: u64) -> Item<u64> {
        let item = self.0.get_fresh(at(key)).expect("a read succeeds");
        added(item, key, by)
    }
}

impl Store for MemoryDbStore {
    const NAME: &'static str = "MemoryDb";
    const OPERATIONS: &'static [Operation] = &[
        Operation::Get,
        Operation::GetMiss,
        Operation::Set,
        Operation::Insert,
        Operation::Delete,
        Operation::GetLock,
        Operation::SetAtomic,
        Operation::Transfer,
        Operation::Transact,
        Operation::AddByHand,
        Operation::AddByTransact,
        Operation::AddByUpdate,
        Operation::Query,
    ];

    type Key = Pair;
    type Range = Neighbours;
    type Lock = Lock;

    fn new() -> Self {
        MemoryDbStore(MemoryDb::new())
    }

    fn key(pk: &str, sk: &str) -> Pair {
        Pair::new(pk, sk)
    }

    fn range(span: &Span) -> Neighbours {
        Neighbours {
            pk: span.pk.clone(),
            prefix: span.prefix.clone(),
        }
    }

    fn get(&self, key: &Pair) -> Option<u64> {
        let item = self.0.get(at(key)).expect("a read succeeds");
        item.and_then(|item| item.data().copied())
    }

    fn set(&self, key: &Pair, value: u64) {
        let written = self.0.set(&[item(key, value)]);
        written.expect("a write succeeds");
    }

    fn delete(&self, key: &Pair) {
        self.0.delete(&[at(key)]).expect("a write succeeds");
    }

    fn get_lock(&self, account: &Account<Pair>) -> Lock {
        self.0
            .get_lock(at(&account.lock))
            .expect("the lock can be read")
    }

    fn set_atomic(&self, account: &Account<Pair>, lock: &mut Lock, value: u64) {
        let items = [item(&account.balance, value)];
        let version = self.0.set_atomic(&items, std::slice::from_ref(lock));
        *lock = lock
            .clone()
            .with_version(version.expect("no other thread writes"));
    }

    fn transfer(&self, from: &Account<Pair>, to: &Account<Pair>) {
        loop {
            let locks = [self.get_lock(from), self.get_lock(to)];
            let items = [
                self.added(&from.balance, u64::MAX),
                self.added(&to.balance, 1),
            ];
            if committed(self.0.set_atomic(&items, &locks)) {
                return;
            }
        }
    }

    fn transact(&self, from: &Account<Pair>, to: &Account<Pair>) {
        let moved = self.0.transact(|tx| {
            tx.lock(at(&from.lock))?;
            tx.lock(at(&to.lock))?;
            for (account, by) in [(from, u64::MAX), (to, 1)] {
                let item = tx.get(at(&account.balance))?;
                tx.set(added(item, &account.balance, by))?;
            }
            Ok(())
        });
        moved.expect("the transaction succeeds");
    }

    fn add(&self, account: &Account<Pair>, operation: Operation) {
        let (key, lock) = (at(&account.balance), at(&account.lock));
        match operation {
            Operation::AddByUpdate => {
                let added = self.0.update(key, lock, |old| {
                    Some(old.copied().unwrap_or(0).wrapping_add(1))
                });
                added.expect("the update succeeds");
            }
            Operation::AddByTransact => {
                let added = self.0.transact(|tx| {
                    tx.lock(lock)?;
                    let item = tx.get(key)?;
                    tx.set(added(item, &account.balance, 1))
                });
                added.expect("the transaction succeeds");
            }
            _ => loop {
                let locks = [self.get_lock(account)];
                let items = [self.added(&account.balance, 1)];
                if committed(self.0.set_atomic(&items, &locks)) {
                    return;
                }
            },
        }
    }

    fn query(&self, range: &Neighbours) -> usize {
        let query = Query::new(&range.pk).prefix(&range.prefix);
        self.0.query(&query).expect("a read succeeds").len()
    }
}

fn committed<V>(commit: Result<V, Error>) -> bool {
    match commit {
        Ok(_) => true,
        Err(race) if race.is_race_condition() => false,
        Err(error) => panic!("a commit failed: {error}"),
    }
}
