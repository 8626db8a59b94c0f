//! The history checker: records the calls of threads and checks them for strict serializability.
//!
//! A history is strictly serializable if some order of its calls explains all results, one call
//! after another, and keeps real time: a call that returned before another one began comes first.
//! To decide this is NP-complete in general (Papadimitriou 1979). It is easy here, because the order of
//! versions is recoverable: every written value is unique, and the writes under a lock have the order
//! of the lock's versions. What remains is a search for a cycle in a graph of dependencies. The edges
//! are those of Adya: read dependencies (wr), write dependencies (ww) and anti-dependencies (rw), also
//! those of queries, so that phantoms are found. Edges for real time and for rejected commits are
//! added.
//!
//! - [`check_history`] runs a [`Workload`] on a database, and checks what it recorded.
//! - A [`Recorder`] records the calls of a program of your own. [`History::check`] checks them.
//! - An [`Anomaly`] has a name, an [`AnomalyKind`], and the calls that show it.
//!
//! A [`History`] can also be made from another recording: it consists of public types.
//!
//! # The order of versions
//!
//! 1. A commit names the version of each lock that it replaced and the one that it wrote. So the
//!    versions of a lock from its creation to its deletion are a chain.
//! 2. If versions are assigned at commit ([`Versions::AtCommit`]), the versions of one lock increase,
//!    also across deletions. Otherwise a deletion is placed where the calls that saw it allow it.
//! 3. If every write of an item renews the same lock, its guard, then its versions have the order of
//!    the guard's versions. The writes of other items have the order that the reads imply.
//!
//! # Limits
//!
//! No correct history is rejected. An anomaly may be accepted in these cases:
//!
//! - Threads interleave by chance, so a history shows a bug only if it happens.
//! - A missing item does not identify the call that deleted it. A transaction that names the item's
//!   guard is exact. Any other read is placed between the first and the last absence that real time
//!   and the other edges allow, which is exact if there is only one. The same holds for a creation that
//!   was rejected because the item existed.
//! - If several writes without a lock could explain that a key was empty, or if one call sees several
//!   keys that are written without a lock, an anomaly that no edge shows is accepted.
//! - The checker trusts that a version identifies the commit that made it.
//!
//! Locks, and items with a guard, do not expire while a history is recorded. [`Recorder`] lists what a
//! recorded program must keep to.
//!
//! # References
//!
//! - A. Adya, *Weak Consistency: A Generalized Theory and Optimistic Implementations for Distributed
//!   Transactions*, MIT, 1999: dependencies, G0, G1 and G2, predicate-based reads.
//! - P. Bailis, A. Fekete, A. Ghodsi, J. M. Hellerstein, I. Stoica, *Scalable Atomic Visibility with
//!   RAMP Transactions*, SIGMOD 2014: fractured reads.
//! - P. B. Gibbons, E. Korach, *Testing Shared Memories*, SIAM J. Comput. 26(4), 1997: writes without
//!   an order.
//! - K. Kingsbury, P. Alvaro, *Elle: Inferring Isolation Anomalies from Experimental Observations*,
//!   VLDB 2020: recoverable version orders, inferred dependencies, garbage reads.
//! - C. H. Papadimitriou, *The Serializability of Concurrent Database Updates*, J. ACM 26(4), 1979.

// The calls and their record: `recording`, `universe`, `recorder`, `collected`, `transactions`.
mod collected;
mod recorder;
mod recording;
mod transactions;
mod universe;

// The checker: `check` draws all edges, `locks`, `items`, `blind_writes` and `incarnations` order the
// versions, `graph` searches for a cycle, `explanation` names it.
mod anomaly;
mod anomaly_kind;
mod blind_writes;
mod check;
mod explanation;
mod graph;
mod incarnations;
mod items;
mod locks;

// The workload: `run` starts the threads, `job` chooses their calls, `calls` and `bodies` make them.
mod bodies;
mod calls;
mod job;
mod keys;
mod random;
mod run;
mod worker;
mod workload;

pub use anomaly::Anomaly;
pub use anomaly_kind::AnomalyKind;
pub use recorder::{Recorded, Recorder};
pub use recording::{
    Action, Commit, History, LockVersion, Observation, Op, Outcome, PredicateRead, ReadSet, Value,
    Versions, Write,
};
pub use run::{Evidence, Job, Violation, check_history};
pub use workload::Workload;
