//! The tables of one write transaction: validates and applies one request after another.

use super::encoding::{self, EXPIRIES, ITEMS, Kind, LATEST, LOCKS, META, NEVER, RawBytes, RowKey};
use super::error::{backend, malformed_expiry, malformed_item, malformed_lock, malformed_version};
use super::request::{EncodedBatch, Response, WriteRequest};
use crate::{Lock, Result, Version, VersionGenerator};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use std::time::Duration;

/// The tables of one write transaction.
pub(super) struct Tables<'t> {
    transaction: &'t WriteTransaction,
    items: Table<'t, RawBytes, RawBytes>,
    locks: LazyTable<'t, RawBytes>,
    expiries: LazyTable<'t, ()>,
    meta: LazyTable<'t, RawBytes>,
    /// The latest version in the file, once it was read.
    latest: Option<Version>,
    /// Whether other processes may write between two transactions.
    shared: bool,
    /// The number of rows written or removed so far, of versions stored, and of flushes.
    written: usize,
}

/// A table that is opened on first use, because opening one costs as much as reading a row and most
/// requests use few tables.
struct LazyTable<'t, V: redb::Value + 'static> {
    definition: TableDefinition<'static, RawBytes, V>,
    table: Option<Table<'t, RawBytes, V>>,
}

impl<'t, V: redb::Value + 'static> LazyTable<'t, V> {
    fn new(definition: TableDefinition<'static, RawBytes, V>) -> Self {
        LazyTable {
            definition,
            table: None,
        }
    }

    fn open(&mut self, transaction: &'t WriteTransaction) -> Result<&mut Table<'t, RawBytes, V>> {
        match &mut self.table {
            Some(table) => Ok(table),
            none => {
                let table = transaction.open_table(self.definition).map_err(backend)?;
                Ok(none.insert(table))
            }
        }
    }
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, shared: bool) -> Result<Self> {
        Ok(Tables {
            transaction,
            items: transaction.open_table(ITEMS).map_err(backend)?,
            locks: LazyTable::new(LOCKS),
            expiries: LazyTable::new(EXPIRIES),
            meta: LazyTable::new(META),
            latest: None,
            shared,
            written: 0,
        })
    }

    fn locks(&mut self) -> Result<&mut Table<'t, RawBytes, RawBytes>> {
        self.locks.open(self.transaction)
    }

    fn expiries(&mut self) -> Result<&mut Table<'t, RawBytes, ()>> {
        self.expiries.open(self.transaction)
    }

    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// Validates and applies `request` on the state that earlier requests left.
    pub(super) fn apply(
        &mut self,
        request: &WriteRequest,
        versions: &VersionGenerator,
    ) -> Result<Response> {
        match request {
            WriteRequest::Apply(batch) => self.apply_batch(batch, versions),
            WriteRequest::Write { sets, deletes } => {
                self.write(sets, deletes)?;
                Ok(Response::Written)
            }
            WriteRequest::GetLock { key, now } => self.get_lock(key, *now, versions),
            WriteRequest::Purge { now, max } => self.purge(*now, *max).map(Response::Purged),
            WriteRequest::Flush => {
                // A flush counts as a write, because only a commit makes earlier writes durable.
                self.written += 1;
                Ok(Response::Flushed)
            }
        }
    }

    /// Validates the whole batch before it writes anything (guarantees 11 and 12).
    fn apply_batch(
        &mut self,
        batch: &EncodedBatch,
        versions: &VersionGenerator,
    ) -> Result<Response> {
        let now = batch.now.as_secs();
        let mut changed = Vec::new();
        let mut ttls = Vec::with_capacity(batch.renewed);
        for (index, (key, version)) in batch.locks.iter().enumerate() {
            match self.lock_at(key)? {
                Some((stored, ttl)) if stored == *version && now <= ttl => ttls.push(ttl),
                _ => changed.push(index),
            }
        }
        if !changed.is_empty() {
            return Ok(Response::Conflict(changed));
        }
        for (index, (key, _)) in batch.creates.iter().enumerate() {
            if self.has_live_item(key, now)? {
                return Ok(Response::AlreadyExists(index));
            }
        }

        // A version that no lock gets need not be stored: `versions` returns only greater ones from
        // now on. Those of other processes do not.
        let version = if batch.renewed > 0 || self.shared {
            self.next_version(batch.now, versions)?
        } else {
            versions.next(batch.now)
        };
        let renewed = batch.locks.iter().take(batch.renewed);
        for ((key, _), ttl) in renewed.zip(ttls) {
            self.put_lock(key, version, ttl)?;
        }
        for (key, row) in &batch.creates {
            self.put_item(key, row)?;
        }
        self.write(&batch.sets, &batch.deletes)?;
        Ok(Response::Committed(version))
    }

    fn write(&mut self, sets: &[(RowKey, Vec<u8>)], deletes: &[RowKey]) -> Result<()> {
        for (key, row) in sets {
            self.put_item(key, row)?;
        }
        deletes.iter().try_for_each(|key| self.remove(key))
    }

    fn get_lock(
        &mut self,
        key: &[u8],
        now: Duration,
        versions: &VersionGenerator,
    ) -> Result<Response> {
        let seconds = now.as_secs();
        if let Some((version, ttl)) = self.lock_at(key)? {
            let lock = Lock::new(("", ""), version, ttl);
            if lock.is_live(seconds) {
                let refreshed = lock.refreshed_ttl(seconds);
                if refreshed != ttl {
                    self.update_expiry(Kind::Lock, key, Some(ttl), Some(refreshed))?;
                    self.put_lock(key, version, refreshed)?;
                }
                return Ok(Response::Lock(version, refreshed));
            }
        } else if self.has_live_item(key, seconds)? {
            return Ok(Response::ItemAtLockKey);
        }
        self.remove(key)?;
        let version = self.next_version(now, versions)?;
        let ttl = seconds.saturating_add(Lock::LIFETIME);
        self.put_lock(key, version, ttl)?;
        self.update_expiry(Kind::Lock, key, None, Some(ttl))?;
        Ok(Response::Lock(version, ttl))
    }

    fn purge(&mut self, now: u64, max: usize) -> Result<usize> {
        let end = now.to_be_bytes();
        let mut expired = Vec::new();
        let rows = self.expiries()?.range::<&[u8]>(..end.as_slice());
        for row in rows.map_err(backend)?.take(max) {
            let (key, _) = row.map_err(backend)?;
            expired.push(RowKey::from_slice(key.value()));
        }
        for expiry in &expired {
            let (_, kind, key) = encoding::read_expiry(expiry).ok_or_else(malformed_expiry)?;
            match kind {
                Kind::Item => self.items.remove(key),
                Kind::Lock => self.locks()?.remove(key),
            }
            .map_err(backend)?;
            self.expiries()?
                .remove(expiry.as_slice())
                .map_err(backend)?;
        }
        self.written += expired.len();
        Ok(expired.len())
    }

    fn lock_at(&mut self, key: &[u8]) -> Result<Option<(Version, u64)>> {
        let row = self.locks()?.get(key).map_err(backend)?;
        row.map(|row| encoding::read_lock(row.value()).ok_or_else(|| malformed_lock(key)))
            .transpose()
    }

    fn has_live_item(&self, key: &[u8], now: u64) -> Result<bool> {
        match self.items.get(key).map_err(backend)? {
            None => Ok(false),
            Some(row) => Ok(now <= ttl_of(key, row.value())?),
        }
    }

    fn put_lock(&mut self, key: &[u8], version: Version, ttl: u64) -> Result<()> {
        let row = encoding::lock_row(version, ttl);
        self.locks()?.insert(key, row.as_slice()).map_err(backend)?;
        self.written += 1;
        Ok(())
    }

    /// Returns a version that is greater than the one that the file stores, whatever the clock shows, and
    /// stores it (guarantee 17). The stored one is read in each transaction, because another process
    /// may have written it since the last one.
    fn next_version(&mut self, now: Duration, versions: &VersionGenerator) -> Result<Version> {
        let meta = self.meta.open(self.transaction)?;
        let latest = match self.latest {
            Some(latest) => Some(latest),
            None => match meta.get(LATEST).map_err(backend)? {
                None => None,
                Some(row) => {
                    Some(encoding::read_version(row.value()).ok_or_else(malformed_version)?)
                }
            },
        };
        let version = match (versions.next(now), latest) {
            (next, Some(latest)) if next <= latest => VersionGenerator::after(latest).next(now),
            (next, _) => next,
        };
        let row = version.as_u128().to_be_bytes();
        meta.insert(LATEST, row.as_slice()).map_err(backend)?;
        self.latest = Some(version);
        self.written += 1;
        Ok(version)
    }

    /// Writes an item's row, and removes the lock at its key if there is one (guarantee 4).
    fn put_item(&mut self, key: &[u8], row: &[u8]) -> Result<()> {
        let ttl = ttl_of(key, row)?;
        let replaced = self.items.insert(key, row).map_err(backend)?;
        let replaced = replaced.map(|old| ttl_of(key, old.value())).transpose()?;
        self.written += 1;
        if replaced.is_none() {
            self.remove_lock(key)?;
        }
        self.update_expiry(Kind::Item, key, replaced, Some(ttl))
    }

    /// Removes the item or lock at `key`, if there is one.
    fn remove(&mut self, key: &[u8]) -> Result<()> {
        let removed = self.items.remove(key).map_err(backend)?;
        let removed = removed.map(|old| ttl_of(key, old.value())).transpose()?;
        match removed {
            None => self.remove_lock(key),
            Some(_) => {
                self.written += 1;
                self.update_expiry(Kind::Item, key, removed, None)
            }
        }
    }

    fn remove_lock(&mut self, key: &[u8]) -> Result<()> {
        let removed = self.locks()?.remove(key).map_err(backend)?;
        let removed =
            removed.map(|old| encoding::read_lock(old.value()).ok_or_else(|| malformed_lock(key)));
        match removed.transpose()? {
            None => Ok(()),
            Some((_, ttl)) => {
                self.written += 1;
                self.update_expiry(Kind::Lock, key, Some(ttl), None)
            }
        }
    }

    /// Updates the expiry index after a row's `ttl` changed from `old` to `new`, where `None` means
    /// that there is no such row.
    fn update_expiry(
        &mut self,
        kind: Kind,
        key: &[u8],
        old: Option<u64>,
        new: Option<u64>,
    ) -> Result<()> {
        if old == new {
            return Ok(());
        }
        if let Some(ttl) = old.filter(|ttl| *ttl != NEVER) {
            let expiry = encoding::expiry_key(ttl, kind, key);
            self.expiries()?
                .remove(expiry.as_slice())
                .map_err(backend)?;
        }
        if let Some(ttl) = new.filter(|ttl| *ttl != NEVER) {
            let expiry = encoding::expiry_key(ttl, kind, key);
            self.expiries()?
                .insert(expiry.as_slice(), ())
                .map_err(backend)?;
        }
        Ok(())
    }
}

fn ttl_of(key: &[u8], row: &[u8]) -> Result<u64> {
    let (ttl, _) = encoding::read_item(row).ok_or_else(|| malformed_item(key))?;
    Ok(ttl)
}
