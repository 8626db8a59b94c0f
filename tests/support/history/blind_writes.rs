//! Writes that check nothing, and items that expire: what no lock puts in order.
//!
//! Which of two such writes of a key came first is not known, unless one had returned before the
//! other began. But each value has a name, and a read sees what was written last. So, of a read that
//! saw what one write made, it is certain:
//!
//! 1. Any other write of the key that comes after this one comes after the read.
//! 2. Any other write of the key that comes before the read comes before this one.
//!
//! Both are edges of the graph, and where they lead to more, that is followed until there is no
//! more. Whatever is found to have a cycle so could not have come about in any order. The other way
//! round it is certain for the reads and writes of one key (Gibbons and Korach, *Testing Shared
//! Memories*, 1997); of several keys that one call sees or writes at one instant, a contradiction
//! that no edge shows may stay unseen.
//!
//! # Absence
//!
//! A read that found nothing saw what a deletion left, or what there was in the beginning, or an
//! item that had expired. What is certainly overwritten in between, or comes after the read, does
//! not explain it. If nothing explains it, it is an anomaly; if one thing alone does, the read saw
//! that. Otherwise it gets the benefit of the doubt.
//!
//! # Expiry
//!
//! A database asks the clock at one moment of a call and looks at its rows at another. So a call
//! may see an item up to its last second as long as that had not passed before the call began. It
//! may find it gone once the clock is being moved past that second; the clock is asked before the
//! rows are, so the moving then comes before the call.

use super::{Action, Edge, incarnations};
use super::{Anomaly, Graph, History, Kind, Locks, Value, Why};
use atomic_db::KeyBuf;
use std::collections::BTreeMap;

/// One key, and who wrote and saw what there, in no order.
pub struct Register {
    pub writes: Vec<Blind>,
    /// Who saw what.
    pub reads: Vec<(usize, Option<Value>)>,
    /// What it is if somebody saw nothing and nothing explains that.
    unexplained: Kind,
}

/// Calls are named by their nodes in the graph.
#[derive(Clone, Copy)]
pub struct Blind {
    pub op: usize,
    /// `None` deletes.
    pub value: Option<Value>,
    /// Who moved the clock past its last second.
    pub expiry: Option<usize>,
}

/// What explains that nothing was there.
#[derive(Clone, Copy)]
pub enum Absence {
    Beginning,
    Deletion(Blind),
    /// What was written so, and by whose moving of the clock it was gone.
    Expiry(Blind, usize),
}

/// Edges that are not in the graph yet.
#[derive(Default)]
pub struct Demanded<'a> {
    /// From what came before a read, and from what it saw.
    pub sure: Vec<Edge<'a>>,
    /// From what a write that a read saw has made unseen.
    buried: Vec<Edge<'a>>,
}

/// Adds to `graph`, which has no cycle, what blind writes and their reads demand, and the lives of
/// locks if versions do not tell their order.
pub fn order<'a>(
    history: &'a History,
    locks: &Locks<'a>,
    graph: &mut Graph<'a>,
) -> Result<(), Anomaly> {
    let registers = registers(history, locks);
    let lives = incarnations::of(history, locks);
    if registers.is_empty() && lives.is_empty() {
        return Ok(());
    }
    nothing_outlives_its_last_second(history, &registers)?;
    loop {
        let before = Before::of(graph);
        let mut demanded = Demanded::default();
        for (key, register) in &registers {
            register.demand(history, locks, &before, key, &mut demanded)?;
        }
        for (key, lives) in &lives {
            lives.demand(history, locks, &before, key, &mut demanded)?;
        }
        // An overlooked write tells more than one that readers disagree about, so it goes first.
        let more = match demanded.sure.is_empty() {
            true => demanded.buried,
            false => demanded.sure,
        };
        if more.is_empty() {
            let mut lives = lives.values();
            return lives.try_for_each(|lives| lives.each_has_room(history, locks, &before));
        }
        graph.edges.extend(more);
        if let Some(cycle) = graph.cycle() {
            return Err(history.name(&cycle, locks));
        }
    }
}

fn registers<'a>(history: &'a History, locks: &Locks<'a>) -> BTreeMap<&'a KeyBuf, Register> {
    let ticks = history.ops.iter().enumerate();
    let mut ticks: Vec<(u64, usize)> = ticks
        .filter_map(|(number, op)| match op.action {
            Action::Tick(now) => Some((now, number)),
            _ => None,
        })
        .collect();
    ticks.sort_unstable();
    let mut registers: BTreeMap<&KeyBuf, Register> = BTreeMap::new();
    for (number, op) in history.ops.iter().enumerate() {
        let unguarded = op.written().iter().filter(|write| write.guard.is_none());
        for write in unguarded.filter(|write| !locks.order.contains_key(&write.key)) {
            let past = |ttl| ticks.get(ticks.partition_point(|(now, _)| *now <= ttl));
            let register = registers.entry(&write.key);
            let register = register.or_insert_with(|| Register::new(Kind::LostWrite));
            register.writes.push(Blind {
                op: number,
                value: write.value,
                expiry: write.ttl.and_then(past).map(|(_, tick)| *tick),
            });
        }
    }
    for (number, op) in history.ops.iter().enumerate() {
        let Action::Read(_, seen) = &op.action else {
            continue;
        };
        for (key, value) in seen {
            if let Some(register) = registers.get_mut(key) {
                register.reads.push((number, *value));
            }
        }
    }
    registers
}

fn nothing_outlives_its_last_second(
    history: &History,
    registers: &BTreeMap<&KeyBuf, Register>,
) -> Result<(), Anomaly> {
    for register in registers.values() {
        for (read, value) in &register.reads {
            let expiry = register.writer(*value).and_then(|write| write.expiry);
            let over = |tick: &usize| history.ops[*tick].returned < history.ops[*read].invoked;
            if let Some(tick) = expiry.filter(over) {
                return Err(history.alone(Kind::SeenAfterExpiry, &[tick, *read]));
            }
        }
    }
    Ok(())
}

impl Register {
    pub fn new(unexplained: Kind) -> Self {
        Register {
            writes: Vec::new(),
            reads: Vec::new(),
            unexplained,
        }
    }

    /// Who wrote what was seen, if it was something.
    pub fn writer(&self, value: Option<Value>) -> Option<Blind> {
        let named = |write: &&Blind| value.is_some() && write.value == value;
        self.writes.iter().find(named).copied()
    }

    /// What the reads demand that is not known yet.
    pub fn demand<'a>(
        &self,
        history: &History,
        locks: &Locks<'_>,
        before: &Before,
        key: &'a KeyBuf,
        demanded: &mut Demanded<'a>,
    ) -> Result<(), Anomaly> {
        let Demanded { sure, buried } = demanded;
        let edge = |from, to, why| Edge {
            from,
            to,
            why,
            key: Some(key),
        };
        for (read, value) in &self.reads {
            let read = *read;
            let last = match (self.writer(*value), value) {
                (Some(last), _) => Some(last),
                // It is known already that nobody wrote it.
                (None, Some(_)) => continue,
                (None, None) => {
                    let (last, tick) = match self.absences(before, read).as_slice() {
                        [] => {
                            let of_it = self.writes.iter().map(|write| write.op);
                            let seen = of_it.filter(|write| before.comes(*write, read));
                            let story = seen.chain([read]);
                            return Err(Anomaly {
                                kind: self.unexplained,
                                story: story.filter_map(|node| history.tell(node, locks)).collect(),
                            });
                        }
                        [Absence::Beginning] => (None, None),
                        [Absence::Deletion(last)] => (Some(*last), None),
                        [Absence::Expiry(last, tick)] => (Some(*last), Some(*tick)),
                        [_, _, ..] => continue,
                    };
                    for earlier in last.map(|last| last.op).into_iter().chain(tick) {
                        if !before.comes(earlier, read) {
                            sure.push(edge(earlier, read, Why::Saw));
                        }
                    }
                    last
                }
            };
            let last = last.map(|last| last.op);
            for other in self.writes.iter().map(|write| write.op) {
                // Who makes a lock saw nothing there right before.
                if last == Some(other) || read == other {
                    continue;
                }
                if last.is_none_or(|last| before.comes(last, other)) {
                    if !before.comes(read, other) {
                        sure.push(edge(read, other, Why::Overlooked));
                    }
                } else if let Some(last) = last.filter(|last| !before.comes(other, *last)) {
                    if before.comes(other, read) {
                        buried.push(edge(other, last, Why::Buried));
                    }
                }
            }
        }
        Ok(())
    }

    /// All that can explain that `read` found nothing.
    pub fn absences(&self, before: &Before, read: usize) -> Vec<Absence> {
        let sets = self.writes.iter().filter(|write| write.value.is_some());
        let earlier: Vec<usize> = sets
            .map(|write| write.op)
            .filter(|set| before.comes(*set, read))
            .collect();
        let mut absences = Vec::new();
        if earlier.is_empty() {
            absences.push(Absence::Beginning);
        }
        for write in &self.writes {
            let overwritten = earlier.iter().any(|set| before.comes(write.op, *set));
            if overwritten || before.comes(read, write.op) {
                continue;
            }
            match (write.value, write.expiry) {
                (None, _) => absences.push(Absence::Deletion(*write)),
                (Some(_), Some(tick)) if !before.comes(read, tick) => {
                    absences.push(Absence::Expiry(*write, tick));
                }
                (Some(_), _) => {}
            }
        }
        absences
    }
}

/// Which calls and makings of locks come before each node of a graph, in one bit each.
pub struct Before {
    bits: Vec<u64>,
    words: usize,
}

impl Before {
    fn of(graph: &Graph<'_>) -> Self {
        let words = graph.first_moment.div_ceil(64);
        let mut bits = vec![0; graph.nodes * words];
        let outgoing = graph.outgoing();
        let (nodes, _) = graph.in_order(&outgoing);
        for node in nodes {
            let mut so_far = bits[node * words..][..words].to_vec();
            if node < graph.first_moment {
                so_far[node / 64] |= 1 << (node % 64);
            }
            for edge in graph.out(&outgoing, node) {
                let later = &mut bits[edge.to * words..][..words];
                later
                    .iter_mut()
                    .zip(&so_far)
                    .for_each(|(to, from)| *to |= from);
            }
        }
        Before { bits, words }
    }

    pub fn comes(&self, call: usize, node: usize) -> bool {
        self.bits[node * self.words + call / 64] >> (call % 64) & 1 == 1
    }
}
