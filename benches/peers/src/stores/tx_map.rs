//! A sharded hash map with transactions over several keys, whose closures run under its mutexes.

use super::store::{Account, Hasher, Operation, Store};
use crate::keys::{Pair, Span};
use std::cell::RefCell;
use std::sync::Arc;
use txmap::{
    MutexPolicy, PreparedTxBuilder, PreparedTxOperationsBuilder, TxMap, TxMapBuilder, TxResult,
    tx_schema,
};

tx_schema! {
    Move,
    keys: [from, to],
    params: {},
    state: {}
}

type Map = TxMap<Pair, Arc<u64>, MutexPolicy, Hasher>;

type Transfer = MoveTx<'static, Pair, Arc<u64>, MutexPolicy, Hasher>;

/// A prepared transaction borrows its map, so the map is leaked.
pub(crate) struct TxMapStore(&'static Map);

thread_local! {
    /// A prepared transaction cannot be shared between threads, so each thread has the one of the map
    /// that it used last.
    static PREPARED: RefCell<Option<(&'static Map, Transfer)>> = const { RefCell::new(None) };
}

fn prepare(map: &'static Map) -> Transfer {
    map.prepared_tx(&Move::SCHEMA)
        .modify(Move::from, |_, balance, _, _| add(balance, u64::MAX))
        .modify(Move::to, |_, balance, _, _| add(balance, 1))
        .into_transaction()
}

fn add(balance: &mut Arc<u64>, by: u64) {
    *balance = Arc::new(balance.wrapping_add(by));
}

impl Store for TxMapStore {
    const NAME: &'static str = "txmap";
    const OPERATIONS: &'static [Operation] = &[
        Operation::Get,
        Operation::GetInPlace,
        Operation::GetMiss,
        Operation::Set,
        Operation::SetInPlace,
        Operation::Insert,
        Operation::Delete,
        Operation::Transfer,
    ];

    type Key = Pair;
    type Range = ();
    type Lock = ();

    fn new() -> Self {
        let map = TxMapBuilder::default()
            .with_hasher(Hasher::default())
            .build();
        TxMapStore(Box::leak(Box::new(map)))
    }

    fn key(pk: &str, sk: &str) -> Pair {
        Pair::new(pk, sk)
    }

    fn range(_: &Span) {}

    fn get(&self, key: &Pair) -> Option<u64> {
        let handle = self.0.get_cloned(key);
        handle.map(|handle| *handle)
    }

    fn get_in_place(&self, key: &Pair) -> Option<u64> {
        self.0.get_with(key, |value| **value)
    }

    fn set(&self, key: &Pair, value: u64) {
        self.0.insert(key.clone(), Arc::new(value));
    }

    fn set_in_place(&self, key: &Pair, value: u64) {
        let value = Arc::new(value);
        self.0.modify(key, |_, held| *held = value);
    }

    fn get_lock(&self, _: &Account<Pair>) {}

    fn delete(&self, key: &Pair) {
        self.0.remove(key);
    }

    fn transfer(&self, from: &Account<Pair>, to: &Account<Pair>) {
        let keys = MoveKeys {
            from: from.balance.clone(),
            to: to.balance.clone(),
        };
        PREPARED.with_borrow_mut(|prepared| {
            let (_, transfer) = match prepared {
                Some(prepared) if std::ptr::eq(prepared.0, self.0) => prepared,
                _ => prepared.insert((self.0, prepare(self.0))),
            };
            let moved = transfer.execute(keys, MoveParams {});
            assert!(matches!(moved, TxResult::Completed { .. }));
        });
    }
}
