//! The calls of the workload outside transactions.

use super::keys::{account, balance, guard_of, note, place};
use super::recording::Action;
use super::worker::Worker;
use super::workload::BALANCE;
use crate::{AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, Query, Result, Version};
use std::time::Duration;

/// A commit that is being prepared.
#[derive(Default)]
struct Plan {
    locks: Vec<Lock>,
    checks: Vec<Lock>,
    sets: Vec<Item<String>>,
    creates: Vec<Item<String>>,
    deletes: Vec<KeyBuf>,
}

impl Plan {
    fn batch(&self) -> Batch<String> {
        let batch = self.locks.iter().cloned().fold(Batch::new(), Batch::lock);
        let batch = self.checks.iter().cloned().fold(batch, Batch::check);
        let batch = self.sets.iter().cloned().fold(batch, Batch::set);
        let batch = self.creates.iter().cloned().fold(batch, Batch::create);
        self.deletes.iter().fold(batch, Batch::delete)
    }
}

impl<D: AtomicDb<Data = String>> Worker<D> {
    pub(super) fn try_open_accounts(&self) -> Result<()> {
        for key in (0..self.shape.accounts).map(account) {
            let lock = self.get_lock(&guard_of(&key))?;
            self.commit(Plan {
                locks: vec![lock],
                creates: vec![self.item(&key, BALANCE)],
                ..Plan::default()
            })?;
        }
        Ok(())
    }

    /// Reads all items and locks, and returns the sum of the accounts.
    pub(super) fn try_read_everything(&self) -> Result<i64> {
        let accounts: Vec<KeyBuf> = (0..self.shape.accounts).map(account).collect();
        let found = self.get_many(&accounts)?;
        for key in &accounts {
            self.db.get_fresh(key.as_key())?;
            self.get_lock(&guard_of(key))?;
        }
        for shelf in 0..self.shape.shelves {
            let key = place(shelf, 0);
            self.db.query(&Query::new(key.pk()))?;
            self.get_lock(&guard_of(&key))?;
        }
        Ok(found.iter().map(|item| balance(item.as_ref())).sum())
    }

    /// Moves money between two or three accounts.
    pub(super) fn transfer(&self) -> Result<()> {
        let keys = self.some_accounts();
        let mut plan = Plan::default();
        for key in &keys {
            plan.locks.push(self.lock(&guard_of(key))?);
        }
        let items = if self.one_in(3) {
            self.get_many(&keys)?
        } else {
            let items = keys.iter().map(|key| self.db.get_fresh(key.as_key()));
            items.collect::<Result<_>>()?
        };
        let amount = self.below(20) as i64;
        let changes = [-amount, amount, 0];
        for ((key, item), change) in keys.iter().zip(&items).zip(changes) {
            plan.sets
                .push(self.item(key, balance(item.as_ref()) + change));
        }
        self.commit(plan)
    }

    pub(super) fn read_one(&self) -> Result<()> {
        let key = self.any_key();
        let item = if self.one_in(4) {
            self.db.get_fresh(key.as_key())
        } else {
            self.db.get(key.as_key())
        };
        item.map(drop)
    }

    /// Reads several keys, possibly one of them twice.
    pub(super) fn read_several(&self) -> Result<()> {
        let many = 2 + self.below(4);
        let keys: Vec<KeyBuf> = (0..many).map(|_| self.any_key()).collect();
        self.get_many(&keys).map(drop)
    }

    /// Queries a shelf at once, in pages, or as a stream.
    pub(super) fn read_shelf(&self) -> Result<()> {
        let mut query = self.any_query(self.any_shelf());
        match self.below(4) {
            0 => {
                let whole = query.limit.is_none();
                query.limit = Some(2);
                let mut after = None;
                loop {
                    let page = self.db.page(&query, after.as_deref())?;
                    after = page.next;
                    if after.is_none() || !whole {
                        return Ok(());
                    }
                }
            }
            1 => self.db.stream(query).try_for_each(|item| item.map(drop)),
            _ => self.db.query(&query).map(drop),
        }
    }

    /// Reads a shelf under its lock and changes some of its places. Sometimes it also depends on an
    /// account that it only checks.
    pub(super) fn restock(&self) -> Result<()> {
        let shelf = self.any_shelf();
        let mut plan = Plan::default();
        plan.locks.push(self.lock(&guard_of(&place(shelf, 0)))?);
        if self.one_in(2) {
            let account = self.any_account();
            plan.checks.push(self.lock(&guard_of(&account))?);
            self.db.get_fresh(account.as_key())?;
        }
        let keys = self.places(shelf);
        let is_present: Vec<bool> = if self.one_in(2) {
            let found = self.db.query(&Query::new(keys[0].pk()).prefix("place"))?;
            let has = |key: &KeyBuf| found.iter().any(|item| *key == item.key());
            keys.iter().map(has).collect()
        } else {
            self.get_many(&keys)?.iter().map(Option::is_some).collect()
        };
        for place in self.some_below(self.shape.places, 1, 3) {
            let key = &keys[place];
            match (is_present[place], self.one_in(2)) {
                (true, true) => plan.deletes.push(key.clone()),
                (false, true) => plan.creates.push(self.item(key, 1)),
                (_, false) => plan.sets.push(self.item(key, 1)),
            }
        }
        if self.one_in(2) {
            self.plan_note(&mut plan, &self.any_note(shelf));
        }
        self.commit(plan)
    }

    /// Writes an account after a read of a place, whose shelf it only checks.
    pub(super) fn check_shelf_and_write_account(&self) -> Result<()> {
        let place = self.any_place(self.any_shelf());
        let account = self.any_account();
        let check = self.lock(&guard_of(&place))?;
        self.db.get(place.as_key())?;
        let lock = self.lock(&guard_of(&account))?;
        let item = self.db.get_fresh(account.as_key())?;
        self.commit(Plan {
            locks: vec![lock],
            checks: vec![check],
            sets: vec![self.item(&account, balance(item.as_ref()))],
            ..Plan::default()
        })
    }

    /// Creates items that may exist.
    pub(super) fn create_without_reading(&self) -> Result<()> {
        let shelf = self.any_shelf();
        let lock = self.lock(&guard_of(&place(shelf, 0)))?;
        let places = self.some_below(self.shape.places, 1, 2).into_iter();
        let items = places.map(|number| self.item(&place(shelf, number), 1));
        self.commit(Plan {
            locks: vec![lock],
            creates: items.collect(),
            ..Plan::default()
        })
    }

    /// Deletes a lock that the commit does not name, alone or with a write under another lock. A
    /// commit under the deleted lock conflicts from then on, even after it is created again.
    pub(super) fn delete_lock(&self) -> Result<()> {
        let key = guard_of(&self.any_key());
        let mut plan = Plan::default();
        let place = self.any_place(self.any_shelf());
        let guard = guard_of(&place);
        if guard != key && self.one_in(2) {
            plan.locks.push(self.lock(&guard)?);
            plan.sets.push(self.item(&place, 1));
        }
        plan.deletes.push(key);
        self.commit(plan)
    }

    /// One note or two.
    fn some_notes(&self) -> Vec<KeyBuf> {
        let notes = self.shape.notes;
        let some = self
            .some_below(self.shape.shelves * notes, 1, 2)
            .into_iter();
        some.map(|number| note(number / notes, number % notes))
            .collect()
    }

    pub(super) fn set_notes(&self) -> Result<()> {
        let notes = self.some_notes();
        let items = notes.iter().map(|key| self.item(key, 0));
        self.db.set(&items.collect::<Vec<_>>())
    }

    pub(super) fn delete_notes(&self) -> Result<()> {
        let notes = self.some_notes();
        self.db.delete(&borrowed(&notes))
    }

    /// Writes and deletes notes in one commit without locks.
    pub(super) fn commit_notes(&self) -> Result<()> {
        let mut plan = Plan::default();
        for key in self.some_notes() {
            self.plan_note(&mut plan, &key);
        }
        self.commit(plan)
    }

    fn plan_note(&self, plan: &mut Plan, key: &KeyBuf) {
        if self.one_in(3) {
            plan.deletes.push(key.clone());
        } else {
            plan.sets.push(self.item(key, 0));
        }
    }

    /// Writes a note that expires this second or the next one, and moves the clock.
    pub(super) fn expire(&self) -> Result<()> {
        let Some(time) = &self.time else {
            return self.read_several();
        };
        let key = self.any_note(self.any_shelf());
        let ttl = time.epoch_seconds() + self.below(2) as u64;
        self.db.set(&[self.item(&key, 0).expires_at(ttl)])?;
        let now = time.epoch_seconds() + 1;
        let invoked = self.db.stamp();
        time.advance(Duration::from_secs(1));
        self.db.push(invoked, [Action::AdvanceClock(now)]);
        Ok(())
    }

    /// The lock, sometimes as this thread last read it.
    fn lock(&self, key: &KeyBuf) -> Result<Lock> {
        let known = self.known_locks.borrow().get(key).cloned();
        match known {
            Some(lock) if self.one_in(3) => Ok(lock),
            _ => self.get_lock(key),
        }
    }

    fn get_lock(&self, key: &KeyBuf) -> Result<Lock> {
        let lock = self.db.get_lock(key.as_key())?;
        let mut known = self.known_locks.borrow_mut();
        known.insert(key.clone(), lock.clone());
        Ok(lock)
    }

    fn get_many(&self, keys: &[KeyBuf]) -> Result<Vec<Option<Item<String>>>> {
        if self.one_in(4) {
            self.db.get_many_fresh(&borrowed(keys))
        } else {
            self.db.get_many(&borrowed(keys))
        }
    }

    /// Commits with `commit`, or with `set_atomic` where that can express the plan. A rejection is an
    /// ordinary outcome.
    fn commit(&self, plan: Plan) -> Result<()> {
        let only_sets = plan.checks.is_empty()
            && !plan.locks.is_empty()
            && plan.creates.is_empty()
            && plan.deletes.is_empty();
        let result: Result<Version> = if only_sets && self.one_in(2) {
            self.db.set_atomic(&plan.sets, &plan.locks)
        } else {
            self.db.commit(&plan.batch())
        };
        let mut known = self.known_locks.borrow_mut();
        match result {
            Ok(version) => {
                for lock in plan.locks {
                    known.insert(lock.key().to_buf(), lock.with_version(version));
                }
            }
            // Some old locks are kept, to be tried again.
            Err(Error::RaceCondition { .. } | Error::AlreadyExists { .. }) => {
                if self.one_in(2) {
                    for lock in plan.locks {
                        known.remove(&lock.key().to_buf());
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn borrowed(keys: &[KeyBuf]) -> Vec<Key<'_>> {
    keys.iter().map(KeyBuf::as_key).collect()
}
