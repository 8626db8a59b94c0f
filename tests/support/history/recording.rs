//! Recorded calls: the arguments and the result of each, with the times of its beginning and end.

use atomic_db::{KeyBuf, Version};
use std::{fmt, slice};

/// A written value. No two writes of a history write the same one, so a value identifies its write.
pub type Value = u64;

/// The value that a call read at a key, `None` if it found no item.
pub type Observation = (KeyBuf, Option<Value>);

/// A lock's key and one of its versions.
pub type LockVersion = (KeyBuf, Version);

/// The calls of all threads, in any order.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
}

/// One call, between two readings of a counter that every reading increments.
#[derive(Clone, Debug)]
pub struct Op {
    pub thread: usize,
    pub invoked: u64,
    pub returned: u64,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// A read of items at a single point in time, with the name of the method.
    Read(&'static str, Vec<Observation>),
    GetLock(LockVersion),
    Commit(Commit),
    /// An unconditional write of one item, with the name of the method. A call that writes several
    /// items is recorded as several concurrent actions, because it is not atomic.
    Write(&'static str, Write),
    /// The clock that decides about expiry was set to this second. Only one thread does this.
    AdvanceClock(u64),
}

/// A commit and its outcome.
#[derive(Clone, Debug)]
pub struct Commit {
    pub locks: Vec<LockVersion>,
    pub checks: Vec<LockVersion>,
    /// Reads that followed the read of their guard, which is in `locks` or `checks`. They still
    /// hold if the commit succeeds.
    pub read_set: Vec<Observation>,
    pub writes: Vec<Write>,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub struct Write {
    pub key: KeyBuf,
    /// The index of the lock in the commit that guards every write of this item. `None` for the
    /// deletion of a lock, and for items without a guard.
    pub guard: Option<usize>,
    /// `None` deletes.
    pub value: Option<Value>,
    /// The last second of an item without a guard. Guarded items never expire.
    pub ttl: Option<u64>,
    /// The commit fails if the item exists.
    pub create: bool,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Committed(Version),
    Conflict(Vec<KeyBuf>),
    AlreadyExists(KeyBuf),
}

/// When a database assigns the version of a commit or of a new lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// When the commit or the creation takes effect. The versions of one lock increase.
    AtCommit,
    /// Earlier. Of two concurrent calls, the one with the greater version may take effect first.
    Early,
}

impl Action {
    /// The versions of locks that the call returned or was given.
    pub fn lock_versions(&self) -> impl Iterator<Item = &LockVersion> {
        let (locks, checks): (&[_], &[_]) = match self {
            Action::GetLock(lock) => (slice::from_ref(lock), &[]),
            Action::Commit(commit) => (&commit.locks, &commit.checks),
            Action::Read(..) | Action::Write(..) | Action::AdvanceClock(_) => (&[], &[]),
        };
        locks.iter().chain(checks)
    }

    /// The commit and its version, if it succeeded.
    pub fn committed(&self) -> Option<(&Commit, Version)> {
        match self {
            Action::Commit(commit) => match commit.outcome {
                Outcome::Committed(version) => Some((commit, version)),
                Outcome::Conflict(_) | Outcome::AlreadyExists(_) => None,
            },
            _ => None,
        }
    }

    /// The writes that were asked for.
    pub fn requested_writes(&self) -> &[Write] {
        match self {
            Action::Commit(commit) => &commit.writes,
            Action::Write(_, write) => slice::from_ref(write),
            Action::Read(..) | Action::GetLock(_) | Action::AdvanceClock(_) => &[],
        }
    }

    /// The writes that took effect.
    pub fn writes(&self) -> &[Write] {
        match self {
            Action::Commit(_) if self.committed().is_none() => &[],
            _ => self.requested_writes(),
        }
    }
}

impl Commit {
    /// The locks that were reported as changed.
    pub fn conflicts(&self) -> &[KeyBuf] {
        match &self.outcome {
            Outcome::Conflict(keys) => keys,
            Outcome::Committed(_) | Outcome::AlreadyExists(_) => &[],
        }
    }

    /// Whether the commit gave this lock a new version, if it succeeded.
    pub fn renews(&self, lock: &KeyBuf) -> bool {
        self.locks.iter().any(|(key, _)| key == lock)
    }
}

impl History {
    /// The successful commit of this number and its version. `None` for any other number.
    pub fn committed(&self, op: usize) -> Option<(&Commit, Version)> {
        self.ops.get(op)?.action.committed()
    }

    /// Returns the number of adjacent calls that overlap, and the number of adjacent pairs.
    pub fn overlaps(&self) -> (usize, usize) {
        let times = self.ops.iter().map(|op| (op.invoked, op.returned));
        let mut times: Vec<(u64, u64)> = times.collect();
        times.sort_unstable();
        let overlapping = times.windows(2).filter(|pair| pair[1].0 < pair[0].1);
        (overlapping.count(), times.len().saturating_sub(1))
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
            Action::Read(method, observed) => {
                write!(f, "{method} returned")?;
                observed.iter().try_for_each(|(key, value)| match value {
                    Some(value) => write!(f, " {key}={value}"),
                    None => write!(f, " no {key}"),
                })
            }
            Action::GetLock((key, version)) => write!(f, "get_lock returned {key}={version}"),
            Action::Commit(commit) => {
                write!(f, "commit")?;
                for (role, locks) in [("lock", &commit.locks), ("check", &commit.checks)] {
                    for (key, version) in locks {
                        write!(f, " {role} {key}={version}")?;
                    }
                }
                for write in &commit.writes {
                    write!(f, " {write}")?;
                }
                match &commit.outcome {
                    Outcome::Committed(version) => write!(f, ": committed as {version}"),
                    Outcome::AlreadyExists(key) => write!(f, ": rejected, {key} exists"),
                    Outcome::Conflict(keys) => {
                        write!(f, ": rejected, conflict on")?;
                        keys.iter().try_for_each(|key| write!(f, " {key}"))
                    }
                }
            }
            Action::Write(method, write) => write!(f, "{method}: {write}"),
            Action::AdvanceClock(now) => write!(f, "the clock was set to {now}"),
        }
    }
}
