//! Histories: what many threads asked of a database and were told, and whether one order of it all
//! explains it.
//!
//! A database is strictly serializable if every history of it could have come about one call after
//! another, in an order that keeps to time: a call that had returned before another one began comes
//! before it. In general this is hard to decide. Here it is easy, for every value that is written
//! is unique and what is written under a lock has an order that is known. What is left is a graph:
//! who saw, replaced or overlooked whose version, and who had returned before whom. A history whose
//! writes are all made under locks is strictly serializable exactly if it has no cycle. Of writes
//! that check nothing, [`blind_writes`] finds as much of their order as anything seen demands.
//!
//! # How the order of versions is known
//!
//! 1. A commit names the version of each lock that it ended and the one that it made. So the
//!    versions of a lock, from its making to its deletion, are a chain.
//! 2. The lives of one lock that is deleted and made again follow each other in the order of their
//!    versions: later versions of one lock are greater. A deletion has the version of its commit.
//!    Where versions are made ahead of the instant that they stand for, [`incarnations`] has another rule.
//! 3. An item is written only by commits that renew its guard, always the same lock. So its
//!    versions are in the order of the guard's.
//!
//! # What is not known
//!
//! Absence has no name. A read of what locks guard that found nothing is held to lie somewhere between the first and
//! the last absence that its own time allows. Mostly there is one, and then that is exact. So it is
//! with a creation that was refused because something was there.
//!
//! Locks do not expire while a history is recorded, and items that they guard never do.

mod blind_writes;
pub mod faulty;
mod incarnations;
pub mod workload;

use atomic_db::{KeyBuf, Version};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::{fmt, slice};

/// What names a value that was written: nobody else writes the same one.
pub type Value = u64;

/// What a read found at a key.
pub type Seen = (KeyBuf, Option<Value>);

/// One call, between two readings of a clock that counts such readings.
#[derive(Clone, Debug)]
pub struct Op {
    pub thread: usize,
    pub invoked: u64,
    pub returned: u64,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// A read of items, all at one instant, under the name of the method.
    Read(&'static str, Vec<Seen>),
    ReadLock(KeyBuf, Version),
    Commit(Commit),
    /// One item that a call writes or deletes whatever is there, under the name of the method. A
    /// call with several is several of these at the same time, for they are not one instant.
    Write(&'static str, Write),
    /// The clock that times to live are judged by was moved on to this second. One thread alone
    /// moves it.
    Tick(u64),
}

/// A commit and how it ended.
#[derive(Clone, Debug)]
pub struct Commit {
    pub locks: Vec<(KeyBuf, Version)>,
    pub checks: Vec<(KeyBuf, Version)>,
    /// What was read after its guard, which is one of `locks` or `checks`: so it still holds if the
    /// commit succeeds.
    pub rests_on: Vec<Seen>,
    pub writes: Vec<Write>,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub struct Write {
    pub key: KeyBuf,
    /// The lock of the commit under which this item is always written; none if it is a lock that
    /// is deleted, or an item that never has a guard.
    pub guard: Option<usize>,
    /// `None` deletes.
    pub value: Option<Value>,
    /// The last second of an item without a guard. A guarded one lives for ever.
    pub ttl: Option<u64>,
    /// No item may be there.
    pub create: bool,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Committed(Version),
    Raced(Vec<KeyBuf>),
    Exists(KeyBuf),
}

/// When a database makes the version of a commit or of a new lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// At the instant of the commit, or of the making. So the order of the versions of one lock is
    /// the order of these.
    AtTheInstant,
    /// Before it: of two calls that race, the one with the greater version may be the earlier.
    Ahead,
}

/// What all threads did, in any order.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
}

/// Why a history cannot have come about one call after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two commits renewed one version of a lock, or one overwrote what it had not seen.
    LostUpdate,
    /// One read saw a part of a commit.
    TornRead,
    /// Commits that each rest on what another one had changed already.
    WriteSkew,
    /// A read does not see what was there before it began.
    StaleRead,
    /// A read sees an item that was deleted before it began.
    SeenAfterDeletion,
    /// A read sees an item whose last second had passed before it began.
    SeenAfterExpiry,
    /// Writes that check nothing were seen in two orders.
    DisputedOrder,
    /// A read finds nothing where something was all the while.
    LostWrite,
    /// A version was handed out twice.
    VersionReuse,
    /// A lock was made where one was.
    LockMadeTwice,
    /// A commit was refused though nothing stood against it.
    UnjustifiedRefusal,
    /// An item was created where one was.
    CreatedOverAnother,
    /// A read sees what a refused commit would have written.
    AbortedRead,
    /// A read sees what nobody wrote there.
    UnknownRead,
    /// Information flows in a circle, or from the future.
    CyclicFlow,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::LostUpdate => "a lost update",
            Kind::TornRead => "a torn read",
            Kind::WriteSkew => "a write skew: commits rest on what was so no longer",
            Kind::StaleRead => "a stale read",
            Kind::SeenAfterDeletion => "an item was seen after its deletion",
            Kind::SeenAfterExpiry => "an item was seen after its last second",
            Kind::DisputedOrder => "blind writes were seen in two orders",
            Kind::LostWrite => "a lost write: nothing was found where an item was all the while",
            Kind::VersionReuse => "a version was handed out twice",
            Kind::LockMadeTwice => "a lock was made where one was",
            Kind::UnjustifiedRefusal => "an unjustified refusal",
            Kind::CreatedOverAnother => "an item was created over another",
            Kind::AbortedRead => "an aborted read: a refused commit was seen",
            Kind::UnknownRead => "a read of what nobody wrote there",
            Kind::CyclicFlow => "information flows in a circle",
        })
    }
}

/// An anomaly and the calls that show it.
#[derive(Clone, Debug)]
pub struct Anomaly {
    pub kind: Kind,
    /// Calls, and how each is tied to the next.
    pub story: Vec<String>,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind)?;
        self.story
            .iter()
            .try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match self.value {
            Some(value) if self.create => write!(f, "create {key}={value}")?,
            Some(value) => write!(f, "set {key}={value}")?,
            None => write!(f, "delete {key}")?,
        }
        match self.ttl {
            Some(ttl) => write!(f, " until {ttl}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (thread, from, to) = (self.thread, self.invoked, self.returned);
        write!(f, "thread {thread} at {from}..{to}: ")?;
        match &self.action {
            Action::Read(method, seen) => {
                write!(f, "{method} saw")?;
                seen.iter().try_for_each(|(key, value)| match value {
                    Some(value) => write!(f, " {key}={value}"),
                    None => write!(f, " no {key}"),
                })
            }
            Action::ReadLock(key, version) => write!(f, "get_lock saw {key}={version}"),
            Action::Commit(commit) => {
                write!(f, "commit")?;
                let named = [("lock", &commit.locks), ("check", &commit.checks)];
                for (what, locks) in named {
                    for (key, version) in locks {
                        write!(f, " {what} {key}={version}")?;
                    }
                }
                for write in &commit.writes {
                    write!(f, " {write}")?;
                }
                match &commit.outcome {
                    Outcome::Committed(version) => write!(f, ": committed as {version}"),
                    Outcome::Exists(key) => write!(f, ": refused, there is an item at {key}"),
                    Outcome::Raced(lost) => {
                        let lost: Vec<String> = lost.iter().map(KeyBuf::to_string).collect();
                        write!(f, ": lost the race for {}", lost.join(", "))
                    }
                }
            }
            Action::Write(method, write) => write!(f, "{method}: {write}"),
            Action::Tick(now) => write!(f, "the clock was moved to {now}"),
        }
    }
}

impl Commit {
    /// The locks that it was refused because of.
    fn lost(&self) -> &[KeyBuf] {
        match &self.outcome {
            Outcome::Raced(lost) => lost,
            Outcome::Committed(_) | Outcome::Exists(_) => &[],
        }
    }
}

impl Op {
    /// The commit that this is and the version that it made, if it succeeded.
    fn committed(&self) -> Option<(&Commit, Version)> {
        match &self.action {
            Action::Commit(commit) => match commit.outcome {
                Outcome::Committed(version) => Some((commit, version)),
                Outcome::Raced(_) | Outcome::Exists(_) => None,
            },
            _ => None,
        }
    }

    /// What this was to write.
    fn writes(&self) -> &[Write] {
        match &self.action {
            Action::Commit(commit) => &commit.writes,
            Action::Write(_, write) => slice::from_ref(write),
            Action::Read(..) | Action::ReadLock(..) | Action::Tick(_) => &[],
        }
    }

    /// What this wrote.
    fn written(&self) -> &[Write] {
        match self.action {
            Action::Commit(_) if self.committed().is_none() => &[],
            _ => self.writes(),
        }
    }
}

impl History {
    /// Of how many calls the next one began before they returned, and of how many one may ask.
    pub fn overlaps(&self) -> (usize, usize) {
        let mut times: Vec<(u64, u64)> = self
            .ops
            .iter()
            .map(|op| (op.invoked, op.returned))
            .collect();
        times.sort_unstable();
        let overlapping = times.windows(2).filter(|pair| pair[1].0 < pair[0].1);
        (overlapping.count(), times.len().saturating_sub(1))
    }

    /// Whether one order of the calls explains the history of a database that makes versions so.
    /// The cost is in proportion to its length, but for sorting, for how many writes of a key one
    /// read that found nothing overlaps, for blind writes, and for lives of locks whose order
    /// versions do not tell.
    pub fn check(&self, versions: Versions) -> Result<(), Anomaly> {
        let mut graph = Graph::new(self);
        let locks = Locks::of(self, versions, &mut graph)?;
        let items = Items::of(self, &locks, &mut graph)?;
        for (number, op) in self.ops.iter().enumerate() {
            match &op.action {
                Action::Read(_, seen) => {
                    for (key, value) in seen {
                        items.tie(&mut graph, number, key, *value)?;
                    }
                }
                Action::ReadLock(key, version) => locks.tie(&mut graph, number, key, *version),
                Action::Commit(commit) => self.tie(&mut graph, number, commit, &locks, &items)?,
                Action::Write(..) | Action::Tick(_) => {}
            }
        }
        // First without time, for what is wrong in any order has the better name.
        if let Some(cycle) = graph.cycle() {
            return Err(self.name(&cycle, &locks));
        }
        graph.keep_to_time(&locks.makings);
        if let Some(cycle) = graph.cycle() {
            return Err(self.name(&cycle, &locks));
        }
        blind_writes::order(self, &locks, &mut graph)
    }

    fn tie<'a>(
        &'a self,
        graph: &mut Graph<'a>,
        number: usize,
        commit: &'a Commit,
        locks: &Locks<'a>,
        items: &Items<'a>,
    ) -> Result<(), Anomaly> {
        let named = || commit.locks.iter().chain(&commit.checks);
        let lost = commit.lost();
        for (key, version) in named() {
            if !lost.contains(key) {
                locks.tie(graph, number, key, *version);
            } else if let Some(by) = locks.ends.get(&(key, *version)) {
                graph.edge(*by, number, Why::Refused, key);
            } else if locks.versions == Versions::AtTheInstant {
                // Where deletions have no known places, `lives` looks for one.
                return Err(self.alone(Kind::UnjustifiedRefusal, &[number]));
            }
        }
        match &commit.outcome {
            Outcome::Committed(_) => commit
                .rests_on
                .iter()
                .try_for_each(|(key, value)| items.tie(graph, number, key, *value)),
            Outcome::Raced(lost) => {
                let named_once = |key: &KeyBuf| {
                    let times = lost.iter().filter(|other| *other == key).count();
                    times == 1 && named().any(|(name, _)| name == key)
                };
                match lost.is_empty() || !lost.iter().all(named_once) {
                    true => Err(self.alone(Kind::UnjustifiedRefusal, &[number])),
                    false => Ok(()),
                }
            }
            Outcome::Exists(key) => {
                let created = |write: &Write| write.create && write.key == *key;
                let kind = Kind::UnjustifiedRefusal;
                match commit.writes.iter().any(created) {
                    true => items.tie_somewhere(graph, number, key, true, kind),
                    false => Err(self.alone(kind, &[number])),
                }
            }
        }
    }

    /// An anomaly that no cycle is needed for.
    fn alone(&self, kind: Kind, ops: &[usize]) -> Anomaly {
        Anomaly {
            kind,
            story: ops.iter().map(|op| self.ops[*op].to_string()).collect(),
        }
    }

    /// The call or the making of a lock that a node of the graph is, unless it is a moment.
    fn tell(&self, node: usize, locks: &Locks<'_>) -> Option<String> {
        if let Some(op) = self.ops.get(node) {
            return Some(op.to_string());
        }
        let making = locks.makings.get(node - self.ops.len())?;
        Some(format!("the making of {}={}", making.key, making.version))
    }

    /// The anomaly that a cycle shows.
    fn name(&self, cycle: &[Edge<'_>], locks: &Locks<'_>) -> Anomaly {
        let count = |why: Why| cycle.iter().filter(|edge| edge.why == why).count();
        let overlooked = || cycle.iter().filter(|edge| edge.why == Why::Overlooked);
        // Some are no calls, but makings of locks.
        let committed = |node: usize| self.ops.get(node).and_then(Op::committed);
        let writes = |node: usize, key: Option<&KeyBuf>| match committed(node) {
            Some((commit, _)) => {
                let locks = commit.locks.iter().map(|(key, _)| key);
                let mut keys = locks.chain(commit.writes.iter().map(|write| &write.key));
                keys.any(|written| Some(written) == key)
            }
            None => false,
        };
        let deletes = |edge: &Edge<'_>| {
            let written = self.ops.get(edge.to).map_or(&[][..], Op::written);
            let mut gone = written.iter().filter(|write| write.value.is_none());
            gone.any(|write| Some(&write.key) == edge.key)
        };
        let is_commit = |edge: &Edge<'_>| {
            let op = self.ops.get(edge.from);
            op.is_some_and(|op| matches!(op.action, Action::Commit(_)))
        };
        let refused = |edge: &Edge<'_>| is_commit(edge) && committed(edge.from).is_none();
        let timed = count(Why::Time) > 0;
        let of_lock = |edge: &Edge<'_>| edge.key.is_some_and(|key| locks.order.contains_key(key));
        let mut buried = cycle.iter().filter(|edge| edge.why == Why::Buried);
        let kind = match count(Why::Overlooked) {
            _ if buried.clone().any(of_lock) => Kind::LockMadeTwice,
            _ if buried.next().is_some() => Kind::DisputedOrder,
            0 if count(Why::Refused) + count(Why::Over) == 0 => Kind::CyclicFlow,
            _ if overlooked().all(refused) => Kind::UnjustifiedRefusal,
            _ if overlooked().any(|edge| writes(edge.from, edge.key)) => Kind::LostUpdate,
            _ if overlooked().all(is_commit) => Kind::WriteSkew,
            1 if timed && overlooked().any(deletes) => Kind::SeenAfterDeletion,
            _ if timed => Kind::StaleRead,
            _ => Kind::TornRead,
        };
        let mut story = Vec::new();
        for edge in cycle {
            story.extend(self.tell(edge.from, locks));
            // Of many moments in a row one is enough.
            if edge.why != Why::Time || edge.from < self.ops.len() {
                let key = edge.key.map(KeyBuf::to_string).unwrap_or_default();
                story.push(format!("    {} {key}", edge.why.words()));
            }
        }
        story.push("    the first one again".into());
        Anomaly { kind, story }
    }
}

/// The making of a lock by a `get_lock`. Which of those that saw its version first made it is not
/// known, and need not be: it is a node of its own, before all of them.
#[derive(Debug)]
struct Making<'a> {
    key: &'a KeyBuf,
    version: Version,
    /// When the first call that saw it began.
    invoked: u64,
    /// When the first call that saw it returned.
    returned: u64,
}

#[derive(Clone, Copy)]
enum Maker<'a> {
    Commit(usize),
    Making(&'a KeyBuf, usize),
}

/// Who made and who ended each version of each lock.
struct Locks<'a> {
    versions: Versions,
    makings: Vec<Making<'a>>,
    makers: HashMap<Version, Maker<'a>>,
    ends: HashMap<(&'a KeyBuf, Version), usize>,
    /// The number of the first making's node.
    first: usize,
    /// Commits that renewed each lock, in order.
    order: BTreeMap<&'a KeyBuf, Vec<usize>>,
}

impl<'a> Locks<'a> {
    fn of(
        history: &'a History,
        versions: Versions,
        graph: &mut Graph<'a>,
    ) -> Result<Self, Anomaly> {
        let mut locks = Locks {
            versions,
            makings: Vec::new(),
            makers: HashMap::new(),
            ends: HashMap::new(),
            first: history.ops.len(),
            order: BTreeMap::new(),
        };
        for (number, op) in history.ops.iter().enumerate() {
            let Some((commit, version)) = op.committed() else {
                continue;
            };
            let before = locks.makers.insert(version, Maker::Commit(number));
            if let Some(Maker::Commit(before)) = before {
                return Err(history.alone(Kind::VersionReuse, &[before, number]));
            }
            for (key, old) in &commit.locks {
                if let Some(before) = locks.ends.insert((key, *old), number) {
                    return Err(history.alone(Kind::LostUpdate, &[before, number]));
                }
            }
        }
        for (number, op) in history.ops.iter().enumerate() {
            match &op.action {
                Action::Read(..) | Action::Write(..) | Action::Tick(_) => {}
                Action::ReadLock(key, version) => locks.meet(history, number, key, *version)?,
                Action::Commit(commit) => {
                    for (key, version) in commit.locks.iter().chain(&commit.checks) {
                        locks.meet(history, number, key, *version)?;
                    }
                }
            }
        }
        match versions {
            Versions::AtTheInstant => locks.follow_versions(history, graph)?,
            Versions::Ahead => locks.follow_time(history, graph),
        }
        Ok(locks)
    }

    /// Takes note that `op` knew this version of the lock at `key`.
    fn meet(
        &mut self,
        history: &History,
        op: usize,
        key: &'a KeyBuf,
        version: Version,
    ) -> Result<(), Anomaly> {
        self.order.entry(key).or_default();
        let Op {
            invoked, returned, ..
        } = history.ops[op];
        match self.makers.get(&version) {
            Some(Maker::Commit(maker)) => {
                let commit = history.ops[*maker].committed();
                let renewed = |(commit, _): (&Commit, Version)| {
                    commit.locks.iter().any(|(renewed, _)| renewed == key)
                };
                match commit.is_some_and(renewed) {
                    true => Ok(()),
                    false => Err(history.alone(Kind::VersionReuse, &[*maker, op])),
                }
            }
            Some(Maker::Making(made, node)) => {
                let making = &mut self.makings[*node - self.first];
                making.invoked = making.invoked.min(invoked);
                making.returned = making.returned.min(returned);
                match *made == key {
                    true => Ok(()),
                    false => Err(history.alone(Kind::VersionReuse, &[op])),
                }
            }
            None => {
                let node = self.first + self.makings.len();
                self.makings.push(Making {
                    key,
                    version,
                    invoked,
                    returned,
                });
                self.makers.insert(version, Maker::Making(key, node));
                Ok(())
            }
        }
    }

    /// Follows every lock through its lives, which are in the order of their versions.
    fn follow_versions(
        &mut self,
        history: &'a History,
        graph: &mut Graph<'a>,
    ) -> Result<(), Anomaly> {
        let mut events: BTreeMap<&KeyBuf, Vec<(Version, usize)>> = BTreeMap::new();
        for (number, making) in self.makings.iter().enumerate() {
            let node = self.first + number;
            let of_lock = events.entry(making.key).or_default();
            of_lock.push((making.version, node));
        }
        for (number, op) in history.ops.iter().enumerate() {
            if let Some((commit, version)) = op.committed() {
                for write in commit.writes.iter().filter(|write| write.value.is_none()) {
                    if self.order.contains_key(&write.key) {
                        let of_lock = events.entry(&write.key).or_default();
                        of_lock.push((version, number));
                    }
                }
            }
        }
        for (key, mut events) in events {
            events.sort_unstable();
            let mut latest: Option<usize> = None;
            let mut alive: Option<Version> = None;
            for (_, node) in events {
                if let Some(latest) = latest {
                    graph.edge(latest, node, Why::Replaced, key);
                }
                latest = Some(node);
                if node < self.first {
                    if let Some(version) = alive.take() {
                        self.ends.insert((key, version), node);
                    }
                    continue;
                }
                if let Some(version) = alive {
                    return Err(Anomaly {
                        kind: Kind::LockMadeTwice,
                        story: vec![format!("{key}={version} was not deleted"), {
                            let making = &self.makings[node - self.first];
                            format!("{key}={} was made after it", making.version)
                        }],
                    });
                }
                let (last, version) = self.follow_life(history, graph, node);
                latest = Some(last);
                alive = Some(version);
            }
        }
        Ok(())
    }

    /// Follows every lock through its lives, which are in the order in which callers were told of
    /// them first. Where a lock was renewed, that is the order in which it lived: who renews a lock
    /// was told of it before, and of a later life nobody can be told until that is over. Where it
    /// was not, nothing rests on the order.
    fn follow_time(&mut self, history: &'a History, graph: &mut Graph<'a>) {
        let mut makings: Vec<usize> = (0..self.makings.len()).collect();
        makings.sort_by_key(|making| self.makings[*making].returned);
        for making in makings {
            self.follow_life(history, graph, self.first + making);
        }
    }

    /// Follows a lock from its making through all that renewed it. Returns who was the last, and
    /// its version then.
    fn follow_life(
        &mut self,
        history: &'a History,
        graph: &mut Graph<'a>,
        making: usize,
    ) -> (usize, Version) {
        let Making { key, version, .. } = self.makings[making - self.first];
        let order = self.order.entry(key).or_default();
        let (mut latest, mut current) = (making, version);
        while let Some(&by) = self.ends.get(&(key, current)) {
            graph.edge(latest, by, Why::Replaced, key);
            order.push(by);
            latest = by;
            match history.ops[by].committed() {
                Some((_, next)) => current = next,
                None => break,
            }
        }
        (latest, current)
    }

    /// Ties `op`, at whose instant the lock had this version, to who made it and who ended it.
    fn tie(&self, graph: &mut Graph<'a>, op: usize, key: &'a KeyBuf, version: Version) {
        match self.makers.get(&version) {
            Some(Maker::Commit(by) | Maker::Making(_, by)) => {
                graph.edge(*by, op, Why::Saw, key);
            }
            None => {}
        }
        if let Some(by) = self.ends.get(&(key, version)) {
            graph.edge(op, *by, Why::Overlooked, key);
        }
    }
}

/// What an item was for a time, and since whose commit.
#[derive(Clone, Copy)]
struct State {
    /// `None` for what was there in the beginning: nothing.
    maker: Option<usize>,
    value: Option<Value>,
}

/// One item, through all its states.
struct Item {
    states: Vec<State>,
    /// By state: the latest moment at which it or an earlier one began to be made.
    begun: Vec<u64>,
    /// By state: the earliest moment at which it was certainly over.
    over: Vec<u64>,
}

/// Where a value comes from.
struct Source<'a> {
    key: &'a KeyBuf,
    op: usize,
    /// Which of the item's states it is, if it was committed.
    state: Option<usize>,
}

struct Items<'a> {
    history: &'a History,
    items: HashMap<&'a KeyBuf, Item>,
    sources: HashMap<Value, Source<'a>>,
}

impl<'a> Items<'a> {
    fn of(history: &'a History, locks: &Locks<'a>, graph: &mut Graph<'a>) -> Result<Self, Anomaly> {
        let mut sources = HashMap::new();
        let mut guards: HashMap<&KeyBuf, &KeyBuf> = HashMap::new();
        for (number, op) in history.ops.iter().enumerate() {
            for write in op.writes() {
                if let (Action::Commit(commit), Some(guard)) = (&op.action, write.guard) {
                    let guard = &commit.locks[guard].0;
                    let always = *guards.entry(&write.key).or_insert(guard);
                    assert_eq!(always, guard, "{} has two guards", write.key);
                }
                if let Some(value) = write.value {
                    let source = Source {
                        key: &write.key,
                        op: number,
                        state: None,
                    };
                    let before = sources.insert(value, source);
                    assert!(before.is_none(), "{value} was to be written twice");
                }
            }
        }
        let mut states: BTreeMap<&KeyBuf, Vec<State>> = BTreeMap::new();
        for (lock, commits) in &locks.order {
            for number in commits {
                let Some((commit, _)) = history.ops[*number].committed() else {
                    continue;
                };
                let guarded = |write: &&Write| {
                    let guard = write.guard.map(|guard| &commit.locks[guard].0);
                    guard == Some(*lock)
                };
                for write in commit.writes.iter().filter(guarded) {
                    let nothing = || {
                        vec![State {
                            maker: None,
                            value: None,
                        }]
                    };
                    let states = states.entry(&write.key).or_insert_with(nothing);
                    let last = states[states.len() - 1];
                    if let Some(maker) = last.maker {
                        if write.create && last.value.is_some() {
                            return Err(history.alone(Kind::CreatedOverAnother, &[maker, *number]));
                        }
                        graph.edge(maker, *number, Why::Replaced, &write.key);
                    }
                    if let Some(source) = write.value.and_then(|value| sources.get_mut(&value)) {
                        source.state = Some(states.len());
                    }
                    states.push(State {
                        maker: Some(*number),
                        value: write.value,
                    });
                }
            }
        }
        let items = states.into_iter();
        Ok(Items {
            history,
            items: items
                .map(|(key, states)| (key, Item::of(history, states)))
                .collect(),
            sources,
        })
    }

    /// Ties `op`, at whose instant `value` was at `key`, to who wrote it and who replaced it.
    fn tie(
        &self,
        graph: &mut Graph<'a>,
        op: usize,
        key: &'a KeyBuf,
        value: Option<Value>,
    ) -> Result<(), Anomaly> {
        let Some(value) = value else {
            return self.tie_somewhere(graph, op, key, false, Kind::LostWrite);
        };
        let source = match self.sources.get(&value) {
            Some(source) if source.key == key => source,
            _ => return Err(self.history.alone(Kind::UnknownRead, &[op])),
        };
        if self.history.ops[source.op].written().is_empty() {
            let kind = Kind::AbortedRead;
            return Err(self.history.alone(kind, &[source.op, op]));
        }
        graph.edge(source.op, op, Why::Saw, key);
        let item = self.items.get(key);
        let next = source
            .state
            .zip(item)
            .and_then(|(state, item)| item.states.get(state + 1));
        if let Some(by) = next.and_then(|next| next.maker) {
            graph.edge(op, by, Why::Overlooked, key);
        }
        Ok(())
    }

    /// Ties `op`, at whose instant something was at `key` if it was `there` and nothing if not, to
    /// who made the first state that it can have met and who ended the last one. If there was none,
    /// that is an anomaly of this `kind`.
    fn tie_somewhere(
        &self,
        graph: &mut Graph<'a>,
        op: usize,
        key: &'a KeyBuf,
        there: bool,
        kind: Kind,
    ) -> Result<(), Anomaly> {
        let Some(item) = self.items.get(key) else {
            // Nothing was ever there.
            return match there {
                true => Err(self.history.alone(kind, &[op])),
                false => Ok(()),
            };
        };
        let Op {
            invoked, returned, ..
        } = self.history.ops[op];
        let from = item.over.partition_point(|over| *over < invoked);
        let to = item.begun.partition_point(|begun| *begun <= returned);
        let mut met = (from..to).filter(|state| {
            let state = item.states[*state];
            state.value.is_some() == there && state.maker != Some(op)
        });
        let Some(first) = met.next() else {
            return Err(self.history.alone(kind, &[op]));
        };
        let last = met.next_back().unwrap_or(first);
        if let Some(by) = item.states[first].maker {
            graph.edge(by, op, Why::Saw, key);
        }
        if let Some(by) = item.states.get(last + 1).and_then(|next| next.maker) {
            graph.edge(op, by, Why::Overlooked, key);
        }
        Ok(())
    }
}

impl Item {
    fn of(history: &History, states: Vec<State>) -> Self {
        let op = |state: &State| state.maker.map(|maker| &history.ops[maker]);
        let mut begun = Vec::with_capacity(states.len());
        let mut latest = 0;
        for state in &states {
            latest = latest.max(op(state).map_or(0, |op| op.invoked));
            begun.push(latest);
        }
        let mut over = vec![u64::MAX; states.len()];
        for state in (1..states.len()).rev() {
            let returned = op(&states[state]).map_or(u64::MAX, |op| op.returned);
            over[state - 1] = over[state].min(returned);
        }
        Item {
            states,
            begun,
            over,
        }
    }
}

/// Why one call comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The second saw what the first made.
    Saw,
    /// The second replaced what the first made.
    Replaced,
    /// The first saw what the second replaced, so it came before.
    Overlooked,
    /// The second was refused because of the first.
    Refused,
    /// The second was refused because the lock that the first saw was no more.
    Over,
    /// Somebody for whom the first had happened saw what the second made, so that came later.
    Buried,
    /// The first had returned before the second began.
    Time,
}

impl Why {
    fn words(self) -> &'static str {
        match self {
            Why::Saw => "comes before, for it made what this one saw:",
            Why::Replaced => "comes before, for it made what this one replaced:",
            Why::Overlooked => "comes before, for it did not see what this one made of",
            Why::Refused => "comes before, for it is why this one was refused:",
            Why::Over => "comes before, for what it saw was over when this one was refused:",
            Why::Buried => "comes before, for who came after it saw what this one made of",
            Why::Time => "comes before, for it had returned when this one began",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Edge<'a> {
    from: usize,
    to: usize,
    why: Why,
    key: Option<&'a KeyBuf>,
}

/// Who comes before whom. The first nodes are the calls, then come the makings of locks, then
/// moments.
struct Graph<'a> {
    history: &'a History,
    edges: Vec<Edge<'a>>,
    nodes: usize,
    first_moment: usize,
}

/// Where in `sorted`, the numbers of a graph's edges, those of each node begin.
struct Outgoing {
    begin: Vec<usize>,
    sorted: Vec<usize>,
}

/// From how many places a short cycle is looked for: a cycle of a few calls tells more than one of
/// hundreds.
const STARTS: usize = 8;

impl<'a> Graph<'a> {
    fn new(history: &'a History) -> Self {
        Graph {
            history,
            edges: Vec::new(),
            nodes: history.ops.len(),
            first_moment: usize::MAX,
        }
    }

    fn edge(&mut self, from: usize, to: usize, why: Why, key: &'a KeyBuf) {
        if from != to {
            self.nodes = self.nodes.max(from + 1).max(to + 1);
            self.edges.push(Edge {
                from,
                to,
                why,
                key: Some(key),
            });
        }
    }

    /// Adds what time demands: who had returned before another one began comes before it. A chain
    /// of moments says so with a few edges for each call, instead of one for each pair.
    fn keep_to_time(&mut self, makings: &[Making<'a>]) {
        let calls = self.history.ops.len();
        let mut next = calls + makings.len();
        self.first_moment = next;
        // False is less than true: at one instant, beginnings come first, so that they overlap.
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * calls + makings.len());
        for (number, op) in self.history.ops.iter().enumerate() {
            events.push((op.invoked, false, number));
            events.push((op.returned, true, number));
        }
        for (number, making) in makings.iter().enumerate() {
            events.push((making.invoked, false, calls + number));
        }
        events.sort_unstable();
        let mut moment: Option<usize> = None;
        let edges = &mut self.edges;
        let mut edge = |from, to| {
            edges.push(Edge {
                from,
                to,
                why: Why::Time,
                key: None,
            });
        };
        for (_, has_returned, node) in events {
            match (has_returned, moment) {
                (false, Some(moment)) => edge(moment, node),
                (false, None) => {}
                (true, before) => {
                    edge(node, next);
                    if let Some(before) = before {
                        edge(before, next);
                    }
                    moment = Some(next);
                    next += 1;
                }
            }
        }
        self.nodes = next;
    }

    /// The edges by where they begin.
    fn outgoing(&self) -> Outgoing {
        let mut begin = vec![0; self.nodes + 1];
        for edge in &self.edges {
            begin[edge.from + 1] += 1;
        }
        for node in 0..self.nodes {
            begin[node + 1] += begin[node];
        }
        let mut place = begin.clone();
        let mut sorted = vec![0; self.edges.len()];
        for (number, edge) in self.edges.iter().enumerate() {
            sorted[place[edge.from]] = number;
            place[edge.from] += 1;
        }
        Outgoing { begin, sorted }
    }

    fn out(&self, outgoing: &Outgoing, node: usize) -> impl Iterator<Item = Edge<'a>> {
        let numbers = &outgoing.sorted[outgoing.begin[node]..outgoing.begin[node + 1]];
        numbers.iter().map(|number| self.edges[*number])
    }

    /// Takes away what nothing comes before, until there is no more of it. Returns that in order,
    /// and for each node how much is left that comes right before it.
    fn in_order(&self, outgoing: &Outgoing) -> (Vec<usize>, Vec<u32>) {
        let mut incoming = vec![0_u32; self.nodes];
        for edge in &self.edges {
            incoming[edge.to] += 1;
        }
        let mut free: Vec<usize> = (0..self.nodes)
            .filter(|node| incoming[*node] == 0)
            .collect();
        let mut taken = Vec::with_capacity(self.nodes);
        while let Some(node) = free.pop() {
            taken.push(node);
            for edge in self.out(outgoing, node) {
                incoming[edge.to] -= 1;
                if incoming[edge.to] == 0 {
                    free.push(edge.to);
                }
            }
        }
        (taken, incoming)
    }

    /// A cycle, a short one if that is easily found.
    fn cycle(&self) -> Option<Vec<Edge<'a>>> {
        let outgoing = self.outgoing();
        let (taken, incoming) = self.in_order(&outgoing);
        if taken.len() == self.nodes {
            return None;
        }

        // Something that is left comes before each node that is left, so going back ends in a
        // cycle.
        let left = |node: usize| incoming[node] > 0;
        let mut before = vec![usize::MAX; self.nodes];
        for edge in self.edges.iter().filter(|edge| left(edge.from)) {
            before[edge.to] = edge.from;
        }
        let mut node = (0..self.nodes).find(|node| left(*node))?;
        let mut seen = vec![false; self.nodes];
        while !seen[node] {
            seen[node] = true;
            node = before[node];
        }
        let mut starts = vec![node];
        while starts.len() < STARTS && before[starts[starts.len() - 1]] != node {
            starts.push(before[starts[starts.len() - 1]]);
        }

        let mut shortest: Option<(usize, Vec<Edge<'a>>)> = None;
        for start in starts {
            let mut reached: Vec<Option<Edge<'a>>> = vec![None; self.nodes];
            // How many steps that are not from a moment to the next lead there.
            let mut steps = vec![usize::MAX; self.nodes];
            let mut queue = VecDeque::from([(0, start)]);
            while let Some((so_far, node)) = queue.pop_front() {
                if node == start && reached[start].is_some() {
                    break;
                }
                let is_moment = node >= self.first_moment;
                let so_far = so_far + usize::from(!is_moment);
                for edge in self.out(&outgoing, node).filter(|edge| left(edge.to)) {
                    if so_far < steps[edge.to] {
                        steps[edge.to] = so_far;
                        reached[edge.to] = Some(edge);
                        match is_moment {
                            true => queue.push_front((so_far, edge.to)),
                            false => queue.push_back((so_far, edge.to)),
                        }
                    }
                }
            }
            let mut cycle = Vec::new();
            let mut node = start;
            while let Some(edge) = reached[node] {
                cycle.push(edge);
                node = edge.from;
                if node == start {
                    break;
                }
            }
            cycle.reverse();
            let shorter = |(than, _): &(usize, _)| steps[start] < *than;
            if !cycle.is_empty() && shortest.as_ref().is_none_or(shorter) {
                shortest = Some((steps[start], cycle));
            }
        }
        shortest.map(|(_, cycle)| cycle)
    }
}
