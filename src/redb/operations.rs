//! The methods of `AtomicDb`: encodes and decodes items, and maps results to the errors of the crate.

use super::encoding::{self, RowKey};
use super::read::{EncodedItem, LockState, QueryRow};
use super::request::{EncodedBatch, Response, WriteError, WriteRequest, mismatched_response};
use crate::batch::BatchRef;
use crate::error::item_at_lock_key;
use crate::expiry::live_or_read_again;
use crate::{
    AtomicDb, Batch, BoxError, Codec, Error, Item, Key, Lock, Page, Query, RedbDb, Result,
    RetryQueue, Version,
};

/// The largest number of items in a page, and the number of bytes of data that fill it.
const PAGE_SIZE: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

const MAX_KEY_LEN: usize = 65_535;
const MAX_DATA_LEN: usize = 16 << 20;

impl<T, C> RedbDb<T, C> {
    fn select(
        &self,
        query: &Query,
        after: Option<&str>,
        max: usize,
        max_bytes: usize,
    ) -> Result<(Vec<QueryRow>, bool)> {
        check_key(Key::new(&query.pk, ""))?;
        if max == 0 {
            return Ok((Vec::new(), false));
        }
        let now = self.now();
        self.shared.file.select(query, after, max, max_bytes, now)
    }
}

impl<T, C: Codec<T>> RedbDb<T, C> {
    fn encode_all(&self, items: &[Item<T>]) -> Result<Vec<(RowKey, Vec<u8>)>> {
        let encode = |item: &Item<T>| Ok((encoding::row_key(item.key()), self.encode(item)?));
        items.iter().map(encode).collect()
    }

    fn encode(&self, item: &Item<T>) -> Result<Vec<u8>> {
        let row = encoding::item_row(item.ttl(), |row| match item.data() {
            None => Ok(false),
            Some(data) => self.codec.encode(data, row).map(|()| true),
        });
        let row = row.map_err(|source| codec_error(item.key(), source))?;
        let len = row.len() - encoding::item_header(None).len();
        if len > MAX_DATA_LEN {
            return Err(Error::LimitExceeded {
                what: "an item's encoded data in bytes",
                limit: MAX_DATA_LEN,
                actual: len,
            });
        }
        Ok(row)
    }

    pub(super) fn decode(&self, key: Key<'_>, encoded: EncodedItem) -> Result<Item<T>> {
        let item = match encoded.data {
            None => Item::without_data(key.pk, key.sk),
            Some(data) => {
                let data = self.codec.decode(data);
                Item::at(key, data.map_err(|source| codec_error(key, source))?)
            }
        };
        Ok(item.expires_at(encoded.ttl))
    }

    fn decode_all(&self, pk: &str, rows: Vec<QueryRow>) -> Result<Vec<Item<T>>> {
        let decode = |row: QueryRow| self.decode(Key::new(pk, &row.sk), row.item);
        rows.into_iter().map(decode).collect()
    }

    /// Encodes `writes` and submits them. They are validated and applied in the leader's transaction.
    fn apply(&self, writes: &BatchRef<'_, T>) -> Result<Version> {
        writes.validate()?;
        writes.keys().try_for_each(|key| check_key(key.as_key()))?;
        let now = self.shared.clock.now();
        if writes.len() == 0 {
            return Ok(self.shared.versions.next(now));
        }
        let locks = writes.locks.iter().chain(writes.checks);
        let batch = EncodedBatch {
            now,
            locks: locks
                .clone()
                .map(|lock| (encoding::row_key(lock.key()), lock.version()))
                .collect(),
            renewed: writes.locks.len(),
            sets: self.encode_all(writes.sets)?,
            creates: self.encode_all(writes.creates)?,
            deletes: row_keys(writes.deletes.iter().map(|key| key.as_key())),
        };
        match self.write(WriteRequest::Apply(batch))? {
            Response::Committed(version) => Ok(version),
            Response::Conflict(indices) => Err(Error::RaceCondition {
                keys: locks
                    .enumerate()
                    .filter(|(index, _)| indices.contains(index))
                    .map(|(_, lock)| lock.key().to_buf())
                    .collect(),
            }),
            Response::AlreadyExists(index) => match writes.creates.get(index) {
                Some(item) => Err(Error::AlreadyExists {
                    key: item.key().to_buf(),
                }),
                None => Err(mismatched_response()),
            },
            _ => Err(mismatched_response()),
        }
    }
}

impl<T, C: Codec<T>> AtomicDb for RedbDb<T, C> {
    type Data = T;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        check_key(key)?;
        let row = encoding::row_key(key);
        let read_live = |now| {
            let found = self.shared.file.item(&row)?;
            Ok(found.filter(|found| now <= found.ttl))
        };
        let found = match self.shared.file.item(&row)? {
            None => None,
            Some(found) => {
                let ttl = (found.ttl != encoding::NEVER).then_some(found.ttl);
                live_or_read_again(found, ttl, &*self.shared.clock, read_live)?
            }
        };
        found.map(|item| self.decode(key, item)).transpose()
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.get(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        keys.iter().copied().try_for_each(check_key)?;
        let now = self.now();
        let rows = row_keys(keys.iter().copied());
        let found = self.shared.file.items(&rows, now)?;
        let items = keys.iter().zip(found);
        items
            .map(|(key, item)| item.map(|item| self.decode(*key, item)).transpose())
            .collect()
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        self.get_many(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        check_key(key)?;
        let now = self.shared.clock.now();
        let row = encoding::row_key(key);
        match self.shared.file.lock(&row, now.as_secs())? {
            LockState::Item => return Err(item_at_lock_key(key)),
            LockState::Live(version, ttl) => {
                let lock = Lock::new(key, version, ttl);
                if lock.refreshed_ttl(now.as_secs()) == ttl {
                    return Ok(lock);
                }
            }
            LockState::Missing => {}
        }
        match self.submit(WriteRequest::GetLock { key: row, now }) {
            Ok(Response::Lock(version, ttl)) => Ok(Lock::new(key, version, ttl)),
            Ok(Response::ItemAtLockKey) => Err(item_at_lock_key(key)),
            Ok(_) => Err(mismatched_response()),
            // Whether an unused lock was created does not matter.
            Err(WriteError::Unknown(source)) => Err(Error::Backend(Box::new(source))),
            Err(error) => Err(error.into_error()),
        }
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        keys.iter().copied().try_for_each(check_key)?;
        keys.iter().map(|key| self.get_lock(*key)).collect()
    }

    fn set(&self, items: &[Item<T>]) -> Result<()> {
        items.iter().map(Item::key).try_for_each(check_key)?;
        if items.is_empty() {
            return Ok(());
        }
        self.write(WriteRequest::Write {
            sets: self.encode_all(items)?,
            deletes: Vec::new(),
        })?;
        Ok(())
    }

    fn commit(&self, batch: &Batch<T>) -> Result<Version> {
        self.apply(&batch.as_batch_ref())
    }

    fn set_atomic(&self, items: &[Item<T>], locks: &[Lock]) -> Result<Version> {
        self.apply(&BatchRef::for_set_atomic(items, locks)?)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        keys.iter().copied().try_for_each(check_key)?;
        if keys.is_empty() {
            return Ok(());
        }
        self.write(WriteRequest::Write {
            sets: Vec::new(),
            deletes: row_keys(keys.iter().copied()),
        })?;
        Ok(())
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<T>> {
        let max = query.limit.map_or(PAGE_SIZE, |limit| limit.min(PAGE_SIZE));
        let (rows, more) = self.select(query, after, max, PAGE_BYTES)?;
        let items = self.decode_all(&query.pk, rows)?;
        let last = items.last().filter(|_| more);
        Ok(Page {
            next: last.map(|item| item.sk().to_owned()),
            items,
        })
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<T>>> {
        let max = query.limit.unwrap_or(usize::MAX);
        let (rows, _) = self.select(query, None, max, usize::MAX)?;
        self.decode_all(&query.pk, rows)
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        Some(&self.shared.retry_queue)
    }
}

/// Returns [`Error::LimitExceeded`] if a part of `key` is too long.
fn check_key(key: Key<'_>) -> Result<()> {
    let parts = [
        ("a partition key's length in bytes", key.pk.len()),
        ("a sort key's length in bytes", key.sk.len()),
    ];
    match parts.into_iter().find(|(_, len)| *len > MAX_KEY_LEN) {
        None => Ok(()),
        Some((what, len)) => Err(Error::LimitExceeded {
            what,
            limit: MAX_KEY_LEN,
            actual: len,
        }),
    }
}

fn row_keys<'a>(keys: impl Iterator<Item = Key<'a>>) -> Vec<RowKey> {
    keys.map(encoding::row_key).collect()
}

fn codec_error(key: Key<'_>, source: BoxError) -> Error {
    Error::Codec {
        key: key.to_buf(),
        source,
    }
}
