//! Names the anomaly that a cycle shows, and describes it.

use super::anomaly::Anomaly;
use super::anomaly_kind::AnomalyKind;
use super::graph::{Edge, EdgeKind};
use super::locks::LockOrder;
use super::recording::Action;
use crate::KeyBuf;

/// An anomaly that these calls and creations show without a cycle.
pub(super) fn anomaly_of_nodes(
    kind: AnomalyKind,
    locks: &LockOrder<'_>,
    nodes: impl IntoIterator<Item = usize>,
) -> Anomaly {
    let nodes = nodes.into_iter();
    Anomaly {
        kind,
        explanation: nodes.filter_map(|node| describe(locks, node)).collect(),
    }
}

/// The anomaly that a cycle shows.
pub(super) fn anomaly_of_cycle(locks: &LockOrder<'_>, cycle: &[Edge<'_>]) -> Anomaly {
    let mut explanation = Vec::new();
    for edge in cycle {
        explanation.extend(describe(locks, edge.from));
        // The first edge of a path through barriers stands for all of it.
        if edge.kind != EdgeKind::RealTime || edge.from < locks.history.ops.len() {
            let key = edge.key.map(|key| format!(" {key}")).unwrap_or_default();
            explanation.push(format!(
                "  -- {}{key}: {}",
                name(edge.kind),
                reason(edge.kind)
            ));
        }
    }
    explanation.push("the first call again".into());
    Anomaly {
        kind: kind(locks, cycle),
        explanation,
    }
}

/// The call or the creation that a node is, unless it is a barrier.
fn describe(locks: &LockOrder<'_>, node: usize) -> Option<String> {
    if let Some(op) = locks.history.ops.get(node) {
        return Some(op.to_string());
    }
    let creation = locks.creation(node)?;
    Some(format!("creation of {}={}", creation.key, creation.version))
}

fn name(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Wr => "wr",
        EdgeKind::Ww | EdgeKind::InferredWw => "ww",
        EdgeKind::Rw => "rw",
        EdgeKind::PredicateRw => "predicate rw",
        EdgeKind::Rejection | EdgeKind::EndedIncarnation => "rejection",
        EdgeKind::RealTime => "real time",
    }
}

fn reason(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Wr => "the next call observed the version that this call wrote",
        EdgeKind::Ww => "the next call overwrote the version that this call wrote",
        EdgeKind::Rw => "this call observed a version that the next call overwrote",
        EdgeKind::PredicateRw => {
            "a query of this call did not find the item, which the next call wrote"
        }
        EdgeKind::InferredWw => "a read after this call observed the version of the next call",
        EdgeKind::Rejection => "the next call was rejected because of this call",
        EdgeKind::EndedIncarnation => {
            "this call observed an incarnation that had ended when the next call was rejected"
        }
        EdgeKind::RealTime => "this call had returned before the next call began",
    }
}

fn kind(locks: &LockOrder<'_>, cycle: &[Edge<'_>]) -> AnomalyKind {
    let action = |node: usize| locks.history.ops.get(node).map(|op| &op.action);
    let is_commit = |edge: &&Edge<'_>| matches!(action(edge.from), Some(Action::Commit(_)));
    let is_rejected = |edge: &&Edge<'_>| match action(edge.from) {
        Some(Action::Commit(commit)) => commit.outcome.is_rejection(),
        _ => false,
    };
    let overwrites = |edge: &&Edge<'_>| {
        let commit = locks.history.committed(edge.from).zip(edge.key);
        commit.is_some_and(|((commit, _), key)| {
            commit.renews(key) || commit.writes.iter().any(|write| write.key == *key)
        })
    };
    let deletes = |edge: &&Edge<'_>| {
        let writes = action(edge.to).map_or(&[][..], Action::writes);
        let mut deleted = writes.iter().filter(|write| write.value.is_none());
        deleted.any(|write| Some(&write.key) == edge.key)
    };
    let is_lock = |key: &KeyBuf| locks.renewals.contains_key(key);

    let edges = |kind| {
        cycle
            .iter()
            .filter(move |edge: &&Edge<'_>| edge.kind == kind)
    };
    let rw = || cycle.iter().filter(|edge| edge.kind.is_anti_dependency());
    let inferred = || edges(EdgeKind::InferredWw);
    let count = |kind| edges(kind).count();
    let rejections = count(EdgeKind::Rejection) + count(EdgeKind::EndedIncarnation);
    let timed = count(EdgeKind::RealTime) > 0;
    if inferred().any(|edge| edge.key.is_some_and(is_lock)) {
        AnomalyKind::DuplicateCreation
    } else if count(EdgeKind::Ww) + inferred().count() == cycle.len()
        && cycle.iter().any(|edge| edge.key != cycle[0].key)
    {
        AnomalyKind::G0
    } else if inferred().next().is_some() {
        AnomalyKind::IncompatibleOrder
    } else if rw().next().is_none() && rejections == 0 {
        AnomalyKind::G1c
    } else if rw().all(|edge| is_rejected(&edge)) {
        AnomalyKind::UnjustifiedRejection
    } else if rw().any(|edge| overwrites(&edge)) {
        AnomalyKind::LostUpdate
    } else if timed && !rw().all(|edge| is_commit(&edge)) {
        if rw().count() == 1 && rw().any(|edge| deletes(&edge)) {
            AnomalyKind::ReadAfterDeletion
        } else {
            AnomalyKind::StaleRead
        }
    } else if rejections > 0 {
        AnomalyKind::UnjustifiedRejection
    } else if cycle.len() == 2 && count(EdgeKind::Wr) == 1 && !rw().all(|edge| is_commit(&edge)) {
        AnomalyKind::FracturedRead
    } else if count(EdgeKind::PredicateRw) > 0 {
        AnomalyKind::Phantom
    } else if rw().count() > 1 {
        AnomalyKind::G2
    } else {
        AnomalyKind::GSingle
    }
}
