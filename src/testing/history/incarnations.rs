//! The incarnations of locks that are deleted and created again, where versions are assigned early
//! and so do not show which incarnation came first.
//!
//! Such a lock is like an item that is written blindly (see `blind_writes`). Its creation writes the
//! incarnation, a deletion ends the current one, and a call that observed one of its versions read
//! it. But a lock is created only if it does not exist. So its creation observed a deletion or the
//! initial state, and no two creations observed the same: each deletion ends one incarnation.
//!
//! A commit that conflicts because of a version that no commit has renewed shows that the incarnation
//! had ended. It comes after every call that observed the incarnation, and after a deletion that
//! comes after the creation. If there is only one such deletion, its edges are added.

use super::anomaly::Anomaly;
use super::anomaly_kind::AnomalyKind;
use super::blind_writes::{Absence, BlindWrite, ImpliedEdges, Register};
use super::explanation::anomaly_of_nodes;
use super::graph::{Edge, EdgeKind, HappensBefore};
use super::locks::LockOrder;
use super::recording::{Action, Value, Versions};
use crate::{KeyBuf, Version};
use std::collections::{BTreeMap, HashMap};

/// The incarnations of one lock, each identified by the node of its creation.
pub(super) struct Incarnations {
    register: Register,
    /// Commits that conflicted because an incarnation had ended.
    rejections: Vec<(usize, Value)>,
}

/// The incarnations of every lock, if versions do not show their order.
pub(super) fn incarnations<'a>(locks: &LockOrder<'a>) -> BTreeMap<&'a KeyBuf, Incarnations> {
    let mut all: BTreeMap<&KeyBuf, Incarnations> = BTreeMap::new();
    if locks.versions == Versions::AtCommit {
        return all;
    }
    let mut owners: HashMap<(&KeyBuf, Version), Value> = HashMap::new();
    for (number, creation) in locks.creations.iter().enumerate() {
        let node = locks.node(number);
        let id = node as Value;
        let of_lock = all.entry(creation.key).or_insert_with(|| Incarnations {
            register: Register::new(AnomalyKind::DuplicateCreation),
            rejections: Vec::new(),
        });
        of_lock.register.writes.push(BlindWrite {
            op: node,
            value: Some(id),
            expiry: None,
        });
        of_lock.register.reads.push((node, None, false));
        for (version, _) in locks.incarnation(number) {
            owners.insert((creation.key, version), id);
        }
    }
    for (op, action) in locks.history.ops.iter().map(|op| &op.action).enumerate() {
        for write in action.writes().iter().filter(|write| write.value.is_none()) {
            if let Some(of_lock) = all.get_mut(&write.key) {
                of_lock.register.writes.push(BlindWrite {
                    op,
                    value: None,
                    expiry: None,
                });
            }
        }
        let conflicts = match action {
            Action::Commit(commit) => commit.conflicts(),
            _ => &[],
        };
        for (key, version) in action.lock_versions() {
            let Some((of_lock, id)) = all.get_mut(key).zip(owners.get(&(key, *version))) else {
                continue;
            };
            if !conflicts.contains(key) {
                of_lock.register.reads.push((op, Some(*id), false));
            } else if !locks.replaced_by.contains_key(&(key, *version)) {
                of_lock.rejections.push((op, *id));
            }
        }
    }
    all
}

impl Incarnations {
    /// Adds the edges that the calls imply to `implied`.
    pub(super) fn add_edges<'a>(
        &self,
        locks: &LockOrder<'_>,
        before: &HappensBefore,
        key: &'a KeyBuf,
        implied: &mut ImpliedEdges<'a>,
    ) -> Result<(), Anomaly> {
        self.register.add_edges(locks, before, key, implied)?;
        for &(rejected, id) in &self.rejections {
            let Some(creation) = self.register.writer(Some(id)) else {
                continue;
            };
            let mut add = |from, to, kind| {
                if !before.contains(from, to) {
                    let key = Some(key);
                    implied.direct.push(Edge {
                        from,
                        to,
                        kind,
                        key,
                    });
                }
            };
            for (read, observed, _) in &self.register.reads {
                if *observed == Some(id) {
                    add(*read, rejected, EdgeKind::EndedIncarnation);
                }
            }
            let deletions = self.register.writes.iter();
            let deletions = deletions.filter(|write| write.value.is_none());
            let mut candidates = deletions.map(|write| write.op).filter(|deletion| {
                !before.contains(*deletion, creation.op) && !before.contains(rejected, *deletion)
            });
            let Some(deletion) = candidates.next() else {
                let kind = AnomalyKind::UnjustifiedRejection;
                return Err(anomaly_of_nodes(kind, locks, [rejected]));
            };
            if candidates.next().is_none() {
                add(creation.op, deletion, EdgeKind::Ww);
                add(deletion, rejected, EdgeKind::Rejection);
            }
        }
        Ok(())
    }

    /// Checks that each creation can have observed an absence of its own: the initial state, or a
    /// deletion that no other creation needs.
    pub(super) fn check_creations(
        &self,
        locks: &LockOrder<'_>,
        before: &HappensBefore,
    ) -> Result<(), Anomaly> {
        let creations = self.register.writes.iter();
        let creations = creations.filter(|write| write.value.is_some());
        let creations: Vec<usize> = creations.map(|write| write.op).collect();
        let deletion = |absence| match absence {
            Absence::Initial => None,
            Absence::Deletion(write) | Absence::Expiry(write, _) => Some(write.op),
        };
        let choices = creations.iter().map(|creation| {
            let absences = self.register.absences(before, *creation).into_iter();
            absences.map(deletion).collect()
        });
        let choices: Vec<Vec<Option<usize>>> = choices.collect();
        let Some(crowded) = find_unmatched(&choices) else {
            return Ok(());
        };
        let shared = crowded.iter().flat_map(|place| &choices[*place]);
        let mut shared: Vec<usize> = shared.flatten().copied().collect();
        shared.sort_unstable();
        shared.dedup();
        let creations = crowded.iter().map(|place| creations[*place]);
        let kind = AnomalyKind::DuplicateCreation;
        Err(anomaly_of_nodes(kind, locks, creations.chain(shared)))
    }
}

/// Matches each index with one of its `choices`, by augmenting paths. If that is impossible, returns
/// indices that have fewer choices in total than there are of them.
fn find_unmatched(choices: &[Vec<Option<usize>>]) -> Option<Vec<usize>> {
    let mut owners: HashMap<Option<usize>, usize> = HashMap::new();
    let mut matched: Vec<Option<Option<usize>>> = vec![None; choices.len()];
    for unmatched in 0..choices.len() {
        let mut wanted_by: HashMap<Option<usize>, usize> = HashMap::new();
        let mut visited = vec![unmatched];
        let mut next = 0;
        let mut free = None;
        while free.is_none() && next < visited.len() {
            let index = visited[next];
            next += 1;
            for choice in &choices[index] {
                if wanted_by.contains_key(choice) {
                    continue;
                }
                wanted_by.insert(*choice, index);
                match owners.get(choice) {
                    Some(owner) => visited.push(*owner),
                    None => {
                        free = Some(*choice);
                        break;
                    }
                }
            }
        }
        let Some(mut choice) = free else {
            return Some(visited);
        };
        // Along the path, each index passes its choice to the one that wanted it.
        loop {
            let index = wanted_by[&choice];
            owners.insert(choice, index);
            match matched[index].replace(choice) {
                Some(passed) => choice = passed,
                None => break,
            }
        }
    }
    None
}
