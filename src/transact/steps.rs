//! What a transaction asks for, a step for each key.

use crate::hash::KeyHasher;
use crate::{Batch, Item, Key, KeyBuf, Lock};
use hashbrown::HashTable;
use std::fmt;

/// What the commit is to do at one key.
pub(super) enum Step<T> {
    Lock(Lock),
    Check(Lock),
    Set(Item<T>),
    Create(Item<T>),
    Delete(KeyBuf),
}

impl<T> Step<T> {
    fn key(&self) -> Key<'_> {
        match self {
            Step::Lock(lock) | Step::Check(lock) => lock.key(),
            Step::Set(item) | Step::Create(item) => item.key(),
            Step::Delete(key) => key.as_key(),
        }
    }

    fn has_key(&self, key: Key<'_>) -> bool {
        let held = match self {
            Step::Lock(lock) | Step::Check(lock) => lock.key_buf(),
            Step::Set(item) | Step::Create(item) => item.key_buf(),
            Step::Delete(key) => key,
        };
        held.has_bytes(key.bytes())
    }
}

/// Steps in the order in which their keys were first named, each key once.
///
/// Few are found by looking at each of them, which costs no allocation and less than a hash.
pub(super) struct Steps<T> {
    steps: Vec<Step<T>>,
    /// All steps by their keys, as soon as there are more than [`FEW`].
    index: Option<Index>,
}

struct Index {
    hasher: KeyHasher,
    places: HashTable<usize>,
}

const FEW: usize = 8;

impl<T> Steps<T> {
    pub(super) fn new() -> Self {
        Steps {
            steps: Vec::new(),
            index: None,
        }
    }

    /// The step at `key`.
    pub(super) fn find(&mut self, key: Key<'_>) -> Option<&mut Step<T>> {
        let Some(Index { hasher, places }) = &self.index else {
            return self.steps.iter_mut().find(|step| step.has_key(key));
        };
        let is_there = |place: &usize| self.steps[*place].has_key(key);
        let place = *places.find(hasher.hash_key(key), is_there)?;
        Some(&mut self.steps[place])
    }

    /// Adds a step at a key that has none.
    pub(super) fn add(&mut self, step: Step<T>) {
        self.steps.push(step);
        if self.steps.len() > FEW {
            self.index_new();
        }
    }

    fn index_new(&mut self) {
        let Index { hasher, places } = self.index.get_or_insert_with(|| Index {
            hasher: KeyHasher::default(),
            places: HashTable::new(),
        });
        for place in places.len()..self.steps.len() {
            let hash = |place: &usize| hasher.hash_key(self.steps[*place].key());
            places.insert_unique(hash(&place), place, hash);
        }
    }

    pub(super) fn into_batch(self) -> Batch<T> {
        let mut batch = Batch::new();
        for step in self.steps {
            match step {
                Step::Lock(lock) => batch.locks.push(lock),
                Step::Check(lock) => batch.checks.push(lock),
                Step::Set(item) => batch.sets.push(item),
                Step::Create(item) => batch.creates.push(item),
                Step::Delete(key) => batch.deletes.push(key),
            }
        }
        batch
    }
}

/// The keys, after what is to be done at each.
impl<T> fmt::Debug for Steps<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |step: &Step<T>| match step {
            Step::Lock(_) => "lock",
            Step::Check(_) => "check",
            Step::Set(_) => "set",
            Step::Create(_) => "create",
            Step::Delete(_) => "delete",
        };
        let steps = self.steps.iter();
        f.debug_list()
            .entries(steps.map(|step| (name(step), step.key())))
            .finish()
    }
}
