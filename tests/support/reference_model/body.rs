//! The body of a transaction: its calls, and the model with its own writes, which its reads see.

use super::model::{Checked, Model};
use super::operations::{Step, Write, key_at};
use atomic_db::{AtomicDb, Batch, Error, Item, Key, KeyBuf, Lock, Result, Transaction};
use std::collections::BTreeMap;

pub(super) struct Body {
    lock: KeyBuf,
    /// The rows with the writes so far.
    view: Model,
    writes: BTreeMap<KeyBuf, OwnWrite>,
}

enum OwnWrite {
    Set(Item<u32>),
    Create(Item<u32>),
    Delete,
}

impl Body {
    pub(super) fn new(model: &Model, lock: Key<'_>) -> Self {
        Body {
            lock: lock.to_buf(),
            view: model.clone(),
            writes: BTreeMap::new(),
        }
    }

    /// Makes one call and compares its result. Returns whether it was a query that found items after
    /// a write.
    pub(super) fn step<D: AtomicDb<Data = u32>>(
        &mut self,
        tx: &mut Transaction<'_, D>,
        step: &Step,
        item: impl FnOnce(&Write) -> Item<u32>,
    ) -> std::result::Result<bool, String> {
        match step {
            Step::Get(key) => {
                let item = ok(tx.get(key_at(*key)))?;
                self.view.check_item(key_at(*key), item.as_ref())?;
            }
            Step::GetMany(keys) => {
                let keys: Vec<Key<'_>> = keys.iter().map(|key| key_at(*key)).collect();
                let items = ok(tx.get_many(&keys))?;
                if items.len() != keys.len() {
                    return Err(format!("{} results for {} keys", items.len(), keys.len()));
                }
                for (key, item) in keys.iter().zip(&items) {
                    self.view.check_item(*key, item.as_ref())?;
                }
            }
            Step::Query(query) => {
                let query = query.query();
                let items = ok(tx.query(&query))?;
                self.view.check_items(&query, None, &items, false)?;
                return Ok(!self.writes.is_empty() && !items.is_empty());
            }
            Step::Set(write) => {
                let item = item(write);
                self.check_write(item.key(), tx.set(item.clone()), None)?;
                self.put(item, false);
            }
            Step::Create(write) => {
                let item = item(write);
                let key = item.key().to_buf();
                let exists = match self.writes.get(&key) {
                    Some(OwnWrite::Set(_) | OwnWrite::Create(_)) => Some("already exists"),
                    Some(OwnWrite::Delete) | None => None,
                };
                self.check_write(item.key(), tx.create(item.clone()), exists)?;
                if exists.is_none() {
                    self.put(item, true);
                }
            }
            Step::Delete(key) => {
                let key = key_at(*key);
                let created = matches!(self.writes.get(&key.to_buf()), Some(OwnWrite::Create(_)));
                self.check_write(key, tx.delete(key), created.then_some("created"))?;
                if !created && self.lock != key {
                    self.view.remove(key);
                    self.writes.insert(key.to_buf(), OwnWrite::Delete);
                }
            }
        }
        Ok(false)
    }

    /// Checks the result of a write, which is refused at the key of the lock and for this `reason`.
    fn check_write(&self, key: Key<'_>, result: Result<()>, reason: Option<&str>) -> Checked {
        let correct = match (&result, reason) {
            (Err(Error::InvalidInput(_)), _) if self.lock == key => true,
            (Err(Error::AlreadyExists { key: named }), Some("already exists")) => *named == key,
            (Err(Error::InvalidInput(_)), Some("created")) => true,
            (Ok(()), None) => self.lock != key,
            _ => false,
        };
        if !correct {
            return Err(format!("a write to {key} was {result:?}, {reason:?}"));
        }
        Ok(())
    }

    fn put(&mut self, item: Item<u32>, creates: bool) {
        let key = item.key().to_buf();
        if key == self.lock {
            return;
        }
        self.view.put(&item);
        // A created item that is replaced is still created, and a deleted one is not.
        let write = match self.writes.remove(&key) {
            Some(OwnWrite::Create(_)) => OwnWrite::Create(item),
            None if creates => OwnWrite::Create(item),
            _ => OwnWrite::Set(item),
        };
        self.writes.insert(key, write);
    }

    /// The commit that the transaction must make.
    pub(super) fn batch(&self, lock: Lock) -> Batch<u32> {
        let batch = Batch::new().lock(lock);
        self.writes
            .iter()
            .fold(batch, |batch, (key, write)| match write {
                OwnWrite::Set(item) => batch.set(item.clone()),
                OwnWrite::Create(item) => batch.create(item.clone()),
                OwnWrite::Delete => batch.delete(key),
            })
    }
}

fn ok<T>(result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|error| format!("it failed: {error:?}"))
}
