//! The rows of one partition in sort-key order.

use smallvec::SmallVec;
use std::cmp::Ordering;
use std::iter;

/// The rows that the index of a partition refers to.
pub(super) trait IndexedRows {
    /// Returns the sort key of a row in the index.
    fn sk(&self, row: u32) -> &[u8];

    /// Stores the block of a row, which [`SortedRows::remove`] is passed.
    fn set_block(&mut self, row: u32, block: u32);
}

/// A place between sort keys.
#[derive(Clone, Copy)]
pub(super) enum Cut<'a> {
    /// Before this key.
    Before(&'a [u8]),
    /// After this key.
    After(&'a [u8]),
    /// After all keys with this prefix.
    AfterPrefix(&'a [u8]),
}

impl<'a> Cut<'a> {
    fn key(self) -> &'a [u8] {
        match self {
            Cut::Before(key) | Cut::After(key) | Cut::AfterPrefix(key) => key,
        }
    }

    /// Returns whether `sk` is less than this cut.
    fn is_after(self, sk: &[u8]) -> bool {
        match self {
            Cut::Before(key) => sk < key,
            Cut::After(key) => sk <= key,
            // Truncated to the prefix's length, a sort key that begins with the prefix is equal to it.
            // So no upper bound has to be computed from the prefix.
            Cut::AfterPrefix(prefix) => sk.get(..prefix.len()).unwrap_or(sk) <= prefix,
        }
    }
}

/// The numbers of a partition's rows, sorted by their sort keys.
///
/// A partition begins as one small vector, which is inline while it has at most four rows. A large
/// partition is a sequence of blocks of at most [`BLOCK_CAPACITY`] rows. A search is a binary search
/// over the blocks and one within a block. An insertion moves at most one block's row numbers.
///
/// A binary search that reads the key of a row at each step would wait for memory most of the time.
/// So the sequence and the blocks have the [heads](head) of the keys themselves, and only keys with
/// equal heads are read. A removal compares no keys: each row knows its block, in which its number is
/// found.
#[derive(Debug)]
pub(super) struct SortedRows(Repr);

#[derive(Debug)]
enum Repr {
    /// The block number [`ONLY_BLOCK`].
    OneBlock(SmallVec<[u32; 4]>),
    /// Boxed, because most partitions are small and this enum is stored for each.
    Blocks(Box<Blocks>),
}

/// At least one block, and no block in the sequence is empty.
#[derive(Debug)]
struct Blocks {
    /// The number of bytes at the beginning of all sort keys that are known to be equal.
    shared: usize,
    /// In the order of their rows.
    sequence: Vec<Fence>,
    /// By their numbers.
    blocks: Vec<Block>,
    /// The numbers of the blocks that are not in the sequence.
    vacant: Vec<u32>,
}

/// Some rows in the order of their keys.
#[derive(Debug, Default)]
struct Block {
    /// The number of bytes at the beginning of all keys that are known to be equal.
    shared: usize,
    /// The upper halves of the heads of all keys.
    heads: Vec<u32>,
    rows: Vec<u32>,
}

/// A block in the sequence, and an upper bound of its keys' heads: that of the last key, or of a
/// later one that was removed. The heads in later blocks are not less than it.
#[derive(Clone, Copy, Debug)]
struct Fence {
    head: u64,
    block: u32,
}

/// The number of the block of a small partition.
const ONLY_BLOCK: u32 = 0;

/// 1 KiB of row numbers. An insertion moves half of them on average. A million rows then have some
/// 6,000 blocks.
const BLOCK_CAPACITY: usize = 256;

/// Two neighbouring blocks that together have at most this many rows become one block.
const MERGE_THRESHOLD: usize = BLOCK_CAPACITY / 2;

/// The neighbours of a shrinking block are looked up once in this many removals, because that takes
/// a search in the sequence.
const MERGE_INTERVAL: usize = MERGE_THRESHOLD / 4;

/// A position between rows: a block, by its place in the sequence, and an index within it. The end of
/// a block and the start of the next one are the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    block: usize,
    index: usize,
}

impl SortedRows {
    /// Creates the index of a partition with one row, whose stored block must be zero.
    pub(super) fn new(row: u32) -> Self {
        SortedRows(Repr::OneBlock(iter::once(row).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.block(0).is_empty()
    }

    /// Returns the first row, if there is one.
    pub(super) fn first(&self) -> Option<u32> {
        self.block(0).first().copied()
    }

    fn block_count(&self) -> usize {
        match &self.0 {
            Repr::OneBlock(_) => 1,
            Repr::Blocks(blocks) => blocks.sequence.len(),
        }
    }

    /// Returns the rows of the block at this place in the sequence, or no rows if there is none.
    fn block(&self, place: usize) -> &[u32] {
        match &self.0 {
            Repr::OneBlock(rows) if place == 0 => rows,
            Repr::OneBlock(_) => &[],
            Repr::Blocks(blocks) => blocks.at(place),
        }
    }

    /// Returns the position of `cut`.
    pub(super) fn position(&self, cut: Cut<'_>, rows: &impl IndexedRows) -> Position {
        let block = match &self.0 {
            Repr::OneBlock(_) => 0,
            Repr::Blocks(blocks) => blocks.place(cut, rows),
        };
        let index = match &self.0 {
            Repr::OneBlock(block) => block.partition_point(|row| cut.is_after(rows.sk(*row))),
            Repr::Blocks(blocks) => blocks.get(block).map_or(0, |block| block.index(cut, rows)),
        };
        Position { block, index }
    }

    /// Returns what [`position`](SortedRows::position) returns, which must not be before `from`.
    /// Cheaper if it is in the same block, as the end of a short range often is.
    pub(super) fn position_from(
        &self,
        from: Position,
        cut: Cut<'_>,
        rows: &impl IndexedRows,
    ) -> Position {
        let is_less = |row: &u32| cut.is_after(rows.sk(*row));
        let is_here = self
            .block(from.block)
            .last()
            .is_some_and(|last| !is_less(last));
        match &self.0 {
            Repr::Blocks(blocks) if is_here => Position {
                index: blocks
                    .get(from.block)
                    .map_or(0, |block| block.index(cut, rows)),
                ..from
            },
            _ => self.position(cut, rows),
        }
    }

    pub(super) fn start(&self) -> Position {
        Position { block: 0, index: 0 }
    }

    pub(super) fn end(&self) -> Position {
        let block = self.block_count();
        Position { block, index: 0 }
    }

    /// Inserts `row`, whose key must differ from that of every other row. Stores the block of this and
    /// of every moved row.
    pub(super) fn insert(&mut self, row: u32, rows: &mut impl IndexedRows) {
        let last = self.block_count() - 1;
        let block = self.block(last);
        let sk = rows.sk(row);
        // Keys often arrive in order, and then no search is needed.
        let position = if block.last().is_some_and(|last| rows.sk(*last) < sk) {
            Position {
                block: last,
                index: block.len(),
            }
        } else {
            self.position(Cut::Before(sk), rows)
        };
        match &mut self.0 {
            Repr::OneBlock(block) if block.len() < BLOCK_CAPACITY => {
                block.insert(position.index, row);
                rows.set_block(row, ONLY_BLOCK);
            }
            Repr::OneBlock(block) => {
                let mut blocks = Box::new(Blocks::new(std::mem::take(block).into_vec(), rows));
                blocks.insert(position, row, rows);
                self.0 = Repr::Blocks(blocks);
            }
            Repr::Blocks(blocks) => blocks.insert(position, row, rows),
        }
    }

    /// Removes `row`, which is in this block, and returns whether it was there. Stores the block of
    /// every moved row.
    pub(super) fn remove(&mut self, row: u32, block: u32, rows: &mut impl IndexedRows) -> bool {
        match &mut self.0 {
            Repr::OneBlock(block) => match index_of(block, row) {
                Some(index) => {
                    block.remove(index);
                    true
                }
                None => false,
            },
            Repr::Blocks(blocks) => {
                let was_there = blocks.remove(row, block, rows);
                if let [last] = *blocks.sequence {
                    let block = &mut blocks.blocks[last.block as usize].rows;
                    if block.len() <= MERGE_THRESHOLD {
                        block
                            .iter()
                            .for_each(|row| rows.set_block(*row, ONLY_BLOCK));
                        self.0 = Repr::OneBlock(SmallVec::from_vec(std::mem::take(block)));
                    }
                }
                was_there
            }
        }
    }

    /// Returns the number of rows between two positions.
    pub(super) fn count(&self, from: Position, to: Position) -> usize {
        self.slices(from, to).map(<[u32]>::len).sum()
    }

    /// Returns the rows between two positions, in order, block by block.
    pub(super) fn slices(
        &self,
        from: Position,
        to: Position,
    ) -> impl DoubleEndedIterator<Item = &[u32]> {
        // Inverted bounds yield an empty range: a prefix and an `after` may not overlap.
        let to = to.max(from);
        (from.block..to.block + 1).map(move |place| {
            let rows = self.block(place);
            let start = if place == from.block { from.index } else { 0 };
            let end = if place == to.block {
                to.index
            } else {
                rows.len()
            };
            &rows[start..end]
        })
    }
}

impl Block {
    fn new(block: Vec<u32>, rows: &impl IndexedRows) -> Self {
        let mut block = Block {
            shared: 0,
            heads: Vec::with_capacity(BLOCK_CAPACITY),
            rows: block,
        };
        block.set_shared(block.shared_bytes(rows), rows);
        block
    }

    /// Returns how many bytes all keys share: those that the first and the last one share.
    fn shared_bytes(&self, rows: &impl IndexedRows) -> usize {
        let ends = self.rows.first().zip(self.rows.last());
        ends.map_or(0, |(first, last)| {
            shared_bytes(rows.sk(*first), rows.sk(*last))
        })
    }

    fn set_shared(&mut self, shared: usize, rows: &impl IndexedRows) {
        self.shared = shared;
        let heads = self
            .rows
            .iter()
            .map(|row| upper_half(head(rows.sk(*row), shared)));
        self.heads.clear();
        self.heads.extend(heads);
    }

    /// Returns the number of rows before `cut`.
    fn index(&self, cut: Cut<'_>, rows: &impl IndexedRows) -> usize {
        let first = self.rows.first().map_or(&[][..], |first| rows.sk(*first));
        let (head, mask) = match search_head(cut, first, self.shared) {
            SearchHead::BeforeAll => return 0,
            SearchHead::AfterAll => return self.rows.len(),
            SearchHead::Within { head, mask } => (upper_half(head), upper_half(mask)),
        };
        let less = self.heads.partition_point(|other| other & mask < head);
        let equal = self.heads[less..].partition_point(|other| other & mask == head);
        let undecided = &self.rows[less..less + equal];
        less + undecided.partition_point(|row| cut.is_after(rows.sk(*row)))
    }

    fn insert(&mut self, index: usize, row: u32, rows: &impl IndexedRows) {
        let sk = rows.sk(row);
        let shared = match self.rows.first() {
            Some(first) => shared_bytes(rows.sk(*first), sk).min(self.shared),
            None => sk.len(),
        };
        if shared != self.shared {
            self.set_shared(shared, rows);
        }
        self.heads.insert(index, upper_half(head(sk, shared)));
        self.rows.insert(index, row);
    }

    fn remove(&mut self, index: usize) {
        self.heads.remove(index);
        self.rows.remove(index);
    }

    /// Moves the rows from `index` on to a new block.
    fn split_off(&mut self, index: usize, rows: &impl IndexedRows) -> Self {
        let mut upper = Block {
            shared: self.shared,
            heads: Vec::with_capacity(BLOCK_CAPACITY),
            rows: Vec::with_capacity(BLOCK_CAPACITY),
        };
        upper.heads.extend(self.heads.drain(index..));
        upper.rows.extend(self.rows.drain(index..));
        for half in [self, &mut upper] {
            // Half of the keys may share more.
            let shared = half.shared_bytes(rows);
            if shared > half.shared {
                half.set_shared(shared, rows);
            }
        }
        upper
    }
}

impl Blocks {
    /// Creates a sequence of one block, [`ONLY_BLOCK`], of at least one row.
    fn new(block: Vec<u32>, rows: &impl IndexedRows) -> Self {
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
    fn get(&self, place: usize) -> Option<&Block> {
        let fence = self.sequence.get(place)?;
        self.blocks.get(fence.block as usize)
    }

    /// Returns the rows of the block at this place in the sequence, or no rows if there is none.
    fn at(&self, place: usize) -> &[u32] {
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
    fn place(&self, cut: Cut<'_>, rows: &impl IndexedRows) -> usize {
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
    fn insert(&mut self, mut position: Position, row: u32, rows: &mut impl IndexedRows) {
        let sk = rows.sk(row);
        if let Some(first) = self.at(0).first() {
            let shared = shared_bytes(rows.sk(*first), sk);
            if shared < self.shared {
                self.shared = shared;
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

    fn remove(&mut self, row: u32, number: u32, rows: &mut impl IndexedRows) -> bool {
        let Some(block) = self.blocks.get_mut(number as usize) else {
            return false;
        };
        let Some(index) = index_of(&block.rows, row) else {
            return false;
        };
        block.remove(index);
        let len = block.rows.len();
        if len <= MERGE_THRESHOLD && len % MERGE_INTERVAL == 0 {
            let place = self.sequence.iter().position(|fence| fence.block == number);
            if let Some(place) = place {
                self.merge_with_neighbour(place, rows);
            }
        }
        true
    }

    /// Merges the block at this place with a neighbour if the two have become small, so that
    /// insertions and removals do not leave many nearly empty blocks. An empty block always has a
    /// neighbour, because the last block becomes [`Repr::OneBlock`] before it is empty.
    fn merge_with_neighbour(&mut self, place: usize, rows: &mut impl IndexedRows) {
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

/// Returns the first eight bytes of `sk` after the `shared` ones, as a number in the order of the keys.
/// Keys with equal heads may differ.
fn head(sk: &[u8], shared: usize) -> u64 {
    let rest = sk.get(shared..).unwrap_or_default();
    let bytes = rest.first_chunk::<8>().copied().unwrap_or_else(|| {
        let mut padded = [0; 8];
        padded[..rest.len()].copy_from_slice(rest);
        padded
    });
    u64::from_be_bytes(bytes)
}

fn upper_half(head: u64) -> u32 {
    (head >> 32) as u32
}

/// Where a cut is among keys that share their first bytes.
enum SearchHead {
    BeforeAll,
    AfterAll,
    /// Keys whose head, masked, is less than `head` are less than the cut, and those whose head is
    /// greater are not.
    Within {
        head: u64,
        mask: u64,
    },
}

/// Compares `cut` with keys that share their first `shared` bytes, of which `first` is one.
fn search_head(cut: Cut<'_>, first: &[u8], shared: usize) -> SearchHead {
    let key = cut.key();
    let beginning = first.get(..shared).unwrap_or_default();
    let both = beginning.len().min(key.len());
    match key[..both].cmp(&beginning[..both]) {
        Ordering::Less => SearchHead::BeforeAll,
        Ordering::Greater => SearchHead::AfterAll,
        Ordering::Equal => {
            // Of a prefix, only its own bytes are compared.
            let mask = match cut {
                Cut::Before(_) | Cut::After(_) => u64::MAX,
                Cut::AfterPrefix(prefix) => {
                    let bytes = prefix.len().saturating_sub(shared).min(8) as u32;
                    u64::MAX.checked_shl(64 - 8 * bytes).unwrap_or(0)
                }
            };
            let head = head(key, shared);
            SearchHead::Within { head, mask }
        }
    }
}

/// Returns the number of bytes at the beginning of both slices that are equal.
fn shared_bytes(one: &[u8], other: &[u8]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

/// Returns the index of `wanted`. Comparing all numbers of a chunk before the first branch lets the
/// compiler compare several at once.
fn index_of(numbers: &[u32], wanted: u32) -> Option<usize> {
    const CHUNK: usize = 16;
    let mut chunks = numbers.chunks_exact(CHUNK);
    let is_in = |chunk: &[u32]| {
        let each = chunk.iter().map(|number| u32::from(*number == wanted));
        each.sum::<u32>() != 0
    };
    let skipped = chunks.position(is_in).unwrap_or(numbers.len() / CHUNK) * CHUNK;
    let rest = numbers[skipped..].iter();
    let index = rest.take(CHUNK).position(|number| *number == wanted)?;
    Some(skipped + index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    impl SortedRows {
        pub(crate) fn range(
            &self,
            from: Position,
            to: Position,
        ) -> impl DoubleEndedIterator<Item = u32> {
            self.slices(from, to).flatten().copied()
        }

        /// Returns each row with the number of its block.
        pub(crate) fn with_blocks(&self) -> Vec<(u32, u32)> {
            match &self.0 {
                Repr::OneBlock(rows) => rows.iter().map(|row| (*row, ONLY_BLOCK)).collect(),
                Repr::Blocks(blocks) => {
                    let numbers = blocks.sequence.iter().map(|fence| fence.block);
                    let rows = |number| &blocks.blocks[number as usize].rows;
                    numbers
                        .flat_map(|number| rows(number).iter().map(move |row| (*row, number)))
                        .collect()
                }
            }
        }

        /// Checks the invariants, and returns the rows.
        pub(crate) fn validate(&self, keys: &impl IndexedRows) -> Vec<u32> {
            for place in 0..self.block_count() {
                let rows = self.block(place);
                assert!(rows.len() <= BLOCK_CAPACITY, "block {place} is too large");
                assert!(
                    !rows.is_empty() || self.block_count() == 1,
                    "block {place} is empty"
                );
            }
            assert!(
                self.block(self.block_count()).is_empty(),
                "there is a block after the last one"
            );
            if let Repr::Blocks(blocks) = &self.0 {
                blocks.validate(keys);
            }
            let rows: Vec<u32> = self.range(self.start(), self.end()).collect();
            assert!(
                rows.is_sorted_by(|a, b| keys.sk(*a) < keys.sk(*b)),
                "out of order"
            );
            assert_eq!(rows.len(), self.count(self.start(), self.end()));
            rows
        }
    }

    impl Blocks {
        fn validate(&self, keys: &impl IndexedRows) {
            let is_small = self.sequence.len() == 1 && self.at(0).len() <= MERGE_THRESHOLD;
            assert!(!is_small, "a few rows have a sequence of blocks");
            let numbers = self.sequence.iter().map(|fence| fence.block);
            let numbers: BTreeSet<u32> = numbers.chain(self.vacant.iter().copied()).collect();
            assert!(numbers.into_iter().eq(0..self.blocks.len() as u32));
            let shared = &keys.sk(self.at(0)[0])[..self.shared];
            for (place, fence) in self.sequence.iter().enumerate() {
                let block = self.get(place).unwrap();
                let shared_in_block = &keys.sk(block.rows[0])[..block.shared];
                assert_eq!(block.heads.len(), block.rows.len());
                for (row, half) in block.rows.iter().zip(&block.heads) {
                    let sk = keys.sk(*row);
                    assert!(sk.starts_with(shared), "not shared by row {row}");
                    assert!(sk.starts_with(shared_in_block), "not shared by row {row}");
                    assert_eq!(*half, upper_half(head(sk, block.shared)));
                    let head = head(sk, self.shared);
                    assert!(head <= fence.head, "row {row} is beyond its fence");
                    let before = place
                        .checked_sub(1)
                        .map(|before| self.sequence[before].head);
                    assert!(before.is_none_or(|before| before <= head));
                }
            }
        }
    }

    /// Sorted rows with keys that are made from their numbers.
    struct Fixture {
        rows: SortedRows,
        keys: Keys,
    }

    struct Keys {
        sks: Vec<Vec<u8>>,
        blocks: Vec<u32>,
    }

    impl IndexedRows for Keys {
        fn sk(&self, row: u32) -> &[u8] {
            &self.sks[row as usize]
        }

        fn set_block(&mut self, row: u32, block: u32) {
            self.blocks[row as usize] = block;
        }
    }

    impl Fixture {
        /// Creates an index with row `first` of `count` rows that can be inserted.
        fn new(first: u32, count: u32, sk: impl Fn(u32) -> Vec<u8>) -> Self {
            Fixture {
                rows: SortedRows::new(first),
                keys: Keys {
                    sks: (0..count).map(sk).collect(),
                    blocks: vec![0; count as usize],
                },
            }
        }

        fn insert(&mut self, row: u32) {
            self.rows.insert(row, &mut self.keys);
        }

        fn remove(&mut self, row: u32) -> bool {
            let block = self.keys.blocks[row as usize];
            let removed = self.rows.remove(row, block, &mut self.keys);
            self.keys.blocks[row as usize] = 0;
            removed
        }

        fn validate(&self) -> Vec<u32> {
            for (row, block) in self.rows.with_blocks() {
                let stored = self.keys.blocks[row as usize];
                assert_eq!(stored, block, "the block of row {row}");
            }
            self.rows.validate(&self.keys)
        }

        /// Returns the number of rows before `cut`.
        fn count_before(&self, cut: Cut<'_>) -> usize {
            let position = self.rows.position(cut, &self.keys);
            let (start, end) = (self.rows.start(), self.rows.end());
            let (before, after) = (
                self.rows.count(start, position),
                self.rows.count(position, end),
            );
            assert_eq!(before + after, self.rows.count(start, end));
            let from_start = self.rows.position_from(start, cut, &self.keys);
            assert_eq!(self.rows.count(start, from_start), before);
            before
        }
    }

    /// In the order of the numbers.
    fn in_order(row: u32) -> Vec<u8> {
        format!("item#{row:07}").into_bytes()
    }

    /// Returns the numbers below `count`, a power of two, in a scattered order.
    fn scrambled(count: u32) -> impl Iterator<Item = u32> {
        // 40,503 is odd, so its multiples visit all numbers below a power of two.
        (0..count).map(move |step| step.wrapping_mul(40_503) % count)
    }

    #[test]
    fn rows_inserted_in_any_order_come_out_sorted() {
        for arrivals in [
            (0..8_192).collect::<Vec<u32>>(),
            (0..8_192).rev().collect(),
            scrambled(8_192).collect(),
        ] {
            let mut rows = Fixture::new(arrivals[0], 8_192, in_order);
            for (count, row) in (1..).zip(&arrivals[1..]) {
                assert!(count > 2 * BLOCK_CAPACITY || rows.validate().len() == count);
                rows.insert(*row);
            }
            assert!(rows.validate().into_iter().eq(0..8_192));
        }
    }

    #[test]
    fn rows_that_arrive_in_order_fill_their_blocks() {
        let count = 10 * BLOCK_CAPACITY as u32;
        let mut rows = Fixture::new(0, count, in_order);
        (1..count).for_each(|row| rows.insert(row));
        assert_eq!(rows.rows.block_count(), 10);
    }

    #[test]
    fn removing_rows_leaves_the_others_and_few_blocks() {
        let mut rows = Fixture::new(0, 16_384, in_order);
        (1..16_384).for_each(|row| rows.insert(row));
        let mut left: BTreeSet<u32> = (0..16_384).collect();
        for row in scrambled(16_384) {
            assert!(rows.remove(row));
            assert!(!rows.remove(row), "{row} was there twice");
            left.remove(&row);
            if left.len() % 1_000 == 0 || left.len() < BLOCK_CAPACITY {
                assert!(rows.validate().into_iter().eq(left.iter().copied()));
                // Two neighbours have more rows than three intervals.
                let most = left.len() / (3 * MERGE_INTERVAL / 2) + 1;
                let blocks = rows.rows.block_count();
                assert!(blocks <= most, "{blocks} blocks for {}", left.len());
            }
        }
        assert!(rows.rows.is_empty());
        assert_eq!(rows.rows.first(), None);
    }

    /// Keys whose heads are all different, or mostly equal, or that share fewer bytes the more of them
    /// there are, or that differ in length only.
    #[test]
    fn positions_agree_with_an_ordered_set_whatever_the_keys_share() {
        const COUNT: u32 = 2_048;
        let families: [fn(u32) -> Vec<u8>; 6] = [
            |row| row.wrapping_mul(2_654_435_761).to_be_bytes().to_vec(),
            |row| format!("shared/{}/long/tail/{:04}", row % 3, row).into_bytes(),
            |row| format!("a long beginning of all keys {row:06}").into_bytes(),
            |row| vec![0; row as usize],
            |row| [vec![7; row as usize % 40], row.to_le_bytes().to_vec()].concat(),
            |row| match row % 64 {
                63 => row.to_be_bytes().to_vec(),
                _ => format!("most keys begin so {row}").into_bytes(),
            },
        ];
        for (family, sk) in families.into_iter().enumerate() {
            let arrivals: Vec<u32> = scrambled(COUNT).collect();
            let mut rows = Fixture::new(arrivals[0], COUNT, sk);
            let mut model = BTreeSet::from([sk(arrivals[0])]);
            // All are inserted, then most removed, then all inserted again.
            let removed = arrivals.iter().skip(1).filter(|row| *row % 16 != 5);
            let steps = arrivals[1..].iter().map(|row| (*row, true));
            let steps = steps.chain(removed.clone().map(|row| (*row, false)));
            let steps = steps.chain(removed.rev().map(|row| (*row, true)));
            for (step, (row, inserts)) in steps.enumerate() {
                if inserts {
                    rows.insert(row);
                    assert!(model.insert(sk(row)));
                } else {
                    assert!(rows.remove(row));
                    assert!(model.remove(&sk(row)));
                }
                let probe = sk(scrambled(COUNT).nth(step % COUNT as usize / 2).unwrap_or(0));
                let prefix = &probe[..probe.len() * (step % 5) / 4];
                let count = |is_before: &dyn Fn(&[u8]) -> bool| {
                    model.iter().filter(|sk| is_before(sk)).count()
                };
                if step % 7 == 0 {
                    let before = count(&|sk| sk < &probe);
                    assert_eq!(rows.count_before(Cut::Before(&probe)), before, "{family}");
                    let through = count(&|sk| sk <= &probe);
                    assert_eq!(rows.count_before(Cut::After(&probe)), through, "{family}");
                    let begin = count(&|sk| sk < prefix || sk.starts_with(prefix));
                    let cut = Cut::AfterPrefix(prefix);
                    assert_eq!(rows.count_before(cut), begin, "{family}: {prefix:?}");
                }
                if step % 500 == 0 {
                    rows.validate();
                }
            }
            let rows = rows.validate();
            assert!(rows.into_iter().map(sk).eq(model), "{family}");
        }
    }

    #[test]
    fn a_partition_that_grows_and_shrinks_again_and_again_keeps_the_blocks_of_its_rows() {
        let mut rows = Fixture::new(0, 4_096, in_order);
        let others = || scrambled(4_096).filter(|row| *row > 0);
        for round in 0..4 {
            others().for_each(|row| rows.insert(row));
            assert_eq!(rows.validate().len(), 4_096, "round {round}");
            for row in others() {
                assert!(rows.remove(row), "round {round}");
            }
            assert_eq!(rows.validate(), [0]);
        }
    }

    #[test]
    fn a_small_partition_takes_32_bytes() {
        assert!(size_of::<SortedRows>() <= 32);
    }

    #[test]
    fn a_number_is_found_at_any_index_of_a_list_of_any_length() {
        for length in 0..70_u32 {
            let numbers: Vec<u32> = (0..length).map(|number| 3 * number).collect();
            for wanted in 0..=3 * length {
                let expected = numbers.iter().position(|number| *number == wanted);
                assert_eq!(index_of(&numbers, wanted), expected);
            }
        }
    }

    #[test]
    fn a_small_block_merges_with_a_small_neighbour_and_an_empty_one_is_removed() {
        const LIMIT: usize = MERGE_THRESHOLD;
        let blocks = |lengths: &[usize]| Blocks {
            shared: 0,
            sequence: (0..lengths.len() as u32)
                .map(|block| Fence { head: 0, block })
                .collect(),
            blocks: lengths
                .iter()
                .map(|length| Block {
                    shared: 0,
                    heads: vec![0; *length],
                    rows: vec![0; *length],
                })
                .collect(),
            vacant: Vec::new(),
        };
        let lengths = |blocks: &Blocks| -> Vec<usize> {
            let places = 0..blocks.sequence.len();
            places.map(|place| blocks.at(place).len()).collect()
        };
        let mut keys = Fixture::new(0, 1, in_order).keys;
        for (before, after) in [
            ([LIMIT - 1, 1, LIMIT - 1], &[LIMIT, LIMIT - 1] as &[usize]),
            ([LIMIT, 1, LIMIT - 1], &[LIMIT, LIMIT]),
            ([LIMIT, 1, LIMIT], &[LIMIT, 1, LIMIT]),
            ([LIMIT + 1, 0, LIMIT + 1], &[LIMIT + 1, LIMIT + 1]),
        ] {
            let mut merged = blocks(&before);
            merged.merge_with_neighbour(1, &mut keys);
            assert_eq!(lengths(&merged), after, "of {before:?}");
        }
        let mut at_the_end = blocks(&[1, LIMIT - 1]);
        at_the_end.merge_with_neighbour(1, &mut keys);
        assert_eq!(lengths(&at_the_end), [LIMIT]);
    }

    #[test]
    fn a_range_lies_between_its_positions_in_either_direction() {
        let mut rows = Fixture::new(0, 6_000, in_order);
        (1..3_000).for_each(|row| rows.insert(2 * row));
        for (from, to) in [
            (0, 5_999),
            (1, 1_025),
            (1_023, 1_024),
            (5_997, 5_999),
            (700, 300),
        ] {
            let position = |bound: u32| {
                let sk = in_order(bound);
                rows.rows.position(Cut::Before(&sk), &rows.keys)
            };
            let (first, last) = (position(from), position(to));
            let range: Vec<u32> = rows.rows.range(first, last).collect();
            let expected: Vec<u32> = (from..to).filter(|row| row % 2 == 0).collect();
            assert_eq!(range, expected, "{from}..{to}");
            assert_eq!(rows.rows.count(first, last), expected.len());
            assert!(
                rows.rows
                    .range(first, last)
                    .rev()
                    .eq(expected.into_iter().rev())
            );
        }
    }
}
