//! The database as one sequential object, for the linearizability checker of another crate.

use atomic_db::testing::history::{
    Action, Commit, History, LockVersion, Observation, Outcome, PredicateRead, ReadSet, Versions,
    Write,
};
use atomic_db::{KeyBuf, Version};
use std::collections::{BTreeMap, BTreeSet};
use todc_utils::{Action as Event, History as Events, Specification, WGLChecker};

/// The whole database as one sequential object, for the checker of another crate. That checker
/// searches for an order by trying, without a graph. If versions are `ORDERED`, those of one lock
/// increase, as [`Versions::AtCommit`] states.
struct Sequential<const ORDERED: bool>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Row {
    /// With its last second, if it has one.
    Item(u64, Option<u64>),
    Lock(Version),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    now: u64,
    rows: BTreeMap<KeyBuf, Row>,
    /// All versions that were ever assigned.
    versions: BTreeSet<Version>,
    /// For each lock, the version of its last creation, renewal or deletion.
    last: BTreeMap<KeyBuf, Version>,
}

impl State {
    fn get(&self, key: &KeyBuf) -> Option<&Row> {
        let expired = |row: &&Row| match row {
            Row::Item(_, ttl) => ttl.is_some_and(|ttl| self.now > ttl),
            Row::Lock(_) => false,
        };
        self.rows.get(key).filter(|row| !expired(row))
    }

    fn item(&self, key: &KeyBuf) -> Option<u64> {
        match self.get(key) {
            Some(Row::Item(value, _)) => Some(*value),
            Some(Row::Lock(_)) | None => None,
        }
    }

    /// Whether a call at this point in time reads this.
    fn holds(&self, reads: &ReadSet) -> bool {
        let observed = |(key, value): &Observation| self.item(key) == *value;
        let found = |read: &PredicateRead| {
            let covered = self.rows.keys().filter(|key| read.covers(key));
            let items = covered.filter_map(|key| Some((key.clone(), self.item(key)?)));
            let found: BTreeMap<KeyBuf, u64> = read.found.iter().cloned().collect();
            items.eq(found)
        };
        reads.items.iter().all(observed) && reads.predicates.iter().all(found)
    }

    fn write(&mut self, write: &Write) {
        match write.value {
            Some(value) => drop(
                self.rows
                    .insert(write.key.clone(), Row::Item(value, write.ttl)),
            ),
            None => drop(self.rows.remove(&write.key)),
        }
    }

    /// Whether this version of a lock comes after its earlier ones.
    fn follows(&mut self, key: &KeyBuf, version: Version) -> bool {
        let before = self.last.insert(key.clone(), version);
        before.is_none_or(|before| before < version)
    }

    /// Performs a successful commit. Returns whether its version is valid.
    fn commit(&mut self, commit: &Commit, version: Version) -> bool {
        let deleted = commit.writes.iter().map(|write| &write.key);
        let deleted = deleted.filter(|key| key.sk() == "lock");
        let mut locks = commit.locks.iter().map(|(key, _)| key).chain(deleted);
        let ordered = locks.all(|key| self.follows(key, version));
        for (key, _) in &commit.locks {
            self.rows.insert(key.clone(), Row::Lock(version));
        }
        commit.writes.iter().for_each(|write| self.write(write));
        self.versions.insert(version) && ordered
    }
}

impl<const ORDERED: bool> Specification for Sequential<ORDERED> {
    type State = State;
    type Operation = Action;

    fn init() -> State {
        State::default()
    }

    fn apply(action: &Action, before: &State) -> (bool, State) {
        let holds = |reads: &ReadSet| before.holds(reads);
        let mut after = before.clone();
        let valid = match action {
            Action::Read { reads, .. } => holds(reads),
            Action::Problem(..) => false,
            Action::GetLock((key, version)) => match before.get(key) {
                Some(row) => *row == Row::Lock(*version),
                None => {
                    after.rows.insert(key.clone(), Row::Lock(*version));
                    after.versions.insert(*version) && after.follows(key, *version)
                }
            },
            Action::Write(_, write) => {
                after.write(write);
                true
            }
            Action::AdvanceClock(now) => {
                after.now = *now;
                true
            }
            Action::Commit(commit) => {
                let changed =
                    |(key, version): &&LockVersion| before.get(key) != Some(&Row::Lock(*version));
                let changed = action.lock_versions().filter(changed);
                let changed: Vec<KeyBuf> = changed.map(|(key, _)| key.clone()).collect();
                let mut creates = commit.writes.iter().filter(|write| write.create);
                let exists = creates
                    .find(|write| matches!(before.get(&write.key), Some(Row::Item(..))))
                    .map(|write| &write.key);
                match &commit.outcome {
                    Outcome::Conflict(keys) => !changed.is_empty() && *keys == changed,
                    Outcome::AlreadyExists(key) => changed.is_empty() && exists == Some(key),
                    Outcome::Validated | Outcome::Failed => {
                        changed.is_empty() && holds(&commit.reads)
                    }
                    Outcome::Committed(version) => {
                        let reads_hold = holds(&commit.reads);
                        let version_is_valid = after.commit(commit, *version);
                        changed.is_empty() && exists.is_none() && reads_hold && version_is_valid
                    }
                }
            }
        };
        if !ORDERED {
            after.last.clear();
        }
        (valid, after)
    }
}

/// Whether the other crate's checker finds an order that explains the history.
pub(super) fn is_linearizable(history: &History, versions: Versions) -> bool {
    let mut events: Vec<(u64, usize, Event<Action>)> = Vec::new();
    // Each call has a thread of its own, because the actions of one call may overlap.
    for (thread, op) in history.expand().ops.iter().enumerate() {
        events.push((op.invoked, thread, Event::Call(op.action.clone())));
        events.push((op.returned, thread, Event::Response(op.action.clone())));
    }
    events.sort_by_key(|(time, ..)| *time);
    let events = events.into_iter();
    let events = events.map(|(_, thread, event)| (thread, event)).collect();
    let events = Events::from_actions(events);
    match versions {
        Versions::AtCommit => WGLChecker::<Sequential<true>>::is_linearizable(events),
        Versions::Early => WGLChecker::<Sequential<false>>::is_linearizable(events),
    }
}
