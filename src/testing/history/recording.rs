//! Recorded calls: the arguments and the result of each, with the times of its beginning and end.

// Tests that record calls in another way make histories of their own.
#![expect(clippy::exhaustive_enums, clippy::exhaustive_structs)]

use super::anomaly_kind::AnomalyKind;
use crate::{KeyBuf, Query, Version};
use std::ops::Bound;
use std::{fmt, slice};

/// A number that identifies a written value: no two writes of a key have the same one.
pub type Value = u64;

/// The value that a call read at a key, `None` if it found no item.
pub type Observation = (KeyBuf, Option<Value>);

/// A lock's key and one of its versions.
pub type LockVersion = (KeyBuf, Version);

/// The calls of all threads, in any order, from the first use of an empty database on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    /// The calls.
    pub ops: Vec<Op>,
}

/// One call, between two readings of a counter that every reading increments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Op {
    /// The number of the thread or handle that made the call, for the explanation of an anomaly.
    pub thread: usize,
    /// The reading before the call.
    pub invoked: u64,
    /// The reading after the call.
    pub returned: u64,
    /// The call and its result.
    pub action: Action,
}

/// A call and its result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A read of items.
    Read {
        /// The name of the method.
        method: &'static str,
        /// Whether the call reads at a single point in time. Otherwise it reads each key at its own.
        atomic: bool,
        /// What it read.
        reads: ReadSet,
    },
    /// A read of a lock, which may have created it.
    GetLock(LockVersion),
    /// A commit or a transaction.
    Commit(Commit),
    /// An unconditional write of one item, with the name of the method. A call that writes several
    /// items is recorded as several concurrent actions, because it is not atomic.
    Write(&'static str, Write),
    /// The clock that decides about expiry was set to this second. Only one thread does this.
    AdvanceClock(u64),
    /// A result that the contract does not allow, or that leaves open what was written.
    Problem(AnomalyKind, String),
}

/// What a call read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadSet {
    /// Reads by key.
    pub items: Vec<Observation>,
    /// Reads by query.
    pub predicates: Vec<PredicateRead>,
}

/// The result of a query: it observed the items that it found, and the absence of every other item
/// that it selects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PredicateRead {
    /// The query.
    pub query: Query,
    /// The items that it returned, in its order.
    pub found: Vec<(KeyBuf, Value)>,
    /// The last sort key that was looked at, if the read ended before the last key of the query.
    pub through: Option<String>,
    /// Keys that the transaction had written before, so that it read its own writes there.
    pub own: Vec<KeyBuf>,
    /// The keys of the history that the query looked at without finding an item. The checker fills
    /// it in, because only the whole history has all keys.
    pub missing: Vec<KeyBuf>,
}

/// A commit or a transaction, and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Commit {
    /// The locks that a successful commit renews.
    pub locks: Vec<LockVersion>,
    /// The locks that must be unchanged and keep their versions.
    pub checks: Vec<LockVersion>,
    /// Reads that followed the read of their guard, which is in `locks` or `checks`. They still
    /// hold if the commit succeeds.
    pub reads: ReadSet,
    /// The writes that were asked for.
    pub writes: Vec<Write>,
    /// The outcome.
    pub outcome: Outcome,
}

/// A write of one item, or the deletion of an item or lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// The key.
    pub key: KeyBuf,
    /// `None` deletes.
    pub value: Option<Value>,
    /// The last second of the item, if it expires.
    pub ttl: Option<u64>,
    /// The commit fails if the item exists.
    pub create: bool,
}

/// The outcome of a commit or transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It succeeded and returned this version.
    Committed(Version),
    /// It was rejected because these locks had changed.
    Conflict(Vec<KeyBuf>),
    /// It was rejected because an item existed at this key.
    AlreadyExists(KeyBuf),
    /// A transaction that writes nothing returned a result: its locks were unchanged after its reads.
    Validated,
    /// The body of a transaction returned an error of its own: it wrote nothing, and its reads are
    /// those of one point in time.
    Failed,
}

/// When a database assigns the version of a commit or of a new lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Versions {
    /// When the commit or the creation takes effect. The versions of one lock increase.
    AtCommit,
    /// Earlier. Of two concurrent calls, the one with the greater version may take effect first. A
    /// history is not rejected for the order of its versions.
    #[default]
    Early,
}

impl Action {
    /// Returns the versions of locks that the call returned or was given.
    pub fn lock_versions(&self) -> impl Iterator<Item = &LockVersion> {
        let (locks, checks): (&[_], &[_]) = match self {
            Action::GetLock(lock) => (slice::from_ref(lock), &[]),
            Action::Commit(commit) => (&commit.locks, &commit.checks),
            _ => (&[], &[]),
        };
        locks.iter().chain(checks)
    }

    /// The commit and its version, if it succeeded.
    pub(super) fn committed(&self) -> Option<(&Commit, Version)> {
        match self {
            Action::Commit(commit) => match commit.outcome {
                Outcome::Committed(version) => Some((commit, version)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The writes that were asked for.
    pub(super) fn requested_writes(&self) -> &[Write] {
        match self {
            Action::Commit(commit) => &commit.writes,
            Action::Write(_, write) => slice::from_ref(write),
            _ => &[],
        }
    }

    /// The writes that took effect.
    pub(super) fn writes(&self) -> &[Write] {
        match self {
            Action::Commit(_) if self.committed().is_none() => &[],
            _ => self.requested_writes(),
        }
    }
}

impl Outcome {
    /// Whether the commit wrote nothing because a lock had changed or an item existed.
    pub(super) fn is_rejection(&self) -> bool {
        matches!(self, Outcome::Conflict(_) | Outcome::AlreadyExists(_))
    }
}

impl Commit {
    /// The locks that were reported as changed.
    pub(super) fn conflicts(&self) -> &[KeyBuf] {
        match &self.outcome {
            Outcome::Conflict(keys) => keys,
            _ => &[],
        }
    }

    /// Whether the commit gave this lock a new version, if it succeeded.
    pub(super) fn renews(&self, lock: &KeyBuf) -> bool {
        self.locks.iter().any(|(key, _)| key == lock)
    }
}

impl ReadSet {
    /// Reads of items by key.
    /// Creates a set of reads by key.
    #[must_use]
    pub fn from_items(items: Vec<Observation>) -> Self {
        ReadSet {
            items,
            predicates: Vec::new(),
        }
    }

    /// Every observation. `true` marks the absence of an item that a query looked for.
    pub(super) fn observations(&self) -> impl Iterator<Item = (&KeyBuf, Option<Value>, bool)> {
        let items = self.items.iter().map(|(key, value)| (key, *value, false));
        let predicates = self.predicates.iter().flat_map(|read| {
            let found = read.found.iter();
            let found = found.map(|(key, value)| (key, Some(*value), false));
            found.chain(read.missing.iter().map(|key| (key, None, true)))
        });
        items.chain(predicates)
    }
}

impl PredicateRead {
    /// Returns `true` if the query would have found an item at this key.
    #[must_use]
    pub fn covers(&self, key: &KeyBuf) -> bool {
        let reached = |through: &String| {
            if self.query.reverse {
                key.sk() >= through.as_str()
            } else {
                key.sk() <= through.as_str()
            }
        };
        self.query.matches(key)
            && self.through.as_ref().is_none_or(reached)
            && !self.own.contains(key)
    }
}

impl History {
    /// The successful commit of this number and its version. `None` for any other number.
    pub(super) fn committed(&self, op: usize) -> Option<(&Commit, Version)> {
        self.ops.get(op)?.action.committed()
    }

    /// Returns the number of adjacent calls that overlap, and the number of adjacent pairs. A history
    /// without overlap is little evidence.
    #[must_use]
    pub fn overlaps(&self) -> (usize, usize) {
        let times = self.ops.iter().map(|op| (op.invoked, op.returned));
        let mut times: Vec<(u64, u64)> = times.collect();
        times.sort_unstable();
        let overlapping = times.windows(2).filter(|pair| pair[1].0 < pair[0].1);
        (overlapping.count(), times.len().saturating_sub(1))
    }
}

impl fmt::Display for ReadSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.items.is_empty() {
            write!(f, " read")?;
        }
        self.items.iter().try_for_each(|(key, value)| match value {
            Some(value) => write!(f, " {key}={value}"),
            None => write!(f, " no {key}"),
        })?;
        self.predicates
            .iter()
            .try_for_each(|read| write!(f, " {read}"))
    }
}

impl fmt::Display for PredicateRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = &self.query;
        write!(f, "queried {:?}", query.pk)?;
        if !query.prefix.is_empty() {
            write!(f, " prefix {:?}", query.prefix)?;
        }
        match &query.range {
            (Bound::Unbounded, Bound::Unbounded) => {}
            range => write!(f, " range {range:?}")?,
        }
        if let Some(after) = &query.after {
            write!(f, " after {after:?}")?;
        }
        if query.reverse {
            write!(f, " in reverse")?;
        }
        if let Some(through) = &self.through {
            write!(f, " through {through:?}")?;
        }
        write!(f, " and found")?;
        for (key, value) in &self.found {
            write!(f, " {key}={value}")?;
        }
        for key in &self.missing {
            write!(f, " no {key}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match self.value {
            Some(value) if self.create => write!(f, "create {key}={value}")?,
            Some(value) => write!(f, "set {key}={value}")?,
            None => write!(f, "delete {key}")?,
        }
        match self.ttl {
            Some(ttl) => write!(f, " until {ttl}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (thread, invoked, returned) = (self.thread, self.invoked, self.returned);
        write!(f, "thread {thread} at {invoked}..{returned}: ")?;
        match &self.action {
            Action::Read { method, reads, .. } => write!(f, "{method}{reads}"),
            Action::GetLock((key, version)) => write!(f, "get_lock returned {key}={version}"),
            Action::Commit(commit) => {
                let transaction = matches!(commit.outcome, Outcome::Validated | Outcome::Failed);
                f.write_str(if transaction { "transaction" } else { "commit" })?;
                for (role, locks) in [("lock", &commit.locks), ("check", &commit.checks)] {
                    for (key, version) in locks {
                        write!(f, " {role} {key}={version}")?;
                    }
                }
                write!(f, "{}", commit.reads)?;
                for write in &commit.writes {
                    write!(f, " {write}")?;
                }
                match &commit.outcome {
                    Outcome::Committed(version) => write!(f, ": committed as {version}"),
                    Outcome::AlreadyExists(key) => write!(f, ": rejected, {key} exists"),
                    Outcome::Validated => write!(f, ": returned a result"),
                    Outcome::Failed => write!(f, ": returned an error of its body"),
                    Outcome::Conflict(keys) => {
                        write!(f, ": rejected, conflict on")?;
                        keys.iter().try_for_each(|key| write!(f, " {key}"))
                    }
                }
            }
            Action::Write(method, write) => write!(f, "{method}: {write}"),
            Action::AdvanceClock(now) => write!(f, "the clock was set to {now}"),
            Action::Problem(_, text) => f.write_str(text),
        }
    }
}
