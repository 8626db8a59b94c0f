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
/// Each block has a number, which the caller stores for every row, so that a removal compares no
/// keys: methods that move rows to another block report these.
///
/// The caller must always compare by the same order, must be able to compare every row, and must
/// not insert two rows that compare as equal. Nothing here checks this.
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
    /// The numbers of the blocks, in the order of their rows.
    sequence: Vec<u32>,
    /// The rows of each block, by its number.
    rows: Vec<Vec<u32>>,
    /// The numbers of the blocks that are not in the sequence.
    vacant: Vec<u32>,
}

/// The number of the block of a small partition.
pub(super) const ONLY_BLOCK: u32 = 0;

/// 2 KiB of row numbers. An insertion moves half of them on average, which is about as much work as
/// the search. A million rows then have about 3,000 blocks.
const BLOCK_CAPACITY: usize = 512;

/// Two neighbouring blocks that together have at most this many rows become one block.
const MERGE_THRESHOLD: usize = BLOCK_CAPACITY / 2;

/// The neighbours of a shrinking block are looked up once in this many removals, because that takes
/// a search in the sequence.
const MERGE_INTERVAL: usize = MERGE_THRESHOLD / 4;

/// A position between rows: a block, by its place in the sequence, and an index within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    block: usize,
    index: usize,
}

impl SortedRows {
    /// Creates the index of a partition with one row, which is in [`ONLY_BLOCK`].
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

    /// Returns the position of the first row for which `before` is false. `before` must be true for
    /// all rows up to some position and false for all rows after it.
    pub(super) fn partition_point(&self, before: impl Fn(u32) -> bool) -> Position {
        let block = match &self.0 {
            Repr::OneBlock(_) => 0,
            // The first block that has such a row, or the end.
            Repr::Blocks(blocks) => blocks.sequence.partition_point(|number| {
                let last = blocks.rows[*number as usize].last();
                last.is_some_and(|row| before(*row))
            }),
        };
        let index = self.block(block).partition_point(|row| before(*row));
        Position { block, index }
    }

    /// Returns what [`partition_point`](SortedRows::partition_point) returns, which must not be less
    /// than `from`. Cheaper if it is in the same block, as the end of a short range often is.
    pub(super) fn partition_point_after(
        &self,
        from: Position,
        before: impl Fn(u32) -> bool,
    ) -> Position {
        let rows = self.block(from.block);
        let rest = rows.get(from.index..).unwrap_or_default();
        match rest.last() {
            Some(last) if !before(*last) => Position {
                block: from.block,
                index: from.index + rest.partition_point(|row| before(*row)),
            },
            _ => self.partition_point(before),
        }
    }

    pub(super) fn start(&self) -> Position {
        Position { block: 0, index: 0 }
    }

    pub(super) fn end(&self) -> Position {
        let block = self.block_count();
        Position { block, index: 0 }
    }

    /// Returns the position at which a row belongs. `compare` compares another row with it.
    pub(super) fn position_of_new(&self, compare: impl Fn(u32) -> Ordering) -> Position {
        let block = self.block_count() - 1;
        let rows = self.block(block);
        // Keys often arrive in order, and then no search is needed.
        if rows.last().is_some_and(|last| compare(*last).is_lt()) {
            let index = rows.len();
            Position { block, index }
        } else {
            self.partition_point(|other| compare(other).is_lt())
        }
    }

    /// Inserts `row` at `position`, and reports the block of this and of every moved row.
    pub(super) fn insert(&mut self, position: Position, row: u32, mut moved: impl FnMut(u32, u32)) {
        match &mut self.0 {
            Repr::OneBlock(rows) if rows.len() < BLOCK_CAPACITY => {
                rows.insert(position.index, row);
                moved(row, ONLY_BLOCK);
            }
            Repr::OneBlock(rows) => {
                let mut blocks = Box::new(Blocks {
                    sequence: vec![ONLY_BLOCK],
                    rows: vec![std::mem::take(rows).into_vec()],
                    vacant: Vec::new(),
                });
                blocks.insert(position, row, moved);
                self.0 = Repr::Blocks(blocks);
            }
            Repr::Blocks(blocks) => blocks.insert(position, row, moved),
        }
    }

    /// Removes `row`, which is in this block, and returns whether it was there. Reports the block of
    /// every moved row.
    pub(super) fn remove(&mut self, row: u32, block: u32, mut moved: impl FnMut(u32, u32)) -> bool {
        match &mut self.0 {
            Repr::OneBlock(rows) => match index_of(rows, row) {
                Some(index) => {
                    rows.remove(index);
                    true
                }
                None => false,
            },
            Repr::Blocks(blocks) => {
                let was_there = blocks.remove(row, block, &mut moved);
                if let [last] = *blocks.sequence {
                    let rows = &mut blocks.rows[last as usize];
                    if rows.len() <= MERGE_THRESHOLD {
                        rows.iter().for_each(|row| moved(*row, ONLY_BLOCK));
                        self.0 = Repr::OneBlock(SmallVec::from_vec(std::mem::take(rows)));
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

impl Blocks {
    /// Returns the rows of the block at this place in the sequence, or no rows if there is none.
    fn at(&self, place: usize) -> &[u32] {
        let number = self.sequence.get(place);
        number.map_or(&[], |number| &self.rows[*number as usize])
    }

    /// Inserts `row` at `position`, after splitting the block if it is full. Sequential inserts leave
    /// full blocks; other inserts split a block in half.
    fn insert(&mut self, mut position: Position, row: u32, mut moved: impl FnMut(u32, u32)) {
        if self.at(position.block).len() == BLOCK_CAPACITY {
            let at_end =
                position.index == BLOCK_CAPACITY && position.block + 1 == self.sequence.len();
            let split = if at_end {
                BLOCK_CAPACITY
            } else {
                BLOCK_CAPACITY / 2
            };
            let upper = self.vacant.pop().unwrap_or_else(|| {
                self.rows.push(Vec::new());
                (self.rows.len() - 1) as u32
            });
            let lower = &mut self.rows[self.sequence[position.block] as usize];
            let mut rows = Vec::with_capacity(BLOCK_CAPACITY);
            rows.extend(lower.drain(split..));
            rows.iter().for_each(|row| moved(*row, upper));
            self.rows[upper as usize] = rows;
            self.sequence.insert(position.block + 1, upper);
            if position.index > split || at_end {
                position.block += 1;
                position.index -= split;
            }
        }
        let number = self.sequence[position.block];
        self.rows[number as usize].insert(position.index, row);
        moved(row, number);
    }

    fn remove(&mut self, row: u32, block: u32, moved: impl FnMut(u32, u32)) -> bool {
        let Some(rows) = self.rows.get_mut(block as usize) else {
            return false;
        };
        let Some(index) = index_of(rows, row) else {
            return false;
        };
        rows.remove(index);
        if rows.len() <= MERGE_THRESHOLD && rows.len() % MERGE_INTERVAL == 0 {
            if let Some(place) = index_of(&self.sequence, block) {
                self.merge_with_neighbour(place, moved);
            }
        }
        true
    }

    /// Merges the block at this place with a neighbour if the two have become small, so that
    /// insertions and removals do not leave many nearly empty blocks. An empty block always has a
    /// neighbour, because the last block becomes [`Repr::OneBlock`] before it is empty.
    fn merge_with_neighbour(&mut self, place: usize, mut moved: impl FnMut(u32, u32)) {
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
        let right = self.vacate(left + 1);
        let left = self.sequence[left];
        right.iter().for_each(|row| moved(*row, left));
        self.rows[left as usize].extend(right);
    }

    /// Removes the block at this place from the sequence, and returns its rows.
    fn vacate(&mut self, place: usize) -> Vec<u32> {
        let number = self.sequence.remove(place);
        self.vacant.push(number);
        std::mem::take(&mut self.rows[number as usize])
    }
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
    use std::collections::{BTreeSet, HashMap};

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
                    let numbers = blocks.sequence.iter();
                    let rows = |number: &u32| &blocks.rows[*number as usize];
                    numbers
                        .flat_map(|number| rows(number).iter().map(|row| (*row, *number)))
                        .collect()
                }
            }
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
                let small = blocks.sequence.len() == 1 && blocks.at(0).len() <= MERGE_THRESHOLD;
                assert!(!small, "a few rows have a sequence of blocks");
            }
            let rows: Vec<u32> = self.range(self.start(), self.end()).collect();
            assert!(rows.is_sorted_by(|a, b| a < b), "out of order");
            assert_eq!(rows.len(), self.count(self.start(), self.end()));
            rows
        }
    }

    /// Sorted rows, each its own key, and the block that was reported last for each.
    struct Fixture {
        rows: SortedRows,
        blocks: HashMap<u32, u32>,
    }

    impl Fixture {
        fn new(row: u32) -> Self {
            Fixture {
                rows: SortedRows::new(row),
                blocks: HashMap::from([(row, ONLY_BLOCK)]),
            }
        }

        fn insert(&mut self, row: u32) {
            let position = self.rows.position_of_new(|other| other.cmp(&row));
            self.rows.insert(position, row, |row, block| {
                self.blocks.insert(row, block);
            });
        }

        fn remove(&mut self, row: u32) -> bool {
            let block = self.blocks[&row];
            self.rows.remove(row, block, |row, block| {
                self.blocks.insert(row, block);
            })
        }

        /// Checks the invariants and that the block of each row is known; returns the rows.
        fn validate(&self) -> Vec<u32> {
            for (row, block) in self.rows.with_blocks() {
                assert_eq!(self.blocks[&row], block, "the block of row {row}");
            }
            if let Repr::Blocks(blocks) = &self.rows.0 {
                let numbers = blocks.sequence.iter().chain(&blocks.vacant);
                let numbers: BTreeSet<u32> = numbers.copied().collect();
                assert!(numbers.into_iter().eq(0..blocks.rows.len() as u32));
            }
            self.rows.validate()
        }
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
            let mut rows = Fixture::new(arrivals[0]);
            for (count, row) in (1..).zip(&arrivals[1..]) {
                assert!(count > 2 * BLOCK_CAPACITY || rows.validate().len() == count);
                rows.insert(*row);
            }
            assert!(rows.validate().into_iter().eq(0..8_192));
        }
    }

    #[test]
    fn rows_that_arrive_in_order_fill_their_blocks() {
        let mut rows = Fixture::new(0);
        (1..10 * BLOCK_CAPACITY as u32).for_each(|row| rows.insert(row));
        assert_eq!(rows.rows.block_count(), 10);
    }

    #[test]
    fn removing_rows_leaves_the_others_and_few_blocks() {
        let mut rows = Fixture::new(0);
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

    #[test]
    fn a_partition_that_grows_and_shrinks_again_and_again_keeps_the_blocks_of_its_rows() {
        let mut rows = Fixture::new(0);
        for round in 0..4 {
            scrambled(4_096)
                .filter(|row| *row > 0)
                .for_each(|row| rows.insert(row));
            assert_eq!(rows.validate().len(), 4_096, "round {round}");
            for row in scrambled(4_096).filter(|row| *row > 0) {
                assert!(rows.remove(row), "round {round}");
            }
            assert_eq!(rows.validate(), [0]);
        }
    }

    #[test]
    fn a_small_partition_takes_32_bytes() {
        assert!(size_of::<SortedRows>() <= 32, "{}", size_of::<SortedRows>());
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
            sequence: (0..lengths.len() as u32).collect(),
            rows: lengths.iter().map(|length| vec![0; *length]).collect(),
            vacant: Vec::new(),
        };
        let lengths = |blocks: &Blocks| -> Vec<usize> {
            let places = 0..blocks.sequence.len();
            places.map(|place| blocks.at(place).len()).collect()
        };
        for (before, after) in [
            ([LIMIT - 1, 1, LIMIT - 1], &[LIMIT, LIMIT - 1] as &[usize]),
            ([LIMIT, 1, LIMIT - 1], &[LIMIT, LIMIT]),
            ([LIMIT, 1, LIMIT], &[LIMIT, 1, LIMIT]),
            ([LIMIT + 1, 0, LIMIT + 1], &[LIMIT + 1, LIMIT + 1]),
        ] {
            let mut merged = blocks(&before);
            merged.merge_with_neighbour(1, |_, _| {});
            assert_eq!(lengths(&merged), after, "of {before:?}");
        }
        let mut at_the_end = blocks(&[1, LIMIT - 1]);
        at_the_end.merge_with_neighbour(1, |_, _| {});
        assert_eq!(lengths(&at_the_end), [LIMIT]);
    }

    #[test]
    fn a_range_lies_between_its_positions_in_either_direction() {
        let mut rows = Fixture::new(0);
        (1..3_000).for_each(|row| rows.insert(2 * row));
        let rows = rows.rows;
        for (from, to) in [
            (0, 6_000),
            (1, 1_025),
            (1_023, 1_024),
            (5_997, 9_000),
            (700, 300),
        ] {
            let position = |bound: u32| rows.partition_point(|row| row < bound);
            let after = |start| rows.partition_point_after(start, |row| row < to);
            if from <= to {
                assert_eq!(after(position(from)), position(to), "{from}..{to}");
                assert_eq!(after(rows.start()), position(to), "..{to}");
            }
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
