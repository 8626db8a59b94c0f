//! The order of the versions of items that have a guard. It is that of the guard's renewals, which
//! depend on each other already.

use super::anomaly::{Anomaly, AnomalyKind};
use super::graph::{EdgeKind, Graph};
use super::locks::LockOrder;
use super::recording::{Action, History, Op, Value};
use atomic_db::KeyBuf;
use std::collections::{BTreeMap, HashMap};

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

/// The write of a value.
struct Source<'a> {
    key: &'a KeyBuf,
    op: usize,
    /// The index of the item's version, if it was committed under a guard.
    version: Option<usize>,
}

/// The versions of all items with a guard, and the writes of all values.
pub struct ItemOrder<'a> {
    history: &'a History,
    items: BTreeMap<&'a KeyBuf, VersionList>,
    sources: HashMap<Value, Source<'a>>,
}

impl<'a> ItemOrder<'a> {
    pub fn new(locks: &LockOrder<'a>) -> Result<Self, Anomaly> {
        let history = locks.history;
        let mut sources = sources(history);
        let mut items: BTreeMap<&KeyBuf, Vec<ItemVersion>> = BTreeMap::new();
        for (lock, renewals) in &locks.renewals {
            for number in renewals {
                let Some((commit, _)) = history.committed(*number) else {
                    continue;
                };
                for write in &commit.writes {
                    if write.guard.map(|guard| &commit.locks[guard].0) != Some(*lock) {
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
                    if let Some(source) = write.value.and_then(|value| sources.get_mut(&value)) {
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
            history,
            items: items
                .map(|(key, versions)| (key, VersionList::new(history, versions)))
                .collect(),
            sources,
        })
    }

    /// Adds the edges of `op`, which observed `value` at `key`.
    pub fn add_edges(
        &self,
        graph: &mut Graph<'a>,
        op: usize,
        key: &'a KeyBuf,
        value: Option<Value>,
    ) -> Result<(), Anomaly> {
        let Some(value) = value else {
            return self.add_bounds(graph, op, key, false, AnomalyKind::LostWrite);
        };
        let source = match self.sources.get(&value) {
            Some(source) if source.key == key => source,
            _ => return Err(Anomaly::new(AnomalyKind::GarbageRead, self.history, &[op])),
        };
        if self.history.ops[source.op].action.writes().is_empty() {
            let kind = AnomalyKind::G1a;
            return Err(Anomaly::new(kind, self.history, &[source.op, op]));
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

    /// Adds the edges of `op`, which found any item at `key` if it was `present` and none if not.
    /// It comes after the first version that it can have observed, and before the one that
    /// overwrote the last. If there is none, that is an anomaly of this `kind`.
    pub fn add_bounds(
        &self,
        graph: &mut Graph<'a>,
        op: usize,
        key: &'a KeyBuf,
        present: bool,
        kind: AnomalyKind,
    ) -> Result<(), Anomaly> {
        let unexplained = || Anomaly::new(kind, self.history, &[op]);
        let Some(item) = self.items.get(key) else {
            // No commit has written the item.
            return if present { Err(unexplained()) } else { Ok(()) };
        };
        let Op {
            invoked, returned, ..
        } = self.history.ops[op];
        let from = item.over.partition_point(|over| *over < invoked);
        let to = item.begun.partition_point(|begun| *begun <= returned);
        let mut candidates = (from..to).filter(|version| {
            let version = item.versions[*version];
            version.value.is_some() == present && version.writer != Some(op)
        });
        let first = candidates.next().ok_or_else(unexplained)?;
        let last = candidates.next_back().unwrap_or(first);
        if let Some(writer) = item.versions[first].writer {
            graph.add(writer, op, EdgeKind::Wr, key);
        }
        if let Some(writer) = item.versions.get(last + 1).and_then(|next| next.writer) {
            graph.add(op, writer, EdgeKind::Rw, key);
        }
        Ok(())
    }
}

/// The write of each value.
///
/// # Panics
///
/// If two writes have the same value, or an item two guards.
fn sources(history: &History) -> HashMap<Value, Source<'_>> {
    let mut sources = HashMap::new();
    let mut guards: HashMap<&KeyBuf, &KeyBuf> = HashMap::new();
    for (op, Op { action, .. }) in history.ops.iter().enumerate() {
        for write in action.requested_writes() {
            let key = &write.key;
            if let (Action::Commit(commit), Some(guard)) = (action, write.guard) {
                let guard = &commit.locks[guard].0;
                let first = *guards.entry(key).or_insert(guard);
                assert_eq!(first, guard, "{key} has two guards");
            }
            if let Some(value) = write.value {
                let version = None;
                let before = sources.insert(value, Source { key, op, version });
                assert!(before.is_none(), "{value} is written twice");
            }
        }
    }
    sources
}

impl VersionList {
    fn new(history: &History, versions: Vec<ItemVersion>) -> Self {
        let op = |version: &ItemVersion| version.writer.map(|writer| &history.ops[writer]);
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
}
