//! Unconditional ("blind") writes and items that expire, which no lock puts in order.
//!
//! Of two blind writes of a key it is unknown which one came first, unless the first had returned
//! before the second began. But values are unique, and a read observes the last write. So, if a
//! read observed the value of a write:
//!
//! 1. Any other write of the key that comes after this write comes after the read.
//! 2. Any other write of the key that comes before the read comes before this write.
//!
//! Both are edges. They are added until they imply no further ones. A cycle then shows that no order
//! explains the history. The converse holds for the reads and writes of a single key (Gibbons and
//! Korach, *Testing Shared Memories*, 1997). A contradiction between several keys that a call reads
//! or writes atomically may go undetected if no edge shows it.
//!
//! # Absence
//!
//! A read that found no item observed a deletion, the initial state, or an item that had expired.
//! A version that was certainly overwritten before the read, or that comes after it, does not explain
//! the read. If no version explains it, that is an anomaly. If exactly one does, the read observed it.
//! Otherwise no edge is added.
//!
//! # Expiry
//!
//! A call reads the clock before it reads the rows. So it may observe an item until its last second
//! has passed, if that is not before the call began. It may find the item expired as soon as the clock
//! is being moved past that second. The move then comes before the call.

use super::anomaly::Anomaly;
use super::anomaly_kind::AnomalyKind;
use super::explanation::anomaly_of_nodes;
use super::graph::{Edge, EdgeKind, HappensBefore};
use super::locks::LockOrder;
use super::recording::{Action, History, Value};
use crate::KeyBuf;
use std::collections::BTreeMap;

/// The writes and reads of one key, in no order.
pub(super) struct Register {
    pub(super) writes: Vec<BlindWrite>,
    /// Calls, the value that each observed, and whether a query looked for it.
    pub(super) reads: Vec<(usize, Option<Value>, bool)>,
    /// The anomaly if nothing explains an absence.
    unexplained: AnomalyKind,
}

/// Calls are identified by their nodes in the graph.
#[derive(Clone, Copy)]
pub(super) struct BlindWrite {
    pub(super) op: usize,
    /// `None` deletes.
    pub(super) value: Option<Value>,
    /// The move of the clock past the item's last second.
    pub(super) expiry: Option<usize>,
}

/// A version that explains why a read found no item.
#[derive(Clone, Copy)]
pub(super) enum Absence {
    Initial,
    Deletion(BlindWrite),
    /// An expired item, and the move of the clock.
    Expiry(BlindWrite, usize),
}

/// Edges that are not in the graph yet.
#[derive(Default)]
pub(super) struct ImpliedEdges<'a> {
    /// Of what a read observed and of what came before or after it.
    pub(super) direct: Vec<Edge<'a>>,
    /// From a write to the one that overwrote it unread.
    inferred: Vec<Edge<'a>>,
}

impl<'a> ImpliedEdges<'a> {
    /// The edges to add next. Direct ones come first, because they explain more.
    pub(super) fn next(self) -> Vec<Edge<'a>> {
        if self.direct.is_empty() {
            self.inferred
        } else {
            self.direct
        }
    }
}

/// The reads and writes of every key that is written blindly.
pub(super) fn registers<'a>(locks: &LockOrder<'a>) -> BTreeMap<&'a KeyBuf, Register> {
    let ops = || locks.history.ops.iter().map(|op| &op.action).enumerate();
    let mut moves: Vec<(u64, usize)> = ops()
        .filter_map(|(number, action)| match action {
            Action::AdvanceClock(now) => Some((*now, number)),
            _ => None,
        })
        .collect();
    moves.sort_unstable();
    let past = |ttl| moves.get(moves.partition_point(|(now, _)| *now <= ttl));
    let mut registers: BTreeMap<&KeyBuf, Register> = BTreeMap::new();
    for (op, action) in ops() {
        let writes = action.writes().iter();
        let unguarded = writes.filter(|write| !locks.guards.contains_key(&write.key));
        for write in unguarded.filter(|write| !locks.renewals.contains_key(&write.key)) {
            let register = registers.entry(&write.key);
            let register = register.or_insert_with(|| Register::new(AnomalyKind::LostWrite));
            register.writes.push(BlindWrite {
                op,
                value: write.value,
                expiry: write.ttl.and_then(past).map(|(_, op)| *op),
            });
        }
    }
    for (op, action) in ops() {
        let Action::Read { reads, .. } = action else {
            continue;
        };
        for (key, value, by_query) in reads.observations() {
            if let Some(register) = registers.get_mut(key) {
                register.reads.push((op, value, by_query));
            }
        }
    }
    registers
}

impl Register {
    pub(super) fn new(unexplained: AnomalyKind) -> Self {
        Register {
            writes: Vec::new(),
            reads: Vec::new(),
            unexplained,
        }
    }

    /// The write of an observed value.
    pub(super) fn writer(&self, value: Option<Value>) -> Option<BlindWrite> {
        let wrote = |write: &&BlindWrite| value.is_some() && write.value == value;
        self.writes.iter().find(wrote).copied()
    }

    /// Checks that no read observed an item after its last second.
    pub(super) fn check_expiry(&self, history: &History) -> Result<(), Anomaly> {
        for (read, value, _) in &self.reads {
            let expiry = self.writer(*value).and_then(|write| write.expiry);
            let over = |clock: &usize| history.ops[*clock].returned < history.ops[*read].invoked;
            if let Some(clock) = expiry.filter(over) {
                let kind = AnomalyKind::ReadAfterExpiry;
                return Err(Anomaly::new(kind, history, &[clock, *read]));
            }
        }
        Ok(())
    }

    /// Adds the edges that the reads imply to `implied`.
    pub(super) fn add_edges<'a>(
        &self,
        locks: &LockOrder<'_>,
        before: &HappensBefore,
        key: &'a KeyBuf,
        implied: &mut ImpliedEdges<'a>,
    ) -> Result<(), Anomaly> {
        let key = Some(key);
        let edge = |from, to, kind| Edge {
            from,
            to,
            kind,
            key,
        };
        for &(read, value, by_query) in &self.reads {
            let last = match (self.writer(value), value) {
                (Some(last), _) => Some(last.op),
                // A write under a guard. The order of items has reported any other.
                (None, Some(_)) => continue,
                (None, None) => {
                    let (last, clock) = match self.absences(before, read).as_slice() {
                        [] => {
                            let writes = self.writes.iter().map(|write| write.op);
                            let writes = writes.filter(|write| before.contains(*write, read));
                            let nodes = writes.chain([read]);
                            return Err(anomaly_of_nodes(self.unexplained, locks, nodes));
                        }
                        [Absence::Initial] => (None, None),
                        [Absence::Deletion(last)] => (Some(last.op), None),
                        [Absence::Expiry(last, clock)] => (Some(last.op), Some(*clock)),
                        [_, _, ..] => continue,
                    };
                    let earlier = last.into_iter().chain(clock);
                    let unknown = earlier.filter(|op| !before.contains(*op, read));
                    let wr = unknown.map(|op| edge(op, read, EdgeKind::Wr));
                    implied.direct.extend(wr);
                    last
                }
            };
            for other in self.writes.iter().map(|write| write.op) {
                // The creation of a lock is a read of absence too.
                if last == Some(other) || read == other {
                    continue;
                }
                if last.is_none_or(|last| before.contains(last, other)) {
                    if !before.contains(read, other) {
                        let kind = EdgeKind::anti_dependency(by_query);
                        implied.direct.push(edge(read, other, kind));
                    }
                } else if let Some(last) = last.filter(|last| !before.contains(other, *last)) {
                    if before.contains(other, read) {
                        let ww = edge(other, last, EdgeKind::InferredWw);
                        implied.inferred.push(ww);
                    }
                }
            }
        }
        Ok(())
    }

    /// Every version that can explain that `read` found no item.
    pub(super) fn absences(&self, before: &HappensBefore, read: usize) -> Vec<Absence> {
        let sets = self.writes.iter().filter(|write| write.value.is_some());
        let sets = sets.map(|write| write.op);
        let earlier: Vec<usize> = sets.filter(|set| before.contains(*set, read)).collect();
        let mut absences = Vec::new();
        if earlier.is_empty() {
            absences.push(Absence::Initial);
        }
        for write in &self.writes {
            let overwritten = earlier.iter().any(|set| before.contains(write.op, *set));
            if overwritten || before.contains(read, write.op) {
                continue;
            }
            match (write.value, write.expiry) {
                (None, _) => absences.push(Absence::Deletion(*write)),
                (Some(_), Some(clock)) if !before.contains(read, clock) => {
                    absences.push(Absence::Expiry(*write, clock));
                }
                (Some(_), _) => {}
            }
        }
        absences
    }
}
