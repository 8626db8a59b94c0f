//! The operations, and how bytes are decoded into them.

use super::choices::Choices;
use atomic_db::{Key, Query};
use std::ops::Bound;

/// Keys of items and locks: empty parts, prefixes of each other, pairs that join to the same text
/// with and without a separator, and bytes in another order than letters.
pub(super) const KEYS: [(&str, &str); 18] = [
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

/// Queried partitions: those of [`KEYS`], an empty one, and the bulk partition.
pub(super) const PARTITIONS: [&str; 9] = [
    "a",
    "ab",
    "",
    "a/b",
    "a#b",
    "ä",
    "a\0b",
    "empty",
    BULK_PARTITION,
];

/// Prefixes of queries, and sort keys after which they begin.
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

/// Bounds of ranges: mostly sort keys.
const BOUNDS: [&str; 6] = ["b", "bc", "b/c", "b#c", "", "25"];

/// A partition with more items than a page, after [`Op::FillPartition`].
pub(super) const BULK_PARTITION: &str = "bulk";

/// Around one page of the memory database, and around two.
const BULK_SIZES: [usize; 5] = [255, 256, 257, 512, 600];

/// Seconds from now to an item's expiry.
const LIFETIMES: [i64; 7] = [-1, 0, 1, 60, 3_600, 86_400, i64::MAX];

const LIMITS: [usize; 8] = [0, 1, 2, 3, 5, 256, 257, usize::MAX];

/// Seconds, around the lifetimes of items and locks, and the refresh window of locks.
const JUMPS: [u64; 12] = [
    1, 2, 59, 61, 3_599, 3_600, 3_601, 82_799, 82_800, 82_801, 86_400, 86_401,
];

/// One operation. Keys are indices into [`KEYS`].
#[derive(Clone, Debug)]
pub enum Op {
    Get(usize),
    GetFresh(usize),
    GetMany(Vec<usize>),
    GetLock(usize),
    Set(Vec<Write>),
    /// Writes this many items to the bulk partition, unless it is filled.
    FillPartition(usize),
    SetAtomic(Vec<Write>, Vec<LockChoice>),
    Commit(Vec<Part>),
    Delete(Vec<usize>),
    /// A transaction under the lock of this key.
    Transact(usize, Vec<Step>, Ending),
    /// Reads one page after a sort key.
    Page(QuerySpec, Option<&'static str>),
    /// Reads all pages.
    Pages(QuerySpec),
    Query(QuerySpec),
    Stream(QuerySpec),
    Jump(Jump),
    Purge,
    Count,
    Invalidate(usize),
    Clear,
}

/// An item to write. Its data is a number that no other item has, or nothing.
#[derive(Clone, Debug)]
pub struct Write {
    pub(super) key: usize,
    pub(super) without_data: bool,
    /// Seconds from now to its expiry.
    pub(super) lifetime: Option<i64>,
}

/// A lock of a commit.
#[derive(Clone, Debug)]
pub struct LockChoice {
    pub(super) key: usize,
    pub(super) source: LockSource,
}

#[derive(Clone, Copy, Debug)]
pub enum LockSource {
    /// An unchanged lock of any key, if there is one. The key chooses which.
    Unchanged,
    /// The lock, read just before the commit.
    Read,
    /// The lock as it was last read or left by a commit.
    Latest,
    /// The lock as it was so many versions earlier.
    Earlier(usize),
    /// A version that is greater than the latest by one.
    Forged,
    /// The latest version of another key.
    OfAnotherKey(usize),
}

#[derive(Clone, Debug)]
pub enum Part {
    Lock(LockChoice),
    Check(LockChoice),
    Set(Write),
    Create(Write),
    Delete(usize),
}

/// A call of a transaction after its lock.
#[derive(Clone, Debug)]
pub enum Step {
    Get(usize),
    GetMany(Vec<usize>),
    Query(QuerySpec),
    Set(Write),
    Create(Write),
    Delete(usize),
}

/// What the body of a transaction does at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Commit,
    Fail,
}

#[derive(Clone, Debug)]
pub struct QuerySpec {
    pk: &'static str,
    prefix: &'static str,
    range: (Bound<&'static str>, Bound<&'static str>),
    reverse: bool,
    limit: Option<usize>,
    after: Option<&'static str>,
}

impl QuerySpec {
    pub(super) fn query(&self) -> Query {
        let mut query = Query::new(self.pk).prefix(self.prefix).range(self.range);
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

/// A movement of the clock.
#[derive(Clone, Copy, Debug)]
pub enum Jump {
    Forward(u64),
    /// To the last second of the row that expires next.
    ToExpiry,
    /// To the first second after that.
    PastExpiry,
    /// To the last second of the lock that expires next, in which a read refreshes it.
    ToLockExpiry,
    Back(u64),
    /// To the last second that can be represented.
    ToEndOfTime,
}

pub(super) fn key_at(index: usize) -> Key<'static> {
    KEYS[index].into()
}

/// Decodes at most `max` operations. Any bytes can be decoded.
pub fn decode(bytes: &[u8], max: usize) -> Vec<Op> {
    let mut choices = Choices::new(bytes);
    let mut ops = Vec::new();
    while !choices.is_empty() && ops.len() < max {
        ops.push(op(&mut choices));
    }
    ops
}

fn op(choices: &mut Choices<'_>) -> Op {
    match choices.below(52) {
        0..=4 => Op::Get(item_key(choices)),
        5 | 6 => Op::GetFresh(item_key(choices)),
        7 | 8 => Op::GetMany(choices.list(12, item_key)),
        9..=13 => Op::GetLock(lock_key(choices)),
        14..=17 => Op::Set(choices.list(5, write)),
        18..=20 => Op::SetAtomic(choices.list(4, write), choices.list(3, lock)),
        21..=26 => Op::Commit(choices.list(6, part)),
        27 | 28 => Op::Delete(choices.list(3, any_key)),
        29 => Op::Page(query(choices), text(choices)),
        30 | 31 => Op::Pages(query(choices)),
        32..=34 => Op::Query(query(choices)),
        35 | 36 => Op::Stream(query(choices)),
        37..=42 => Op::Jump(jump(choices)),
        43 => match choices.below(8) {
            0 => Op::FillPartition(choices.one_of(&BULK_SIZES)),
            _ => Op::Count,
        },
        44 | 45 => Op::Purge,
        46 => Op::Invalidate(item_key(choices)),
        47 => Op::Clear,
        _ => Op::Transact(
            lock_key(choices),
            choices.list(10, step),
            match choices.below(6) {
                5 => Ending::Fail,
                _ => Ending::Commit,
            },
        ),
    }
}

fn step(choices: &mut Choices<'_>) -> Step {
    // An item that has expired already is visible to its transaction, and to no other read.
    let live_write = |choices: &mut Choices<'_>| {
        let write = write(choices);
        let lifetime = write.lifetime.filter(|lifetime| *lifetime >= 0);
        Write { lifetime, ..write }
    };
    match choices.below(14) {
        0 => Step::Get(item_key(choices)),
        1 => Step::GetMany(choices.list(6, item_key)),
        2..=3 => Step::Query(query(choices)),
        // Of few items, so that its limit meets own writes.
        4..=6 => Step::Query(QuerySpec {
            pk: PARTITIONS[0],
            prefix: "",
            range: (Bound::Unbounded, bound(choices)),
            reverse: choices.below(2) == 1,
            limit: Some(1 + choices.below(3)),
            after: None,
        }),
        7..=8 => Step::Set(live_write(choices)),
        9 => Step::Create(live_write(choices)),
        10 => Step::Delete(any_key(choices)),
        _ => Step::Delete(item_key(choices)),
    }
}

fn any_key(choices: &mut Choices<'_>) -> usize {
    choices.below(KEYS.len())
}

/// Mostly one of the first keys, so that operations conflict.
fn item_key(choices: &mut Choices<'_>) -> usize {
    match choices.below(3 * KEYS.len()) {
        any if any < KEYS.len() => any,
        other => other % 8,
    }
}

/// Mostly one of the last keys, so that items do not replace every lock soon.
fn lock_key(choices: &mut Choices<'_>) -> usize {
    match choices.below(3 * KEYS.len()) {
        any if any < KEYS.len() => any,
        other => KEYS.len() - 1 - other % 4,
    }
}

fn write(choices: &mut Choices<'_>) -> Write {
    let key = item_key(choices);
    let form = choices.below(16);
    Write {
        key,
        without_data: form == 15,
        // Half of all items never expire.
        lifetime: LIFETIMES.get(form).copied(),
    }
}

fn lock(choices: &mut Choices<'_>) -> LockChoice {
    let key = lock_key(choices);
    let source = match choices.below(32) {
        0..=13 => LockSource::Unchanged,
        14..=25 => LockSource::Read,
        26 | 27 => LockSource::Latest,
        older @ 28..=29 => LockSource::Earlier(older - 27),
        30 => LockSource::Forged,
        _ => LockSource::OfAnotherKey(lock_key(choices)),
    };
    LockChoice { key, source }
}

fn part(choices: &mut Choices<'_>) -> Part {
    match choices.below(8) {
        0 | 1 => Part::Lock(lock(choices)),
        2 | 3 => Part::Check(lock(choices)),
        4 | 5 => Part::Set(write(choices)),
        6 => Part::Create(write(choices)),
        _ => Part::Delete(any_key(choices)),
    }
}

fn query(choices: &mut Choices<'_>) -> QuerySpec {
    let partition = choices.below(2 * PARTITIONS.len());
    QuerySpec {
        // Half of all queries read the partition of most keys.
        pk: PARTITIONS.get(partition).unwrap_or(&PARTITIONS[0]),
        prefix: text(choices).unwrap_or(""),
        range: match choices.below(2) {
            0 => (bound(choices), bound(choices)),
            _ => (Bound::Unbounded, Bound::Unbounded),
        },
        reverse: choices.below(2) == 1,
        limit: LIMITS.get(choices.below(12)).copied(),
        after: text(choices),
    }
}

fn text(choices: &mut Choices<'_>) -> Option<&'static str> {
    TEXTS.get(choices.below(4 * TEXTS.len())).copied()
}

/// The bounds of a range may be in the wrong order.
fn bound(choices: &mut Choices<'_>) -> Bound<&'static str> {
    match choices.below(3) {
        0 => Bound::Included(choices.one_of(&BOUNDS)),
        1 => Bound::Excluded(choices.one_of(&BOUNDS)),
        _ => Bound::Unbounded,
    }
}

fn jump(choices: &mut Choices<'_>) -> Jump {
    match choices.below(16) {
        0..=5 => Jump::Forward(choices.one_of(&JUMPS)),
        6..=8 => Jump::ToExpiry,
        9 => Jump::ToLockExpiry,
        10..=13 => Jump::PastExpiry,
        14 => Jump::Back(choices.one_of(&JUMPS)),
        _ => match choices.below(8) {
            0 => Jump::ToEndOfTime,
            _ => Jump::Back(86_400),
        },
    }
}
