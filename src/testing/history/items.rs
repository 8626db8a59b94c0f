//! The order of the versions of items that have a guard. It is that of the guard's renewals, which
//! depend on each other already.

use super::anomaly::Anomaly;
use super::anomaly_kind::AnomalyKind;
use super::explanation::anomaly_of_nodes;
use super::graph::{Edge, EdgeKind, Graph, HappensBefore};
use super::locks::LockOrder;
use super::recording::{Commit, LockVersion, Op, Value};
use crate::KeyBuf;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// A version of an item.
#[derive(Clone, Copy)]
struct ItemVersion {
    /// `None` for the initial version, which is absence.
    writer: Option<usize>,
    value: Option<Value>,
}

/// The versions of one item in order.
struct VersionList {
    versions: Vec<ItemVersion>,
    /// For each version: when the last of the calls began that wrote it and the earlier ones.
    begun: Vec<u64>,
    /// For each version: when it had certainly been overwritten.
    over: Vec<u64>,
}

/// A call that observed a value which several versions have.
#[derive(Clone, Copy)]
pub(super) struct Ambiguity<'a> {
    op: usize,
    key: &'a KeyBuf,
    present: bool,
    /// Whether a query looked for the item.
    by_query: bool,
    kind: AnomalyKind,
}

/// The write of a value to a key.
struct Source {
    op: usize,
    /// The index of the item's version, if it was committed under a guard.
    version: Option<usize>,
}

/// The versions of all items with a guard, and the writes of all values.
pub(super) struct ItemOrder<'a> {
    locks: &'a LockOrder<'a>,
    items: BTreeMap<&'a KeyBuf, VersionList>,
    sources: HashMap<(&'a KeyBuf, Value), Source>,
    /// The place of each commit among those that renewed a lock.
    places: HashMap<(&'a KeyBuf, usize), usize>,
    ambiguities: Vec<Ambiguity<'a>>,
}

impl<'a> ItemOrder<'a> {
    pub(super) fn new(locks: &'a LockOrder<'a>) -> Result<Self, Anomaly> {
        let history = locks.history;
        let mut sources = sources(locks)?;
        let mut items: BTreeMap<&KeyBuf, Vec<ItemVersion>> = BTreeMap::new();
        let mut places = HashMap::new();
        for (lock, renewals) in &locks.renewals {
            for (place, number) in renewals.iter().enumerate() {
                places.insert((*lock, *number), place);
                let Some((commit, _)) = history.committed(*number) else {
                    continue;
                };
                for write in &commit.writes {
                    if locks.guards.get(&write.key) != Some(lock) {
                        continue;
                    }
                    let initial = ItemVersion {
                        writer: None,
                        value: None,
                    };
                    let versions = items.entry(&write.key).or_insert_with(|| vec![initial]);
                    let last = versions[versions.len() - 1];
                    if let (true, Some(writer), Some(_)) = (write.create, last.writer, last.value) {
                        let kind = AnomalyKind::CreateOverExisting;
                        return Err(Anomaly::new(kind, history, &[writer, *number]));
                    }
                    if let Some(source) = write
                        .value
                        .and_then(|value| sources.get_mut(&(&write.key, value)))
                    {
                        source.version = Some(versions.len());
                    }
                    versions.push(ItemVersion {
                        writer: Some(*number),
                        value: write.value,
                    });
                }
            }
        }
        let items = items.into_iter();
        Ok(ItemOrder {
            locks,
            items: items
                .map(|(key, versions)| (key, VersionList::new(locks, versions)))
                .collect(),
            sources,
            places,
            ambiguities: Vec::new(),
        })
    }

    /// Adds the edges of `op`, which observed `value` at `key`.
    pub(super) fn add_edges(
        &mut self,
        graph: &mut Graph<'a>,
        op: usize,
        (key, value, by_query): (&'a KeyBuf, Option<Value>, bool),
    ) -> Result<(), Anomaly> {
        let Some(value) = value else {
            return self.add_bounds(
                graph,
                Ambiguity {
                    op,
                    key,
                    present: false,
                    by_query,
                    kind: AnomalyKind::LostWrite,
                },
            );
        };
        let history = self.locks.history;
        let Some(source) = self.sources.get(&(key, value)) else {
            return Err(Anomaly::new(AnomalyKind::GarbageRead, history, &[op]));
        };
        if history.ops[source.op].action.writes().is_empty() {
            let kind = AnomalyKind::G1a;
            return Err(Anomaly::new(kind, history, &[source.op, op]));
        }
        graph.add(source.op, op, EdgeKind::Wr, key);
        if let (Some(version), Some(item)) = (source.version, self.items.get(key)) {
            let next = item.versions.get(version + 1);
            if let Some(writer) = next.and_then(|next| next.writer) {
                graph.add(op, writer, EdgeKind::Rw, key);
            }
        }
        Ok(())
    }

    /// Adds the edges of `op`, a commit or transaction that succeeded and observed `value` at `key`.
    /// If it names the guard of an absent item, the version of the guard identifies that of the item.
    pub(super) fn add_edges_under_locks(
        &mut self,
        graph: &mut Graph<'a>,
        op: usize,
        commit: &Commit,
        (key, value, by_query): (&'a KeyBuf, Option<Value>, bool),
    ) -> Result<(), Anomaly> {
        let named = || commit.locks.iter().chain(&commit.checks);
        let guard = self.locks.guards.get(key);
        let guard = guard.and_then(|guard| named().find(|(lock, _)| lock == *guard));
        let observed = guard.and_then(|guard| self.version_under(key, guard));
        let (None, Some(version)) = (value, observed) else {
            return self.add_edges(graph, op, (key, value, by_query));
        };
        let item = &self.items[key];
        if item.versions[version].value.is_some() {
            let kind = if by_query {
                AnomalyKind::Phantom
            } else {
                AnomalyKind::LostWrite
            };
            let nodes = item.versions[version].writer.into_iter().chain([op]);
            return Err(anomaly_of_nodes(kind, self.locks, nodes));
        }
        for edge in item.edges(op, key, by_query, version..version + 1) {
            graph.add(edge.from, edge.to, edge.kind, key);
        }
        Ok(())
    }

    /// The version that the item at `key` has while its guard has this version, unless the guard was
    /// created with it.
    fn version_under(&self, key: &KeyBuf, (guard, version): &LockVersion) -> Option<usize> {
        let place = |op: usize| self.places.get(&(guard, op));
        let renewal = place(self.locks.writer(*version)?)?;
        let versions = &self.items.get(key)?.versions;
        let is_later = |version: &ItemVersion| version.writer.and_then(place) > Some(renewal);
        Some(versions.partition_point(|version| !is_later(version)) - 1)
    }

    /// Adds the edges of a call that found any item if it was `present` and none if not. It comes
    /// after the first version that it can have observed, and before the one that overwrote the
    /// last. If there is none, that is an anomaly.
    pub(super) fn add_bounds(
        &mut self,
        graph: &mut Graph<'a>,
        observed: Ambiguity<'a>,
    ) -> Result<(), Anomaly> {
        let Ambiguity { op, key, .. } = observed;
        let history = self.locks.history;
        let Some(item) = self.items.get(key) else {
            // No commit has written the item.
            return if observed.present {
                Err(Anomaly::new(observed.kind, history, &[op]))
            } else {
                Ok(())
            };
        };
        let range = item.candidates(&history.ops[op]);
        let mut candidates = range
            .clone()
            .filter(|version| observed.is_possible(item, *version));
        let Some(first) = candidates.next() else {
            let writers = range.filter_map(|version| item.versions[version].writer);
            let nodes = writers.filter(|writer| *writer != op).take(1).chain([op]);
            return Err(anomaly_of_nodes(observed.kind, self.locks, nodes));
        };
        let last = candidates.next_back();
        if last.is_some() {
            self.ambiguities.push(observed);
        }
        let edges = item.edges(op, key, observed.by_query, first..last.unwrap_or(first) + 1);
        for edge in edges {
            graph.add(edge.from, edge.to, edge.kind, key);
        }
        Ok(())
    }

    /// Narrows the bounds of every call that may have observed several versions, because the graph
    /// shows that it comes after the overwriting of some or before the writing of others. Adds the
    /// new edges to `implied`.
    pub(super) fn narrow_bounds(
        &self,
        before: &HappensBefore,
        implied: &mut Vec<Edge<'a>>,
    ) -> Result<(), Anomaly> {
        for observed in &self.ambiguities {
            let Ambiguity { op, key, .. } = *observed;
            let item = &self.items[key];
            let is_over = |version: usize| {
                let next = item.versions.get(version + 1);
                next.and_then(|next| next.writer)
                    .is_some_and(|writer| before.contains(writer, op))
            };
            let is_later = |version: usize| {
                let writer = item.versions[version].writer;
                writer.is_some_and(|writer| before.contains(op, writer))
            };
            let candidates = 0..item.versions.len();
            let mut candidates = candidates.filter(|version| {
                observed.is_possible(item, *version) && !is_over(*version) && !is_later(*version)
            });
            let Some(first) = candidates.next() else {
                let writers = item.versions.iter().filter_map(|version| version.writer);
                let mut writers = writers.filter(|writer| before.contains(*writer, op));
                let last = writers.next_back();
                return Err(anomaly_of_nodes(
                    observed.kind,
                    self.locks,
                    last.into_iter().chain([op]),
                ));
            };
            let last = candidates.next_back().unwrap_or(first);
            let edges = item.edges(op, key, observed.by_query, first..last + 1);
            implied.extend(edges.filter(|edge| !before.contains(edge.from, edge.to)));
        }
        Ok(())
    }

    pub(super) fn has_ambiguities(&self) -> bool {
        !self.ambiguities.is_empty()
    }
}

impl<'a> Ambiguity<'a> {
    /// The commit `op` was rejected because an item existed at `key`.
    pub(super) fn existing(op: usize, key: &'a KeyBuf) -> Self {
        Ambiguity {
            op,
            key,
            present: true,
            by_query: false,
            kind: AnomalyKind::UnjustifiedRejection,
        }
    }

    fn is_possible(&self, item: &VersionList, version: usize) -> bool {
        let version = item.versions[version];
        version.value.is_some() == self.present && version.writer != Some(self.op)
    }
}

/// The write of each value.
fn sources<'a>(locks: &LockOrder<'a>) -> Result<HashMap<(&'a KeyBuf, Value), Source>, Anomaly> {
    let mut sources: HashMap<(&KeyBuf, Value), Source> = HashMap::new();
    for (op, action) in locks.history.ops.iter().map(|op| &op.action).enumerate() {
        for write in action.requested_writes() {
            let Some(value) = write.value else {
                continue;
            };
            let version = None;
            if let Some(before) = sources.insert((&write.key, value), Source { op, version }) {
                let kind = AnomalyKind::NotCheckable;
                return Err(Anomaly::new(kind, locks.history, &[before.op, op]));
            }
        }
    }
    Ok(sources)
}

impl VersionList {
    fn new(locks: &LockOrder<'_>, versions: Vec<ItemVersion>) -> Self {
        let op = |version: &ItemVersion| version.writer.map(|writer| &locks.history.ops[writer]);
        let mut begun = Vec::with_capacity(versions.len());
        let mut latest = 0;
        for version in &versions {
            latest = latest.max(op(version).map_or(0, |op| op.invoked));
            begun.push(latest);
        }
        let mut over = vec![u64::MAX; versions.len()];
        for next in (1..versions.len()).rev() {
            let returned = op(&versions[next]).map_or(u64::MAX, |op| op.returned);
            over[next - 1] = over[next].min(returned);
        }
        VersionList {
            versions,
            begun,
            over,
        }
    }

    /// The versions that a call during these times can have observed.
    fn candidates(
        &self,
        Op {
            invoked, returned, ..
        }: &Op,
    ) -> Range<usize> {
        let from = self.over.partition_point(|over| *over < *invoked);
        let to = self.begun.partition_point(|begun| *begun <= *returned);
        from..to
    }

    /// The edges of a call that observed one of these versions.
    fn edges<'k>(
        &self,
        op: usize,
        key: &'k KeyBuf,
        by_query: bool,
        versions: Range<usize>,
    ) -> impl Iterator<Item = Edge<'k>> + use<'k> {
        let writer = |version: usize| self.versions.get(version).and_then(|it| it.writer);
        let edge = move |from, to, kind| Edge {
            from,
            to,
            kind,
            key: Some(key),
        };
        let wr = writer(versions.start).map(|writer| edge(writer, op, EdgeKind::Wr));
        let rw = EdgeKind::anti_dependency(by_query);
        let rw = writer(versions.end).map(|writer| edge(op, writer, rw));
        let edges = wr.into_iter().chain(rw);
        edges.filter(|edge| edge.from != edge.to)
    }
}
