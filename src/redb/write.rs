//! What callers have written, and how the work of several becomes one transaction of redb's.

use super::builder::Durability;
use super::file::{self, Bytes, EXPIRIES, File, ITEMS, LATEST, LOCKS, META, Shared, backend};
use super::rows::{self, Kind, RowKey};
use crate::{Error, Lock, Result, Version, VersionGenerator};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// One caller's work, encoded.
#[derive(Debug)]
pub(super) enum Work {
    Change(Change),
    /// Make the lock at `key`, or lengthen its life.
    Lock {
        key: RowKey,
        now: Duration,
    },
    /// Remove at most `most` rows that have expired.
    Purge {
        now: u64,
        most: usize,
    },
    /// Make durable what is not.
    Flush,
}

/// A batch, or the items of a `set` or the keys of a `delete`.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) now: Duration,
    /// In the order of the batch: those that are renewed, then those that are only checked.
    pub(super) locks: Vec<(RowKey, Version)>,
    pub(super) renewed: usize,
    pub(super) sets: Vec<(RowKey, Vec<u8>)>,
    pub(super) creates: Vec<(RowKey, Vec<u8>)>,
    pub(super) deletes: Vec<RowKey>,
}

/// What came of a caller's work.
#[derive(Debug)]
pub(super) enum Answer {
    /// It was done, with this version.
    Committed(Version),
    /// Nothing was written: these of its locks, by number, lost.
    Lost(Vec<usize>),
    /// Nothing was written: where this one of its creations, by number, was to be, an item is.
    Exists(usize),
    Lock(Version, u64),
    /// Nothing was written: a live item is where a lock was to be.
    ItemThere,
    /// How many rows were removed.
    Purged(usize),
    Flushed,
}

/// Why a caller's work, or the answer to it, came to nothing.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Nothing was written.
    NotWritten(Cause),
    /// It was written, or was not.
    Unknown(Shared),
}

/// A cause of failure, in a form that several callers can be told.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    Invalid(String),
    Backend(Shared),
}

pub(super) type Outcome = std::result::Result<Answer, Failure>;

// These two are no `From`s: an impl of `From` for or from `Error` would leave callers' closures,
// whose error the compiler infers while there is one way alone, without a type.
impl Cause {
    fn of(error: Error) -> Self {
        match error {
            Error::InvalidInput(text) => Cause::Invalid(text),
            Error::Backend(source) => Cause::Backend(source.into()),
            other => Cause::Backend(Shared::from(crate::BoxError::from(other))),
        }
    }
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Failure::NotWritten(Cause::Invalid(text)) => Error::InvalidInput(text),
            Failure::NotWritten(Cause::Backend(source)) => Error::Backend(Box::new(source)),
            Failure::Unknown(source) => Error::OutcomeUnknown(Box::new(source)),
        }
    }
}

/// For those whose leader left without a word.
pub(super) fn unanswered() -> Outcome {
    let source: crate::BoxError = "the thread that wrote for several failed".into();
    Err(Failure::Unknown(source.into()))
}

/// Does all of `works` in one transaction, each judged on its own by what those before it left, and
/// answers each.
///
/// Those whose work wrote nothing are told that nothing was written also where the commit's outcome
/// is unknown; but not what was found, for that may never have been.
pub(super) fn write(
    file: &File,
    versions: &VersionGenerator,
    works: &mut dyn Iterator<Item = Work>,
) -> Vec<Outcome> {
    let mut answers = Vec::new();
    let drawn = Cell::new(0);
    let mut works = works.inspect(|_| drawn.set(drawn.get() + 1));
    // redb's `commit` rolls back or cannot tell. Before it is called, nothing is written.
    let committing = Cell::new(false);
    let write = || {
        file.writing(|mut transaction| {
            let mut flush = false;
            let mut tables = Tables::open(&transaction)?;
            for work in works.by_ref() {
                let before = tables.written;
                let answer = tables.apply(&work, versions)?;
                answers.push((answer, tables.written != before));
                flush |= matches!(work, Work::Flush);
            }
            let written = tables.written > 0;
            drop(tables);
            if !written {
                // Dropping it rolls nothing back; nobody need wait for the disk.
                return Ok(None);
            }
            prepare(&mut transaction, file.durability, flush)?;
            committing.set(true);
            Ok(transaction.commit().err())
        })
    };
    let failure = match catch_unwind(AssertUnwindSafe(write)) {
        Ok(Ok(None)) => return answers.into_iter().map(|(answer, _)| Ok(answer)).collect(),
        Ok(Ok(Some(redb::CommitError::TransactionPoisoned))) => {
            Failure::NotWritten(Cause::of(backend(redb::CommitError::TransactionPoisoned)))
        }
        Ok(Ok(Some(error))) => Failure::Unknown(file::source(error.into()).into()),
        Ok(Err(error)) => Failure::NotWritten(Cause::of(error)),
        Err(panic) if committing.get() => {
            Failure::Unknown(Shared::from(crate::BoxError::from(file::panicked(&*panic))))
        }
        Err(panic) => Failure::NotWritten(Cause::of(file::panicked(&*panic))),
    };
    // Where nothing was committed, there may be work that was not drawn. It fails for the same reason.
    works.by_ref().for_each(drop);
    let wrote = answers.iter().map(|(_, wrote)| *wrote);
    let failures = wrote
        .chain(std::iter::repeat(true))
        .map(|wrote| match &failure {
            Failure::Unknown(source) if !wrote => {
                Failure::NotWritten(Cause::Backend(source.clone()))
            }
            failure => failure.clone(),
        });
    failures.map(Err).take(drawn.get()).collect()
}

fn prepare(transaction: &mut WriteTransaction, durability: Durability, flush: bool) -> Result<()> {
    match durability {
        Durability::Immediate => {}
        Durability::QuickRepair => transaction.set_quick_repair(true),
        Durability::Deferred if flush => {}
        Durability::Deferred => transaction
            .set_durability(redb::Durability::None)
            .map_err(backend)?,
    }
    Ok(())
}

/// The tables of one write transaction.
struct Tables<'t> {
    transaction: &'t WriteTransaction,
    items: Table<'t, Bytes, Bytes>,
    locks: Later<'t, Bytes>,
    expiries: Later<'t, ()>,
    meta: Later<'t, Bytes>,
    /// How many rows were written or removed.
    written: usize,
}

/// A table that is opened when it is first used: looking one up costs as much as reading a row, and
/// most works use few.
struct Later<'t, V: redb::Value + 'static> {
    definition: TableDefinition<'static, Bytes, V>,
    table: Option<Table<'t, Bytes, V>>,
}

impl<'t, V: redb::Value + 'static> Later<'t, V> {
    fn new(definition: TableDefinition<'static, Bytes, V>) -> Self {
        Later {
            definition,
            table: None,
        }
    }

    fn open(&mut self, transaction: &'t WriteTransaction) -> Result<&mut Table<'t, Bytes, V>> {
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
    fn open(transaction: &'t WriteTransaction) -> Result<Self> {
        Ok(Tables {
            transaction,
            items: transaction.open_table(ITEMS).map_err(backend)?,
            locks: Later::new(LOCKS),
            expiries: Later::new(EXPIRIES),
            meta: Later::new(META),
            written: 0,
        })
    }

    fn locks(&mut self) -> Result<&mut Table<'t, Bytes, Bytes>> {
        self.locks.open(self.transaction)
    }

    fn expiries(&mut self) -> Result<&mut Table<'t, Bytes, ()>> {
        self.expiries.open(self.transaction)
    }

    fn apply(&mut self, work: &Work, versions: &VersionGenerator) -> Result<Answer> {
        match work {
            Work::Change(change) => self.change(change, versions),
            Work::Lock { key, now } => self.lock(key, *now, versions),
            Work::Purge { now, most } => self.purge(*now, *most).map(Answer::Purged),
            Work::Flush => {
                // A commit that writes nothing is as durable as one that does.
                self.written += 1;
                Ok(Answer::Flushed)
            }
        }
    }

    /// Judges first, and writes only if all is as the batch demands.
    fn change(&mut self, change: &Change, versions: &VersionGenerator) -> Result<Answer> {
        let now = change.now.as_secs();
        let mut lost = Vec::new();
        let mut ttls = Vec::with_capacity(change.renewed);
        for (number, (key, version)) in change.locks.iter().enumerate() {
            match self.lock_at(key)? {
                Some((held, ttl)) if held == *version && now <= ttl => ttls.push(ttl),
                _ => lost.push(number),
            }
        }
        if !lost.is_empty() {
            return Ok(Answer::Lost(lost));
        }
        for (number, (key, _)) in change.creates.iter().enumerate() {
            if self.has_live_item(key, now)? {
                return Ok(Answer::Exists(number));
            }
        }

        let version = versions.next(change.now);
        let renewed = change.locks.iter().take(change.renewed);
        for ((key, _), ttl) in renewed.zip(ttls) {
            self.put_lock(key, version, ttl)?;
        }
        if change.renewed > 0 {
            self.remember(version)?;
        }
        for (key, row) in change.sets.iter().chain(&change.creates) {
            self.put(key, row)?;
        }
        for key in &change.deletes {
            self.remove(key)?;
        }
        Ok(Answer::Committed(version))
    }

    fn lock(&mut self, key: &[u8], now: Duration, versions: &VersionGenerator) -> Result<Answer> {
        let seconds = now.as_secs();
        if let Some((version, ttl)) = self.lock_at(key)? {
            let lock = Lock::new(("", ""), version, ttl);
            if lock.is_live(seconds) {
                let refreshed = lock.refreshed_ttl(seconds);
                if refreshed != ttl {
                    self.move_expiry(Kind::Lock, key, Some(ttl), Some(refreshed))?;
                    self.put_lock(key, version, refreshed)?;
                }
                return Ok(Answer::Lock(version, refreshed));
            }
        } else if self.has_live_item(key, seconds)? {
            return Ok(Answer::ItemThere);
        }
        self.remove(key)?;
        let version = versions.next(now);
        let ttl = seconds.saturating_add(Lock::LIFETIME);
        self.put_lock(key, version, ttl)?;
        self.move_expiry(Kind::Lock, key, None, Some(ttl))?;
        self.remember(version)?;
        Ok(Answer::Lock(version, ttl))
    }

    fn purge(&mut self, now: u64, most: usize) -> Result<usize> {
        let end = now.to_be_bytes();
        let mut expired = Vec::new();
        let rows = self.expiries()?.range::<&[u8]>(..end.as_slice());
        for row in rows.map_err(backend)?.take(most) {
            let (key, _) = row.map_err(backend)?;
            expired.push(RowKey::from_slice(key.value()));
        }
        for place in &expired {
            let (_, kind, key) = rows::read_expiry(place).ok_or_else(file::no_expiry)?;
            match kind {
                Kind::Item => self.items.remove(key),
                Kind::Lock => self.locks()?.remove(key),
            }
            .map_err(backend)?;
            self.expiries()?.remove(place.as_slice()).map_err(backend)?;
        }
        self.written += expired.len();
        Ok(expired.len())
    }

    fn lock_at(&mut self, key: &[u8]) -> Result<Option<(Version, u64)>> {
        let row = self.locks()?.get(key).map_err(backend)?;
        row.map(|row| rows::read_lock(row.value()).ok_or_else(file::no_lock))
            .transpose()
    }

    fn has_live_item(&self, key: &[u8], now: u64) -> Result<bool> {
        match self.items.get(key).map_err(backend)? {
            None => Ok(false),
            Some(row) => Ok(now <= ttl_of(row.value())?),
        }
    }

    fn put_lock(&mut self, key: &[u8], version: Version, ttl: u64) -> Result<()> {
        let row = rows::lock_row(version, ttl);
        self.locks()?.insert(key, row.as_slice()).map_err(backend)?;
        self.written += 1;
        Ok(())
    }

    /// Keeps a version that locks have now, so that no later run hands out a smaller one.
    fn remember(&mut self, version: Version) -> Result<()> {
        let row = version.as_u128().to_be_bytes();
        let meta = self.meta.open(self.transaction)?;
        meta.insert(LATEST, row.as_slice()).map_err(backend)?;
        Ok(())
    }

    /// Writes an item's row over whatever is at its key.
    fn put(&mut self, key: &[u8], row: &[u8]) -> Result<()> {
        let ttl = ttl_of(row)?;
        let replaced = self.items.insert(key, row).map_err(backend)?;
        let replaced = replaced.map(|old| ttl_of(old.value())).transpose()?;
        self.written += 1;
        if replaced.is_none() {
            self.remove_lock(key)?;
        }
        self.move_expiry(Kind::Item, key, replaced, Some(ttl))
    }

    /// Removes what is at `key`, if anything is.
    fn remove(&mut self, key: &[u8]) -> Result<()> {
        let removed = self.items.remove(key).map_err(backend)?;
        let removed = removed.map(|old| ttl_of(old.value())).transpose()?;
        match removed {
            None => self.remove_lock(key),
            Some(_) => {
                self.written += 1;
                self.move_expiry(Kind::Item, key, removed, None)
            }
        }
    }

    fn remove_lock(&mut self, key: &[u8]) -> Result<()> {
        let removed = self.locks()?.remove(key).map_err(backend)?;
        let removed = removed.map(|old| rows::read_lock(old.value()).ok_or_else(file::no_lock));
        match removed.transpose()? {
            None => Ok(()),
            Some((_, ttl)) => {
                self.written += 1;
                self.move_expiry(Kind::Lock, key, Some(ttl), None)
            }
        }
    }

    /// Keeps the index of expiries, where what never expires has no place.
    fn move_expiry(
        &mut self,
        kind: Kind,
        key: &[u8],
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<()> {
        if from == to {
            return Ok(());
        }
        if let Some(ttl) = from.filter(|ttl| *ttl != rows::NEVER) {
            let place = rows::expiry_key(ttl, kind, key);
            self.expiries()?.remove(place.as_slice()).map_err(backend)?;
        }
        if let Some(ttl) = to.filter(|ttl| *ttl != rows::NEVER) {
            let place = rows::expiry_key(ttl, kind, key);
            self.expiries()?
                .insert(place.as_slice(), ())
                .map_err(backend)?;
        }
        Ok(())
    }
}

fn ttl_of(row: &[u8]) -> Result<u64> {
    let (ttl, _) = rows::read_item(row).ok_or_else(file::no_item)?;
    Ok(ttl)
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;
    use crate::redb::RedbDb;
    use crate::sync::Arc;
    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A disk in memory that stops to sync when it is told to.
    #[derive(Debug)]
    struct Disk {
        memory: InMemoryBackend,
        fails: Arc<AtomicBool>,
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.memory.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            match self.fails.load(Ordering::Relaxed) {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => self.memory.sync_data(),
            }
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.memory.write(offset, data)
        }
    }

    fn opened() -> (RedbDb<()>, Arc<AtomicBool>) {
        let fails = Arc::new(AtomicBool::new(false));
        let disk = Disk {
            memory: InMemoryBackend::new(),
            fails: Arc::clone(&fails),
        };
        (RedbDb::builder().open_with(disk).unwrap(), fails)
    }

    fn set(sk: &str) -> Work {
        let row = rows::item_header(None).to_vec();
        Work::Change(Change {
            sets: vec![(rows::row_key(crate::Key::new("pk", sk)), row)],
            ..Change::default()
        })
    }

    /// A commit under a lock that nobody has.
    fn lost() -> Work {
        let lock = rows::row_key(crate::Key::new("pk", "lock"));
        Work::Change(Change {
            locks: vec![(lock, Version::from_u128(1))],
            renewed: 1,
            ..Change::default()
        })
    }

    fn written(db: &RedbDb<()>, works: &mut dyn Iterator<Item = Work>) -> Vec<Outcome> {
        write(&db.shared.file, &db.shared.versions, works)
    }

    #[test]
    fn whoever_wrote_nothing_is_told_so_also_when_the_disk_fails() {
        let (db, fails) = opened();
        fails.store(true, Ordering::Relaxed);
        let outcomes = written(&db, &mut [lost(), set("a"), lost()].into_iter());
        assert!(
            matches!(
                &outcomes[..],
                [
                    Err(Failure::NotWritten(Cause::Backend(_))),
                    Err(Failure::Unknown(_)),
                    Err(Failure::NotWritten(Cause::Backend(_))),
                ]
            ),
            "{outcomes:?}"
        );
    }

    #[test]
    fn a_panic_before_the_commit_leaves_nothing_unknown() {
        let (db, _) = opened();
        let mut panicked = false;
        let panics = std::iter::from_fn(|| match std::mem::replace(&mut panicked, true) {
            false => panic!("it is drawn"),
            true => None,
        });
        let outcomes = written(&db, &mut [set("a"), set("b")].into_iter().chain(panics));
        assert_eq!(outcomes.len(), 2);
        for outcome in outcomes {
            let not_written = matches!(outcome, Err(Failure::NotWritten(Cause::Backend(_))));
            assert!(not_written, "{outcome:?}");
        }
        assert!(db.is_empty().unwrap());
        assert!(matches!(
            &written(&db, &mut [set("a")].into_iter())[..],
            [Ok(Answer::Committed(_))]
        ));
    }
}
