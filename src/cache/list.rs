//! The recency list: which entry was used least recently.

use hashbrown::HashTable;
use std::mem;

/// Entries in the order of their last use, found by hash.
///
/// Nodes lie in one vector and are linked by their indices, so there is no pointer to get wrong;
/// the places of removed ones are chained into a free list and used again. The hash index holds
/// node numbers, and an entry knows its own key, so nothing is stored twice. Once it has grown, the
/// list allocates nothing.
///
/// It knows nothing of databases, capacities or threads.
#[derive(Debug)]
pub(super) struct List<E> {
    nodes: Vec<Node<E>>,
    by_hash: HashTable<u32>,
    /// The most recently used node, or `NONE`.
    newest: u32,
    /// The least recently used node, or `NONE`.
    oldest: u32,
    /// The first free node, or `NONE`.
    free: u32,
}

/// What an entry is found by, besides its hash.
pub(super) trait Keyed {
    type Key<'k>: Copy;

    fn has_key(&self, key: Self::Key<'_>) -> bool;
}

#[derive(Debug)]
struct Node<E> {
    hash: u64,
    /// `None` in a free node.
    entry: Option<E>,
    /// The node used just after this one, or `NONE`.
    newer: u32,
    /// The node used just before this one, or the next free one, or `NONE`.
    older: u32,
}

/// The number of no node.
const NONE: u32 = u32::MAX;

/// The most entries that a list can number.
pub(super) const MAX_ENTRIES: usize = NONE as usize;

impl<E: Keyed> List<E> {
    pub(super) fn new() -> Self {
        List {
            nodes: Vec::new(),
            by_hash: HashTable::new(),
            newest: NONE,
            oldest: NONE,
            free: NONE,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// The entry, which becomes the most recently used one.
    #[inline]
    pub(super) fn touch(&mut self, hash: u64, key: E::Key<'_>) -> Option<&E> {
        let node = self.find(hash, key)?;
        if self.newest != node {
            self.unlink(node);
            self.link_newest(node);
        }
        self.nodes[node as usize].entry.as_ref()
    }

    /// The entry, which stays where it is in the order.
    pub(super) fn peek(&self, hash: u64, key: E::Key<'_>) -> Option<&E> {
        let node = self.find(hash, key)?;
        self.nodes[node as usize].entry.as_ref()
    }

    /// Adds an entry that is not there yet, as the most recently used one. At most
    /// [`MAX_ENTRIES`] fit.
    pub(super) fn insert(&mut self, hash: u64, entry: E) {
        let node = match self.nodes.get_mut(self.free as usize) {
            Some(node) => {
                node.hash = hash;
                node.entry = Some(entry);
                let next = node.older;
                mem::replace(&mut self.free, next)
            }
            None => {
                self.nodes.push(Node {
                    hash,
                    entry: Some(entry),
                    newer: NONE,
                    older: NONE,
                });
                (self.nodes.len() - 1) as u32
            }
        };
        self.link_newest(node);
        let nodes = &self.nodes;
        self.by_hash
            .insert_unique(hash, node, |node| nodes[*node as usize].hash);
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, hash: u64, key: E::Key<'_>) -> Option<E> {
        let nodes = &self.nodes;
        let found = self.by_hash.find_entry(hash, |node| {
            let entry = nodes[*node as usize].entry.as_ref();
            entry.is_some_and(|entry| entry.has_key(key))
        });
        let (node, _) = found.ok()?.remove();
        self.release(node)
    }

    /// Takes out the least recently used entry.
    pub(super) fn remove_oldest(&mut self) -> Option<E> {
        let node = self.oldest;
        let hash = self.nodes.get(node as usize)?.hash;
        if let Ok(found) = self.by_hash.find_entry(hash, |other| *other == node) {
            found.remove();
        }
        self.release(node)
    }

    #[inline(always)]
    fn find(&self, hash: u64, key: E::Key<'_>) -> Option<u32> {
        // The index's own loop compares nothing but hashes, which keeps it in registers; the key is
        // compared once, and hardly ever in vain.
        let same_hash = |node: &u32| self.nodes[*node as usize].hash == hash;
        let node = *self.by_hash.find(hash, same_hash)?;
        match &self.nodes[node as usize].entry {
            Some(entry) if entry.has_key(key) => Some(node),
            _ => self.find_among_equal_hashes(hash, key),
        }
    }

    #[cold]
    fn find_among_equal_hashes(&self, hash: u64, key: E::Key<'_>) -> Option<u32> {
        let found = self.by_hash.find(hash, |node| {
            let entry = self.nodes[*node as usize].entry.as_ref();
            entry.is_some_and(|entry| entry.has_key(key))
        });
        found.copied()
    }

    /// Unlinks a node, which is no longer in the index, and puts it on the free list.
    fn release(&mut self, node: u32) -> Option<E> {
        self.unlink(node);
        let free = mem::replace(&mut self.free, node);
        let released = &mut self.nodes[node as usize];
        released.older = free;
        released.entry.take()
    }

    fn link_newest(&mut self, node: u32) {
        let before = mem::replace(&mut self.newest, node);
        let linked = &mut self.nodes[node as usize];
        linked.newer = NONE;
        linked.older = before;
        match self.nodes.get_mut(before as usize) {
            Some(before) => before.newer = node,
            None => self.oldest = node,
        }
    }

    fn unlink(&mut self, node: u32) {
        let &Node { newer, older, .. } = &self.nodes[node as usize];
        match self.nodes.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        match self.nodes.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    macro_rules! keyed_by_themselves {
        ($($number:ty),*) => {$(
            impl Keyed for $number {
                type Key<'k> = $number;

                fn has_key(&self, key: $number) -> bool {
                    *self == key
                }
            }
        )*};
    }

    keyed_by_themselves!(u8, u64);

    impl<E: for<'k> Keyed<Key<'k> = E> + Copy + PartialEq + std::fmt::Debug> List<E> {
        /// Walks the links both ways, the free list and the index, and returns the entries from the
        /// newest to the oldest.
        fn validate(&self) -> Vec<&E> {
            let mut entries = Vec::new();
            let (mut node, mut newer) = (self.newest, NONE);
            while let Some(at) = self.nodes.get(node as usize) {
                assert_eq!(at.newer, newer, "node {node} is linked one way only");
                let entry = at.entry.as_ref().expect("a linked node has an entry");
                let found = self.find(at.hash, *entry);
                assert_eq!(found, Some(node), "node {node} is not in the index");
                entries.push(entry);
                (node, newer) = (at.older, node);
            }
            assert_eq!(self.oldest, newer);
            assert_eq!(self.len(), entries.len());

            let mut free = 0;
            let mut node = self.free;
            while let Some(at) = self.nodes.get(node as usize) {
                assert!(at.entry.is_none(), "free node {node} has an entry");
                free += 1;
                node = at.older;
            }
            assert_eq!(entries.len() + free, self.nodes.len(), "a node is lost");
            entries
        }
    }

    /// Few hashes for many entries, so that they collide.
    fn hash(entry: u8) -> u64 {
        u64::from(entry % 4)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Touch(u8),
        Peek(u8),
        Insert(u8),
        Remove(u8),
        RemoveOldest,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let entry = 0..12_u8;
        let step = prop_oneof![
            entry.clone().prop_map(Step::Touch),
            entry.clone().prop_map(Step::Peek),
            entry.clone().prop_map(Step::Insert),
            entry.prop_map(Step::Remove),
            Just(Step::RemoveOldest),
        ];
        proptest::collection::vec(step, 0..100)
    }

    proptest! {
        #[test]
        fn the_list_does_what_a_vector_from_newest_to_oldest_does(steps in steps()) {
            let mut list = List::new();
            let mut model: Vec<u8> = Vec::new();
            for step in steps {
                match step {
                    Step::Touch(entry) => {
                        let touched = list.touch(hash(entry), entry).copied();
                        let place = model.iter().position(|other| *other == entry);
                        prop_assert_eq!(touched, place.map(|place| model.remove(place)));
                        model.splice(0..0, touched);
                    }
                    Step::Peek(entry) => {
                        let there = list.peek(hash(entry), entry).is_some();
                        prop_assert_eq!(there, model.contains(&entry));
                    }
                    Step::Insert(entry) if !model.contains(&entry) => {
                        list.insert(hash(entry), entry);
                        model.insert(0, entry);
                    }
                    Step::Insert(_) => {}
                    Step::Remove(entry) => {
                        let removed = list.remove(hash(entry), entry);
                        let place = model.iter().position(|other| *other == entry);
                        prop_assert_eq!(removed, place.map(|place| model.remove(place)));
                    }
                    Step::RemoveOldest => prop_assert_eq!(list.remove_oldest(), model.pop()),
                }
                prop_assert!(list.validate().into_iter().eq(&model));
            }
        }
    }

    #[test]
    fn removed_nodes_are_used_again() {
        let mut list = List::new();
        (0..1_000_u64).for_each(|entry| {
            list.insert(entry, entry);
            if list.len() > 3 {
                assert_eq!(list.remove_oldest(), Some(entry - 3));
            }
        });
        assert_eq!(list.nodes.len(), 4);
        assert_eq!(list.validate(), [&999, &998, &997]);
    }
}
