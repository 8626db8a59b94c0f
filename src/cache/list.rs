//! The recency list: entries in the order of their last use.

use hashbrown::HashTable;
use std::mem;

/// Entries in the order of their last use, with a hash index.
///
/// The nodes are in one vector and linked by their indices. Removed nodes are chained into a free
/// list and reused. The hash index has only node numbers, because every entry has its own key. Once
/// it has grown, the list allocates nothing.
///
/// The list does not depend on databases, capacities or threads.
#[derive(Debug)]
pub(super) struct LruList<E> {
    nodes: Vec<Node<E>>,
    by_hash: HashTable<u32>,
    /// The most recently used node, or `NIL`.
    head: u32,
    /// The least recently used node, or `NIL`.
    tail: u32,
    /// The first free node, or `NIL`.
    free_head: u32,
}

/// An entry that stores its own key.
pub(super) trait Keyed {
    type Key<'k>: Copy;

    fn has_key(&self, key: Self::Key<'_>) -> bool;
}

#[derive(Debug)]
struct Node<E> {
    hash: u64,
    /// `None` in a free node.
    entry: Option<E>,
    /// The next more recently used node, or `NIL`.
    prev: u32,
    /// The next less recently used node, or `NIL`. In a free node: the next free node, or `NIL`.
    next: u32,
}

/// The null link. It is never the number of a node.
const NIL: u32 = u32::MAX;

/// The largest number of entries in a list.
pub(super) const MAX_ENTRIES: usize = NIL as usize;

impl<E: Keyed> LruList<E> {
    pub(super) fn new() -> Self {
        LruList {
            nodes: Vec::new(),
            by_hash: HashTable::new(),
            head: NIL,
            tail: NIL,
            free_head: NIL,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Returns the entry, and makes it the most recently used one.
    #[inline]
    pub(super) fn touch(&mut self, hash: u64, key: E::Key<'_>) -> Option<&E> {
        let node = self.find(hash, key)?;
        if self.head != node {
            self.unlink(node);
            self.link_head(node);
        }
        self.nodes[node as usize].entry.as_ref()
    }

    /// Returns the entry, and leaves the order as it is.
    pub(super) fn peek(&self, hash: u64, key: E::Key<'_>) -> Option<&E> {
        let node = self.find(hash, key)?;
        self.nodes[node as usize].entry.as_ref()
    }

    /// Adds an entry as the most recently used one. The list must not have an entry of this key, and
    /// must have fewer than [`MAX_ENTRIES`].
    pub(super) fn insert(&mut self, hash: u64, entry: E) {
        let node = match self.nodes.get_mut(self.free_head as usize) {
            Some(node) => {
                node.hash = hash;
                node.entry = Some(entry);
                let next = node.next;
                mem::replace(&mut self.free_head, next)
            }
            None => {
                self.nodes.push(Node {
                    hash,
                    entry: Some(entry),
                    prev: NIL,
                    next: NIL,
                });
                (self.nodes.len() - 1) as u32
            }
        };
        self.link_head(node);
        let nodes = &self.nodes;
        self.by_hash
            .insert_unique(hash, node, |node| nodes[*node as usize].hash);
    }

    /// Returns whether an entry has this hash. Its key may be any.
    pub(super) fn has_hash(&self, hash: u64) -> bool {
        let same_hash = |node: &u32| self.nodes[*node as usize].hash == hash;
        self.by_hash.find(hash, same_hash).is_some()
    }

    /// Removes and returns an entry.
    pub(super) fn remove(&mut self, hash: u64, key: E::Key<'_>) -> Option<E> {
        let nodes = &self.nodes;
        let found = self.by_hash.find_entry(hash, |node| {
            let entry = nodes[*node as usize].entry.as_ref();
            entry.is_some_and(|entry| entry.has_key(key))
        });
        let (node, _) = found.ok()?.remove();
        self.free_node(node)
    }

    /// Removes and returns the least recently used entry.
    pub(super) fn remove_tail(&mut self) -> Option<E> {
        let node = self.tail;
        let hash = self.nodes.get(node as usize)?.hash;
        if let Ok(found) = self.by_hash.find_entry(hash, |other| *other == node) {
            found.remove();
        }
        self.free_node(node)
    }

    #[inline(always)]
    fn find(&self, hash: u64, key: E::Key<'_>) -> Option<u32> {
        // Comparing only hashes keeps the index's probe loop in registers. The key is then compared
        // once, and is nearly always equal.
        let same_hash = |node: &u32| self.nodes[*node as usize].hash == hash;
        let node = *self.by_hash.find(hash, same_hash)?;
        match &self.nodes[node as usize].entry {
            Some(entry) if entry.has_key(key) => Some(node),
            _ => self.find_colliding(hash, key),
        }
    }

    #[cold]
    fn find_colliding(&self, hash: u64, key: E::Key<'_>) -> Option<u32> {
        let found = self.by_hash.find(hash, |node| {
            let entry = self.nodes[*node as usize].entry.as_ref();
            entry.is_some_and(|entry| entry.has_key(key))
        });
        found.copied()
    }

    /// Unlinks a node that is no longer in the index, and adds it to the free list.
    fn free_node(&mut self, node: u32) -> Option<E> {
        self.unlink(node);
        let free = mem::replace(&mut self.free_head, node);
        let freed = &mut self.nodes[node as usize];
        freed.next = free;
        freed.entry.take()
    }

    fn link_head(&mut self, node: u32) {
        let next = mem::replace(&mut self.head, node);
        let linked = &mut self.nodes[node as usize];
        linked.prev = NIL;
        linked.next = next;
        match self.nodes.get_mut(next as usize) {
            Some(next) => next.prev = node,
            None => self.tail = node,
        }
    }

    fn unlink(&mut self, node: u32) {
        let &Node { prev, next, .. } = &self.nodes[node as usize];
        match self.nodes.get_mut(prev as usize) {
            Some(prev) => prev.next = next,
            None => self.head = next,
        }
        match self.nodes.get_mut(next as usize) {
            Some(next) => next.prev = prev,
            None => self.tail = prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    macro_rules! own_keys {
        ($($number:ty),*) => {$(
            impl Keyed for $number {
                type Key<'k> = $number;

                fn has_key(&self, key: $number) -> bool {
                    *self == key
                }
            }
        )*};
    }

    own_keys!(u8, u64);

    impl<E: for<'k> Keyed<Key<'k> = E> + Copy + PartialEq + std::fmt::Debug> LruList<E> {
        /// Checks the links in both directions, the free list and the index. Returns the entries from
        /// the most to the least recently used.
        fn validate(&self) -> Vec<&E> {
            let mut entries = Vec::new();
            let (mut node, mut prev) = (self.head, NIL);
            while let Some(at) = self.nodes.get(node as usize) {
                assert_eq!(at.prev, prev, "node {node} is linked in one direction only");
                let entry = at.entry.as_ref().expect("a linked node has an entry");
                let found = self.find(at.hash, *entry);
                assert_eq!(found, Some(node), "node {node} is not in the index");
                entries.push(entry);
                (node, prev) = (at.next, node);
            }
            assert_eq!(self.tail, prev);
            assert_eq!(self.len(), entries.len());

            let mut free = 0;
            let mut node = self.free_head;
            while let Some(at) = self.nodes.get(node as usize) {
                assert!(at.entry.is_none(), "free node {node} has an entry");
                free += 1;
                node = at.next;
            }
            assert_eq!(
                entries.len() + free,
                self.nodes.len(),
                "a node is neither linked nor free"
            );
            entries
        }
    }

    /// Returns one of only four hashes, so that entries collide.
    fn hash(entry: u8) -> u64 {
        u64::from(entry % 4)
    }

    #[derive(Clone, Debug)]
    enum Op {
        Touch(u8),
        Peek(u8),
        Insert(u8),
        Remove(u8),
        RemoveTail,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let entry = 0..12_u8;
        let op = prop_oneof![
            entry.clone().prop_map(Op::Touch),
            entry.clone().prop_map(Op::Peek),
            entry.clone().prop_map(Op::Insert),
            entry.prop_map(Op::Remove),
            Just(Op::RemoveTail),
        ];
        proptest::collection::vec(op, 0..100)
    }

    proptest! {
        #[test]
        fn a_list_agrees_with_a_vector_of_entries_by_last_use(ops in ops()) {
            let mut list = LruList::new();
            let mut model: Vec<u8> = Vec::new();
            for op in ops {
                match op {
                    Op::Touch(entry) => {
                        let touched = list.touch(hash(entry), entry).copied();
                        let index = model.iter().position(|other| *other == entry);
                        prop_assert_eq!(touched, index.map(|index| model.remove(index)));
                        model.splice(0..0, touched);
                    }
                    Op::Peek(entry) => {
                        let found = list.peek(hash(entry), entry).is_some();
                        prop_assert_eq!(found, model.contains(&entry));
                    }
                    Op::Insert(entry) if !model.contains(&entry) => {
                        list.insert(hash(entry), entry);
                        model.insert(0, entry);
                    }
                    Op::Insert(_) => {}
                    Op::Remove(entry) => {
                        let removed = list.remove(hash(entry), entry);
                        let index = model.iter().position(|other| *other == entry);
                        prop_assert_eq!(removed, index.map(|index| model.remove(index)));
                    }
                    Op::RemoveTail => prop_assert_eq!(list.remove_tail(), model.pop()),
                }
                prop_assert!(list.validate().into_iter().eq(&model));
            }
        }
    }

    #[test]
    fn removed_nodes_are_reused() {
        let mut list = LruList::new();
        (0..1_000_u64).for_each(|entry| {
            list.insert(entry, entry);
            if list.len() > 3 {
                assert_eq!(list.remove_tail(), Some(entry - 3));
            }
        });
        assert_eq!(list.nodes.len(), 4);
        assert_eq!(list.validate(), [&999, &998, &997]);
    }
}
