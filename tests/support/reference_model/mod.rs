//! The whole contract as a program: a map of rows that answers every operation, and a driver that
//! runs operations against a database and against the map, and compares every answer.
//!
//! What the model knows:
//!
//! - A key holds an item or a lock, up to its last second and not after, whatever the store keeps.
//! - Only the database can make a version. The model learns it from the answer; it must be one that
//!   was never seen before, and greater than all that the same lock had.
//! - A race names exactly the locks that lost, in the order of the batch, locks before checks.
//! - **Doubt**: an expired row may be dropped at once or later. Should the clock go back, it may be
//!   there again or not, and both answers are right until its key is written. A row that no
//!   operation met while it was expired is there for sure. A cache may even have kept an item that
//!   expired and in whose place a lock was made since.
//!
//! The operations come from a property test's strategies or from a fuzzer's bytes ([`decode`]). They
//! name keys, locks and moments symbolically, so that any list of them makes sense.

pub mod bytes;
pub mod lru;
pub mod text;

use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, Lock, LruCache, ManualClock, MemoryDb, Query, Version,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where items and locks meet: empty parts, one the beginning of another, pairs that join to the
/// same text with and without a separator, bytes in another order than letters.
const KEYS: [(&str, &str); 18] = [
    ("a", "b"),
    ("a", "bc"),
    ("a", "b/c"),
    ("a", "b#c"),
    ("a", "b\0"),
    ("a", ""),
    ("a", "\0"),
    ("a", "ä"),
    ("a", "\u{10ffff}"),
    ("a", "\u{ffff}"),
    ("ab", "c"),
    ("ab", ""),
    ("", "ab"),
    ("", ""),
    ("a/b", "c"),
    ("a#b", "c"),
    ("ä", "b"),
    ("a\0b", "\0"),
];

/// The partitions that are queried: those of [`KEYS`], one with nothing in it, and the crowd's.
const PARTITIONS: [&str; 9] = ["a", "ab", "", "a/b", "a#b", "ä", "a\0b", "empty", CROWD];

/// What sort keys are compared with.
const TEXTS: [&str; 12] = [
    "",
    "b",
    "bc",
    "b/",
    "a",
    "\0",
    "ä",
    "c",
    "2",
    "25",
    "\u{10ffff}",
    "\u{ffff}",
];

/// More items than a page holds are in this partition, once [`Op::Crowd`] has put them there.
const CROWD: &str = "crowd";

/// Around one page of the memory database, and around two.
const CROWDS: [usize; 5] = [255, 256, 257, 512, 600];

/// Seconds from now until an item's last, besides none at all.
const LIVES: [i64; 7] = [-1, 0, 1, 60, 3_600, 86_400, i64::MAX];

const LIMITS: [usize; 8] = [0, 1, 2, 3, 5, 256, 257, usize::MAX];

/// Seconds, around what is an item's life, a lock's, and the part of it in which it is refreshed.
const JUMPS: [u64; 12] = [
    1, 2, 59, 61, 3_599, 3_600, 3_601, 82_799, 82_800, 82_801, 86_400, 86_401,
];

pub const START: u64 = 1_700_000_000;

/// One operation. Keys are numbers of [`KEYS`].
#[derive(Clone, Debug)]
pub enum Op {
    Get(usize),
    GetFresh(usize),
    GetMany(Vec<usize>),
    GetLock(usize),
    Set(Vec<Write>),
    /// Fills a partition with this many items, unless it has been done.
    Crowd(usize),
    SetAtomic(Vec<Write>, Vec<Token>),
    Commit(Vec<Part>),
    Delete(Vec<usize>),
    /// One page, which begins after this text.
    Page(Ask, Option<&'static str>),
    /// Page after page.
    Pages(Ask),
    Query(Ask),
    Stream(Ask),
    Jump(Jump),
    Purge,
    Count,
    Invalidate(usize),
    Clear,
}

/// An item to write. Its data is a number that no other item ever had, or nothing.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: usize,
    pub bare: bool,
    /// Seconds from now.
    pub life: Option<i64>,
}

/// A lock to show: which of those that were read.
#[derive(Clone, Debug)]
pub struct Token {
    pub key: usize,
    pub hand: Hand,
}

#[derive(Clone, Copy, Debug)]
pub enum Hand {
    /// One that nobody has changed, whatever its key, if there is any; which one, the key decides.
    Live,
    /// One that is read just before it is shown.
    Read,
    /// The last one of this key that was read, or left by a commit.
    Latest,
    /// One this much older.
    Earlier(usize),
    /// A version that is one off the latest.
    Forged,
    /// The latest version of another key.
    OfAnother(usize),
}

#[derive(Clone, Debug)]
pub enum Part {
    Lock(Token),
    Check(Token),
    Set(Write),
    Create(Write),
    Delete(usize),
}

/// A query.
#[derive(Clone, Debug)]
pub struct Ask {
    pub pk: &'static str,
    pub prefix: &'static str,
    pub reverse: bool,
    pub limit: Option<usize>,
    pub after: Option<&'static str>,
}

impl Ask {
    fn query(&self) -> Query {
        let mut query = Query::new(self.pk).prefix(self.prefix);
        if self.reverse {
            query = query.reverse();
        }
        if let Some(limit) = self.limit {
            query = query.limit(limit);
        }
        match self.after {
            Some(after) => query.after(after),
            None => query,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Jump {
    Forward(u64),
    /// To the last second of what expires next.
    ToExpiry,
    /// To the second after that.
    PastExpiry,
    /// To the last second of the lock that expires next, in which reading it refreshes it.
    ToALocksEnd,
    Back(u64),
    /// To the last second that there is.
    ToTheEnd,
}

/// The operations that `bytes` stand for, one after the other, at most `most` of them. Any bytes
/// stand for some.
pub fn decode(bytes: &[u8], most: usize) -> Vec<Op> {
    let mut bytes = Bytes::new(bytes);
    let mut ops = Vec::new();
    while !bytes.is_empty() && ops.len() < most {
        ops.push(decode_op(&mut bytes));
    }
    ops
}

fn decode_op(bytes: &mut Bytes<'_>) -> Op {
    match bytes.below(48) {
        0..=4 => Op::Get(item_key(bytes)),
        5 | 6 => Op::GetFresh(item_key(bytes)),
        7 | 8 => Op::GetMany(list(bytes, 12, item_key)),
        9..=13 => Op::GetLock(lock_key(bytes)),
        14..=17 => Op::Set(list(bytes, 5, write)),
        18..=20 => Op::SetAtomic(list(bytes, 4, write), list(bytes, 3, token)),
        21..=26 => Op::Commit(list(bytes, 6, part)),
        27 | 28 => Op::Delete(list(bytes, 3, any_key)),
        29 => Op::Page(ask(bytes), text(bytes)),
        30 | 31 => Op::Pages(ask(bytes)),
        32..=34 => Op::Query(ask(bytes)),
        35 | 36 => Op::Stream(ask(bytes)),
        37..=42 => Op::Jump(jump(bytes)),
        43 => match bytes.below(8) {
            0 => Op::Crowd(CROWDS[bytes.below(CROWDS.len())]),
            _ => Op::Count,
        },
        44 | 45 => Op::Purge,
        46 => Op::Invalidate(item_key(bytes)),
        _ => Op::Clear,
    }
}

fn list<T>(bytes: &mut Bytes<'_>, end: usize, one: fn(&mut Bytes<'_>) -> T) -> Vec<T> {
    (0..bytes.below(end)).map(|_| one(bytes)).collect()
}

fn any_key(bytes: &mut Bytes<'_>) -> usize {
    bytes.below(KEYS.len())
}

/// Mostly one of the first keys, so that operations meet.
fn item_key(bytes: &mut Bytes<'_>) -> usize {
    match bytes.below(3 * KEYS.len()) {
        any if any < KEYS.len() => any,
        other => other % 8,
    }
}

/// Mostly one of the last keys, so that not every lock is soon written over.
fn lock_key(bytes: &mut Bytes<'_>) -> usize {
    match bytes.below(3 * KEYS.len()) {
        any if any < KEYS.len() => any,
        other => KEYS.len() - 1 - other % 4,
    }
}

fn write(bytes: &mut Bytes<'_>) -> Write {
    let key = item_key(bytes);
    let form = bytes.below(16);
    Write {
        key,
        bare: form == 15,
        // Half of all items live for ever.
        life: LIVES.get(form).copied(),
    }
}

fn token(bytes: &mut Bytes<'_>) -> Token {
    let key = lock_key(bytes);
    let hand = match bytes.below(32) {
        0..=13 => Hand::Live,
        14..=25 => Hand::Read,
        26 | 27 => Hand::Latest,
        older @ 28..=29 => Hand::Earlier(older - 27),
        30 => Hand::Forged,
        _ => Hand::OfAnother(lock_key(bytes)),
    };
    Token { key, hand }
}

fn part(bytes: &mut Bytes<'_>) -> Part {
    match bytes.below(8) {
        0 | 1 => Part::Lock(token(bytes)),
        2 | 3 => Part::Check(token(bytes)),
        4 | 5 => Part::Set(write(bytes)),
        6 => Part::Create(write(bytes)),
        _ => Part::Delete(any_key(bytes)),
    }
}

fn ask(bytes: &mut Bytes<'_>) -> Ask {
    Ask {
        // Half of all queries meet the partition that most keys are in.
        pk: PARTITIONS
            .get(bytes.below(2 * PARTITIONS.len()))
            .unwrap_or(&PARTITIONS[0]),
        prefix: text(bytes).unwrap_or(""),
        reverse: bytes.below(2) == 1,
        limit: LIMITS.get(bytes.below(12)).copied(),
        after: text(bytes),
    }
}

fn text(bytes: &mut Bytes<'_>) -> Option<&'static str> {
    TEXTS.get(bytes.below(4 * TEXTS.len())).copied()
}

fn jump(bytes: &mut Bytes<'_>) -> Jump {
    let seconds = |bytes: &mut Bytes<'_>| JUMPS[bytes.below(JUMPS.len())];
    match bytes.below(16) {
        0..=5 => Jump::Forward(seconds(bytes)),
        6..=8 => Jump::ToExpiry,
        9 => Jump::ToALocksEnd,
        10..=13 => Jump::PastExpiry,
        14 => Jump::Back(seconds(bytes)),
        _ => match bytes.below(8) {
            0 => Jump::ToTheEnd,
            _ => Jump::Back(86_400),
        },
    }
}

/// A database that the driver can run against, with what some have besides the trait.
pub trait Subject: AtomicDb<Data = u32> {
    /// Drops what has expired, if this database can; how much that was.
    fn purge(&self) -> Option<usize> {
        None
    }

    /// How many live items there are, if this database knows.
    fn count(&self) -> Option<usize> {
        None
    }

    /// Forgets one key, if this is a cache.
    fn invalidate(&self, _key: Key<'_>) {}

    /// Forgets everything, if this is a cache.
    fn clear(&self) {}
}

impl Subject for MemoryDb<u32> {
    fn purge(&self) -> Option<usize> {
        Some(self.purge_expired())
    }

    fn count(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl<D: Subject> Subject for LruCache<D> {
    fn purge(&self) -> Option<usize> {
        self.inner().purge()
    }

    fn count(&self) -> Option<usize> {
        self.inner().count()
    }

    fn invalidate(&self, key: Key<'_>) {
        LruCache::invalidate(self, key);
        self.inner().invalidate(key);
    }

    fn clear(&self) {
        LruCache::clear(self);
        self.inner().clear();
    }
}

impl Subject for Box<dyn AtomicDb<Data = u32>> {}

impl Subject for Arc<dyn AtomicDb<Data = u32>> {}

/// A database in one of the ways it can be set up.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Memory { stripes: usize },
    Cache { capacity: usize, shards: usize },
    CacheBeforeCache,
    BoxedTraitObject,
    CacheBeforeTraitObject,
}

pub const SHAPES: [Shape; 10] = [
    Shape::Memory { stripes: 1 },
    Shape::Memory { stripes: 2 },
    Shape::Memory { stripes: 16 },
    Shape::Cache {
        capacity: 0,
        shards: 1,
    },
    Shape::Cache {
        capacity: 1,
        shards: 1,
    },
    Shape::Cache {
        capacity: 4,
        shards: 1,
    },
    Shape::Cache {
        capacity: 100,
        shards: 8,
    },
    Shape::CacheBeforeCache,
    Shape::BoxedTraitObject,
    Shape::CacheBeforeTraitObject,
];

/// Runs `ops` over a new database of this shape.
///
/// # Errors
///
/// Says which answer was wrong.
pub fn run_over(shape: Shape, ops: &[Op]) -> Result<Tally, String> {
    let clock = ManualClock::new(START);
    let memory = |stripes| {
        let builder = MemoryDb::builder().stripes(stripes);
        builder.clock(clock.clone()).build()
    };
    match shape {
        Shape::Memory { stripes } => run(ops, &memory(stripes), &clock),
        Shape::Cache { capacity, shards } => {
            run(ops, &cache(memory(2), &clock, capacity, shards), &clock)
        }
        Shape::CacheBeforeCache => {
            let behind = cache(memory(2), &clock, 6, 2);
            run(ops, &cache(behind, &clock, 2, 1), &clock)
        }
        Shape::BoxedTraitObject => {
            let db: Box<dyn AtomicDb<Data = u32>> = Box::new(memory(2));
            run(ops, &db, &clock)
        }
        Shape::CacheBeforeTraitObject => {
            let db: Arc<dyn AtomicDb<Data = u32>> = Arc::new(memory(2));
            run(ops, &cache(db, &clock, 3, 2), &clock)
        }
    }
}

fn cache<D: AtomicDb>(db: D, clock: &ManualClock, capacity: usize, shards: usize) -> LruCache<D> {
    let builder = LruCache::builder(db).capacity(capacity).shards(shards);
    builder.clock(clock.clone()).build()
}

/// What a fuzzer runs: the first byte chooses the database, the others are operations.
///
/// # Panics
///
/// Panics if an answer is wrong.
pub fn database(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let shape = SHAPES[usize::from(*first) % SHAPES.len()];
    let ops = decode(rest, 300);
    if let Err(mismatch) = run_over(shape, &ops) {
        panic!("{mismatch}\nover {shape:?} by {ops:#?}");
    }
}

/// How often what happened, so that a test can tell whether anything did.
pub type Tally = BTreeMap<&'static str, usize>;

/// Runs `ops` against a new, empty database whose clock is `clock`, and against the model.
///
/// # Errors
///
/// Says which answer was wrong, at which operation.
pub fn run<D: Subject>(ops: &[Op], db: &D, clock: &ManualClock) -> Result<Tally, String> {
    let mut driver = Driver {
        db,
        clock,
        model: Model::new(clock.epoch_seconds()),
        tokens: BTreeMap::new(),
        written: 0,
        crowded: false,
        tally: Tally::new(),
    };
    for (step, op) in ops.iter().enumerate() {
        let done = driver.step(op);
        done.map_err(|mismatch| format!("{mismatch}\nat operation {step}, {op:?}"))?;
        if step % 12 == 11 {
            let done = driver.look_around();
            done.map_err(|mismatch| format!("{mismatch}\nafter operation {step}, {op:?}"))?;
        }
    }
    let looked = driver.look_around().and_then(|()| driver.look_through());
    let done = looked.and_then(|()| driver.let_time_pass());
    done.map_err(|mismatch| format!("{mismatch}\nat the end"))?;
    Ok(driver.tally)
}

type Checked = Result<(), String>;

type Address = (String, String);

fn owned(key: Key<'_>) -> Address {
    (key.pk.to_owned(), key.sk.to_owned())
}

fn key_at(number: usize) -> Key<'static> {
    KEYS[number].into()
}

#[derive(Clone, Debug, PartialEq)]
enum Row {
    Item { data: Option<u32>, ttl: Option<u64> },
    Lock { version: Version, ttl: u64 },
}

#[derive(Debug)]
struct Held {
    row: Row,
    /// An operation ran while the row was expired, so the store may have dropped it.
    met: bool,
    /// It was expired when everything expired was dropped.
    purged: bool,
}

impl Held {
    fn new(row: Row) -> Self {
        Held {
            row,
            met: false,
            purged: false,
        }
    }

    fn last_second(&self) -> Option<u64> {
        match self.row {
            Row::Item { ttl, .. } => ttl,
            Row::Lock { ttl, .. } => Some(ttl),
        }
    }

    fn is_live(&self, now: u64) -> bool {
        self.last_second().is_none_or(|last| now <= last)
    }
}

/// What is visible at a key.
#[derive(Debug)]
enum There<'a> {
    Nothing,
    /// This, or nothing: see the head of this file.
    Maybe(&'a Row),
    Surely(&'a Row),
}

/// What a commit may answer.
#[derive(Debug)]
struct Verdict {
    /// A key appears twice.
    twice: bool,
    /// The locks that lose, in order; those in doubt are marked.
    lost: Vec<(Address, bool)>,
    /// Where a creation meets an item; those in doubt are marked.
    exists: Vec<(Address, bool)>,
}

/// The contract, as a map.
#[derive(Debug)]
struct Model {
    /// By partition key, then by sort key.
    rows: BTreeMap<String, BTreeMap<String, Held>>,
    /// Items that had expired when a lock was made in their place.
    ghosts: BTreeMap<Address, Held>,
    now: u64,
    /// An operation ran since the clock was last moved.
    acted: bool,
    /// Every version that was ever handed out.
    versions: BTreeSet<Version>,
    /// The greatest version that each lock ever had.
    greatest: BTreeMap<Address, Version>,
}

impl Model {
    fn new(now: u64) -> Self {
        Model {
            rows: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            now,
            acted: false,
            versions: BTreeSet::new(),
            greatest: BTreeMap::new(),
        }
    }

    fn held_mut(&mut self, key: Key<'_>) -> Option<&mut Held> {
        self.rows.get_mut(key.pk)?.get_mut(key.sk)
    }

    fn all(&self) -> impl Iterator<Item = &Held> {
        self.rows.values().flat_map(BTreeMap::values)
    }

    fn all_expired(&mut self) -> impl Iterator<Item = &mut Held> {
        let now = self.now;
        let all = self.rows.values_mut().flat_map(BTreeMap::values_mut);
        all.filter(move |held| !held.is_live(now))
    }

    fn there(&self, key: Key<'_>) -> There<'_> {
        let partition = self.rows.get(key.pk);
        match partition.and_then(|partition| partition.get(key.sk)) {
            Some(held) if held.is_live(self.now) && held.met => There::Maybe(&held.row),
            Some(held) if held.is_live(self.now) => There::Surely(&held.row),
            _ => There::Nothing,
        }
    }

    fn live_locks(&self) -> impl Iterator<Item = Lock> {
        let all = self.rows.iter().flat_map(|(pk, partition)| {
            let rows = partition.iter();
            rows.map(move |(sk, held)| (pk, sk, held))
        });
        all.filter_map(|(pk, sk, held)| match held.row {
            Row::Lock { version, ttl } if held.is_live(self.now) => {
                Some(Lock::new((pk, sk), version, ttl))
            }
            _ => None,
        })
    }

    /// Whether `got` is what a read of `key` may answer, also from a cache.
    fn check_cached(&self, key: Key<'_>, got: Option<&Item<u32>>) -> Checked {
        let ghost = self.ghosts.get(&owned(key));
        match (ghost, got) {
            (Some(held), Some(item)) if held.is_live(self.now) && is(item, key, &held.row) => {
                Ok(())
            }
            _ => self.check_item(key, got),
        }
    }

    /// Whether `got` is what a fresh read of `key` may answer.
    fn check_item(&self, key: Key<'_>, got: Option<&Item<u32>>) -> Checked {
        let there = self.there(key);
        let right = match (&there, got) {
            (There::Maybe(row) | There::Surely(row), Some(item)) => is(item, key, row),
            (There::Nothing, Some(_)) | (There::Surely(Row::Item { .. }), None) => false,
            (_, None) => true,
        };
        match right {
            true => Ok(()),
            false => Err(format!("{key} was {got:?}, and is {there:?}")),
        }
    }

    /// Whatever was in doubt at `key` is there for sure.
    fn saw(&mut self, key: Key<'_>) {
        if let Some(held) = self.held_mut(key) {
            held.met = false;
            held.purged = false;
        }
    }

    fn put(&mut self, item: &Item<u32>) {
        let row = Row::Item {
            data: item.data().copied(),
            ttl: item.ttl(),
        };
        self.ghosts.remove(&owned(item.key()));
        self.insert(item.key(), row);
    }

    fn insert(&mut self, key: Key<'_>, row: Row) -> Option<Held> {
        let partition = self.rows.entry(key.pk.to_owned()).or_default();
        partition.insert(key.sk.to_owned(), Held::new(row))
    }

    fn remove(&mut self, key: Key<'_>) {
        self.ghosts.remove(&owned(key));
        if let Some(partition) = self.rows.get_mut(key.pk) {
            partition.remove(key.sk);
        }
    }

    /// Learns a version that was handed out to the locks at `keys`.
    fn learn<'k>(&mut self, version: Version, keys: impl Iterator<Item = Key<'k>>) -> Checked {
        if !self.versions.insert(version) {
            return Err(format!("{version} was handed out before"));
        }
        for key in keys {
            match self.greatest.insert(owned(key), version) {
                Some(before) if before > version => {
                    return Err(format!(
                        "{key} had {before}, and now has the smaller {version}"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The last second of a lock that is made now.
    fn lifetime(&self) -> u64 {
        self.now.saturating_add(86_400)
    }

    /// Checks and learns what reading a lock answered.
    fn get_lock(&mut self, key: Key<'_>, got: &Result<Lock, Error>) -> Checked {
        let there = self.there(key);
        let wrong = || {
            Err(format!(
                "the lock {key} was {got:?}, and there is {there:?}"
            ))
        };
        let lock = match (&there, got) {
            (There::Surely(Row::Item { .. }), Err(Error::InvalidInput(_))) => return Ok(()),
            (There::Maybe(Row::Item { .. }), Err(Error::InvalidInput(_))) => {
                self.saw(key);
                return Ok(());
            }
            (There::Surely(Row::Item { .. }), _) | (_, Err(_)) => return wrong(),
            (_, Ok(lock)) => lock,
        };
        if lock.key() != key {
            return wrong();
        }
        let (version, ttl) = (lock.version(), lock.ttl());
        if let There::Surely(Row::Lock {
            version: held,
            ttl: last,
        })
        | There::Maybe(Row::Lock {
            version: held,
            ttl: last,
        }) = there
        {
            let surely = matches!(there, There::Surely(_));
            // A doubtful one may have been made anew; a lock that is there keeps its version.
            if surely || version == *held {
                let expected = match last - self.now < 3_600 {
                    true => self.lifetime(),
                    false => *last,
                };
                if (version, ttl) != (*held, expected) {
                    return wrong();
                }
                let row = Row::Lock { version, ttl };
                self.insert(key, row);
                return Ok(());
            }
        }
        if ttl != self.lifetime() {
            return wrong();
        }
        self.learn(version, [key].into_iter())?;
        let row = Row::Lock { version, ttl };
        let before = self.insert(key, row);
        if let Some(ghost) = before.filter(|held| matches!(held.row, Row::Item { .. })) {
            self.ghosts.insert(owned(key), ghost);
        }
        Ok(())
    }

    fn judge(&self, batch: &Batch<u32>) -> Verdict {
        let mut keys = BTreeSet::new();
        let mut twice = false;
        let mut verdict = Verdict {
            twice: false,
            lost: Vec::new(),
            exists: Vec::new(),
        };
        for lock in batch.locks().iter().chain(batch.checks()) {
            twice |= !keys.insert(owned(lock.key()));
            match self.there(lock.key()) {
                There::Surely(Row::Lock { version, .. }) if *version == lock.version() => {}
                There::Maybe(Row::Lock { version, .. }) if *version == lock.version() => {
                    verdict.lost.push((owned(lock.key()), true));
                }
                _ => verdict.lost.push((owned(lock.key()), false)),
            }
        }
        for item in batch.sets() {
            twice |= !keys.insert(owned(item.key()));
        }
        for item in batch.creates() {
            twice |= !keys.insert(owned(item.key()));
            match self.there(item.key()) {
                There::Surely(Row::Item { .. }) => verdict.exists.push((owned(item.key()), false)),
                There::Maybe(Row::Item { .. }) => verdict.exists.push((owned(item.key()), true)),
                _ => {}
            }
        }
        for key in batch.deletes() {
            twice |= !keys.insert(owned(key.as_key()));
        }
        verdict.twice = twice;
        verdict
    }

    /// Does what a commit that succeeded has done.
    fn apply(&mut self, batch: &Batch<u32>, new: Version) -> Checked {
        self.learn(new, batch.locks().iter().map(Lock::key))?;
        for lock in batch.locks().iter().chain(batch.checks()) {
            self.saw(lock.key());
        }
        for lock in batch.locks() {
            let held = self.held_mut(lock.key());
            if let Some(Row::Lock { version, .. }) = held.map(|held| &mut held.row) {
                *version = new;
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

    /// All that a query may answer in its order, without its limit; those in doubt are marked.
    fn select(&self, ask: &Query, after: Option<&str>) -> Vec<(&str, &Row, bool)> {
        let after = after.or(ask.after.as_deref());
        let partition = self.rows.get(ask.pk.as_str()).into_iter().flatten();
        let rows = partition.filter(|(sk, held)| {
            let beyond = after.is_none_or(|after| match ask.reverse {
                true => sk.as_str() < after,
                false => sk.as_str() > after,
            });
            sk.starts_with(&*ask.prefix)
                && beyond
                && matches!(held.row, Row::Item { .. })
                && held.is_live(self.now)
        });
        let mut rows: Vec<_> = rows
            .map(|(sk, held)| (sk.as_str(), &held.row, held.met))
            .collect();
        if ask.reverse {
            rows.reverse();
        }
        rows
    }

    /// Whether `got` is what a query may answer, all of it or, if `page`, a beginning. Returns the
    /// sort keys that must still come.
    fn check_items(
        &self,
        ask: &Query,
        after: Option<&str>,
        got: &[Item<u32>],
        page: bool,
    ) -> Result<Vec<&str>, String> {
        let rows = self.select(ask, after);
        let wrong = || {
            Err(format!(
                "{ask:?} after {after:?} was {got:?}, and should be {rows:?}"
            ))
        };
        let limit = ask.limit.unwrap_or(usize::MAX);
        if got.len() > limit {
            return wrong();
        }
        let mut left = rows.iter();
        for item in got {
            // The next that is surely there comes before anything else; one in doubt may be left out.
            let same = |sk: &str, row: &Row| is(item, Key::new(&ask.pk, sk), row);
            let next = left.find(|(sk, row, doubtful)| !doubtful || same(sk, row));
            match next {
                Some((sk, row, _)) if same(sk, row) => {}
                _ => return wrong(),
            }
        }
        let due: Vec<&str> = left
            .filter(|(_, _, doubtful)| !doubtful)
            .map(|(sk, _, _)| *sk)
            .collect();
        if !page && got.len() < limit && !due.is_empty() {
            return wrong();
        }
        Ok(due)
    }

    /// Notes what may have been dropped, before the clock moves.
    fn note(&mut self) {
        if self.acted {
            self.all_expired().for_each(|held| held.met = true);
        }
        self.acted = false;
    }
}

/// Whether `item` is the one that `row` at `key` stands for.
fn is(item: &Item<u32>, key: Key<'_>, row: &Row) -> bool {
    let &Row::Item { data, ttl } = row else {
        return false;
    };
    item.key() == key && item.data().copied() == data && item.ttl() == ttl
}

struct Driver<'a, D> {
    db: &'a D,
    clock: &'a ManualClock,
    model: Model,
    /// The locks of each key that were read or left by a commit, the latest last.
    tokens: BTreeMap<Address, Vec<Lock>>,
    /// How many items were written.
    written: u32,
    crowded: bool,
    tally: Tally,
}

/// An answer that is no error.
fn ok<T>(answer: Result<T, Error>) -> Result<T, String> {
    answer.map_err(|error| format!("it failed: {error:?}"))
}

impl<D: Subject> Driver<'_, D> {
    fn step(&mut self, op: &Op) -> Checked {
        if let Op::Jump(jump) = op {
            self.jump(*jump);
            return Ok(());
        }
        if matches!(op, Op::Purge) {
            return self.purge();
        }
        self.model.acted = true;
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
            Op::Crowd(count) => self.crowd(*count),
            Op::SetAtomic(writes, tokens) => self.set_atomic(writes, tokens),
            Op::Commit(parts) => {
                self.read(parts.iter().filter_map(|part| match part {
                    Part::Lock(token) | Part::Check(token) => Some(token),
                    _ => None,
                }))?;
                let batch = parts.iter().fold(Batch::new(), |batch, part| match part {
                    Part::Lock(token) => batch.lock(self.lock(token)),
                    Part::Check(token) => batch.check(self.lock(token)),
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
            Op::Page(ask, after) => self.page(&ask.query(), *after).map(|_| ()),
            Op::Pages(ask) => self.pages(&ask.query()),
            Op::Query(ask) => self.query(&ask.query()),
            Op::Stream(ask) => self.stream(ask.query()),
            Op::Count => self.count(),
            Op::Invalidate(key) => {
                self.db.invalidate(key_at(*key));
                Ok(())
            }
            Op::Clear => {
                self.db.clear();
                Ok(())
            }
            Op::Jump(_) | Op::Purge => Ok(()),
        }
    }

    fn happened(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    fn item(&mut self, write: &Write) -> Item<u32> {
        let (pk, sk) = KEYS[write.key];
        self.written += 1;
        let item = match write.bare {
            true => Item::without_data(pk, sk),
            false => Item::new(pk, sk, self.written),
        };
        match write.life {
            Some(life) => item.expires_at(self.model.now.saturating_add_signed(life)),
            None => item,
        }
    }

    /// Reads the locks that are to be read before a commit.
    fn read<'t>(&mut self, tokens: impl Iterator<Item = &'t Token>) -> Checked {
        for token in tokens {
            if matches!(token.hand, Hand::Read) {
                self.get_lock(key_at(token.key))?;
            }
        }
        Ok(())
    }

    fn lock(&self, token: &Token) -> Lock {
        let key = key_at(token.key);
        let of = |key: Key<'_>, older: usize| {
            let tokens = self.tokens.get(&owned(key)).map_or(&[][..], Vec::as_slice);
            tokens.iter().rev().nth(older).or(tokens.first())
        };
        // Where no lock was read, one that nobody ever had.
        let version = |lock: Option<&Lock>| lock.map_or(Version::from_u128(1), Lock::version);
        let made_up = |version| Lock::new(key, version, self.model.now.saturating_add(60));
        match token.hand {
            Hand::Live => {
                let live: Vec<Lock> = self.model.live_locks().collect();
                let nth = token.key % live.len().max(1);
                live.get(nth).or(of(key, 0)).cloned()
            }
            Hand::Latest | Hand::Read => of(key, 0).cloned(),
            Hand::Earlier(older) => of(key, older).cloned(),
            Hand::Forged => {
                let bits = version(of(key, 0)).as_u128();
                Some(made_up(Version::from_u128(bits.wrapping_add(1))))
            }
            Hand::OfAnother(other) => Some(made_up(version(of(key_at(other), 0)))),
        }
        .unwrap_or_else(|| made_up(version(None)))
    }

    fn keep(&mut self, lock: Lock) {
        let tokens = self.tokens.entry(owned(lock.key())).or_default();
        if tokens.last() != Some(&lock) {
            tokens.push(lock);
        }
    }

    fn get(&mut self, key: Key<'_>) -> Checked {
        let got = ok(self.db.get(key))?;
        self.happened(if got.is_some() { "found" } else { "not found" });
        self.model.check_cached(key, got.as_ref())
    }

    fn get_fresh(&mut self, key: Key<'_>) -> Checked {
        let got = ok(self.db.get_fresh(key))?;
        self.model.check_item(key, got.as_ref())?;
        if got.is_some() {
            self.model.saw(key);
        }
        Ok(())
    }

    fn get_many(&mut self, keys: &[Key<'_>]) -> Checked {
        let got = ok(self.db.get_many(keys))?;
        if got.len() != keys.len() {
            return Err(format!("{} answers for {} keys", got.len(), keys.len()));
        }
        for (key, item) in keys.iter().zip(&got) {
            self.model.check_cached(*key, item.as_ref())?;
        }
        Ok(())
    }

    fn get_lock(&mut self, key: Key<'_>) -> Checked {
        let got = self.db.get_lock(key);
        let known = self.model.versions.len();
        self.model.get_lock(key, &got)?;
        self.happened(match &got {
            Err(_) => "an item where a lock was asked for",
            Ok(_) if self.model.versions.len() > known => "lock made",
            Ok(lock) if self.tokens[&owned(key)].last().map(Lock::ttl) < Some(lock.ttl()) => {
                "lock refreshed"
            }
            Ok(_) => "lock read again",
        });
        if let Ok(lock) = got {
            self.keep(lock);
        }
        Ok(())
    }

    fn set(&mut self, items: &[Item<u32>]) -> Checked {
        ok(self.db.set(items))?;
        items.iter().for_each(|item| self.model.put(item));
        Ok(())
    }

    fn crowd(&mut self, count: usize) -> Checked {
        if std::mem::replace(&mut self.crowded, true) {
            return Ok(());
        }
        // Some expire, so that a limit has something to step over.
        let ttl = |number: usize| match number % 16 {
            3 => self.model.now.saturating_add(60),
            _ => u64::MAX,
        };
        let numbers = 0..count;
        let items: Vec<Item<u32>> = numbers
            .map(|number| Item::new(CROWD, format!("{number:03}"), 0).expires_at(ttl(number)))
            .collect();
        self.set(&items)
    }

    fn set_atomic(&mut self, writes: &[Write], tokens: &[Token]) -> Checked {
        self.read(tokens.iter())?;
        let items: Vec<Item<u32>> = writes.iter().map(|write| self.item(write)).collect();
        let locks: Vec<Lock> = tokens.iter().map(|token| self.lock(token)).collect();
        let answer = self.db.set_atomic(&items, &locks);
        if locks.is_empty() && !items.is_empty() {
            self.happened("items without a lock");
            return match answer {
                Err(Error::InvalidInput(_)) => Ok(()),
                other => Err(format!("items without a lock: {other:?}")),
            };
        }
        let batch = locks.into_iter().fold(Batch::new(), Batch::lock);
        let batch = items.into_iter().fold(batch, Batch::set);
        self.committed(&batch, &answer)
    }

    fn commit(&mut self, batch: &Batch<u32>) -> Checked {
        let answer = self.db.commit(batch);
        self.committed(batch, &answer)
    }

    /// Checks and learns what a commit of `batch` answered.
    fn committed(&mut self, batch: &Batch<u32>, answer: &Result<Version, Error>) -> Checked {
        let verdict = self.model.judge(batch);
        let surely_lost = verdict.lost.iter().any(|(_, doubtful)| !doubtful);
        let surely_exists = verdict.exists.iter().any(|(_, doubtful)| !doubtful);
        let right = match answer {
            Err(Error::InvalidInput(_)) => verdict.twice,
            _ if verdict.twice => false,
            Err(Error::RaceCondition { keys }) => {
                let mut named = keys.iter().map(|key| owned(key.as_key())).peekable();
                let all = verdict
                    .lost
                    .iter()
                    .all(|(key, doubtful)| named.next_if_eq(key).is_some() || *doubtful);
                all && named.next().is_none() && !keys.is_empty()
            }
            Err(Error::AlreadyExists { key }) => {
                let key = owned(key.as_key());
                !surely_lost && verdict.exists.iter().any(|(exists, _)| *exists == key)
            }
            Ok(_) => !surely_lost && !surely_exists,
            Err(_) => false,
        };
        if !right {
            return Err(format!(
                "{batch:?} was {answer:?}, and should be {verdict:?}"
            ));
        }
        self.happened(match answer {
            Ok(_) if batch.locks().is_empty() => "committed without a lock",
            Ok(_) => "committed",
            Err(Error::RaceCondition { .. }) => "lost",
            Err(Error::AlreadyExists { .. }) => "exists already",
            Err(_) => "a key twice",
        });
        if let Ok(version) = answer {
            self.model.apply(batch, *version)?;
            for lock in batch.locks() {
                self.keep(lock.clone().with_version(*version));
            }
        }
        Ok(())
    }

    /// Reads one page and returns where to go on.
    fn page(&mut self, query: &Query, after: Option<&str>) -> Result<Option<String>, String> {
        let page = ok(self.db.page(query, after))?;
        let due = self.model.check_items(query, after, &page.items, true)?;
        let wrong = || {
            Err(format!(
                "{query:?} after {after:?} was {page:?}, and {due:?} are due"
            ))
        };
        match &page.next {
            // Nothing is wanted, so nothing is due.
            _ if query.limit == Some(0) => {}
            None if !due.is_empty() => return wrong(),
            None => {}
            Some(next) => {
                let next = next.as_str();
                let skipped = due.iter().any(|sk| match query.reverse {
                    true => *sk >= next,
                    false => *sk <= next,
                });
                let repeats = page.items.last().is_some_and(|last| match query.reverse {
                    true => next > last.sk(),
                    false => next < last.sk(),
                });
                if skipped || repeats {
                    return wrong();
                }
            }
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
            self.happened("next page");
        }
        Err(format!("{query:?} has no last page"))
    }

    fn query(&mut self, query: &Query) -> Checked {
        let got = ok(self.db.query(query))?;
        self.happened(match got.len() {
            0 => "query found nothing",
            1 => "query found one",
            2..=256 => "query found several",
            _ => "query found more than a page",
        });
        self.model.check_items(query, None, &got, false).map(|_| ())
    }

    fn stream(&mut self, query: Query) -> Checked {
        let mut stream = self.db.stream(query.clone());
        let got: Result<Vec<Item<u32>>, Error> = stream.by_ref().collect();
        if stream.next().is_some() {
            return Err("a stream goes on after its end".into());
        }
        drop(stream);
        self.model
            .check_items(&query, None, &ok(got)?, false)
            .map(|_| ())
    }

    fn count(&mut self) -> Checked {
        let Some(count) = self.db.count() else {
            return Ok(());
        };
        let now = self.model.now;
        let items = self
            .model
            .all()
            .filter(|held| matches!(held.row, Row::Item { .. }) && held.is_live(now));
        let (doubtful, sure): (Vec<_>, Vec<_>) = items.partition(|held| held.met);
        match (sure.len()..=sure.len() + doubtful.len()).contains(&count) {
            true => Ok(()),
            false => Err(format!(
                "{count} items were counted, and there are {sure:?}"
            )),
        }
    }

    fn purge(&mut self) -> Checked {
        let acted = self.model.acted;
        self.model.note();
        self.model.acted = acted;
        let Some(count) = self.db.purge() else {
            return Ok(());
        };
        let (mut least, mut most) = (0, 0);
        for held in self.model.all_expired() {
            least += usize::from(!held.met);
            most += usize::from(!held.purged);
            held.met = true;
            held.purged = true;
        }
        if !(least..=most).contains(&count) {
            return Err(format!(
                "{count} were purged, and {least} to {most} have expired"
            ));
        }
        if count > 0 {
            self.happened("purged");
        }
        match self.db.purge() {
            Some(0) => Ok(()),
            again => Err(format!("{again:?} were purged again")),
        }
    }

    fn jump(&mut self, jump: Jump) {
        self.model.note();
        let now = self.model.now;
        let next_of = |of: fn(&Held) -> bool| {
            let expiries = self.model.all().filter(|held| of(held));
            let lasts = expiries.filter_map(Held::last_second);
            lasts.filter(|last| *last >= now).min().unwrap_or(now)
        };
        let to = match jump {
            Jump::Forward(seconds) => now.saturating_add(seconds),
            Jump::ToExpiry => next_of(|_| true),
            Jump::PastExpiry => next_of(|_| true).saturating_add(1),
            Jump::ToALocksEnd => next_of(|held| matches!(held.row, Row::Lock { .. })),
            Jump::Back(seconds) => now.saturating_sub(seconds),
            Jump::ToTheEnd => u64::MAX,
        };
        self.clock.set(to);
        self.model.now = to;
        let doubtful = |held: &Held| held.met && held.is_live(to);
        if self.model.all().any(doubtful) {
            self.happened("doubt");
        }
    }

    /// Compares all that can be seen and leaves a cache as it is.
    fn look_around(&mut self) -> Checked {
        self.model.acted = true;
        for pk in PARTITIONS {
            // The crowd takes its time, and is looked at when all is done.
            if pk != CROWD {
                self.query(&Query::new(pk))?;
            }
        }
        for key in KEYS {
            let got = ok(self.db.get_fresh(key.into()))?;
            self.model.check_item(key.into(), got.as_ref())?;
        }
        // A check changes nothing, so it shows which locks are there and with which versions.
        let tokens = self.tokens.values().filter_map(|tokens| tokens.last());
        let batch = tokens.cloned().fold(Batch::new(), Batch::check);
        self.commit(&batch)
    }

    /// Compares all that a cache can answer, from wherever it takes it, and all that is read in
    /// pages.
    fn look_through(&mut self) -> Checked {
        if self.crowded {
            self.query(&Query::new(CROWD))?;
            self.stream(Query::new(CROWD))?;
            self.pages(&Query::new(CROWD).reverse())?;
        }
        let query = Query::new(PARTITIONS[0]);
        self.pages(&query.clone().limit(2))?;
        self.stream(query.reverse().limit(3))?;
        for key in KEYS {
            self.get(key.into())?;
        }
        let keys: Vec<Key<'_>> = KEYS.iter().map(|key| (*key).into()).collect();
        self.get_many(&keys)
    }

    /// Purges at later moments, and looks at what that leaves: first where every refreshed lock
    /// would have ended without its refresh, then in the last second of something and after it.
    fn let_time_pass(&mut self) -> Checked {
        for jump in [Jump::Forward(3_601), Jump::ToExpiry, Jump::PastExpiry] {
            self.jump(jump);
            self.purge()?;
            self.look_around()?;
        }
        Ok(())
    }
}
