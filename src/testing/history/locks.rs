//! The order of the versions of locks.
//!
//! A commit names the version of each lock that it replaced and the one that it wrote. So the
//! versions of a lock from its creation to its deletion, an incarnation, are a chain. If versions
//! are assigned at commit, those of one lock increase, and a deletion has the version of its commit:
//! so all incarnations and deletions of a lock are ordered. Otherwise `incarnations` orders them.

use super::anomaly::Anomaly;
use super::anomaly_kind::AnomalyKind;
use super::graph::{EdgeKind, Graph};
use super::recording::{History, Op, Versions};
use super::universe::guards;
use crate::{KeyBuf, Version};
use std::collections::{BTreeMap, HashMap};

/// The creation of a lock by a `get_lock`. Which of the calls that returned its version created it
/// is not known. It is a node of its own that comes before all of them.
#[derive(Debug)]
pub(super) struct Creation<'a> {
    pub(super) key: &'a KeyBuf,
    pub(super) version: Version,
    /// When the first call that observed it began.
    pub(super) invoked: u64,
    /// When a call that observed it returned first.
    returned: u64,
}

/// Who wrote and who replaced each version of each lock.
pub(super) struct LockOrder<'a> {
    pub(super) history: &'a History,
    pub(super) versions: Versions,
    pub(super) creations: Vec<Creation<'a>>,
    /// The commit or creation that wrote each version.
    writers: HashMap<Version, usize>,
    /// The commit that replaced each version, or the one that deleted it if that is known.
    pub(super) replaced_by: HashMap<(&'a KeyBuf, Version), usize>,
    /// The commits that renewed each lock, in order.
    pub(super) renewals: BTreeMap<&'a KeyBuf, Vec<usize>>,
    /// The lock that guards each item, if it has one.
    pub(super) guards: BTreeMap<&'a KeyBuf, &'a KeyBuf>,
}

impl<'a> LockOrder<'a> {
    pub(super) fn new(
        history: &'a History,
        versions: Versions,
        graph: &mut Graph<'a>,
    ) -> Result<Self, Anomaly> {
        let mut locks = LockOrder {
            history,
            versions,
            creations: Vec::new(),
            writers: HashMap::new(),
            replaced_by: HashMap::new(),
            renewals: BTreeMap::new(),
            guards: BTreeMap::new(),
        };
        for (number, op) in history.ops.iter().enumerate() {
            let Some((commit, version)) = op.action.committed() else {
                continue;
            };
            if let Some(before) = locks.writers.insert(version, number) {
                let kind = AnomalyKind::VersionReuse;
                return Err(Anomaly::new(kind, history, &[before, number]));
            }
            for (key, old) in &commit.locks {
                if let Some(before) = locks.replaced_by.insert((key, *old), number) {
                    let kind = AnomalyKind::LostUpdate;
                    return Err(Anomaly::new(kind, history, &[before, number]));
                }
            }
        }
        for (number, op) in history.ops.iter().enumerate() {
            for (key, version) in op.action.lock_versions() {
                locks.observe(number, key, *version)?;
            }
        }
        match versions {
            Versions::AtCommit => locks.order_by_version(graph)?,
            Versions::Early => locks.order_by_time(),
        }
        for (number, op) in history.ops.iter().enumerate() {
            let mut writes = op.action.requested_writes().iter();
            let is_lock = |key: &KeyBuf| locks.renewals.contains_key(key);
            if writes.any(|write| write.value.is_some() && is_lock(&write.key)) {
                return Err(Anomaly::new(AnomalyKind::NotCheckable, history, &[number]));
            }
        }
        locks.guards = guards(history);
        let renewals = &locks.renewals;
        locks.guards.retain(|key, _| !renewals.contains_key(key));
        Ok(locks)
    }

    /// The commit that wrote this version of a lock. `None` if the lock was created with it.
    pub(super) fn writer(&self, version: Version) -> Option<usize> {
        let writer = *self.writers.get(&version)?;
        (writer < self.history.ops.len()).then_some(writer)
    }

    /// The node of a creation.
    pub(super) fn node(&self, creation: usize) -> usize {
        self.history.ops.len() + creation
    }

    /// The creation that this node is, unless it is a call or a barrier.
    pub(super) fn creation(&self, node: usize) -> Option<&Creation<'a>> {
        self.creations
            .get(node.checked_sub(self.history.ops.len())?)
    }

    /// Records that `op` knew this version of the lock at `key`.
    fn observe(&mut self, op: usize, key: &'a KeyBuf, version: Version) -> Result<(), Anomaly> {
        let calls = self.history.ops.len();
        self.renewals.entry(key).or_default();
        let Op {
            invoked, returned, ..
        } = self.history.ops[op];
        let Some(&writer) = self.writers.get(&version) else {
            self.writers.insert(version, calls + self.creations.len());
            self.creations.push(Creation {
                key,
                version,
                invoked,
                returned,
            });
            return Ok(());
        };
        let reused = match self.history.committed(writer) {
            Some((commit, _)) if commit.renews(key) => return Ok(()),
            Some(_) => Anomaly::new(AnomalyKind::VersionReuse, self.history, &[writer, op]),
            None => Anomaly::new(AnomalyKind::VersionReuse, self.history, &[op]),
        };
        match self.creations.get_mut(writer.wrapping_sub(calls)) {
            Some(creation) if creation.key == key => {
                creation.invoked = creation.invoked.min(invoked);
                creation.returned = creation.returned.min(returned);
                Ok(())
            }
            _ => Err(reused),
        }
    }

    /// Orders the creations, renewals and deletions of every lock by their versions.
    fn order_by_version(&mut self, graph: &mut Graph<'a>) -> Result<(), Anomaly> {
        let mut events: BTreeMap<&KeyBuf, Vec<(Version, usize)>> = BTreeMap::new();
        for (number, creation) in self.creations.iter().enumerate() {
            let of_lock = events.entry(creation.key).or_default();
            of_lock.push((creation.version, self.node(number)));
        }
        for (number, op) in self.history.ops.iter().enumerate() {
            if let Some((commit, version)) = op.action.committed() {
                let deleted = commit.writes.iter().filter(|write| write.value.is_none());
                let deleted = deleted.map(|write| &write.key);
                let deleted = deleted.filter(|key| self.renewals.contains_key(key));
                for key in commit.locks.iter().map(|(key, _)| key).chain(deleted) {
                    events.entry(key).or_default().push((version, number));
                }
            }
        }
        for (key, mut events) in events {
            events.sort_unstable();
            for pair in events.windows(2) {
                graph.add(pair[0].1, pair[1].1, EdgeKind::Ww, key);
            }
            let mut current: Option<Version> = None;
            for (version, node) in events {
                match (self.history.committed(node), current) {
                    (Some((commit, _)), _) if commit.renews(key) => {
                        self.renewals.entry(key).or_default().push(node);
                        current = Some(version);
                    }
                    (Some(_), Some(deleted)) => {
                        // A commit that replaced this version nevertheless conflicts.
                        match self.replaced_by.get(&(key, deleted)) {
                            Some(renewal) => graph.add(*renewal, node, EdgeKind::Rw, key),
                            None => drop(self.replaced_by.insert((key, deleted), node)),
                        }
                        current = None;
                    }
                    (Some(_), None) => {}
                    (None, None) => current = Some(version),
                    (None, Some(existing)) => {
                        return Err(Anomaly {
                            kind: AnomalyKind::DuplicateCreation,
                            explanation: vec![
                                format!("{key}={existing} was not deleted"),
                                format!("{key}={version} was created after it"),
                            ],
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Follows each incarnation of every lock, in the order in which calls first returned them. If
    /// a lock was renewed, that is the order of its incarnations: the commit that renews a lock
    /// has received its version before, and no call receives a later incarnation until this one
    /// has ended. If it was not renewed, nothing depends on the order.
    fn order_by_time(&mut self) {
        let mut creations: Vec<usize> = (0..self.creations.len()).collect();
        creations.sort_by_key(|creation| self.creations[*creation].returned);
        for creation in creations {
            let Creation { key, .. } = self.creations[creation];
            let renewals = self.incarnation(creation).filter_map(|next| next.1);
            let renewals: Vec<usize> = renewals.collect();
            self.renewals.entry(key).or_default().extend(renewals);
        }
    }

    /// The versions of a lock from its creation on, each with the commit that renewed it, if any.
    pub(super) fn incarnation(
        &self,
        creation: usize,
    ) -> impl Iterator<Item = (Version, Option<usize>)> {
        let Creation { key, version, .. } = self.creations[creation];
        let mut next = Some(version);
        std::iter::from_fn(move || {
            let version = next.take()?;
            let renewal = self.replaced_by.get(&(key, version)).copied();
            next = renewal.and_then(|op| Some(self.history.committed(op)?.1));
            Some((version, renewal))
        })
    }

    /// Adds the edges of `op`, which observed this version of the lock.
    pub(super) fn add_edges(
        &self,
        graph: &mut Graph<'a>,
        op: usize,
        key: &'a KeyBuf,
        version: Version,
    ) {
        if let Some(writer) = self.writers.get(&version) {
            graph.add(*writer, op, EdgeKind::Wr, key);
        }
        if let Some(replaced_by) = self.replaced_by.get(&(key, version)) {
            graph.add(op, *replaced_by, EdgeKind::Rw, key);
        }
    }
}
