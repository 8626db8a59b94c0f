//! Runs operations against a database and the model, and compares the results.

use super::body::Body;
use super::model::{Checked, Model, Stored, is_beyond};
use super::operations::{
    BULK_PARTITION, Ending, Jump, KEYS, LockChoice, LockSource, Op, PARTITIONS, Part, Step, Write,
    key_at,
};
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Clock, Error, Item, Key, KeyBuf, Lock, ManualClock, Query,
    Version,
};
use std::collections::BTreeMap;

/// The first reading of a test's clock, in epoch seconds.
pub const START: u64 = 1_700_000_000;

/// A database under test, with optional operations that the trait [`AtomicDb`] does not have.
pub trait DbUnderTest: AtomicDb<Data = u32> {
    /// Removes expired rows, and returns their number.
    fn purge(&self) -> Option<usize> {
        None
    }

    /// Returns the number of live items.
    fn count(&self) -> Option<usize> {
        None
    }

    /// Removes one key from a cache.
    fn invalidate(&self, _key: Key<'_>) {}

    /// Empties a cache.
    fn clear(&self) {}
}

/// The number of occurrences of each outcome, by its name.
pub type Coverage = BTreeMap<&'static str, usize>;

/// Runs `ops` against a new, empty database with the clock `clock`, and against the model.
///
/// # Errors
///
/// Describes the first wrong result and its operation.
pub fn run<D: DbUnderTest>(ops: &[Op], db: &D, clock: &ManualClock) -> Result<Coverage, String> {
    let mut driver = Driver {
        db,
        clock,
        model: Model::new(clock.epoch_seconds()),
        locks: BTreeMap::new(),
        written: 0,
        filled: false,
        coverage: Coverage::new(),
    };
    for (step, op) in ops.iter().enumerate() {
        let checked = driver.step(op);
        checked.map_err(|mismatch| format!("{mismatch}\nat operation {step}, {op:?}"))?;
        if step % 12 == 11 {
            let checked = driver.check_uncached();
            checked.map_err(|mismatch| format!("{mismatch}\nafter operation {step}, {op:?}"))?;
        }
    }
    let checked = driver
        .check_uncached()
        .and_then(|()| driver.check_all_reads())
        .and_then(|()| driver.check_after_expiry());
    checked.map_err(|mismatch| format!("{mismatch}\nat the end"))?;
    Ok(driver.coverage)
}

struct Driver<'a, D> {
    db: &'a D,
    clock: &'a ManualClock,
    model: Model,
    /// The locks of each key that were read or left by a commit, in order.
    locks: BTreeMap<KeyBuf, Vec<Lock>>,
    /// The number of items written.
    written: u32,
    /// The bulk partition is filled.
    filled: bool,
    coverage: Coverage,
}

fn ok<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| format!("it failed: {error:?}"))
}

impl<D: DbUnderTest> Driver<'_, D> {
    fn step(&mut self, op: &Op) -> Checked {
        match op {
            Op::Jump(jump) => {
                self.jump(*jump);
                return Ok(());
            }
            Op::Purge => return self.purge(),
            _ => self.model.operated = true,
        }
        match op {
            Op::Get(key) => self.get(key_at(*key)),
            Op::GetFresh(key) => self.get_fresh(key_at(*key)),
            Op::GetMany(keys) => {
                let keys: Vec<Key<'_>> = keys.iter().map(|key| key_at(*key)).collect();
                self.get_many(&keys)
            }
            Op::GetLock(key) => self.get_lock(key_at(*key)),
            Op::Set(writes) => {
                let items: Vec<Item<u32>> = writes.iter().map(|write| self.item(write)).collect();
                self.set(&items)
            }
            Op::FillPartition(count) => self.fill_partition(*count),
            Op::SetAtomic(writes, locks) => self.set_atomic(writes, locks),
            Op::Commit(parts) => {
                self.read_locks(parts.iter().filter_map(|part| match part {
                    Part::Lock(lock) | Part::Check(lock) => Some(lock),
                    _ => None,
                }))?;
                let batch = parts.iter().fold(Batch::new(), |batch, part| match part {
                    Part::Lock(lock) => batch.lock(self.lock(lock)),
                    Part::Check(lock) => batch.check(self.lock(lock)),
                    Part::Set(write) => batch.set(self.item(write)),
                    Part::Create(write) => batch.create(self.item(write)),
                    Part::Delete(key) => batch.delete(key_at(*key)),
                });
                self.commit(&batch)
            }
            Op::Delete(keys) => {
                let keys: Vec<Key<'_>> = keys.iter().map(|key| key_at(*key)).collect();
                ok(self.db.delete(&keys))?;
                keys.iter().for_each(|key| self.model.remove(*key));
                Ok(())
            }
            Op::Transact(lock, steps, ending) => self.transact(key_at(*lock), steps, *ending),
            Op::Page(query, after) => self.page(&query.query(), *after).map(drop),
            Op::Pages(query) => self.pages(&query.query()),
            Op::Query(query) => self.query(&query.query()),
            Op::Stream(query) => self.stream(query.query()),
            Op::Count => self.count(),
            Op::Invalidate(key) => {
                self.db.invalidate(key_at(*key));
                Ok(())
            }
            Op::Clear => {
                self.db.clear();
                Ok(())
            }
            Op::Jump(_) | Op::Purge => unreachable!("handled above"),
        }
    }

    fn cover(&mut self, outcome: &'static str) {
        *self.coverage.entry(outcome).or_default() += 1;
    }

    fn item(&mut self, write: &Write) -> Item<u32> {
        let (pk, sk) = KEYS[write.key];
        self.written += 1;
        let item = if write.without_data {
            Item::without_data(pk, sk)
        } else {
            Item::new(pk, sk, self.written)
        };
        match write.lifetime {
            Some(lifetime) => item.expires_at(self.model.now.saturating_add_signed(lifetime)),
            None => item,
        }
    }

    /// Reads the locks that are read before a commit.
    fn read_locks<'l>(&mut self, locks: impl Iterator<Item = &'l LockChoice>) -> Checked {
        for lock in locks {
            if matches!(lock.source, LockSource::Read) {
                self.get_lock(key_at(lock.key))?;
            }
        }
        Ok(())
    }

    fn lock(&self, choice: &LockChoice) -> Lock {
        let key = key_at(choice.key);
        let known = |key: Key<'_>, older: usize| {
            let locks = self.locks.get(&key.to_buf());
            let locks = locks.map_or(&[][..], Vec::as_slice);
            locks.iter().rev().nth(older).or(locks.first())
        };
        // Without a known lock, a version that no lock ever had.
        let version = |lock: Option<&Lock>| lock.map_or(Version::from_u128(1), Lock::version);
        let forged = |version| Lock::new(key, version, self.model.now.saturating_add(60));
        let lock = match choice.source {
            LockSource::Unchanged => {
                let live: Vec<Lock> = self.model.live_locks().collect();
                let nth = choice.key % live.len().max(1);
                live.get(nth).or(known(key, 0)).cloned()
            }
            LockSource::Latest | LockSource::Read => known(key, 0).cloned(),
            LockSource::Earlier(older) => known(key, older).cloned(),
            LockSource::Forged => {
                let bits = version(known(key, 0)).as_u128();
                Some(forged(Version::from_u128(bits.wrapping_add(1))))
            }
            LockSource::OfAnotherKey(other) => Some(forged(version(known(key_at(other), 0)))),
        };
        lock.unwrap_or_else(|| forged(version(None)))
    }

    fn remember(&mut self, lock: Lock) {
        let locks = self.locks.entry(lock.key().to_buf()).or_default();
        if locks.last() != Some(&lock) {
            locks.push(lock);
        }
    }

    fn get(&mut self, key: Key<'_>) -> Checked {
        let item = ok(self.db.get(key))?;
        self.cover(if item.is_some() { "found" } else { "not found" });
        self.model.check_cached(key, item.as_ref())
    }

    fn get_fresh(&mut self, key: Key<'_>) -> Checked {
        let item = ok(self.db.get_fresh(key))?;
        self.model.check_item(key, item.as_ref())?;
        if item.is_some() {
            self.model.observe(key);
        }
        Ok(())
    }

    fn get_many(&mut self, keys: &[Key<'_>]) -> Checked {
        let items = ok(self.db.get_many(keys))?;
        if items.len() != keys.len() {
            return Err(format!("{} results for {} keys", items.len(), keys.len()));
        }
        for (key, item) in keys.iter().zip(&items) {
            self.model.check_cached(*key, item.as_ref())?;
        }
        Ok(())
    }

    fn get_lock(&mut self, key: Key<'_>) -> Checked {
        let result = self.db.get_lock(key);
        let versions = self.model.version_count();
        self.model.get_lock(key, &result)?;
        let known = self.locks.get(&key.to_buf()).and_then(|locks| locks.last());
        self.cover(match &result {
            Err(_) => "an item at a lock's key",
            Ok(_) if self.model.version_count() > versions => "lock created",
            Ok(lock) if known.map(Lock::ttl) < Some(lock.ttl()) => "lock refreshed",
            Ok(_) => "lock unchanged",
        });
        if let Ok(lock) = result {
            self.remember(lock);
        }
        Ok(())
    }

    fn set(&mut self, items: &[Item<u32>]) -> Checked {
        ok(self.db.set(items))?;
        items.iter().for_each(|item| self.model.put(item));
        Ok(())
    }

    fn fill_partition(&mut self, count: usize) -> Checked {
        if std::mem::replace(&mut self.filled, true) {
            return Ok(());
        }
        // Some expire, so that a limit must skip them.
        let ttl = |number: usize| match number % 16 {
            3 => self.model.now.saturating_add(60),
            _ => u64::MAX,
        };
        let item = |number| Item::new(BULK_PARTITION, format!("{number:03}"), 0);
        let items = (0..count).map(|number| item(number).expires_at(ttl(number)));
        let items: Vec<Item<u32>> = items.collect();
        self.set(&items)
    }

    fn set_atomic(&mut self, writes: &[Write], locks: &[LockChoice]) -> Checked {
        self.read_locks(locks.iter())?;
        let items: Vec<Item<u32>> = writes.iter().map(|write| self.item(write)).collect();
        let locks: Vec<Lock> = locks.iter().map(|lock| self.lock(lock)).collect();
        let result = self.db.set_atomic(&items, &locks);
        if locks.is_empty() && !items.is_empty() {
            self.cover("items without a lock");
            return match result {
                Err(Error::InvalidInput(_)) => Ok(()),
                other => Err(format!("items without a lock: {other:?}")),
            };
        }
        let batch = locks.into_iter().fold(Batch::new(), Batch::lock);
        let batch = items.into_iter().fold(batch, Batch::set);
        self.check_commit(&batch, &result)
    }

    fn commit(&mut self, batch: &Batch<u32>) -> Checked {
        let result = self.db.commit(batch);
        self.check_commit(batch, &result)
    }

    /// Checks and applies the result of a commit.
    fn check_commit(&mut self, batch: &Batch<u32>, result: &Result<Version, Error>) -> Checked {
        let verdict = self.model.validate(batch);
        let certain = |keys: &[(KeyBuf, bool)]| keys.iter().any(|(_, uncertain)| !uncertain);
        let correct = match result {
            Err(Error::InvalidInput(_)) => verdict.repeated,
            _ if verdict.repeated => false,
            Err(Error::RaceCondition { keys }) => {
                let mut named = keys.iter().peekable();
                let mut changed = verdict.changed.iter();
                let all = changed.all(|(key, uncertain)| {
                    named.next_if(|named| *named == key).is_some() || *uncertain
                });
                all && named.next().is_none() && !keys.is_empty()
            }
            Err(Error::AlreadyExists { key }) => {
                let exists = verdict.exists.iter().any(|(exists, _)| exists == key);
                exists && !certain(&verdict.changed)
            }
            Ok(_) => !certain(&verdict.changed) && !certain(&verdict.exists),
            Err(_) => false,
        };
        if !correct {
            return Err(format!(
                "{batch:?} was {result:?}, and should be {verdict:?}"
            ));
        }
        self.cover(match result {
            Ok(_) if batch.locks().is_empty() => "committed without a lock",
            Ok(_) => "committed",
            Err(Error::RaceCondition { .. }) => "conflict",
            Err(Error::AlreadyExists { .. }) => "already exists",
            Err(_) => "a repeated key",
        });
        if let Ok(version) = result {
            self.model.apply(batch, *version)?;
            for lock in batch.locks() {
                self.remember(lock.clone().with_version(*version));
            }
        }
        Ok(())
    }

    /// Runs a transaction. Its reads must be those of the model with its own writes so far.
    fn transact(&mut self, lock: Key<'_>, steps: &[Step], ending: Ending) -> Checked {
        let db = self.db;
        let mut checked = Ok(());
        let mut batch = None;
        let outcome = db.try_transact(|tx| {
            let locked = tx.lock(lock);
            checked = self.model.get_lock(lock, &locked);
            let locked = locked?;
            self.remember(locked.clone());
            let mut body = Body::new(&self.model, lock);
            for step in steps {
                match body.step(tx, step, |write| self.item(write)) {
                    Ok(true) => self.cover("transaction queried after a write"),
                    Ok(false) => {}
                    Err(mismatch) => checked = Err(format!("{mismatch}\nin {step:?}")),
                }
            }
            batch = Some(body.batch(locked));
            match ending {
                Ending::Commit => Ok(()),
                Ending::Fail => Err(Error::Backend("refused".into())),
            }
        });
        checked?;
        match (batch, ending, outcome) {
            // An item is at the key of the lock.
            (None, _, Err(Error::InvalidInput(_))) => Ok(()),
            (Some(_), Ending::Fail, Err(Error::Backend(_))) => {
                self.cover("transaction failed");
                Ok(())
            }
            (Some(batch), Ending::Commit, Ok(())) => {
                self.cover("transaction committed");
                let now = ok(db.get_lock(lock))?;
                self.check_commit(&batch, &Ok(now.version()))?;
                self.get_lock(lock)
            }
            (Some(batch), Ending::Commit, Err(error @ Error::AlreadyExists { .. })) => {
                self.cover("transaction met an existing item");
                self.check_commit(&batch, &Err(error))
            }
            (_, _, outcome) => Err(format!("the transaction was {outcome:?}")),
        }
    }

    /// Reads one page, and returns where the next one begins.
    fn page(&mut self, query: &Query, after: Option<&str>) -> Result<Option<String>, String> {
        let page = ok(self.db.page(query, after))?;
        let missing = self.model.check_items(query, after, &page.items, true)?;
        let correct = match &page.next {
            // Nothing may follow.
            _ if query.limit == Some(0) => true,
            None => missing.is_empty(),
            Some(next) => {
                let follows = |sk: &&str| is_beyond(query, sk, next);
                let repeats = |last: &Item<u32>| is_beyond(query, last.sk(), next);
                missing.iter().all(follows) && !page.items.last().is_some_and(repeats)
            }
        };
        if !correct {
            return Err(format!(
                "{query:?} after {after:?} was {page:?}, and {missing:?} must follow"
            ));
        }
        Ok(page.next)
    }

    fn pages(&mut self, query: &Query) -> Checked {
        let most = self.model.select(query, None).len() + 3;
        let mut after = None;
        for _ in 0..most {
            after = self.page(query, after.as_deref())?;
            if after.is_none() {
                return Ok(());
            }
            self.cover("next page");
        }
        Err(format!("{query:?} has no last page"))
    }

    fn query(&mut self, query: &Query) -> Checked {
        let items = ok(self.db.query(query))?;
        self.cover(match items.len() {
            0 => "query found nothing",
            1 => "query found one",
            2..=256 => "query found several",
            _ => "query found more than a page",
        });
        self.model.check_items(query, None, &items, false).map(drop)
    }

    fn stream(&mut self, query: Query) -> Checked {
        let mut stream = self.db.stream(query.clone());
        let items: Result<Vec<Item<u32>>, Error> = stream.by_ref().collect();
        if stream.next().is_some() {
            return Err("a stream continues after its end".into());
        }
        drop(stream);
        let items = ok(items)?;
        self.model
            .check_items(&query, None, &items, false)
            .map(drop)
    }

    fn count(&mut self) -> Checked {
        let Some(count) = self.db.count() else {
            return Ok(());
        };
        let now = self.model.now;
        let items = self.model.all();
        let items = items.filter(|stored| !stored.is_lock() && stored.is_live(now));
        let (uncertain, certain): (Vec<_>, Vec<_>) = items.partition(|stored| stored.uncertain);
        if !(certain.len()..=certain.len() + uncertain.len()).contains(&count) {
            return Err(format!(
                "{count} items were counted, and there are {certain:?}"
            ));
        }
        Ok(())
    }

    fn purge(&mut self) -> Checked {
        let operated = self.model.operated;
        self.model.mark_uncertain();
        self.model.operated = operated;
        let Some(count) = self.db.purge() else {
            return Ok(());
        };
        let (mut least, mut most) = (0, 0);
        for stored in self.model.all_expired() {
            least += usize::from(!stored.uncertain);
            most += usize::from(!stored.purged);
            stored.uncertain = true;
            stored.purged = true;
        }
        if !(least..=most).contains(&count) {
            return Err(format!(
                "{count} were purged, and {least} to {most} are expired"
            ));
        }
        if count > 0 {
            self.cover("purged");
        }
        match self.db.purge() {
            Some(0) => Ok(()),
            again => Err(format!("{again:?} were purged again")),
        }
    }

    fn jump(&mut self, jump: Jump) {
        self.model.mark_uncertain();
        let now = self.model.now;
        let next_expiry = |expires: fn(&Stored) -> bool| {
            let rows = self.model.all().filter(|stored| expires(stored));
            let ttls = rows.filter_map(Stored::ttl);
            ttls.filter(|ttl| *ttl >= now).min().unwrap_or(now)
        };
        let to = match jump {
            Jump::Forward(seconds) => now.saturating_add(seconds),
            Jump::ToExpiry => next_expiry(|_| true),
            Jump::PastExpiry => next_expiry(|_| true).saturating_add(1),
            Jump::ToLockExpiry => next_expiry(Stored::is_lock),
            Jump::Back(seconds) => now.saturating_sub(seconds),
            Jump::ToEndOfTime => u64::MAX,
        };
        self.clock.set(to);
        self.model.now = to;
        let mut rows = self.model.all();
        if rows.any(|stored| stored.uncertain && stored.is_live(to)) {
            drop(rows);
            self.cover("an uncertain row");
        }
    }

    /// Compares everything that can be read without a cache.
    fn check_uncached(&mut self) -> Checked {
        self.model.operated = true;
        for pk in PARTITIONS {
            // The bulk partition takes long, and is checked at the end.
            if pk != BULK_PARTITION {
                self.query(&Query::new(pk))?;
            }
        }
        for key in KEYS {
            let item = ok(self.db.get_fresh(key.into()))?;
            self.model.check_item(key.into(), item.as_ref())?;
        }
        // A commit of checks changes nothing, and shows which locks exist with which versions.
        let locks = self.locks.values().filter_map(|locks| locks.last());
        let batch = locks.cloned().fold(Batch::new(), Batch::check);
        self.commit(&batch)
    }

    /// Compares everything that a cache may answer, and everything that is read in pages.
    fn check_all_reads(&mut self) -> Checked {
        if self.filled {
            self.query(&Query::new(BULK_PARTITION))?;
            self.stream(Query::new(BULK_PARTITION))?;
            self.pages(&Query::new(BULK_PARTITION).reverse())?;
        }
        let query = Query::new(PARTITIONS[0]);
        self.pages(&query.clone().limit(2))?;
        self.stream(query.reverse().limit(3))?;
        for key in KEYS {
            self.get(key.into())?;
        }
        self.get_many(&KEYS.map(Key::from))
    }

    /// Purges at later times and compares: when each refreshed lock would have expired without its
    /// refresh, in the last second of a row, and after it.
    fn check_after_expiry(&mut self) -> Checked {
        for jump in [Jump::Forward(3_601), Jump::ToExpiry, Jump::PastExpiry] {
            self.jump(jump);
            self.purge()?;
            self.check_uncached()?;
        }
        Ok(())
    }
}
