//! The transactions of the workload. All reads of a body are under its locks, except those that are
//! recorded on their own.

use super::keys::{balance, guard_of, note, place};
use super::random::Random;
use super::transactions::{RecordedTransaction, Stop};
use super::worker::Worker;
use crate::{AtomicDb, Clock, Item, KeyBuf, Query, Result, Retry};
use std::time::Duration;

type Tx<'t, 'a, 'd, D> = RecordedTransaction<'t, 'a, 'd, D>;

/// A clock whose pauses let other threads run. A model checker must not wait for real time.
#[derive(Debug)]
struct YieldingClock;

impl Clock for YieldingClock {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) {
        #[cfg(shuttle)]
        shuttle::thread::yield_now();
        #[cfg(not(shuttle))]
        std::thread::yield_now();
    }
}

/// A transaction that has lost this many races is given up.
const ATTEMPTS: u32 = 20;

impl<D: AtomicDb<Data = String>> Worker<D> {
    /// Runs a body, each time with the same choices.
    fn transact(&self, body: impl Fn(&mut Tx<'_, '_, '_, D>, &mut Random) -> Result<(), Stop>) {
        let retry = Retry::new().attempts(ATTEMPTS).clock(YieldingClock);
        let seed = self.seed();
        self.db
            .transact(&retry, |tx| body(tx, &mut Random::new(seed)));
    }

    /// Moves money between accounts, unless one of them has too little.
    pub(super) fn transact_transfer(&self) {
        let keys = self.some_accounts();
        let locks: Vec<KeyBuf> = keys.iter().map(guard_of).collect();
        let amount = self.below(20) as i64;
        self.transact(|tx, random| {
            lock_in_some_way(tx, random, &locks)?;
            let items = if random.one_in(2) {
                tx.get_many(&keys)?
            } else {
                let items = keys.iter().map(|key| tx.get(key));
                items.collect::<Result<_>>()?
            };
            let paid = balance(items[0].as_ref());
            if random.one_in(4) || paid < 50 {
                return Err(Stop::Refused);
            }
            for ((key, item), change) in keys.iter().zip(&items).zip([-amount, amount, 0]) {
                tx.set(self.item(key, balance(item.as_ref()) + change))?;
            }
            Ok(())
        });
    }

    /// Queries one shelf or two under their locks, and creates, replaces and deletes places. Queries
    /// again, among its own writes. Depends on an account that it only checks.
    pub(super) fn transact_restock(&self) {
        let shelves = self.some_below(self.shape.shelves, 1, 2);
        let locks: Vec<KeyBuf> = shelves
            .iter()
            .map(|shelf| guard_of(&place(*shelf, 0)))
            .collect();
        let queries: Vec<Query> = shelves
            .iter()
            .map(|shelf| self.query_of_places(*shelf))
            .collect();
        let account = self.any_account();
        let note = self.any_note(shelves[0]);
        self.transact(|tx, random| {
            lock_in_some_way(tx, random, &locks)?;
            if random.one_in(2) {
                tx.check(&guard_of(&account))?;
                tx.get(&account)?;
            }
            for query in &queries {
                tx.query(query)?;
            }
            if random.one_in(4) {
                tx.get_loose(&note)?;
            }
            for shelf in &shelves {
                for number in random.some_below(self.shape.places, 1, 2) {
                    self.change_place(tx, random, &place(*shelf, number))?;
                }
            }
            if random.one_in(2) {
                tx.query(&queries[random.below(queries.len())])?;
                self.change_place(tx, random, &place(shelves[0], 0))?;
            }
            if random.one_in(4) {
                return Err(Stop::Refused);
            }
            Ok(())
        });
    }

    fn change_place(
        &self,
        tx: &mut Tx<'_, '_, '_, D>,
        random: &mut Random,
        key: &KeyBuf,
    ) -> Result<()> {
        if tx.has_written(key) {
            return Ok(());
        }
        let is_present = tx.get(key)?.is_some();
        match (is_present, random.one_in(2)) {
            (true, true) => tx.delete(key),
            (false, true) => tx.create(self.item(key, 1)),
            (_, false) => tx.set(self.item(key, 1)),
        }
    }

    /// Looks for a free place on one shelf and, if there is one, creates an item on another: a write
    /// skew between two such transactions is a phantom.
    pub(super) fn transact_after_query(&self) {
        let shelves = self.some_below(self.shape.shelves, 2, 2);
        let (read, written) = (shelves[0], shelves[shelves.len() - 1]);
        let query = self.query_of_places(read);
        let key = self.any_place(written);
        self.transact(|tx, random| {
            if read == written || random.one_in(2) {
                tx.lock(&guard_of(&key))?;
                tx.check(&guard_of(&place(read, 0)))?;
            } else {
                tx.check(&guard_of(&place(read, 0)))?;
                tx.lock(&guard_of(&key))?;
            }
            tx.query(&query)?;
            self.change_place(tx, random, &key)?;
            Ok(())
        });
    }

    /// Reads accounts and shelves that it only checks, and returns a result or an error.
    pub(super) fn transact_audit(&self) {
        let keys = self.some_accounts();
        let shelf = self.any_shelf();
        let mut locks: Vec<KeyBuf> = keys.iter().map(guard_of).collect();
        locks.push(guard_of(&place(shelf, 0)));
        let query = self.query_of_places(shelf);
        self.transact(|tx, random| {
            if random.one_in(2) {
                tx.check_all(&locks)?;
            } else {
                for lock in &locks {
                    tx.check(lock)?;
                }
            }
            if random.one_in(2) {
                tx.query(&query)?;
                tx.get_many(&keys)?;
            } else {
                for key in &keys {
                    tx.get(key)?;
                }
                tx.query(&query)?;
            }
            if random.one_in(2) {
                return Err(Stop::Refused);
            }
            Ok(())
        });
    }

    /// Reads without a lock, so that each read is for itself.
    pub(super) fn transact_without_locks(&self) {
        let keys = [self.any_key(), self.any_key()];
        self.transact(|tx, _| {
            keys.iter().try_for_each(|key| tx.get_loose(key))?;
            Ok(())
        });
    }

    /// Writes notes without a read or a lock.
    pub(super) fn transact_notes(&self) {
        let shelf = self.any_shelf();
        let numbers = self.some_below(self.shape.notes, 1, 2);
        self.transact(|tx, random| {
            for number in &numbers {
                let key = note(shelf, *number);
                if random.one_in(3) {
                    tx.delete(&key)?;
                } else {
                    tx.set(self.item(&key, 0))?;
                }
            }
            Ok(())
        });
    }

    /// Updates an account, or a place that it creates or deletes.
    pub(super) fn update(&self) {
        if self.one_in(2) {
            let key = self.any_account();
            self.update_one(&key, |old| old.map(|old| self.contents(old)));
        } else {
            let key = self.any_place(self.any_shelf());
            let deletes = self.one_in(2);
            self.update_one(&key, |_| (!deletes).then(|| self.contents(1)));
        }
    }

    fn update_one(&self, key: &KeyBuf, change: impl Fn(Option<i64>) -> Option<String>) {
        self.db.update(key, &guard_of(key), |old| {
            let item = old.map(|data| Item::at(key, data.clone()));
            change(item.map(|item| balance(Some(&item))))
        });
    }
}

/// Locks one by one, all at once, or in both ways.
fn lock_in_some_way<D: AtomicDb>(
    tx: &mut Tx<'_, '_, '_, D>,
    random: &mut Random,
    locks: &[KeyBuf],
) -> Result<()> {
    match random.below(3) {
        0 => locks.iter().try_for_each(|lock| tx.lock(lock)),
        1 => tx.lock_all(locks),
        _ => {
            tx.check(&locks[0])?;
            tx.lock_all(locks)
        }
    }
}
