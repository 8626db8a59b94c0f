//! What a history implies but no single call shows: the keys that a query did not find, and the lock
//! that guards an item.
//!
//! A query observes every item that it selects: those that it found, and the absence of all others
//! (Adya's predicate-based reads). No call can know all keys, but only keys that some call of the
//! history writes ever have an item. A query whose result ends early, because of its limit or page,
//! observes the keys up to that end.

use super::recording::{Action, Commit, History, Op, PredicateRead, ReadSet};
use crate::KeyBuf;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

impl History {
    /// Returns the history with the keys that its queries did not find, and with each call that does
    /// not read at a single point in time as several concurrent reads.
    #[must_use]
    pub fn expand(&self) -> History {
        let written = self
            .ops
            .iter()
            .flat_map(|op| op.action.requested_writes())
            .filter(|write| write.value.is_some())
            .map(|write| &write.key);
        let mut partitions: BTreeMap<&str, BTreeSet<&KeyBuf>> = BTreeMap::new();
        for key in written {
            partitions.entry(key.pk()).or_default().insert(key);
        }
        let missing = |read: &PredicateRead| {
            let all = partitions.get(read.query.pk.as_str()).into_iter().flatten();
            let missing = all.filter(|key| {
                read.covers(key) && read.found.iter().all(|(found, _)| found != **key)
            });
            missing.map(|key| KeyBuf::clone(key)).collect()
        };
        let mut ops = Vec::with_capacity(self.ops.len());
        for op in &self.ops {
            let mut op = op.clone();
            if let Action::Read { reads, .. } | Action::Commit(Commit { reads, .. }) =
                &mut op.action
            {
                for read in &mut reads.predicates {
                    read.missing = missing(read);
                }
            }
            match &mut op.action {
                Action::Read {
                    method,
                    atomic: false,
                    reads,
                } => {
                    let reads = split(mem::take(reads)).into_iter();
                    ops.extend(reads.map(|reads| Op {
                        action: Action::Read {
                            method,
                            atomic: true,
                            reads,
                        },
                        ..op
                    }));
                }
                _ => ops.push(op),
            }
        }
        History { ops }
    }
}

/// Splits reads into one for each key.
fn split(reads: ReadSet) -> Vec<ReadSet> {
    let observations = reads.observations();
    let one = |(key, value, _): (&KeyBuf, _, _)| ReadSet::from_items(vec![(key.clone(), value)]);
    observations.map(one).collect()
}

/// Returns the guard of each item that has one: a lock that every successful write of the item
/// renews, so that the versions of the item have the order of the lock's versions. An item that
/// expires has none.
pub(super) fn guards(history: &History) -> BTreeMap<&KeyBuf, &KeyBuf> {
    let mut common: BTreeMap<&KeyBuf, Vec<&KeyBuf>> = BTreeMap::new();
    for action in history.ops.iter().map(|op| &op.action) {
        let locks = action
            .committed()
            .map_or(&[][..], |(commit, _)| &commit.locks);
        for write in action.writes() {
            let renewed = || locks.iter().map(|(lock, _)| lock);
            let guards = common
                .entry(&write.key)
                .or_insert_with(|| renewed().collect());
            guards.retain(|guard| write.ttl.is_none() && renewed().any(|lock| lock == *guard));
        }
    }
    let guarded = common.into_iter();
    guarded
        .filter_map(|(key, guards)| Some((key, *guards.first()?)))
        .collect()
}
