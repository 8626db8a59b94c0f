//! The sequence of blocks of a large partition.

use super::block::{BLOCK_CAPACITY, Block, MERGE_THRESHOLD, index_of};
use super::cut::{Cut, IndexedRows, SearchHead, head, search_head, shared_bytes};

/// At least one block, and no block in the sequence is empty.
#[derive(Debug)]
pub(super) struct Blocks {
    /// The number of bytes at the beginning of all sort keys that are known to be equal.
    pub(super) shared: usize,
    /// In the order of their rows.
    pub(super) sequence: Vec<Fence>,
    /// By their numbers.
    pub(super) blocks: Vec<Block>,
    /// The numbers of the blocks that are not in the sequence.
    pub(super) vacant: Vec<u32>,
}

/// A block in the sequence, and an upper bound of its keys' heads: that of the last key, or of a
/// later one that was removed. The heads in later blocks are not less than it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence {
    pub(super) head: u64,
    pub(super) block: u32,
}

/// The number of the block of a small partition.
pub(super) const ONLY_BLOCK: u32 = 0;

/// The neighbours of a shrinking block are looked up once in this many removals, because that takes
/// a search.
pub(super) const MERGE_INTERVAL: usize = MERGE_THRESHOLD / 4;

/// A position between rows: a block, by its place in the sequence, and an index within it. The end of
/// a block and the start of the next one are the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::memory) struct Position {
    pub(super) block: usize,
    pub(super) index: usize,
}

impl Blocks {
    /// Creates a sequence of one block, [`ONLY_BLOCK`], of at least one row.
    pub(super) fn new(block: Vec<u32>, rows: &impl IndexedRows) -> Self {
        let block = Block::new(block, rows);
        let mut blocks = Blocks {
            shared: block.shared,
            sequence: vec![Fence {
                head: 0,
                block: ONLY_BLOCK,
            }],
            blocks: vec![block],
            vacant: Vec::new(),
        };
        blocks.update_fences(rows);
        blocks
    }

    /// Returns the block at this place in the sequence.
    pub(super) fn get(&self, place: usize) -> Option<&Block> {
        let fence = self.sequence.get(place)?;
        self.blocks.get(fence.block as usize)
    }

    /// Returns the rows of the block at this place in the sequence, or no rows if there is none.
    pub(super) fn at(&self, place: usize) -> &[u32] {
        self.get(place).map_or(&[], |block| &block.rows)
    }

    /// Sets every fence to the head of the last key of its block.
    fn update_fences(&mut self, rows: &impl IndexedRows) {
        for place in 0..self.sequence.len() {
            self.update_fence(place, rows);
        }
    }

    fn update_fence(&mut self, place: usize, rows: &impl IndexedRows) {
        if let Some(last) = self.at(place).last() {
            self.sequence[place].head = head(rows.sk(*last), self.shared);
        }
    }

    /// Returns the place of the block in which `cut` is: the first one with a key that is not less, or
    /// the end. It may also be the block before, if that has lost its last keys.
    pub(super) fn place(&self, cut: Cut<'_>, rows: &impl IndexedRows) -> usize {
        let first = self.at(0).first().map_or(&[][..], |first| rows.sk(*first));
        let (head, mask) = match search_head(cut, first, self.shared) {
            SearchHead::BeforeAll => return 0,
            SearchHead::AfterAll => return self.sequence.len(),
            SearchHead::Within { head, mask } => (head, mask),
        };
        self.sequence.partition_point(|fence| {
            let fence_head = fence.head & mask;
            if fence_head != head {
                return fence_head < head;
            }
            let last = self.blocks[fence.block as usize].rows.last();
            last.is_some_and(|last| cut.is_after(rows.sk(*last)))
        })
    }

    /// Inserts `row` at `position`, after splitting the block if it is full. Sequential inserts leave
    /// full blocks; other inserts split a block in half.
    pub(super) fn insert(&mut self, mut position: Position, row: u32, rows: &mut impl IndexedRows) {
        let sk = rows.sk(row);
        if let Some(first) = self.at(0).first() {
            let first = rows.sk(*first);
            let beginning = first.get(..self.shared).unwrap_or_default();
            if !sk.starts_with(beginning) {
                self.shared = shared_bytes(first, sk);
                self.update_fences(rows);
            }
        }
        if self.at(position.block).len() == BLOCK_CAPACITY {
            let at_end =
                position.index == BLOCK_CAPACITY && position.block + 1 == self.sequence.len();
            let split = if at_end {
                BLOCK_CAPACITY
            } else {
                BLOCK_CAPACITY / 2
            };
            self.split(position.block, split, rows);
            if position.index > split || at_end {
                position.block += 1;
                position.index -= split;
            }
        }
        let head = head(rows.sk(row), self.shared);
        let fence = &mut self.sequence[position.block];
        fence.head = fence.head.max(head);
        self.blocks[fence.block as usize].insert(position.index, row, rows);
        rows.set_block(row, fence.block);
    }

    /// Moves the rows from `index` on to a new block after the one at `place`.
    fn split(&mut self, place: usize, index: usize, rows: &mut impl IndexedRows) {
        let lower = &mut self.blocks[self.sequence[place].block as usize];
        let upper = lower.split_off(index, rows);
        let number = self.vacant.pop().unwrap_or_else(|| {
            self.blocks.push(Block::default());
            (self.blocks.len() - 1) as u32
        });
        upper
            .rows
            .iter()
            .for_each(|row| rows.set_block(*row, number));
        self.blocks[number as usize] = upper;
        let fence = Fence {
            block: number,
            ..self.sequence[place]
        };
        self.sequence.insert(place + 1, fence);
        self.update_fence(place, rows);
    }

    pub(super) fn remove(&mut self, row: u32, number: u32, rows: &mut impl IndexedRows) -> bool {
        let Some(block) = self.blocks.get_mut(number as usize) else {
            return false;
        };
        let Some(index) = index_of(&block.rows, row) else {
            return false;
        };
        block.remove(index);
        let len = block.rows.len();
        if len <= MERGE_THRESHOLD && len % MERGE_INTERVAL == 0 {
            // The block is found by a key that is in it, or was until now.
            let inside = block.rows.first().copied().unwrap_or(row);
            let place = self.place(Cut::Before(rows.sk(inside)), rows);
            let found = self.sequence.get(place).map(|fence| fence.block);
            if found == Some(number) {
                self.merge_with_neighbour(place, rows);
            }
        }
        true
    }

    /// Merges the block at this place with a neighbour if the two have become small, so that
    /// insertions and removals do not leave many nearly empty blocks. An empty block always has a
    /// neighbour, because the last block becomes a small partition's before it is empty.
    pub(super) fn merge_with_neighbour(&mut self, place: usize, rows: &mut impl IndexedRows) {
        let small = |left: usize| {
            let both = self.at(left).len() + self.at(left + 1).len();
            left + 1 < self.sequence.len() && both <= MERGE_THRESHOLD
        };
        let left = match place.checked_sub(1) {
            Some(before) if small(before) => before,
            _ if small(place) => place,
            // The block is empty, and its neighbours are too large to merge with.
            _ if self.at(place).is_empty() => {
                self.vacate(place);
                return;
            }
            _ => return,
        };
        let upper = self.sequence[left + 1].head;
        let right = self.vacate(left + 1);
        let fence = &mut self.sequence[left];
        fence.head = upper;
        right
            .iter()
            .for_each(|row| rows.set_block(*row, fence.block));
        let block = &mut self.blocks[fence.block as usize];
        block.rows.extend(right);
        block.set_shared(block.shared_bytes(rows), rows);
    }

    /// Removes the block at this place from the sequence, and returns its rows.
    fn vacate(&mut self, place: usize) -> Vec<u32> {
        let number = self.sequence.remove(place).block;
        self.vacant.push(number);
        std::mem::take(&mut self.blocks[number as usize]).rows
    }
}
