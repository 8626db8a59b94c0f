//! The names of anomalies.

use std::fmt;

/// The violation that a history shows.
///
/// The first group has the names of Adya, of Bailis et al. (fractured reads) and of Elle (garbage
/// reads, incompatible order). G1b, a read of a value that its transaction overwrites later, cannot
/// occur: a commit writes a key at most once (guarantee 14). The second group has violations of real
/// time and of the guarantees of locks. The last group has results that need no second call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AnomalyKind {
    /// G0: a cycle of write dependencies over several keys.
    G0,
    /// G1a: a read of a value that a rejected commit tried to write.
    G1a,
    /// G1c: a cycle of read and write dependencies without anti-dependencies. It may contain real
    /// time, as in a read of a value that is written later.
    G1c,
    /// A read that observes a part of a commit, and at another key an older version than the
    /// commit's: a cycle of one read dependency and one anti-dependency.
    FracturedRead,
    /// Any other cycle with exactly one anti-dependency.
    GSingle,
    /// G2: a cycle with several anti-dependencies, such as a write skew between commits or a long
    /// fork between reads.
    G2,
    /// Phantom: a cycle with a predicate anti-dependency. A query found no item where a commit
    /// created one that the query must have observed, because the query depends on that commit, or
    /// because both observe a state from before the other one. Repeatable read allows it; PL-3 does
    /// not.
    Phantom,
    /// Two commits replaced the same version of a lock, or a commit overwrote a version that it
    /// had not read.
    LostUpdate,
    /// A read of a value that was never written to the key.
    GarbageRead,
    /// Reads observed blind writes of a key in two orders.
    IncompatibleOrder,

    /// A read does not observe a write that had completed before the read began.
    StaleRead,
    /// A read observes an item or a lock that was deleted before the read began.
    ReadAfterDeletion,
    /// A read observes an item whose last second had passed before the read began.
    ReadAfterExpiry,
    /// A read finds no item though one existed throughout the read.
    LostWrite,
    /// A version was assigned twice.
    VersionReuse,
    /// A lock was created while it existed.
    DuplicateCreation,
    /// An item was created while it existed.
    CreateOverExisting,
    /// A commit was rejected without a reason.
    UnjustifiedRejection,

    /// A call returned something that it may not return in any state, such as an item twice.
    WrongResult,
    /// A call failed that must succeed.
    FailedCall,
    /// The sum of the accounts of the workload changed.
    WrongSum,
    /// Not an anomaly: the history does not show what the checker must know. Two writes of a key
    /// have the same value, or a call failed and left open what it wrote.
    NotCheckable,
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AnomalyKind::G0 => "G0 (write cycle)",
            AnomalyKind::G1a => "G1a (aborted read)",
            AnomalyKind::G1c => "G1c (circular information flow)",
            AnomalyKind::FracturedRead => "fractured read",
            AnomalyKind::GSingle => "G-single (one anti-dependency)",
            AnomalyKind::G2 => "G2 (several anti-dependencies)",
            AnomalyKind::Phantom => "phantom (G2 with a predicate anti-dependency)",
            AnomalyKind::LostUpdate => "lost update",
            AnomalyKind::GarbageRead => "garbage read (a value never written to the key)",
            AnomalyKind::IncompatibleOrder => "incompatible order of blind writes",
            AnomalyKind::StaleRead => "stale read",
            AnomalyKind::ReadAfterDeletion => "read after deletion",
            AnomalyKind::ReadAfterExpiry => "read after expiry",
            AnomalyKind::LostWrite => "lost write (no item found where one existed)",
            AnomalyKind::VersionReuse => "reused version",
            AnomalyKind::DuplicateCreation => "creation of a lock that existed",
            AnomalyKind::CreateOverExisting => "creation of an item that existed",
            AnomalyKind::UnjustifiedRejection => "unjustified rejection",
            AnomalyKind::WrongResult => "wrong result",
            AnomalyKind::FailedCall => "failed call",
            AnomalyKind::WrongSum => "wrong sum",
            AnomalyKind::NotCheckable => "not checkable",
        })
    }
}
