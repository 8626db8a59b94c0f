//! The lives of locks that are deleted and made again, where versions are made ahead of the instants
//! that they stand for, and so do not tell which life was the earlier.
//!
//! A lock is then like an item that is written blindly ([`blind`]): its making writes the life, a
//! deletion ends whichever there is, and a call at whose instant the lock had one of the life's
//! versions saw it. But a lock is made only where none is. So the making saw what a deletion had left,
//! or what there was in the beginning, and no two makings saw the same: each deletion ends one life.
//!
//! Of a commit that lost because of a version that no commit has renewed, it is certain that the
//! life was over: it comes after all calls that saw the life, and after a deletion that comes after
//! the making. If one alone can be that, it is.

use super::blind_writes::{Absence, Before, Blind, Demanded, Register};
use super::{Action, Anomaly, Edge, History, Kind, Locks, Value, Versions, Why};
use atomic_db::{KeyBuf, Version};
use std::collections::{BTreeMap, HashMap};

/// The lives of one lock, each named by the node of its making.
pub struct Lives {
    register: Register,
    /// Commits that lost because a life was over.
    refusals: Vec<(usize, Value)>,
}

/// The lives of every lock, if versions do not tell their order.
pub fn of<'a>(history: &'a History, locks: &Locks<'a>) -> BTreeMap<&'a KeyBuf, Lives> {
    let mut lives: BTreeMap<&KeyBuf, Lives> = BTreeMap::new();
    if locks.versions == Versions::AtTheInstant {
        return lives;
    }
    let mut makers: HashMap<(&KeyBuf, Version), Value> = HashMap::new();
    for (number, making) in locks.makings.iter().enumerate() {
        let node = locks.first + number;
        let life = node as Value;
        let lives = lives.entry(making.key).or_insert_with(|| Lives {
            register: Register::new(Kind::LockMadeTwice),
            refusals: Vec::new(),
        });
        lives.register.writes.push(Blind {
            op: node,
            value: Some(life),
            expiry: None,
        });
        lives.register.reads.push((node, None));
        let mut next = Some(making.version);
        while let Some(version) = next {
            makers.insert((making.key, version), life);
            let by = locks.ends.get(&(making.key, version));
            next = by.and_then(|by| history.ops[*by].committed().map(|(_, next)| next));
        }
    }
    for (number, op) in history.ops.iter().enumerate() {
        for write in op.written().iter().filter(|write| write.value.is_none()) {
            if let Some(lives) = lives.get_mut(&write.key) {
                lives.register.writes.push(Blind {
                    op: number,
                    value: None,
                    expiry: None,
                });
            }
        }
        let mut meet = |key: &KeyBuf, version: Version, lost: bool| {
            let Some((lives, life)) = lives.get_mut(key).zip(makers.get(&(key, version))) else {
                return;
            };
            if !lost {
                lives.register.reads.push((number, Some(*life)));
            } else if !locks.ends.contains_key(&(key, version)) {
                lives.refusals.push((number, *life));
            }
        };
        match &op.action {
            Action::ReadLock(key, version) => meet(key, *version, false),
            Action::Commit(commit) => {
                for (key, version) in commit.locks.iter().chain(&commit.checks) {
                    meet(key, *version, commit.lost().contains(key));
                }
            }
            Action::Read(..) | Action::Write(..) | Action::Tick(_) => {}
        }
    }
    lives
}

impl Lives {
    /// What is certain of the lives and not known yet.
    pub fn demand<'a>(
        &self,
        history: &History,
        locks: &Locks<'_>,
        before: &Before,
        key: &'a KeyBuf,
        demanded: &mut Demanded<'a>,
    ) -> Result<(), Anomaly> {
        self.register
            .demand(history, locks, before, key, demanded)?;
        for (refused, life) in &self.refusals {
            let Some(making) = self.register.writer(Some(*life)) else {
                continue;
            };
            let mut demand = |from, to, why| {
                if !before.comes(from, to) {
                    let key = Some(key);
                    demanded.sure.push(Edge { from, to, why, key });
                }
            };
            for (saw, seen) in &self.register.reads {
                if *seen == Some(*life) {
                    demand(*saw, *refused, Why::Over);
                }
            }
            let deletions = self.deletions();
            let mut can_have_ended = deletions.filter(|deletion| {
                !before.comes(*deletion, making.op) && !before.comes(*refused, *deletion)
            });
            let Some(deletion) = can_have_ended.next() else {
                return Err(history.alone(Kind::UnjustifiedRefusal, &[*refused]));
            };
            if can_have_ended.next().is_none() {
                demand(making.op, deletion, Why::Replaced);
                demand(deletion, *refused, Why::Refused);
            }
        }
        Ok(())
    }

    fn deletions(&self) -> impl Iterator<Item = usize> {
        let deletions = self.register.writes.iter();
        deletions
            .filter(|write| write.value.is_none())
            .map(|write| write.op)
    }

    /// Whether each life can have a beginning of its own: the first one, or a deletion that nobody
    /// else needs.
    pub fn each_has_room(
        &self,
        history: &History,
        locks: &Locks<'_>,
        before: &Before,
    ) -> Result<(), Anomaly> {
        let makings = self.register.writes.iter();
        let makings: Vec<usize> = makings
            .filter(|write| write.value.is_some())
            .map(|write| write.op)
            .collect();
        let beginnings: Vec<Vec<Option<usize>>> = makings
            .iter()
            .map(|making| {
                let absences = self.register.absences(before, *making).into_iter();
                absences
                    .map(|absence| match absence {
                        Absence::Beginning => None,
                        Absence::Deletion(write) | Absence::Expiry(write, _) => Some(write.op),
                    })
                    .collect()
            })
            .collect();
        let Some(crowd) = too_many(&beginnings) else {
            return Ok(());
        };
        let makings = crowd.iter().map(|place| makings[*place]);
        let mut shared: Vec<usize> = crowd
            .iter()
            .flat_map(|place| beginnings[*place].iter().flatten().copied())
            .collect();
        shared.sort_unstable();
        shared.dedup();
        Err(Anomaly {
            kind: Kind::LockMadeTwice,
            story: makings
                .chain(shared)
                .filter_map(|node| history.tell(node, locks))
                .collect(),
        })
    }
}

/// Some who cannot each have one of their `choices` that is nobody else's, if there are such: all
/// that can be chosen is taken, and whoever has it has no other choice. (Found by augmenting paths,
/// as in any matching.)
fn too_many(choices: &[Vec<Option<usize>>]) -> Option<Vec<usize>> {
    let mut takers: HashMap<Option<usize>, usize> = HashMap::new();
    let mut taken: Vec<Option<Option<usize>>> = vec![None; choices.len()];
    for newcomer in 0..choices.len() {
        let mut wanted_by: HashMap<Option<usize>, usize> = HashMap::new();
        let mut crowd = vec![newcomer];
        let mut next = 0;
        let mut free = None;
        while free.is_none() && next < crowd.len() {
            let who = crowd[next];
            next += 1;
            for choice in &choices[who] {
                if wanted_by.contains_key(choice) {
                    continue;
                }
                wanted_by.insert(*choice, who);
                match takers.get(choice) {
                    Some(taker) => crowd.push(*taker),
                    None => {
                        free = Some(*choice);
                        break;
                    }
                }
            }
        }
        let Some(mut choice) = free else {
            return Some(crowd);
        };
        // Everybody on the way leaves what he had to who wanted it.
        loop {
            let who = wanted_by[&choice];
            takers.insert(choice, who);
            match taken[who].replace(choice) {
                Some(left) => choice = left,
                None => break,
            }
        }
    }
    None
}
