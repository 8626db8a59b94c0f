//! What the conformance suite is worth: databases with one deliberate fault each, which it must
//! fail in the case that names the broken promise.
//!
//! Without its fault each of them passes the whole suite, so it is the fault that is found. Every
//! case of the suite has a database here that it fails, so no case is there for show.

use atomic_db::testing::{Capabilities, Case, cases, check, suite};
use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, ManualClock, MemoryDb, Page, Query,
    Result, Version, VersionGenerator,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// The one thing that a database does wrong, and the cases that must find it.
type Finding = (Fault, &'static [&'static str]);

/// The faults of [`Plain`], which keeps its rows in one map under one mutex.
const PLAIN: &[Finding] = &[
    (Fault::KeysJoined, &["keys_are_pairs_and_are_never_joined"]),
    (
        Fault::KeysRefusedTooLate,
        &["odd_keys_are_ordinary_or_refused_before_anything_is_written"],
    ),
    (
        Fault::ItemsWithoutDataVanish,
        &["items_are_read_back_as_written"],
    ),
    (
        Fault::GetManyMerges,
        &["get_many_returns_results_in_the_order_asked"],
    ),
    (
        Fault::GetManyStopsAtHundred,
        &["get_many_accepts_any_number_of_keys"],
    ),
    (
        Fault::TtlIsExclusive,
        &["point_reads_return_an_item_until_its_ttl_has_passed"],
    ),
    (
        Fault::ExpiredItemsInQueries,
        &["queries_return_an_item_until_its_ttl_has_passed"],
    ),
    (
        Fault::ExpiredItemsBlockCreation,
        &["expired_items_do_not_block_create_or_get_lock"],
    ),
    (Fault::LocksInQueries, &["reads_never_return_locks"]),
    (
        Fault::OrderedByLength,
        &["queries_are_in_byte_order_either_way"],
    ),
    (Fault::PrefixAnywhere, &["queries_honour_the_prefix"]),
    (Fault::AfterIsInclusive, &["queries_honour_after_and_limit"]),
    (
        Fault::LimitCountsHiddenRows,
        &["the_limit_counts_returned_items"],
    ),
    (
        Fault::LastPageIsLost,
        &["pages_are_contiguous_and_do_not_overlap"],
    ),
    (
        Fault::StreamEndsAfterAPage,
        &["streams_yield_the_items_of_a_query"],
    ),
    (Fault::StreamGoesOnAfterItsEnd, &["streams_are_fused"]),
    (
        Fault::StreamHoldsTheMutex,
        &["the_loop_body_of_a_stream_may_call_any_method"],
    ),
    (
        Fault::PagesByOffset,
        &["streams_yield_items_present_throughout_exactly_once"],
    ),
    (Fault::LimitOverflows, &["extreme_queries_do_not_panic"]),
    (
        Fault::FirstOfARepeatedKeyStands,
        &["set_replaces_items_and_the_last_of_a_repeated_key_wins"],
    ),
    (
        Fault::DeleteLeavesLocks,
        &[
            "delete_removes_items_and_locks",
            "commits_under_a_deleted_expired_or_replaced_lock_fail",
        ],
    ),
    (
        Fault::EmptyInputIsRefused,
        &["empty_input_succeeds_and_does_nothing"],
    ),
    (
        Fault::UnguardedSetAtomic,
        &["set_atomic_with_items_and_no_lock_is_invalid"],
    ),
    (
        Fault::CommitHalfApplied,
        &[
            "a_failed_commit_writes_nothing",
            "a_batch_without_locks_is_all_or_nothing",
        ],
    ),
    (
        Fault::CommitForgetsDeletes,
        &["a_commit_writes_the_whole_batch"],
    ),
    (
        Fault::FirstLoserAlone,
        &["a_race_condition_names_exactly_the_locks_that_changed"],
    ),
    (
        Fault::ChecksRenewed,
        &[
            "a_commit_gives_its_locks_one_new_version_and_keeps_that_of_its_checks",
            "concurrent_commits_that_only_check_a_lock_all_succeed",
        ],
    ),
    (
        Fault::CommitTellsAnotherVersion,
        &["a_renewed_lock_can_be_used_for_the_next_commit"],
    ),
    (
        Fault::ChecksIgnored,
        &[
            "a_check_requires_an_unchanged_lock",
            "checks_prevent_write_skew",
        ],
    ),
    (
        Fault::CreateReplaces,
        &["create_requires_that_no_live_item_exists"],
    ),
    (
        Fault::ExistenceBeforeRaces,
        &["a_race_condition_is_reported_before_an_existing_item"],
    ),
    (
        Fault::RepeatedKeysInABatch,
        &["a_key_appears_at_most_once_in_a_batch"],
    ),
    (
        Fault::FreshReadsAreOld,
        &["transactions_read_fresh_data_and_commit_all_or_nothing"],
    ),
    (
        Fault::ExpiredLocksComeBack,
        &["get_lock_creates_a_lock_that_lives_for_24_hours"],
    ),
    (
        Fault::LocksReplaceItems,
        &["a_key_holds_an_item_or_a_lock_never_both"],
    ),
    (
        Fault::RefreshIsANewVersion,
        &["a_refresh_extends_a_lock_and_keeps_its_version"],
    ),
    (
        Fault::ExpiredLocksCommit,
        &["commits_under_a_lock_succeed_until_its_ttl_has_passed"],
    ),
    (
        Fault::CommitsLengthenLocks,
        &["a_commit_does_not_extend_a_lock"],
    ),
    (Fault::VersionsBeginAnew, &["versions_are_never_reused"]),
    (
        Fault::LocksMadeOutsideTheMutex,
        &["concurrent_callers_of_get_lock_get_the_same_lock"],
    ),
    (
        Fault::CheckedOutsideTheMutex,
        &[
            "one_of_several_concurrent_commits_under_one_version_succeeds",
            "one_of_several_concurrent_creates_of_an_item_succeeds",
            "no_update_is_lost",
            "transfers_preserve_the_total",
        ],
    ),
    (Fault::GetManyKeyByKey, &["get_many_is_a_snapshot"]),
    (Fault::QueryInTwoParts, &["a_query_is_a_snapshot"]),
];

/// The faults of [`Cached`], a map of items before a sound database.
const CACHED: &[Finding] = &[
    (Fault::KeysJoined, &["keys_are_pairs_and_are_never_joined"]),
    (
        Fault::ExpiredItemsCached,
        &["point_reads_return_an_item_until_its_ttl_has_passed"],
    ),
    (
        Fault::DeletedItemsCached,
        &["reads_see_every_completed_write"],
    ),
    (
        Fault::CachedBeforeTheCommit,
        &["reads_never_return_the_items_of_a_failed_commit"],
    ),
    (
        Fault::LateFill,
        &[
            "reads_that_start_after_a_write_never_return_an_older_value",
            "reads_never_return_older_values_while_commits_conflict",
        ],
    ),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    KeysJoined,
    KeysRefusedTooLate,
    ItemsWithoutDataVanish,
    GetManyMerges,
    GetManyStopsAtHundred,
    TtlIsExclusive,
    ExpiredItemsInQueries,
    ExpiredItemsBlockCreation,
    LocksInQueries,
    OrderedByLength,
    PrefixAnywhere,
    AfterIsInclusive,
    LimitCountsHiddenRows,
    LastPageIsLost,
    StreamEndsAfterAPage,
    StreamGoesOnAfterItsEnd,
    StreamHoldsTheMutex,
    PagesByOffset,
    LimitOverflows,
    FirstOfARepeatedKeyStands,
    DeleteLeavesLocks,
    EmptyInputIsRefused,
    UnguardedSetAtomic,
    CommitHalfApplied,
    CommitForgetsDeletes,
    FirstLoserAlone,
    ChecksRenewed,
    CommitTellsAnotherVersion,
    ChecksIgnored,
    CreateReplaces,
    ExistenceBeforeRaces,
    RepeatedKeysInABatch,
    FreshReadsAreOld,
    ExpiredLocksComeBack,
    LocksReplaceItems,
    RefreshIsANewVersion,
    ExpiredLocksCommit,
    CommitsLengthenLocks,
    VersionsBeginAnew,
    LocksMadeOutsideTheMutex,
    CheckedOutsideTheMutex,
    GetManyKeyByKey,
    QueryInTwoParts,
    ExpiredItemsCached,
    DeletedItemsCached,
    CachedBeforeTheCommit,
    LateFill,
}

suite! { the_plain_database_without_a_fault: |clock| Plain::new(clock, Fault::None) }
suite! { the_plain_cache_without_a_fault: |clock| Cached::new(clock, Fault::None) }

#[test]
fn every_fault_of_the_plain_database_is_found_by_the_case_that_names_the_promise() {
    assert_found(PLAIN, Plain::new);
}

#[test]
fn every_fault_of_the_plain_cache_is_found_by_the_case_that_names_the_promise() {
    assert_found(CACHED, Cached::new);
}

#[test]
fn every_case_finds_a_fault() {
    let findings = PLAIN.iter().chain(CACHED);
    let finding: HashSet<&str> = findings.flat_map(|(_, cases)| *cases).copied().collect();
    let all: HashSet<&str> = cases::<MemoryDb<String>>()
        .iter()
        .map(|case| case.name)
        .collect();
    let idle: Vec<_> = all.difference(&finding).collect();
    assert!(idle.is_empty(), "no fault is found by {idle:?}");
    let unknown: Vec<_> = finding.difference(&all).collect();
    assert!(unknown.is_empty(), "there are no cases {unknown:?}");
}

fn assert_found<D>(findings: &[Finding], make: fn(ManualClock, Fault) -> D)
where
    D: AtomicDb<Data = String> + Send + Sync + 'static,
{
    let named: HashMap<&str, Case<D>> = cases::<D>()
        .into_iter()
        .map(|case| (case.name, case))
        .collect();
    let mut passed = Vec::new();
    // Side by side, for some of the faults make a call hang until the suite gives up on it.
    thread::scope(|scope| {
        let runs: Vec<_> = findings
            .iter()
            .flat_map(|(fault, cases)| cases.iter().map(move |case| (*fault, *case)))
            .map(|(fault, case)| {
                let run = named[case].run;
                let make = move |clock| make(clock, fault);
                let fails = move || catch_unwind(|| check(run, make, Capabilities::new())).is_err();
                // A race finds its fault very probably, and not surely.
                let found = scope.spawn(move || (0..5).any(|_| fails()));
                (fault, case, found)
            })
            .collect();
        for (fault, case, found) in runs {
            if !found.join().unwrap() {
                passed.push((fault, case));
            }
        }
    });
    assert!(passed.is_empty(), "faults that were not found: {passed:?}");
}

/// Lets other threads run where a fault leaves a gap, so that they fall into it.
fn gap() {
    for _ in 0..20 {
        thread::yield_now();
    }
}

/// As simple a database as there can be: one map, one mutex, and a fault.
struct Plain {
    fault: Fault,
    rows: Mutex<BTreeMap<KeyBuf, Row>>,
    /// What was overwritten last, for [`Fault::FreshReadsAreOld`].
    old: Mutex<HashMap<KeyBuf, Row>>,
    clock: ManualClock,
    versions: VersionGenerator,
}

#[derive(Clone)]
enum Row {
    Item(Item<String>),
    Lock(Lock),
}

type Rows<'a> = MutexGuard<'a, BTreeMap<KeyBuf, Row>>;

const PAGE: usize = 50;

impl Plain {
    fn new(clock: ManualClock, fault: Fault) -> Self {
        Plain {
            fault,
            rows: Mutex::default(),
            old: Mutex::default(),
            clock,
            versions: VersionGenerator::new(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn rows(&self) -> Rows<'_> {
        self.rows.lock().unwrap()
    }

    fn at(&self, key: Key<'_>) -> KeyBuf {
        match self.fault {
            Fault::KeysJoined => KeyBuf::new("", format!("{}:{}", key.pk, key.sk)),
            _ => key.to_buf(),
        }
    }

    fn is_live(&self, ttl: u64) -> bool {
        match self.fault {
            Fault::TtlIsExclusive => self.clock.epoch_seconds() < ttl,
            _ => self.clock.epoch_seconds() <= ttl,
        }
    }

    fn item(&self, row: Option<&Row>) -> Option<Item<String>> {
        match row {
            Some(Row::Item(item)) if self.is_live(item.ttl().unwrap_or(u64::MAX)) => {
                let vanishes = self.has(Fault::ItemsWithoutDataVanish) && item.data().is_none();
                (!vanishes).then(|| item.clone())
            }
            _ => None,
        }
    }

    fn version(&self) -> Version {
        self.versions.next(self.clock.now())
    }

    fn put(&self, rows: &mut Rows<'_>, item: &Item<String>) {
        let key = self.at(item.key());
        if let Some(old) = rows.insert(key.clone(), Row::Item(item.clone())) {
            self.old.lock().unwrap().insert(key, old);
        }
    }

    /// The rows of a partition that a query may see, in its order, hidden ones as `None`.
    fn visible(&self, rows: &Rows<'_>, query: &Query) -> Vec<(String, Option<Item<String>>)> {
        let rows = rows.values().filter_map(|row| match row {
            Row::Item(item) if item.pk() != query.pk => None,
            Row::Item(item) if self.has(Fault::ExpiredItemsInQueries) => {
                Some((item.sk().to_owned(), Some(item.clone())))
            }
            Row::Item(item) => Some((item.sk().to_owned(), self.item(Some(row)))),
            Row::Lock(lock) if lock.key().pk != query.pk => None,
            Row::Lock(lock) => {
                let seen = Item::new(&query.pk, lock.key().sk, String::new());
                let seen = self.has(Fault::LocksInQueries).then_some(seen);
                Some((lock.key().sk.to_owned(), seen))
            }
        });
        let begins = |sk: &str| match self.fault {
            Fault::PrefixAnywhere => sk.contains(&*query.prefix),
            _ => sk.starts_with(&*query.prefix),
        };
        let mut rows: Vec<_> = rows.filter(|(sk, _)| begins(sk)).collect();
        if self.has(Fault::OrderedByLength) {
            rows.sort_by_key(|(sk, _)| sk.len());
        }
        if query.reverse {
            rows.reverse();
        }
        if !self.has(Fault::LimitCountsHiddenRows) {
            rows.retain(|(_, item)| item.is_some());
        }
        rows
    }

    fn page_of(
        &self,
        rows: &Rows<'_>,
        query: &Query,
        after: Option<&str>,
        max: usize,
    ) -> Page<String> {
        let mut rows = self.visible(rows, query);
        let offset = after.filter(|_| self.has(Fault::PagesByOffset));
        if let Some(offset) = offset {
            rows.drain(..rows.len().min(offset.parse().unwrap()));
        } else if let Some(after) = after.or(query.after.as_deref()) {
            rows.retain(|(sk, _)| match (query.reverse, self.fault) {
                (false, Fault::AfterIsInclusive) => sk.as_str() >= after,
                (false, _) => sk.as_str() > after,
                (true, _) => sk.as_str() < after,
            });
        }
        let asked = query.limit.unwrap_or(max);
        if self.has(Fault::LimitOverflows) {
            assert!(
                asked.checked_add(1).is_some() || query.limit.is_none(),
                "overflow"
            );
        }
        let size = asked.min(max);
        let last_is_lost = self.has(Fault::LastPageIsLost) && rows.len() <= 2 * size;
        let more = rows.len() > size && size > 0 && !last_is_lost;
        rows.truncate(size);
        let done: usize = offset.map_or(0, |offset| offset.parse().unwrap());
        let last = rows.last().map(|(sk, _)| sk.clone());
        let next = match self.fault {
            Fault::PagesByOffset => Some((done + rows.len()).to_string()),
            _ => last,
        };
        Page {
            items: rows.into_iter().filter_map(|(_, item)| item).collect(),
            next: next.filter(|_| more),
        }
    }

    /// The locks and checks of a batch that lost, and the first item that exists already.
    fn judge(&self, rows: &Rows<'_>, batch: &Batch<String>) -> (Vec<KeyBuf>, Option<KeyBuf>) {
        let unchanged = |lock: &&Lock| match rows.get(&self.at(lock.key())) {
            Some(Row::Lock(held)) => {
                let live = self.is_live(held.ttl()) || self.has(Fault::ExpiredLocksCommit);
                live && held.version() == lock.version()
            }
            _ => false,
        };
        let ignored = self.has(Fault::ChecksIgnored);
        let checks = batch.checks().iter().filter(|_| !ignored);
        let guards = batch.locks().iter().chain(checks);
        let lost = guards
            .filter(|lock| !unchanged(lock))
            .map(|lock| lock.key().to_buf());
        let exists = |item: &&Item<String>| match rows.get(&self.at(item.key())) {
            Some(Row::Item(_)) if self.has(Fault::ExpiredItemsBlockCreation) => true,
            row => self.item(row).is_some(),
        };
        let replaces = self.has(Fault::CreateReplaces);
        let exists = batch.creates().iter().filter(|_| !replaces).find(exists);
        (lost.collect(), exists.map(|item| item.key().to_buf()))
    }

    fn refusal(&self, (mut lost, exists): (Vec<KeyBuf>, Option<KeyBuf>)) -> Result<()> {
        match exists {
            Some(key) if lost.is_empty() || self.has(Fault::ExistenceBeforeRaces) => {
                Err(Error::AlreadyExists { key })
            }
            _ if lost.is_empty() => Ok(()),
            _ => {
                if self.has(Fault::FirstLoserAlone) {
                    lost.truncate(1);
                }
                Err(Error::RaceCondition { keys: lost })
            }
        }
    }

    fn refuse_late(&self, key: Key<'_>) -> Result<()> {
        match self.fault {
            Fault::KeysRefusedTooLate if key.sk.is_empty() => {
                Err(Error::InvalidInput("an empty sort key".into()))
            }
            _ => Ok(()),
        }
    }
}

impl AtomicDb for Plain {
    type Data = String;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<String>>> {
        Ok(self.item(self.rows().get(&self.at(key))))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<String>>> {
        if self.has(Fault::FreshReadsAreOld) {
            return Ok(self.item(self.old.lock().unwrap().get(&self.at(key))));
        }
        self.get(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<String>>>> {
        if self.has(Fault::GetManyKeyByKey) {
            let one = |key: &Key<'_>| {
                gap();
                self.get(*key)
            };
            return keys.iter().map(one).collect();
        }
        let rows = self.rows();
        let mut seen = HashSet::new();
        let answers = keys.iter().enumerate().map(|(place, key)| {
            let repeated = !seen.insert(*key) && self.has(Fault::GetManyMerges);
            let too_many = place >= 100 && self.has(Fault::GetManyStopsAtHundred);
            let row = rows.get(&self.at(*key)).filter(|_| !repeated && !too_many);
            self.item(row)
        });
        Ok(answers.collect())
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.refuse_late(key)?;
        let at = self.at(key);
        let now = self.clock.epoch_seconds();
        let mut rows = self.rows();
        match rows.get_mut(&at) {
            Some(Row::Lock(lock)) if self.is_live(lock.ttl()) => {
                let ttl = lock.refreshed_ttl(now);
                let version = match self.fault {
                    Fault::RefreshIsANewVersion if ttl != lock.ttl() => self.version(),
                    _ => lock.version(),
                };
                *lock = Lock::new(key, version, ttl);
                return Ok(lock.clone());
            }
            Some(Row::Lock(lock)) if self.has(Fault::ExpiredLocksComeBack) => {
                *lock = Lock::new(key, lock.version(), now + Lock::LIFETIME);
                return Ok(lock.clone());
            }
            row => {
                let occupied = self.item(row.as_deref()).is_some();
                if occupied && !self.has(Fault::LocksReplaceItems) {
                    return Err(Error::InvalidInput(format!("an item is at {key}")));
                }
            }
        }
        if self.has(Fault::LocksMadeOutsideTheMutex) {
            drop(rows);
            gap();
            rows = self.rows();
        }
        let version = match self.fault {
            Fault::VersionsBeginAnew => Version::from_u128(1),
            _ => self.version(),
        };
        let lock = Lock::new(key, version, now + Lock::LIFETIME);
        rows.insert(at, Row::Lock(lock.clone()));
        Ok(lock)
    }

    fn set(&self, items: &[Item<String>]) -> Result<()> {
        if items.is_empty() && self.has(Fault::EmptyInputIsRefused) {
            return Err(Error::InvalidInput("nothing to set".into()));
        }
        let mut rows = self.rows();
        let mut seen = HashSet::new();
        for item in items {
            self.refuse_late(item.key())?;
            if seen.insert(item.key()) || !self.has(Fault::FirstOfARepeatedKeyStands) {
                self.put(&mut rows, item);
            }
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch<String>) -> Result<Version> {
        if !self.has(Fault::RepeatedKeysInABatch) {
            batch.validate()?;
        }
        let mut rows = self.rows();
        let outcome = self.refusal(self.judge(&rows, batch));
        if self.has(Fault::CommitHalfApplied) {
            batch
                .sets()
                .iter()
                .for_each(|item| self.put(&mut rows, item));
        }
        outcome?;
        if self.has(Fault::CheckedOutsideTheMutex) {
            drop(rows);
            gap();
            rows = self.rows();
        }
        let version = self.version();
        let renewed = self.has(Fault::ChecksRenewed);
        for lock in batch
            .locks()
            .iter()
            .chain(batch.checks().iter().filter(|_| renewed))
        {
            let lengthened = self.clock.epoch_seconds() + Lock::LIFETIME;
            let lock = match self.fault {
                Fault::CommitsLengthenLocks => Lock::new(lock.key(), version, lengthened),
                Fault::VersionsBeginAnew => {
                    let next = Version::from_u128(lock.version().as_u128() + 1);
                    lock.clone().with_version(next)
                }
                _ => lock.clone().with_version(version),
            };
            // Its life is the stored one's: the caller's copy may be from before a refresh.
            let ttl = match rows.get(&self.at(lock.key())) {
                Some(Row::Lock(held)) if !self.has(Fault::CommitsLengthenLocks) => held.ttl(),
                _ => lock.ttl(),
            };
            let lock = Lock::new(lock.key(), lock.version(), ttl);
            rows.insert(self.at(lock.key()), Row::Lock(lock));
        }
        for item in batch.sets().iter().chain(batch.creates()) {
            self.refuse_late(item.key())?;
            self.put(&mut rows, item);
        }
        if !self.has(Fault::CommitForgetsDeletes) {
            for key in batch.deletes() {
                rows.remove(&self.at(key.as_key()));
            }
        }
        Ok(match self.fault {
            Fault::CommitTellsAnotherVersion => self.version(),
            Fault::VersionsBeginAnew => match batch.locks() {
                [] => version,
                [lock, ..] => Version::from_u128(lock.version().as_u128() + 1),
            },
            _ => version,
        })
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        let mut rows = self.rows();
        for key in keys {
            let at = self.at(*key);
            let leave = self.has(Fault::DeleteLeavesLocks);
            match rows.get(&at) {
                Some(Row::Lock(_)) if leave => {}
                _ => drop(rows.remove(&at)),
            }
        }
        Ok(())
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<String>> {
        Ok(self.page_of(&self.rows(), query, after, PAGE))
    }

    fn set_atomic(&self, items: &[Item<String>], locks: &[Lock]) -> Result<Version> {
        if locks.is_empty() && !items.is_empty() && !self.has(Fault::UnguardedSetAtomic) {
            return Err(Error::InvalidInput("items and no lock".into()));
        }
        let batch = locks
            .iter()
            .fold(Batch::new(), |batch, lock| batch.lock(lock.clone()));
        self.commit(
            &items
                .iter()
                .fold(batch, |batch, item| batch.set(item.clone())),
        )
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<String>>> {
        let max = query.limit.unwrap_or(usize::MAX);
        let first = self.page_of(
            &self.rows(),
            query,
            None,
            max.min(match self.fault {
                Fault::QueryInTwoParts => 2,
                _ => usize::MAX,
            }),
        );
        let mut items = first.items;
        if let Some(next) = first.next.filter(|_| self.has(Fault::QueryInTwoParts)) {
            gap();
            let rest = query.clone().limit(max - items.len());
            items.extend(
                self.page_of(&self.rows(), &rest, Some(&next), usize::MAX)
                    .items,
            );
        }
        Ok(items)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<String>>> {
        PlainStream {
            held: self.has(Fault::StreamHoldsTheMutex).then(|| self.rows()),
            db: self,
            left: query.limit.unwrap_or(usize::MAX),
            query,
            page: Vec::new(),
            after: None,
            ended: false,
        }
    }
}

struct PlainStream<'a> {
    db: &'a Plain,
    query: Query,
    held: Option<Rows<'a>>,
    page: Vec<Item<String>>,
    after: Option<String>,
    left: usize,
    ended: bool,
}

impl PlainStream<'_> {
    fn turn(&mut self) {
        let after = self.after.take();
        let page = match &self.held {
            Some(rows) => self.db.page_of(rows, &self.query, after.as_deref(), PAGE),
            None => self
                .db
                .page_of(&self.db.rows(), &self.query, after.as_deref(), PAGE),
        };
        self.ended = page.next.is_none() || self.db.has(Fault::StreamEndsAfterAPage);
        self.after = page.next;
        self.page = page.items;
        self.page.reverse();
    }
}

impl Iterator for PlainStream<'_> {
    type Item = Result<Item<String>>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.page.is_empty() && !self.ended && self.left > 0 {
            self.turn();
        }
        let item = self.page.pop().filter(|_| self.left > 0);
        self.left -= usize::from(item.is_some());
        if item.is_none() && self.db.has(Fault::StreamGoesOnAfterItsEnd) {
            self.ended = false;
        }
        item.map(Ok)
    }
}

/// A cache that keeps everything, before a sound database, with a fault. Without it, each key's
/// fills and writes happen one after another, under a mutex that is held across the call behind: a
/// simple way to be right, and a slow one.
struct Cached {
    fault: Fault,
    inner: MemoryDb<String>,
    items: Mutex<HashMap<KeyBuf, Item<String>>>,
    clock: ManualClock,
    turns: AtomicU64,
}

type Items<'a> = MutexGuard<'a, HashMap<KeyBuf, Item<String>>>;

impl Cached {
    fn new(clock: ManualClock, fault: Fault) -> Self {
        Cached {
            fault,
            inner: MemoryDb::builder().clock(clock.clone()).build(),
            items: Mutex::default(),
            clock,
            turns: AtomicU64::new(0),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn at(&self, key: Key<'_>) -> KeyBuf {
        match self.fault {
            Fault::KeysJoined => KeyBuf::new("", format!("{}/{}", key.pk, key.sk)),
            _ => key.to_buf(),
        }
    }

    fn items(&self) -> Items<'_> {
        self.items.lock().unwrap()
    }

    fn write<R>(
        &self,
        sets: &[&Item<String>],
        deletes: &[Key<'_>],
        act: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        let mut items = self.items();
        let store = |items: &mut Items<'_>| {
            for item in sets {
                items.insert(self.at(item.key()), Item::clone(item));
            }
            if !self.has(Fault::DeletedItemsCached) {
                for key in deletes {
                    items.remove(&self.at(*key));
                }
            }
        };
        if self.has(Fault::CachedBeforeTheCommit) {
            store(&mut items);
        }
        let result = act()?;
        store(&mut items);
        Ok(result)
    }
}

impl AtomicDb for Cached {
    type Data = String;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<String>>> {
        let mut items = self.items();
        if let Some(item) = items.get(&self.at(key)) {
            let now = self.clock.epoch_seconds();
            // Now and then a miss, so that fills and writes overlap.
            let forgotten = self.turns.fetch_add(1, Ordering::Relaxed) % 4 == 3;
            if !forgotten && (item.is_live(now) || self.has(Fault::ExpiredItemsCached)) {
                return Ok(Some(item.clone()));
            }
        }
        let filled = match self.fault {
            Fault::LateFill => {
                drop(items);
                let filled = self.inner.get(key)?;
                gap();
                items = self.items();
                filled
            }
            _ => self.inner.get(key)?,
        };
        match &filled {
            Some(item) => drop(items.insert(self.at(key), item.clone())),
            None => drop(items.remove(&self.at(key))),
        }
        Ok(filled)
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<String>>> {
        self.inner.get_fresh(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<String>>>> {
        match keys {
            [key] => Ok(vec![self.get(*key)?]),
            _ => self.inner.get_many(keys),
        }
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.inner.get_lock(key)
    }

    fn set(&self, items: &[Item<String>]) -> Result<()> {
        let sets: Vec<&Item<String>> = items.iter().collect();
        self.write(&sets, &[], || self.inner.set(items))
    }

    fn commit(&self, batch: &Batch<String>) -> Result<Version> {
        let sets: Vec<&Item<String>> = batch.sets().iter().chain(batch.creates()).collect();
        let deletes: Vec<Key<'_>> = batch.deletes().iter().map(KeyBuf::as_key).collect();
        self.write(&sets, &deletes, || self.inner.commit(batch))
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.write(&[], keys, || self.inner.delete(keys))
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<String>> {
        self.inner.page(query, after)
    }

    fn set_atomic(&self, items: &[Item<String>], locks: &[Lock]) -> Result<Version> {
        let sets: Vec<&Item<String>> = items.iter().collect();
        self.write(&sets, &[], || self.inner.set_atomic(items, locks))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<String>>> {
        self.inner.query(query)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<String>>> {
        self.inner.stream(query)
    }
}

#[test]
fn the_suite_runs_on_what_a_factory_makes_and_on_nothing_older() {
    let made = Arc::new(AtomicU64::new(0));
    let all = cases::<MemoryDb<String>>();
    for case in all.iter().take(3) {
        let made = Arc::clone(&made);
        let make = move |clock| {
            made.fetch_add(1, Ordering::Relaxed);
            MemoryDb::builder().clock(clock).build()
        };
        check(case.run, make, Capabilities::new());
    }
    assert_eq!(made.load(Ordering::Relaxed), 3);
}
