//! The check of a history: all edges, and the search for a cycle.

use super::anomaly::Anomaly;
use super::anomaly_kind::AnomalyKind;
use super::blind_writes::{ImpliedEdges, registers};
use super::explanation::anomaly_of_cycle;
use super::graph::{EdgeKind, Graph, HappensBefore};
use super::incarnations::incarnations;
use super::items::{Ambiguity, ItemOrder};
use super::locks::LockOrder;
use super::recording::{Action, Commit, History, Outcome, Versions};

impl History {
    /// Checks whether the history is strictly serializable, however the database assigns versions.
    ///
    /// # Errors
    ///
    /// The first anomaly that is found. A history that does not meet the conditions of
    /// [`Recorder`](super::Recorder) has one of the kind [`NotCheckable`](AnomalyKind::NotCheckable).
    pub fn check(&self) -> Result<(), Anomaly> {
        self.check_with(Versions::Early)
    }

    /// Checks whether the history is strictly serializable, if the database assigns versions as
    /// given.
    ///
    /// The cost is proportional to the length of the history, except for sorting, absences that
    /// overlap many writes of a key, blind writes, and incarnations without a known order.
    ///
    /// # Errors
    ///
    /// Those of [`check`](History::check).
    pub fn check_with(&self, versions: Versions) -> Result<(), Anomaly> {
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
        add_inferred_edges(&mut graph, &locks, &items)?;
        // Last, because any other anomaly explains a wrong sum.
        history.require_no_problem(|kind| kind == AnomalyKind::WrongSum)
    }
}

impl History {
    /// Checks what needs no other call: no call had an impossible result, and each query returned
    /// items that it selects, in its order, each once.
    fn check_results(&self) -> Result<(), Anomaly> {
        self.require_no_problem(|kind| kind != AnomalyKind::WrongSum)?;
        for (number, op) in self.ops.iter().enumerate() {
            let reads = match &op.action {
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

    fn require_no_problem(&self, of: impl Fn(AnomalyKind) -> bool) -> Result<(), Anomaly> {
        let mut problems = self.ops.iter().enumerate();
        let first = problems.find_map(|(number, op)| match op.action {
            Action::Problem(kind, _) if of(kind) => Some((number, kind)),
            _ => None,
        });
        match first {
            Some((number, kind)) => Err(Anomaly::new(kind, self, &[number])),
            None => Ok(()),
        }
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
