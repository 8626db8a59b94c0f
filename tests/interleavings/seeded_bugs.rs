//! What the scenarios are worth: each is run on a database with one planted bug, and must fail.
//!
//! Without its bug, a planted database passes every body that it is used for.

use super::{Mutex, Still, explore, scenarios};
use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, ManualClock, Page, Query, Result,
    Version, VersionGenerator,
};
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    /// The stripes of a commit are taken, written and let go one after another.
    CommitStripeByStripe,
    /// Stripes are taken in the order of the keys.
    #[cfg(shuttle)]
    Unsorted,
    /// A stripe is taken for each key, and so twice for two of them.
    #[cfg(shuttle)]
    StripeTakenTwice,
    GetManyKeyByKey,
    QueryInTwoParts,
    PagesByOffset,
    LocksMadeOutsideTheMutex,
    CheckedOutsideTheMutex,
    VersionsBeginAnew,
    RefreshIsANewVersion,
    ExpiredLocksComeBack,
    /// What one look found has expired by the clock's next reading: so nothing is there.
    JudgedAfterTheLook,
    /// What has expired is noted under the mutex, and removed by key under it again.
    PurgedByKey,
    /// A cache stores what it read, whatever was written meanwhile.
    LateFill,
    /// A cache stores what it is about to write.
    StoredBeforeTheWrite,
    /// A cache stores what it wrote, whoever else wrote meanwhile.
    LastToStoreWins,
}

/// Whether `body` fails on a database with `bug`. It must not on one without.
fn finds(bug: Bug, body: impl Fn(Bug) + Send + Sync + Copy + 'static) {
    explore(&format!("without {bug:?}"), Some(2), move || {
        body(Bug::None)
    });
    let planted = move || explore(&format!("with {bug:?}"), Some(2), move || body(bug));
    let found = catch_unwind(AssertUnwindSafe(planted)).is_err();
    assert!(found, "{bug:?} was not found");
}

macro_rules! found {
    ($($bug:ident by $($body:ident),*;)*) => {$($(
        #[test]
        fn $body() {
            finds(Bug::$bug, |bug| scenarios::$body(Toy::new(Arc::new(Still), bug)));
        }
    )*)*};
}

mod in_a_database {
    use super::*;

    found! {
        CommitStripeByStripe by commits_over_the_same_stripes_are_whole;
        GetManyKeyByKey by get_many_sees_a_commit_whole;
        QueryInTwoParts by a_query_sees_a_commit_whole;
        PagesByOffset by a_stream_meets_a_commit;
        LocksMadeOutsideTheMutex by both_get_the_same_new_lock;
        CheckedOutsideTheMutex by
            of_two_commits_one_succeeds,
            of_two_creations_one_succeeds,
            commits_that_check_each_others_lock_do_not_both_succeed,
            updates_are_not_lost,
            three_threads_commit;
        VersionsBeginAnew by a_deleted_lock_fails_its_holder;
    }

    // Loom ends the process at a deadlock.
    #[cfg(shuttle)]
    found! {
        Unsorted by commits_that_take_the_stripes_in_opposite_orders_end;
        StripeTakenTwice by a_commit_with_two_keys_in_one_stripe_ends;
    }

    macro_rules! found_in_time {
        ($($bug:ident by $body:ident;)*) => {$(
            #[test]
            fn $body() {
                finds(Bug::$bug, |bug| {
                    let clock = ManualClock::new(1_000_000);
                    scenarios::$body(Toy::new(Arc::new(clock.clone()), bug), clock);
                });
            }
        )*};
    }

    found_in_time! {
        RefreshIsANewVersion by a_refresh_fails_nobody;
        ExpiredLocksComeBack by a_lock_that_expires_fails_its_holder_or_not;
        JudgedAfterTheLook by an_item_that_expires_is_replaced;
    }

    #[test]
    fn a_purge_meets_everything() {
        finds(Bug::PurgedByKey, |bug| {
            let clock = ManualClock::new(1_000_000);
            let db = Toy::new(Arc::new(clock.clone()), bug);
            scenarios::a_purge_meets_everything(db.clone(), clock, move || db.purge());
        });
    }
}

mod in_a_cache {
    use super::*;

    macro_rules! found {
        ($($bug:ident by $($body:ident),*;)*) => {$($(
            #[test]
            fn $body() {
                finds(Bug::$bug, |bug| scenarios::$body(ToyCache::new(bug)));
            }
        )*)*};
    }

    found! {
        LateFill by
            a_fill_meets_a_set,
            a_fill_meets_a_commit,
            a_fill_meets_a_delete,
            a_fill_meets_two_writes,
            two_fills_meet_a_set,
            a_fill_meets_a_set_and_an_eviction;
        StoredBeforeTheWrite by a_fill_meets_a_write_that_fails;
        LastToStoreWins by two_writers_of_one_key_agree_with_the_database;
    }

    #[test]
    fn a_fill_meets_an_invalidation() {
        finds(Bug::LateFill, |bug| {
            let cache = ToyCache::new(bug);
            let (inner, invalidated) = (cache.0.inner.clone(), cache.clone());
            let invalidate = move || invalidated.invalidate(scenarios::A);
            scenarios::a_fill_meets_an_invalidation(cache, inner, invalidate);
        });
    }
}

/// Two stripes, each a map under a mutex.
#[derive(Clone)]
struct Toy(Arc<Stripes>);

struct Stripes {
    bug: Bug,
    stripes: [Mutex<Rows>; 2],
    clock: Arc<dyn Clock>,
    versions: VersionGenerator,
}

type Rows = BTreeMap<KeyBuf, Row>;

#[derive(Clone)]
enum Row {
    Item(Item<u64>),
    Lock(Lock),
}

fn stripe(pk: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    hasher.write(pk.as_bytes());
    (hasher.finish() >> 32) as usize & 1
}

impl Toy {
    fn new(clock: Arc<dyn Clock>, bug: Bug) -> Self {
        Toy(Arc::new(Stripes {
            bug,
            stripes: [Mutex::new(Rows::new()), Mutex::new(Rows::new())],
            clock,
            versions: VersionGenerator::new(),
        }))
    }

    fn has(&self, bug: Bug) -> bool {
        self.0.bug == bug
    }

    fn now(&self) -> u64 {
        self.0.clock.epoch_seconds()
    }

    /// Runs `act` on the rows of one stripe.
    fn on<R>(&self, pk: &str, act: impl FnOnce(&mut Rows) -> R) -> R {
        act(&mut self.0.stripes[stripe(pk)].lock().unwrap())
    }

    /// Runs `act` on the rows of both stripes at one instant, put together.
    fn on_both<R>(&self, act: impl FnOnce(&mut Rows) -> R) -> R {
        let mut one = self.0.stripes[0].lock().unwrap();
        let mut two = self.0.stripes[1].lock().unwrap();
        let mut rows = std::mem::take(&mut *one);
        rows.append(&mut two);
        let result = act(&mut rows);
        let part = |number| move |key: &KeyBuf| stripe(key.pk()) == number;
        *two = rows
            .clone()
            .into_iter()
            .filter(|(key, _)| part(1)(key))
            .collect();
        *one = rows.into_iter().filter(|(key, _)| part(0)(key)).collect();
        result
    }

    fn live(&self, row: Option<&Row>, now: u64) -> Option<Item<u64>> {
        match row {
            Some(Row::Item(item)) if item.is_live(now) => Some(item.clone()),
            _ => None,
        }
    }

    fn purge(&self) {
        let now = self.now();
        let expired = |row: &Row| match row {
            Row::Item(item) => !item.is_live(now),
            Row::Lock(lock) => !lock.is_live(now),
        };
        if !self.has(Bug::PurgedByKey) {
            return self.on_both(|rows| rows.retain(|_, row| !expired(row)));
        }
        let gone = self.on_both(|rows| {
            let gone = rows.iter().filter(|(_, row)| expired(row));
            gone.map(|(key, _)| key.clone()).collect::<Vec<_>>()
        });
        self.on_both(|rows| rows.retain(|key, _| !gone.contains(key)));
    }

    fn judge(&self, rows: &Rows, batch: &Batch<u64>, now: u64) -> Result<()> {
        let unchanged = |lock: &&Lock| match rows.get(&KeyBuf::from(lock.key())) {
            Some(Row::Lock(held)) => held.version() == lock.version() && held.is_live(now),
            _ => false,
        };
        let guards = batch.locks().iter().chain(batch.checks());
        let lost = guards
            .filter(|lock| !unchanged(lock))
            .map(|lock| lock.key().to_buf());
        let keys: Vec<KeyBuf> = lost.collect();
        if !keys.is_empty() {
            return Err(Error::RaceCondition { keys });
        }
        let creates = batch.creates().iter().map(|item| item.key().to_buf());
        match creates
            .into_iter()
            .find(|key| self.live(rows.get(key), now).is_some())
        {
            Some(key) => Err(Error::AlreadyExists { key }),
            None => Ok(()),
        }
    }

    fn write(&self, rows: &mut Rows, batch: &Batch<u64>, version: Version) {
        for lock in batch.locks() {
            if let Some(Row::Lock(held)) = rows.get_mut(&KeyBuf::from(lock.key())) {
                *held = held.clone().with_version(version);
            }
        }
        for item in batch.sets().iter().chain(batch.creates()) {
            rows.insert(item.key().to_buf(), Row::Item(item.clone()));
        }
        for key in batch.deletes() {
            rows.remove(key);
        }
    }

    /// Waits as a commit does that takes the mutex of each key's stripe, in the keys' order.
    #[cfg(shuttle)]
    fn take_each(&self, batch: &Batch<u64>, once: bool) {
        let mut held = Vec::new();
        let mut taken = Vec::new();
        for item in batch.sets() {
            let number = stripe(item.pk());
            if !once || !taken.contains(&number) {
                held.push(self.0.stripes[number].lock().unwrap());
                taken.push(number);
            }
        }
    }
}

impl AtomicDb for Toy {
    type Data = u64;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<u64>>> {
        let at = key.to_buf();
        if self.has(Bug::JudgedAfterTheLook) {
            let row = self.on(key.pk, |rows| rows.get(&at).cloned());
            return Ok(self.live(row.as_ref(), self.now()));
        }
        let now = self.now();
        Ok(self.on(key.pk, |rows| self.live(rows.get(&at), now)))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<u64>>> {
        self.get(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<u64>>>> {
        if self.has(Bug::GetManyKeyByKey) {
            return keys.iter().map(|key| self.get(*key)).collect();
        }
        let now = self.now();
        Ok(self.on_both(|rows| {
            let rows = keys.iter().map(|key| rows.get(&key.to_buf()));
            rows.map(|row| self.live(row, now)).collect()
        }))
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let at = key.to_buf();
        let now = self.now();
        let version = self.0.versions.next(self.0.clock.now());
        let version = match self.0.bug {
            Bug::VersionsBeginAnew => Version::from_u128(1),
            _ => version,
        };
        let made = Lock::new(key, version, now + Lock::LIFETIME);
        let found = self.on(key.pk, |rows| match rows.get_mut(&at) {
            Some(Row::Lock(lock)) if lock.is_live(now) => {
                let refreshed = lock.refreshed_ttl(now);
                let version = match self.0.bug {
                    Bug::RefreshIsANewVersion if refreshed != lock.ttl() => version,
                    _ => lock.version(),
                };
                *lock = Lock::new(key, version, refreshed);
                Some(lock.clone())
            }
            Some(Row::Lock(lock)) if self.has(Bug::ExpiredLocksComeBack) => {
                *lock = Lock::new(key, lock.version(), now + Lock::LIFETIME);
                Some(lock.clone())
            }
            _ if self.has(Bug::LocksMadeOutsideTheMutex) => None,
            _ => {
                rows.insert(at.clone(), Row::Lock(made.clone()));
                Some(made.clone())
            }
        });
        Ok(found.unwrap_or_else(|| {
            self.on(key.pk, |rows| rows.insert(at, Row::Lock(made.clone())));
            made
        }))
    }

    fn set(&self, items: &[Item<u64>]) -> Result<()> {
        for item in items {
            let row = Row::Item(item.clone());
            self.on(item.pk(), |rows| rows.insert(item.key().to_buf(), row));
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch<u64>) -> Result<Version> {
        batch.validate()?;
        let now = self.now();
        let version = match (self.0.bug, batch.locks().first()) {
            (Bug::VersionsBeginAnew, Some(lock)) => {
                Version::from_u128(lock.version().as_u128() + 1)
            }
            _ => self.0.versions.next(self.0.clock.now()),
        };
        match self.0.bug {
            Bug::CheckedOutsideTheMutex => {
                self.on_both(|rows| self.judge(rows, batch, now))?;
                self.on_both(|rows| self.write(rows, batch, version));
            }
            Bug::CommitStripeByStripe => {
                for item in batch.sets() {
                    let row = Row::Item(item.clone());
                    self.on(item.pk(), |rows| rows.insert(item.key().to_buf(), row));
                }
            }
            bug => {
                #[cfg(shuttle)]
                match bug {
                    Bug::Unsorted => self.take_each(batch, true),
                    Bug::StripeTakenTwice => self.take_each(batch, false),
                    _ => {}
                }
                let _ = bug;
                self.on_both(|rows| {
                    self.judge(rows, batch, now)?;
                    self.write(rows, batch, version);
                    Ok(())
                })?;
            }
        }
        Ok(version)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        for key in keys {
            self.on(key.pk, |rows| rows.remove(&key.to_buf()));
        }
        Ok(())
    }

    /// Pages of one, so that something can come between them.
    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<u64>> {
        let items = self.partition(&query.pk);
        let by_offset = self.has(Bug::PagesByOffset);
        let offset = match after {
            None => 0,
            Some(offset) if by_offset => offset.parse().unwrap_or(0),
            Some(after) => items.iter().take_while(|item| item.sk() <= after).count(),
        };
        let item = items.get(offset);
        let next = item.map(|item| match by_offset {
            true => (offset + 1).to_string(),
            false => item.sk().to_owned(),
        });
        Ok(Page {
            items: item.cloned().into_iter().collect(),
            next,
        })
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<u64>>> {
        let mut items = self.partition(&query.pk);
        if self.has(Bug::QueryInTwoParts) {
            items.truncate(1);
            items.extend(self.partition(&query.pk).into_iter().skip(1));
        }
        Ok(items)
    }
}

impl Toy {
    fn partition(&self, pk: &str) -> Vec<Item<u64>> {
        let now = self.now();
        self.on(pk, |rows| {
            let live = rows.values().filter_map(|row| self.live(Some(row), now));
            live.filter(|item| item.pk() == pk).collect()
        })
    }
}

/// A map of items before a sound [`Toy`], under a mutex that is held across the calls behind unless
/// its bug is that it is not.
#[derive(Clone)]
struct ToyCache(Arc<Behind>);

struct Behind {
    bug: Bug,
    inner: Toy,
    items: Mutex<BTreeMap<KeyBuf, Item<u64>>>,
}

impl ToyCache {
    fn new(bug: Bug) -> Self {
        ToyCache(Arc::new(Behind {
            bug,
            inner: Toy::new(Arc::new(Still), Bug::None),
            items: Mutex::new(BTreeMap::new()),
        }))
    }

    fn on<R>(&self, act: impl FnOnce(&mut BTreeMap<KeyBuf, Item<u64>>) -> R) -> R {
        act(&mut self.0.items.lock().unwrap())
    }

    fn invalidate(&self, key: Key<'_>) {
        self.on(|items| items.remove(&key.to_buf()));
    }

    fn write<R>(
        &self,
        sets: &[&Item<u64>],
        deletes: &[KeyBuf],
        act: impl FnOnce(&Toy) -> Result<R>,
    ) -> Result<R> {
        let store = |items: &mut BTreeMap<KeyBuf, Item<u64>>| {
            for item in sets {
                items.insert(item.key().to_buf(), Item::clone(item));
            }
            for key in deletes {
                items.remove(key);
            }
        };
        let forget = |items: &mut BTreeMap<KeyBuf, Item<u64>>| {
            items.retain(|key, _| {
                !deletes.contains(key) && sets.iter().all(|item| *key != item.key())
            });
        };
        match self.0.bug {
            Bug::StoredBeforeTheWrite => {
                self.on(store);
                let result = act(&self.0.inner);
                if result.is_err() {
                    self.on(forget);
                }
                result
            }
            Bug::LastToStoreWins => {
                let result = act(&self.0.inner)?;
                self.on(store);
                Ok(result)
            }
            _ => self.on(|items| {
                forget(items);
                let result = act(&self.0.inner)?;
                store(items);
                Ok(result)
            }),
        }
    }
}

impl AtomicDb for ToyCache {
    type Data = u64;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<u64>>> {
        let at = key.to_buf();
        if self.0.bug == Bug::LateFill {
            if let Some(item) = self.on(|items| items.get(&at).cloned()) {
                return Ok(Some(item));
            }
            let item = self.0.inner.get(key)?;
            if let Some(item) = &item {
                self.on(|items| items.insert(at, item.clone()));
            }
            return Ok(item);
        }
        self.on(|items| {
            if let Some(item) = items.get(&at) {
                return Ok(Some(item.clone()));
            }
            let item = self.0.inner.get(key)?;
            if let Some(item) = &item {
                items.insert(at, item.clone());
            }
            Ok(item)
        })
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<u64>>> {
        self.0.inner.get_fresh(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<u64>>>> {
        self.0.inner.get_many(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.0.inner.get_lock(key)
    }

    fn set(&self, items: &[Item<u64>]) -> Result<()> {
        let sets: Vec<&Item<u64>> = items.iter().collect();
        self.write(&sets, &[], |inner| inner.set(items))
    }

    fn commit(&self, batch: &Batch<u64>) -> Result<Version> {
        let sets: Vec<&Item<u64>> = batch.sets().iter().chain(batch.creates()).collect();
        self.write(&sets, batch.deletes(), |inner| inner.commit(batch))
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        let deletes: Vec<KeyBuf> = keys.iter().map(|key| key.to_buf()).collect();
        self.write(&[], &deletes, |inner| inner.delete(keys))
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<u64>> {
        self.0.inner.page(query, after)
    }
}
