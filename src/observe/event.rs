//! The events that an observer receives.

use super::error_kind::ErrorKind;
use crate::{Error, KeyBuf};
use std::fmt;
use std::time::Duration;

/// A method of [`AtomicDb`](crate::AtomicDb) or [`Scan`](crate::Scan).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// [`get`](crate::AtomicDb::get).
    Get,
    /// [`get_fresh`](crate::AtomicDb::get_fresh).
    GetFresh,
    /// [`get_many`](crate::AtomicDb::get_many).
    GetMany,
    /// [`get_many_fresh`](crate::AtomicDb::get_many_fresh).
    GetManyFresh,
    /// [`get_lock`](crate::AtomicDb::get_lock).
    GetLock,
    /// [`get_locks`](crate::AtomicDb::get_locks).
    GetLocks,
    /// [`set`](crate::AtomicDb::set).
    Set,
    /// [`commit`](crate::AtomicDb::commit).
    Commit,
    /// [`set_atomic`](crate::AtomicDb::set_atomic).
    SetAtomic,
    /// [`delete`](crate::AtomicDb::delete).
    Delete,
    /// [`page`](crate::AtomicDb::page).
    Page,
    /// [`query`](crate::AtomicDb::query).
    Query,
    /// [`stream`](crate::AtomicDb::stream), from its creation to its end.
    Stream,
    /// [`scan`](crate::Scan::scan), from its creation to its end.
    Scan,
}

impl Operation {
    /// All operations, in the order of their declaration.
    pub(crate) const ALL: [Operation; 14] = [
        Operation::Get,
        Operation::GetFresh,
        Operation::GetMany,
        Operation::GetManyFresh,
        Operation::GetLock,
        Operation::GetLocks,
        Operation::Set,
        Operation::Commit,
        Operation::SetAtomic,
        Operation::Delete,
        Operation::Page,
        Operation::Query,
        Operation::Stream,
        Operation::Scan,
    ];

    /// Returns the name of the method, such as `"get_many"`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::GetFresh => "get_fresh",
            Operation::GetMany => "get_many",
            Operation::GetManyFresh => "get_many_fresh",
            Operation::GetLock => "get_lock",
            Operation::GetLocks => "get_locks",
            Operation::Set => "set",
            Operation::Commit => "commit",
            Operation::SetAtomic => "set_atomic",
            Operation::Delete => "delete",
            Operation::Page => "page",
            Operation::Query => "query",
            Operation::Stream => "stream",
            Operation::Scan => "scan",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CallEvent<'a> {
    /// The method.
    pub operation: Operation,
    /// The partition key of the query, or of the first key in the arguments: for a batch, of its locks,
    /// checks, sets, creates and deletes in this order. `None` if there are no keys, and for a scan.
    pub partition: Option<&'a str>,
    /// The number of keys, items and locks in the arguments, repeats included. Zero for a query
    /// or scan.
    pub keys: usize,
    /// The number of items or locks that were returned.
    pub items: usize,
    /// The time that the call took. For a stream or scan, the time spent in the iterator, without the
    /// loop body.
    pub duration: Duration,
    /// The error that the call returned.
    pub error: Option<&'a Error>,
}

/// An attempt of a transaction that ended in a conflict, before the pause that follows.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ConflictEvent<'a> {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The locks that had changed.
    pub locks: &'a [KeyBuf],
}

/// A transaction or update that has ended, with all its attempts.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TransactionEvent<'a> {
    /// How it ended.
    pub end: TransactionEnd,
    /// The number of times that the closure was run.
    pub attempts: u32,
    /// The locks for which it lost a race, each once, in the order in which they were lost first.
    pub lost_locks: &'a [KeyBuf],
    /// The time that it waited for its turns in the [`RetryQueue`](crate::RetryQueue).
    pub waited: Duration,
    /// The time of the pauses between its attempts.
    pub paused: Duration,
    /// The time from its beginning to its end, including `waited` and `paused`.
    pub duration: Duration,
    /// The kind of the database's error, if it ended with one. `None` if the closure's own error ended
    /// it, which may be of any type.
    pub error: Option<ErrorKind>,
}

/// How a transaction or update ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TransactionEnd {
    /// The first attempt succeeded.
    FirstAttempt,
    /// A later attempt succeeded.
    Recovered,
    /// It returned [`RetriesExhausted`](Error::RetriesExhausted).
    Exhausted,
    /// It returned another error, of the database or of the closure.
    Failed,
    /// The closure panicked.
    Panicked,
}

impl TransactionEnd {
    /// All ends, in the order of their declaration.
    pub(crate) const ALL: [TransactionEnd; 5] = [
        TransactionEnd::FirstAttempt,
        TransactionEnd::Recovered,
        TransactionEnd::Exhausted,
        TransactionEnd::Failed,
        TransactionEnd::Panicked,
    ];

    /// Returns the end in snake case, such as `"first_attempt"`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            TransactionEnd::FirstAttempt => "first_attempt",
            TransactionEnd::Recovered => "recovered",
            TransactionEnd::Exhausted => "exhausted",
            TransactionEnd::Failed => "failed",
            TransactionEnd::Panicked => "panicked",
        }
    }
}

impl fmt::Display for TransactionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
