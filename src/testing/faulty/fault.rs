//! What may go wrong, and what did.

use crate::{KeyBuf, Operation};
use std::time::Duration;

/// An outcome that the contract of [`AtomicDb`](crate::AtomicDb) allows, and that the code under test
/// must handle.
///
/// A fault applies only to some calls; others that a rule selects are left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Any call fails with [`Unavailable`](crate::Error::Unavailable), and has no effect.
    Unavailable,
    /// Any call fails with [`Backend`](crate::Error::Backend), and has no effect.
    Backend,
    /// A write fails with [`OutcomeUnknown`](crate::Error::OutcomeUnknown), after it was applied if
    /// `applied`. If the database refuses the write, its error takes the place of this one.
    OutcomeUnknown {
        /// Whether the inner database is called.
        applied: bool,
    },
    /// A commit with locks or checks loses a race: another writer commits first under one of them, which
    /// this fault chooses. The inner database then reports the conflict, so the error names locks that
    /// have really changed. The other writer writes no items.
    Conflict,
    /// A `set` or `delete` of several keys applies some of them, or none, and then fails with
    /// [`Unavailable`](crate::Error::Unavailable).
    Partial,
    /// A page of several items ends early, and the next one begins there. Streams read pages.
    ShortPage,
    /// Any call takes this long on the clock of the [`FaultyDb`](super::FaultyDb), before anything
    /// happens. Another fault may follow it.
    Latency(Duration),
}

/// A fault that was injected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Injection {
    /// The operation. The pages of a stream are [`Page`](Operation::Page)s.
    pub operation: Operation,
    /// The keys of the call, in the order of its arguments; for a commit, those of its locks, checks,
    /// sets, creates and deletes. For a query, its partition key and prefix. Empty for a scan.
    pub keys: Vec<KeyBuf>,
    /// The fault.
    pub fault: Fault,
    /// Whether the inner database applied the write, or a part of it.
    pub applied: bool,
}
