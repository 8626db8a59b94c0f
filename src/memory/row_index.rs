//! The rows of one partition in sort-key order.

use smallvec::SmallVec;
use std::cmp::Ordering;
use std::iter;

/// Row numbers, sorted by an external key that the caller supplies as a comparison function.
///
/// A partition begins as one small vector, which is inline while it has at most four rows. A large
/// partition is a sequence of blocks of at most [`BLOCK_CAPACITY`] rows. A search is a binary search
/// over the blocks and one within a block. An insertion moves at most one block's row numbers.
///
/// The caller must always compare by the same order, must be able to compare every row, and must
/// not insert two rows that compare as equal. Nothing here checks this.
#[derive(Debug)]
pub(super) struct SortedRows(Repr);

#[derive(Debug)]
enum Repr {
    OneBlock(SmallVec<[u32; 4]>),
    /// At least one block, and no block is empty.
    Blocks(Vec<Vec<u32>>),
}

/// 2 KiB of row numbers. An insertion moves half of them on average, which is about as much work as
/// the search. A million rows then have about 3,000 blocks.
const BLOCK_CAPACITY: usize = 512;

/// Two neighbouring blocks that together have at most this many rows become one block.
const MERGE_THRESHOLD: usize = BLOCK_CAPACITY / 2;

/// A position between rows: a block, and an index within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    block: usize,
    index: usize,
}

impl SortedRows {
    /// Creates the index of a partition with one row.
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
            Repr::Blocks(blocks) => blocks.len(),
        }
    }

    /// Returns the rows of a block, or no rows if there is no such block.
    fn block(&self, block: usize) -> &[u32] {
        match &self.0 {
            Repr::OneBlock(rows) if block == 0 => rows,
            Repr::OneBlock(_) => &[],
            Repr::Blocks(blocks) => blocks.get(block).map_or(&[], Vec::as_slice),
        }
    }

    /// Returns the position of the first row for which `before` is false. `before` must be true for
    /// all rows up to some position and false for all rows after it.
    pub(super) fn partition_point(&self, before: impl Fn(u32) -> bool) -> Position {
        let block = match &self.0 {
            Repr::OneBlock(_) => 0,
            // The first block that has such a row, or the end.
            Repr::Blocks(blocks) => {
                blocks.partition_point(|rows| rows.last().is_some_and(|row| before(*row)))
            }
        };
        let index = self.block(block).partition_point(|row| before(*row));
        Position { block, index }
    }

    pub(super) fn start(&self) -> Position {
        Position { block: 0, index: 0 }
    }

    pub(super) fn end(&self) -> Position {
        let block = self.block_count();
        Position { block, index: 0 }
    }

    /// Inserts `row`. `compare` compares another row with it.
    pub(super) fn insert(&mut self, row: u32, compare: impl Fn(u32) -> Ordering) {
        let block = self.block_count() - 1;
        let rows = self.block(block);
        // Keys often arrive in order, and then no search is needed.
        let position = if rows.last().is_some_and(|last| compare(*last).is_lt()) {
            Position {
                block,
                index: rows.len(),
            }
        } else {
            self.partition_point(|other| compare(other).is_lt())
        };
        match &mut self.0 {
            Repr::OneBlock(rows) if rows.len() < BLOCK_CAPACITY => rows.insert(position.index, row),
            Repr::OneBlock(rows) => {
                let mut blocks = vec![std::mem::take(rows).into_vec()];
                insert_with_split(&mut blocks, position, row);
                self.0 = Repr::Blocks(blocks);
            }
            Repr::Blocks(blocks) => insert_with_split(blocks, position, row),
        }
    }

    /// Removes the row that compares as equal, and returns whether there was one.
    pub(super) fn remove(&mut self, compare: impl Fn(u32) -> Ordering) -> bool {
        let position = self.partition_point(|other| compare(other).is_lt());
        let row = self.block(position.block).get(position.index);
        let found = row.is_some_and(|row| compare(*row).is_eq());
        if found {
            self.remove_at(position);
        }
        found
    }

    fn remove_at(&mut self, position: Position) {
        match &mut self.0 {
            Repr::OneBlock(rows) => {
                rows.remove(position.index);
            }
            Repr::Blocks(blocks) => {
                blocks[position.block].remove(position.index);
                merge_with_neighbour(blocks, position.block);
                if let [rows] = blocks.as_mut_slice() {
                    if rows.len() <= MERGE_THRESHOLD {
                        self.0 = Repr::OneBlock(SmallVec::from_vec(std::mem::take(rows)));
                    }
                }
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
        (from.block..to.block + 1).map(move |number| {
            let rows = self.block(number);
            let start = if number == from.block { from.index } else { 0 };
            let end = if number == to.block {
                to.index
            } else {
                rows.len()
            };
            &rows[start..end]
        })
    }
}

/// Inserts `row` at `position`, after splitting the block if it is full. Sequential inserts leave
/// full blocks; other inserts split a block in half.
fn insert_with_split(blocks: &mut Vec<Vec<u32>>, mut position: Position, row: u32) {
    if blocks[position.block].len() == BLOCK_CAPACITY {
        let at_end = position.index == BLOCK_CAPACITY && position.block + 1 == blocks.len();
        let split = if at_end {
            BLOCK_CAPACITY
        } else {
            BLOCK_CAPACITY / 2
        };
        let mut upper = Vec::with_capacity(BLOCK_CAPACITY);
        upper.extend(blocks[position.block].drain(split..));
        blocks.insert(position.block + 1, upper);
        if position.index > split || at_end {
            position.block += 1;
            position.index -= split;
        }
    }
    blocks[position.block].insert(position.index, row);
}

/// Merges the block with a neighbour if the two have become small, so that insertions and removals do
/// not leave many nearly empty blocks. An empty block always has a neighbour, because the last block
/// becomes [`Repr::OneBlock`] before it is empty.
fn merge_with_neighbour(blocks: &mut Vec<Vec<u32>>, block: usize) {
    let small = |left: usize| {
        left + 1 < blocks.len() && blocks[left].len() + blocks[left + 1].len() <= MERGE_THRESHOLD
    };
    let left = match block.checked_sub(1) {
        Some(before) if small(before) => before,
        _ if small(block) => block,
        // The block is empty, and its neighbours are too large to merge with.
        _ if blocks[block].is_empty() => {
            blocks.remove(block);
            return;
        }
        _ => return,
    };
    let right = blocks.remove(left + 1);
    blocks[left].extend(right);
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

        /// Checks that no block is empty or too large and that the rows are in order; returns them.
        fn validate(&self) -> Vec<u32> {
            for number in 0..self.block_count() {
                let rows = self.block(number);
                assert!(
                    rows.len() <= BLOCK_CAPACITY,
                    "block {number} has {} rows",
                    rows.len()
                );
                assert!(
                    !rows.is_empty() || self.block_count() == 1,
                    "block {number} is empty"
                );
            }
            assert!(
                self.block(self.block_count()).is_empty(),
                "there is a block after the last one"
            );
            if let Repr::Blocks(blocks) = &self.0 {
                let small = blocks.len() == 1 && blocks[0].len() <= MERGE_THRESHOLD;
                assert!(!small, "a few rows have a sequence of blocks");
            }
            let rows: Vec<u32> = self.range(self.start(), self.end()).collect();
            assert!(rows.is_sorted_by(|a, b| a < b), "out of order");
            assert_eq!(rows.len(), self.count(self.start(), self.end()));
            rows
        }
    }

    fn insert(rows: &mut SortedRows, row: u32) {
        rows.insert(row, |other| other.cmp(&row));
    }

    fn remove(rows: &mut SortedRows, row: u32) -> bool {
        rows.remove(|other| other.cmp(&row))
    }

    /// Returns the numbers below `count`, a power of two, in a scattered order. Here a row number is
    /// its own key.
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
            let mut rows = SortedRows::new(arrivals[0]);
            for (count, row) in (1..).zip(&arrivals[1..]) {
                assert!(count > 2 * BLOCK_CAPACITY || rows.validate().len() == count);
                insert(&mut rows, *row);
            }
            assert!(rows.validate().into_iter().eq(0..8_192));
        }
    }

    #[test]
    fn rows_that_arrive_in_order_fill_their_blocks() {
        let mut rows = SortedRows::new(0);
        (1..10 * BLOCK_CAPACITY as u32).for_each(|row| insert(&mut rows, row));
        assert_eq!(rows.block_count(), 10);
    }

    #[test]
    fn removing_rows_leaves_the_others_and_few_blocks() {
        let mut rows = SortedRows::new(0);
        (1..16_384).for_each(|row| insert(&mut rows, row));
        let mut left: BTreeSet<u32> = (0..16_384).collect();
        for row in scrambled(16_384) {
            assert!(remove(&mut rows, row));
            assert!(!remove(&mut rows, row), "{row} was there twice");
            left.remove(&row);
            if left.len() % 1_000 == 0 || left.len() < BLOCK_CAPACITY {
                assert!(rows.validate().into_iter().eq(left.iter().copied()));
                let most = left.len() / (MERGE_THRESHOLD / 2) + 1;
                assert!(
                    rows.block_count() <= most,
                    "{} blocks for {}",
                    rows.block_count(),
                    left.len()
                );
            }
        }
        assert!(rows.is_empty());
        assert_eq!(rows.first(), None);
    }

    #[test]
    fn a_small_block_merges_with_a_small_neighbour_and_an_empty_one_is_removed() {
        const LIMIT: usize = MERGE_THRESHOLD;
        let blocks = |lengths: &[usize]| -> Vec<Vec<u32>> {
            lengths.iter().map(|length| vec![0; *length]).collect()
        };
        for (before, after) in [
            ([LIMIT - 1, 1, LIMIT - 1], &[LIMIT, LIMIT - 1] as &[usize]),
            ([LIMIT, 1, LIMIT - 1], &[LIMIT, LIMIT]),
            ([LIMIT, 1, LIMIT], &[LIMIT, 1, LIMIT]),
            ([LIMIT + 1, 0, LIMIT + 1], &[LIMIT + 1, LIMIT + 1]),
        ] {
            let mut merged = blocks(&before);
            merge_with_neighbour(&mut merged, 1);
            assert_eq!(merged, blocks(after), "of {before:?}");
        }
        let mut at_the_end = blocks(&[1, LIMIT - 1]);
        merge_with_neighbour(&mut at_the_end, 1);
        assert_eq!(at_the_end, blocks(&[LIMIT]));
    }

    #[test]
    fn a_range_lies_between_its_positions_in_either_direction() {
        let mut rows = SortedRows::new(0);
        (1..3_000).for_each(|row| insert(&mut rows, 2 * row));
        for (from, to) in [
            (0, 6_000),
            (1, 1_025),
            (1_023, 1_024),
            (5_997, 9_000),
            (700, 300),
        ] {
            let position = |bound: u32| rows.partition_point(|row| row < bound);
            let range: Vec<u32> = rows.range(position(from), position(to)).collect();
            let expected: Vec<u32> = (from..to.min(6_000)).filter(|row| row % 2 == 0).collect();
            assert_eq!(range, expected, "{from}..{to}");
            assert_eq!(rows.count(position(from), position(to)), expected.len());
            assert!(
                rows.range(position(from), position(to))
                    .rev()
                    .eq(expected.into_iter().rev())
            );
        }
    }
}
