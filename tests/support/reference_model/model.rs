//! The map of rows, and the results that it allows.

use atomic_db::{Batch, Error, Item, Key, KeyBuf, Lock, Query, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;

/// `Err` describes a result that the model does not allow.
pub(super) type Checked = Result<(), String>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Row {
    Item { data: Option<u32>, ttl: Option<u64> },
    Lock { version: Version, ttl: u64 },
}

#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) row: Row,
    /// An operation met the row while it was expired, so the database may have dropped it.
    pub(super) uncertain: bool,
    /// A purge met the row while it was expired.
    pub(super) purged: bool,
}

impl Stored {
    fn new(row: Row) -> Self {
        Stored {
            row,
            uncertain: false,
            purged: false,
        }
    }

    pub(super) fn ttl(&self) -> Option<u64> {
        match self.row {
            Row::Item { ttl, .. } => ttl,
            Row::Lock { ttl, .. } => Some(ttl),
        }
    }

    pub(super) fn is_live(&self, now: u64) -> bool {
        self.ttl().is_none_or(|ttl| now <= ttl)
    }

    pub(super) fn is_lock(&self) -> bool {
        matches!(self.row, Row::Lock { .. })
    }
}

/// The row that is visible at a key.
#[derive(Debug)]
pub(super) enum Visibility<'a> {
    Absent,
    /// The row is uncertain.
    Possible(&'a Row),
    Present(&'a Row),
}

/// The results that a commit may have.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// A key occurs twice.
    pub(super) repeated: bool,
    /// The locks that changed, in order, and whether that is uncertain.
    pub(super) changed: Vec<(KeyBuf, bool)>,
    /// The creations that meet an item, and whether that is uncertain.
    pub(super) exists: Vec<(KeyBuf, bool)>,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    /// By partition key, then by sort key.
    rows: BTreeMap<String, BTreeMap<String, Stored>>,
    /// Expired items that locks have replaced. A cache may still have them.
    shadowed: BTreeMap<KeyBuf, Stored>,
    pub(super) now: u64,
    /// An operation ran since the clock last moved.
    pub(super) operated: bool,
    /// All versions so far.
    versions: BTreeSet<Version>,
    /// The greatest version so far of each lock.
    greatest: BTreeMap<KeyBuf, Version>,
}

impl Model {
    pub(super) fn new(now: u64) -> Self {
        Model {
            rows: BTreeMap::new(),
            shadowed: BTreeMap::new(),
            now,
            operated: false,
            versions: BTreeSet::new(),
            greatest: BTreeMap::new(),
        }
    }

    pub(super) fn version_count(&self) -> usize {
        self.versions.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Stored> {
        self.rows.values().flat_map(BTreeMap::values)
    }

    pub(super) fn all_expired(&mut self) -> impl Iterator<Item = &mut Stored> {
        let now = self.now;
        let all = self.rows.values_mut().flat_map(BTreeMap::values_mut);
        all.filter(move |stored| !stored.is_live(now))
    }

    fn visibility(&self, key: Key<'_>) -> Visibility<'_> {
        let partition = self.rows.get(key.pk);
        match partition.and_then(|partition| partition.get(key.sk)) {
            Some(stored) if !stored.is_live(self.now) => Visibility::Absent,
            Some(stored) if stored.uncertain => Visibility::Possible(&stored.row),
            Some(stored) => Visibility::Present(&stored.row),
            None => Visibility::Absent,
        }
    }

    pub(super) fn live_locks(&self) -> impl Iterator<Item = Lock> {
        let all = self.rows.iter().flat_map(|(pk, partition)| {
            let rows = partition.iter();
            rows.map(move |(sk, stored)| (pk, sk, stored))
        });
        all.filter_map(|(pk, sk, stored)| match stored.row {
            Row::Lock { version, ttl } if stored.is_live(self.now) => {
                Some(Lock::new((pk, sk), version, ttl))
            }
            _ => None,
        })
    }

    /// Checks a read that a cache may have answered.
    pub(super) fn check_cached(&self, key: Key<'_>, result: Option<&Item<u32>>) -> Checked {
        let shadowed = self.shadowed.get(&key.to_buf());
        match (shadowed, result) {
            (Some(stored), Some(item))
                if stored.is_live(self.now) && is_item(item, key, &stored.row) =>
            {
                Ok(())
            }
            _ => self.check_item(key, result),
        }
    }

    /// Checks a fresh read.
    pub(super) fn check_item(&self, key: Key<'_>, result: Option<&Item<u32>>) -> Checked {
        let visibility = self.visibility(key);
        let correct = match (&visibility, result) {
            (Visibility::Possible(row) | Visibility::Present(row), Some(item)) => {
                is_item(item, key, row)
            }
            (Visibility::Absent, Some(_)) | (Visibility::Present(Row::Item { .. }), None) => false,
            (_, None) => true,
        };
        if !correct {
            return Err(format!("{key} was {result:?}, and is {visibility:?}"));
        }
        Ok(())
    }

    /// Makes the row at `key` certain, because a result showed it.
    pub(super) fn observe(&mut self, key: Key<'_>) {
        let partition = self.rows.get_mut(key.pk);
        if let Some(stored) = partition.and_then(|partition| partition.get_mut(key.sk)) {
            stored.uncertain = false;
            stored.purged = false;
        }
    }

    pub(super) fn put(&mut self, item: &Item<u32>) {
        let row = Row::Item {
            data: item.data().copied(),
            ttl: item.ttl(),
        };
        self.shadowed.remove(&item.key().to_buf());
        self.insert(item.key(), row);
    }

    fn insert(&mut self, key: Key<'_>, row: Row) -> Option<Stored> {
        let partition = self.rows.entry(key.pk.to_owned()).or_default();
        partition.insert(key.sk.to_owned(), Stored::new(row))
    }

    pub(super) fn remove(&mut self, key: Key<'_>) {
        self.shadowed.remove(&key.to_buf());
        if let Some(partition) = self.rows.get_mut(key.pk) {
            partition.remove(key.sk);
        }
    }

    /// Checks a new version of the locks at `keys`.
    fn add_version<'k>(
        &mut self,
        version: Version,
        keys: impl Iterator<Item = Key<'k>>,
    ) -> Checked {
        if !self.versions.insert(version) {
            return Err(format!("{version} is not new"));
        }
        for key in keys {
            match self.greatest.insert(key.to_buf(), version) {
                Some(earlier) if earlier > version => {
                    return Err(format!(
                        "{key} had {earlier}, and now the smaller {version}"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The expiry of a lock that is created or refreshed now.
    fn lock_expiry(&self) -> u64 {
        self.now.saturating_add(86_400)
    }

    /// Checks and applies the result of reading a lock.
    pub(super) fn get_lock(&mut self, key: Key<'_>, result: &Result<Lock, Error>) -> Checked {
        let visibility = self.visibility(key);
        let wrong = || {
            Err(format!(
                "the lock {key} was {result:?}, and there is {visibility:?}"
            ))
        };
        let lock = match (&visibility, result) {
            (Visibility::Present(Row::Item { .. }), Err(Error::InvalidInput(_))) => return Ok(()),
            (Visibility::Possible(Row::Item { .. }), Err(Error::InvalidInput(_))) => {
                self.observe(key);
                return Ok(());
            }
            (Visibility::Present(Row::Item { .. }), _) | (_, Err(_)) => return wrong(),
            (_, Ok(lock)) => lock,
        };
        if lock.key() != key {
            return wrong();
        }
        let row = Row::Lock {
            version: lock.version(),
            ttl: lock.ttl(),
        };
        if let Visibility::Present(&Row::Lock { version, ttl })
        | Visibility::Possible(&Row::Lock { version, ttl }) = visibility
        {
            // An uncertain lock may have been created again. One that exists keeps its version.
            if matches!(visibility, Visibility::Present(_)) || lock.version() == version {
                let refreshed = ttl - self.now < 3_600;
                let ttl = if refreshed { self.lock_expiry() } else { ttl };
                if row != (Row::Lock { version, ttl }) {
                    return wrong();
                }
                self.insert(key, row);
                return Ok(());
            }
        }
        if lock.ttl() != self.lock_expiry() {
            return wrong();
        }
        self.add_version(lock.version(), [key].into_iter())?;
        if let Some(replaced) = self.insert(key, row).filter(|stored| !stored.is_lock()) {
            self.shadowed.insert(key.to_buf(), replaced);
        }
        Ok(())
    }

    pub(super) fn validate(&self, batch: &Batch<u32>) -> Verdict {
        let mut verdict = Verdict::default();
        let guards = batch.locks().iter().chain(batch.checks());
        let items = batch.sets().iter().chain(batch.creates());
        let mut keys: Vec<KeyBuf> = guards.clone().map(|lock| lock.key().to_buf()).collect();
        keys.extend(items.map(|item| item.key().to_buf()));
        keys.extend_from_slice(batch.deletes());
        let distinct: BTreeSet<&KeyBuf> = keys.iter().collect();
        verdict.repeated = distinct.len() < keys.len();
        for lock in guards {
            let uncertain = match self.visibility(lock.key()) {
                Visibility::Present(Row::Lock { version, .. }) if *version == lock.version() => {
                    continue;
                }
                Visibility::Possible(Row::Lock { version, .. }) => *version == lock.version(),
                _ => false,
            };
            verdict.changed.push((lock.key().to_buf(), uncertain));
        }
        for item in batch.creates() {
            let uncertain = match self.visibility(item.key()) {
                Visibility::Present(Row::Item { .. }) => false,
                Visibility::Possible(Row::Item { .. }) => true,
                _ => continue,
            };
            verdict.exists.push((item.key().to_buf(), uncertain));
        }
        verdict
    }

    /// Applies a commit that succeeded.
    pub(super) fn apply(&mut self, batch: &Batch<u32>, version: Version) -> Checked {
        self.add_version(version, batch.locks().iter().map(Lock::key))?;
        for lock in batch.locks().iter().chain(batch.checks()) {
            self.observe(lock.key());
        }
        for lock in batch.locks() {
            let partition = self.rows.get_mut(lock.key().pk);
            let stored = partition.and_then(|partition| partition.get_mut(lock.key().sk));
            if let Some(Row::Lock { version: old, .. }) = stored.map(|stored| &mut stored.row) {
                *old = version;
            }
        }
        for item in batch.sets().iter().chain(batch.creates()) {
            self.put(item);
        }
        for key in batch.deletes() {
            self.remove(key.as_key());
        }
        Ok(())
    }

    /// The rows that a query may return, in its order and without its limit, and whether each is
    /// uncertain.
    pub(super) fn select(&self, query: &Query, after: Option<&str>) -> Vec<(&str, &Row, bool)> {
        let after = after.or(query.after.as_deref());
        let partition = self.rows.get(query.pk.as_str()).into_iter().flatten();
        let rows = partition.filter(|(sk, stored)| {
            let is_after = after.is_none_or(|after| is_beyond(query, sk, after));
            let live = !stored.is_lock() && stored.is_live(self.now);
            let in_range = query.range.contains(*sk);
            sk.starts_with(&*query.prefix) && in_range && is_after && live
        });
        let mut rows: Vec<_> = rows
            .map(|(sk, stored)| (sk.as_str(), &stored.row, stored.uncertain))
            .collect();
        if query.reverse {
            rows.reverse();
        }
        rows
    }

    /// Checks the items of a query, which are all of them or, if `page`, the first ones. Returns the
    /// sort keys that must follow.
    pub(super) fn check_items(
        &self,
        query: &Query,
        after: Option<&str>,
        items: &[Item<u32>],
        page: bool,
    ) -> Result<Vec<&str>, String> {
        let rows = self.select(query, after);
        let wrong = || {
            Err(format!(
                "{query:?} after {after:?} was {items:?}, and should be {rows:?}"
            ))
        };
        let limit = query.limit.unwrap_or(usize::MAX);
        if items.len() > limit {
            return wrong();
        }
        let mut rest = rows.iter();
        for item in items {
            // Only uncertain rows may be left out.
            let same = |sk: &str, row: &Row| is_item(item, Key::new(&query.pk, sk), row);
            let next = rest.find(|(sk, row, uncertain)| !uncertain || same(sk, row));
            match next {
                Some((sk, row, _)) if same(sk, row) => {}
                _ => return wrong(),
            }
        }
        let certain = rest.filter(|(_, _, uncertain)| !uncertain);
        let missing: Vec<&str> = certain.map(|(sk, _, _)| *sk).collect();
        if !page && items.len() < limit && !missing.is_empty() {
            return wrong();
        }
        Ok(missing)
    }

    /// Marks the rows that the operations since the last movement of the clock may have dropped.
    pub(super) fn mark_uncertain(&mut self) {
        if self.operated {
            self.all_expired()
                .for_each(|stored| stored.uncertain = true);
        }
        self.operated = false;
    }
}

/// Returns whether `sk` comes after `bound` in the order of a query.
pub(super) fn is_beyond(query: &Query, sk: &str, bound: &str) -> bool {
    if query.reverse {
        sk < bound
    } else {
        sk > bound
    }
}

fn is_item(item: &Item<u32>, key: Key<'_>, row: &Row) -> bool {
    let &Row::Item { data, ttl } = row else {
        return false;
    };
    item.key() == key && item.data().copied() == data && item.ttl() == ttl
}
