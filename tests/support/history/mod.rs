//! Checks recorded histories of concurrent calls for strict serializability.
//!
//! A history is strictly serializable if some order of its calls explains all results, one call
//! after another, and keeps real time: a call that returned before another one began comes first.
//! To decide this is NP-complete in general (Papadimitriou 1979). It is easy here, because the
//! workload makes the order of versions recoverable: every written value is unique, and the writes
//! under a lock have the order of the lock's versions. What remains is a search for a cycle in a
//! graph of dependencies. The edges are those of Adya: read dependencies (wr), write dependencies
//! (ww) and anti-dependencies (rw). Edges for real time and for rejected commits are added.
//!
//! A history whose writes are all made under locks is strictly serializable exactly if the graph has
//! no cycle. For writes without a lock, `blind_writes` infers as much of their order as the reads
//! imply. No correct history is rejected. See [`AnomalyKind`] for the anomalies.
//!
//! # The order of versions
//!
//! 1. A commit names the version of each lock that it replaced and the one that it wrote. So the
//!    versions of a lock from its creation to its deletion are a chain.
//! 2. If versions are assigned at commit ([`Versions::AtCommit`]), the versions of one lock increase,
//!    also across deletions. Otherwise `incarnations` has another rule.
//! 3. An item with a guard is written only by commits that renew the guard, always the same lock. So
//!    its versions have the order of the guard's versions.
//!
//! # Limits
//!
//! A missing value does not identify its writer. A read that found no item where a guarded one can
//! be is placed between the first and the last absence that real time allows. This is exact if there
//! is only one such absence, which is usual. The same holds for a creation that was rejected because
//! the item existed.
//!
//! Locks and guarded items do not expire while a history is recorded.
//!
//! # References
//!
//! - A. Adya, *Weak Consistency: A Generalized Theory and Optimistic Implementations for Distributed
//!   Transactions*, MIT, 1999: dependencies, G0, G1 and G2.
//! - P. Bailis, A. Fekete, A. Ghodsi, J. M. Hellerstein, I. Stoica, *Scalable Atomic Visibility with
//!   RAMP Transactions*, SIGMOD 2014: fractured reads.
//! - K. Kingsbury, P. Alvaro, *Elle: Inferring Isolation Anomalies from Experimental Observations*,
//!   VLDB 2020: recoverable version orders, inferred dependencies, garbage reads.
//! - C. H. Papadimitriou, *The Serializability of Concurrent Database Updates*, J. ACM 26(4), 1979.

mod anomaly;
mod anomaly_kind;
mod blind_writes;
mod bodies;
mod calls;
mod explanation;
mod graph;
mod incarnations;
mod items;
mod job;
mod keys;
mod locks;
mod random;
mod recorder;
mod recording;
mod run;
mod transactions;
mod universe;
mod worker;
mod workload;

pub use anomaly::Anomaly;
pub use anomaly_kind::AnomalyKind;
pub use recording::{
    Action, Commit, History, LockVersion, Observation, Op, Outcome, PredicateRead, ReadSet, Value,
    Versions, Write,
};

pub use recorder::{Recorded, Recorder};
pub use run::Job;
pub use workload::Workload;

use blind_writes::{ImpliedEdges, registers};
use explanation::anomaly_of_cycle;
use graph::{EdgeKind, Graph, HappensBefore};
use incarnations::incarnations;
use items::{Ambiguity, ItemOrder};
use locks::LockOrder;

impl History {
    /// Checks whether the history is strictly serializable, if the database assigns versions as
    /// given.
    ///
    /// The cost is proportional to the length of the history, except for sorting, absences that
    /// overlap many writes of a key, blind writes, and incarnations without a known order.
    pub fn check(&self, versions: Versions) -> Result<(), Anomaly> {
        let history = self.expand();
        history.check_results()?;
        let mut graph = Graph::new(history.ops.len());
        let locks = LockOrder::new(&history, versions, &mut graph)?;
        let mut items = ItemOrder::new(&locks)?;
        for (number, op) in history.ops.iter().enumerate() {
            match &op.action {
                Action::Read { reads, .. } => {
                    for observed in reads.observations() {
                        items.add_edges(&mut graph, number, observed)?;
                    }
                }
                Action::GetLock((key, version)) => {
                    locks.add_edges(&mut graph, number, key, *version);
                }
                Action::Commit(commit) => {
                    add_commit_edges(&mut graph, number, commit, &locks, &mut items)?;
                }
                Action::Write(..) | Action::AdvanceClock(_) | Action::Problem(..) => {}
            }
        }
        // First without real time, because an anomaly of any order has the more precise name.
        require_no_cycle(&graph, &locks)?;
        let calls = history.ops.iter().map(|op| (op.invoked, Some(op.returned)));
        let creations = locks
            .creations
            .iter()
            .map(|creation| (creation.invoked, None));
        let intervals = calls.chain(creations).enumerate();
        graph.add_real_time(intervals.map(|(node, (begin, end))| (node, begin, end)));
        require_no_cycle(&graph, &locks)?;
        add_inferred_edges(&mut graph, &locks, &items)
    }
}

impl History {
    /// Checks what needs no other call: no call had an impossible result, and each query returned
    /// items that it selects, in its order, each once.
    fn check_results(&self) -> Result<(), Anomaly> {
        for (number, op) in self.ops.iter().enumerate() {
            let reads = match &op.action {
                Action::Problem(kind, _) => return Err(Anomaly::new(*kind, self, &[number])),
                Action::Read { reads, .. } | Action::Commit(Commit { reads, .. }) => reads,
                _ => continue,
            };
            let correct = reads.predicates.iter().all(|read| {
                let selected = read.found.iter().all(|(key, _)| read.covers(key));
                let mut pairs = read.found.windows(2).map(|pair| [&pair[0].0, &pair[1].0]);
                let reverse = read.query.reverse;
                let ordered = pairs.all(|[a, b]| if reverse { a > b } else { a < b });
                selected && ordered
            });
            if !correct {
                return Err(Anomaly::new(AnomalyKind::WrongResult, self, &[number]));
            }
        }
        Ok(())
    }
}

fn require_no_cycle(graph: &Graph<'_>, locks: &LockOrder<'_>) -> Result<(), Anomaly> {
    match graph.cycle() {
        Some(cycle) => Err(anomaly_of_cycle(locks, &cycle)),
        None => Ok(()),
    }
}

fn add_commit_edges<'a>(
    graph: &mut Graph<'a>,
    number: usize,
    commit: &'a Commit,
    locks: &LockOrder<'a>,
    items: &mut ItemOrder<'a>,
) -> Result<(), Anomaly> {
    let rejection = AnomalyKind::UnjustifiedRejection;
    let unjustified = || Err(Anomaly::new(rejection, locks.history, &[number]));
    let named = || commit.locks.iter().chain(&commit.checks);
    if !commit.outcome.is_rejection() {
        // Before those of the locks, because data explains more.
        for observed in commit.reads.observations() {
            items.add_edges_under_locks(graph, number, commit, observed)?;
        }
    }
    let conflicts = commit.conflicts();
    for (key, version) in named() {
        if !conflicts.contains(key) {
            locks.add_edges(graph, number, key, *version);
        } else if let Some(replaced_by) = locks.replaced_by.get(&(key, *version)) {
            graph.add(*replaced_by, number, EdgeKind::Rejection, key);
        } else if locks.versions == Versions::AtCommit {
            // If deletions have no known order, `incarnations` searches for one.
            return unjustified();
        }
    }
    match &commit.outcome {
        Outcome::Committed(_) | Outcome::Validated | Outcome::Failed => Ok(()),
        Outcome::Conflict(keys) => {
            let reported_once = |key| {
                let times = keys.iter().filter(|other| *other == key).count();
                times == 1 && named().any(|(name, _)| name == key)
            };
            if keys.is_empty() || !keys.iter().all(reported_once) {
                return unjustified();
            }
            Ok(())
        }
        Outcome::AlreadyExists(key) => {
            let mut creates = commit.writes.iter().filter(|write| write.create);
            if creates.any(|write| write.key == *key) {
                items.add_bounds(graph, Ambiguity::existing(number, key))
            } else {
                unjustified()
            }
        }
    }
}

/// Adds the edges that blind writes, their reads and incarnations imply to a graph without cycles,
/// until there are no more.
fn add_inferred_edges<'a>(
    graph: &mut Graph<'a>,
    locks: &LockOrder<'a>,
    items: &ItemOrder<'a>,
) -> Result<(), Anomaly> {
    let registers = registers(locks);
    let incarnations = incarnations(locks);
    if registers.is_empty() && incarnations.is_empty() && !items.has_ambiguities() {
        return Ok(());
    }
    let mut each = registers.values();
    each.try_for_each(|register| register.check_expiry(locks.history))?;
    loop {
        let before = HappensBefore::new(graph);
        let mut implied = ImpliedEdges::default();
        items.narrow_bounds(&before, &mut implied.direct)?;
        for (key, register) in &registers {
            register.add_edges(locks, &before, key, &mut implied)?;
        }
        for (key, of_lock) in &incarnations {
            of_lock.add_edges(locks, &before, key, &mut implied)?;
        }
        let edges = implied.next();
        if edges.is_empty() {
            let mut each = incarnations.values();
            return each.try_for_each(|of_lock| of_lock.check_creations(locks, &before));
        }
        graph.extend(edges);
        require_no_cycle(graph, locks)?;
    }
}
