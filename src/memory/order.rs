//! The rows of one partition in the order of their sort keys.

use smallvec::SmallVec;
use std::cmp::Ordering;
use std::iter;

/// Row numbers, sorted by a key that the caller compares by.
///
/// A partition begins as one small vector, inline while it has at most four rows. A large one is a
/// sequence of blocks of at most [`BLOCK`] rows: finding a place is a binary search over the blocks
/// and one within a block, and inserting moves at most a block's worth of numbers.
///
/// The caller keeps three rules, which nothing here checks: the comparison it passes is always by
/// the same order, every row in the order can be compared, and no two rows compare as equal.
#[derive(Debug)]
pub(super) struct Order(Blocks);

#[derive(Debug)]
enum Blocks {
    One(SmallVec<[u32; 4]>),
    /// At least one block, and no block is empty.
    Many(Vec<Vec<u32>>),
}

/// 2 KiB of row numbers, which an insertion moves half of on average: about as much work as the
/// search for the place. The sequence of blocks of a million rows is then some 3,000 long.
const BLOCK: usize = 512;

/// Two neighbours that have shrunk to this many rows together become one block.
const MERGE: usize = BLOCK / 2;

/// A place between rows: a block, and an index within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    block: usize,
    index: usize,
}

impl Order {
    /// The order of a single row.
    pub(super) fn of(row: u32) -> Self {
        Order(Blocks::One(iter::once(row).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.block(0).is_empty()
    }

    /// The first row, if there is any.
    pub(super) fn first(&self) -> Option<u32> {
        self.block(0).first().copied()
    }

    fn blocks(&self) -> usize {
        match &self.0 {
            Blocks::One(_) => 1,
            Blocks::Many(blocks) => blocks.len(),
        }
    }

    /// A block, or none of its rows if there is no such block.
    fn block(&self, block: usize) -> &[u32] {
        match &self.0 {
            Blocks::One(rows) if block == 0 => rows,
            Blocks::One(_) => &[],
            Blocks::Many(blocks) => blocks.get(block).map_or(&[], Vec::as_slice),
        }
    }

    /// The place before the first row that is not `before`, which holds of the rows up to some
    /// place and of none after it.
    pub(super) fn place(&self, before: impl Fn(u32) -> bool) -> Place {
        let block = match &self.0 {
            Blocks::One(_) => 0,
            // The first block that reaches up to the place. If none does, it is the end.
            Blocks::Many(blocks) => {
                blocks.partition_point(|rows| rows.last().is_some_and(|row| before(*row)))
            }
        };
        let index = self.block(block).partition_point(|row| before(*row));
        Place { block, index }
    }

    pub(super) fn start(&self) -> Place {
        Place { block: 0, index: 0 }
    }

    pub(super) fn end(&self) -> Place {
        let block = self.blocks();
        Place { block, index: 0 }
    }

    /// Adds `row`; `compare` compares a row of the order with it.
    pub(super) fn insert(&mut self, row: u32, compare: impl Fn(u32) -> Ordering) {
        let block = self.blocks() - 1;
        let rows = self.block(block);
        // Keys often arrive in order, and then the place needs no search.
        let place = match rows.last().is_some_and(|last| compare(*last).is_lt()) {
            true => Place {
                block,
                index: rows.len(),
            },
            false => self.place(|other| compare(other).is_lt()),
        };
        match &mut self.0 {
            Blocks::One(rows) if rows.len() < BLOCK => rows.insert(place.index, row),
            Blocks::One(rows) => {
                let mut blocks = vec![std::mem::take(rows).into_vec()];
                insert_splitting(&mut blocks, place, row);
                self.0 = Blocks::Many(blocks);
            }
            Blocks::Many(blocks) => insert_splitting(blocks, place, row),
        }
    }

    /// Removes the row that compares as equal; returns whether there was one.
    pub(super) fn remove(&mut self, compare: impl Fn(u32) -> Ordering) -> bool {
        let place = self.place(|other| compare(other).is_lt());
        let found = self.block(place.block).get(place.index);
        let there = found.is_some_and(|row| compare(*row).is_eq());
        if there {
            self.remove_at(place);
        }
        there
    }

    fn remove_at(&mut self, place: Place) {
        match &mut self.0 {
            Blocks::One(rows) => {
                rows.remove(place.index);
            }
            Blocks::Many(blocks) => {
                blocks[place.block].remove(place.index);
                merge_around(blocks, place.block);
                if let [rows] = blocks.as_mut_slice() {
                    if rows.len() <= MERGE {
                        self.0 = Blocks::One(SmallVec::from_vec(std::mem::take(rows)));
                    }
                }
            }
        }
    }

    /// How many rows lie between two places.
    pub(super) fn count(&self, from: Place, to: Place) -> usize {
        self.slices(from, to).map(<[u32]>::len).sum()
    }

    /// The rows between two places, in order, block by block; from both ends.
    pub(super) fn slices(&self, from: Place, to: Place) -> impl DoubleEndedIterator<Item = &[u32]> {
        // Backwards bounds are an empty range: a prefix and an `after` need not meet.
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

/// Inserts at `place`, making room in a full block first. Rows that arrive in order leave full
/// blocks behind; others leave halves.
fn insert_splitting(blocks: &mut Vec<Vec<u32>>, mut place: Place, row: u32) {
    if blocks[place.block].len() == BLOCK {
        let at_end = place.index == BLOCK && place.block + 1 == blocks.len();
        let split = if at_end { BLOCK } else { BLOCK / 2 };
        let mut upper = Vec::with_capacity(BLOCK);
        upper.extend(blocks[place.block].drain(split..));
        blocks.insert(place.block + 1, upper);
        if place.index > split || at_end {
            place.block += 1;
            place.index -= split;
        }
    }
    blocks[place.block].insert(place.index, row);
}

/// Merges the block with a neighbour where the two have become small, so that rows which come and
/// go leave no trail of blocks with a few rows each. A block that is empty has a neighbour: the last
/// one is no longer of a sequence by then.
fn merge_around(blocks: &mut Vec<Vec<u32>>, block: usize) {
    let small = |left: usize| {
        left + 1 < blocks.len() && blocks[left].len() + blocks[left + 1].len() <= MERGE
    };
    let left = match block.checked_sub(1) {
        Some(before) if small(before) => before,
        _ if small(block) => block,
        // Too large a neighbour to merge with, but nothing left here.
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

    impl Order {
        pub(crate) fn range(&self, from: Place, to: Place) -> impl DoubleEndedIterator<Item = u32> {
            self.slices(from, to).flatten().copied()
        }

        /// Walks everything: no block is empty or too large, and the rows are in order.
        fn validate(&self) -> Vec<u32> {
            for number in 0..self.blocks() {
                let rows = self.block(number);
                assert!(
                    rows.len() <= BLOCK,
                    "block {number} has {} rows",
                    rows.len()
                );
                assert!(
                    !rows.is_empty() || self.blocks() == 1,
                    "block {number} is empty"
                );
            }
            assert!(self.block(self.blocks()).is_empty(), "one block too many");
            if let Blocks::Many(blocks) = &self.0 {
                let few = blocks.len() == 1 && blocks[0].len() <= MERGE;
                assert!(!few, "a few rows have a sequence of blocks");
            }
            let rows: Vec<u32> = self.range(self.start(), self.end()).collect();
            assert!(rows.is_sorted_by(|a, b| a < b), "out of order");
            assert_eq!(rows.len(), self.count(self.start(), self.end()));
            rows
        }
    }

    fn insert(order: &mut Order, row: u32) {
        order.insert(row, |other| other.cmp(&row));
    }

    fn remove(order: &mut Order, row: u32) -> bool {
        order.remove(|other| other.cmp(&row))
    }

    /// A row number is its own key here, so that the order can be checked by itself.
    fn scrambled(count: u32) -> impl Iterator<Item = u32> {
        // 40,503 is odd, so it steps through all numbers below a power of two.
        (0..count).map(move |step| step.wrapping_mul(40_503) % count)
    }

    #[test]
    fn rows_inserted_in_any_order_come_out_sorted() {
        for arrivals in [
            (0..8_192).collect::<Vec<u32>>(),
            (0..8_192).rev().collect(),
            scrambled(8_192).collect(),
        ] {
            let mut order = Order::of(arrivals[0]);
            for (count, row) in (1..).zip(&arrivals[1..]) {
                assert!(count > 2 * BLOCK || order.validate().len() == count);
                insert(&mut order, *row);
            }
            assert!(order.validate().into_iter().eq(0..8_192));
        }
    }

    #[test]
    fn rows_that_arrive_in_order_fill_their_blocks() {
        let mut order = Order::of(0);
        (1..10 * BLOCK as u32).for_each(|row| insert(&mut order, row));
        assert_eq!(order.blocks(), 10);
    }

    #[test]
    fn removing_rows_leaves_the_others_and_no_trail_of_blocks() {
        let mut order = Order::of(0);
        (1..16_384).for_each(|row| insert(&mut order, row));
        let mut left: BTreeSet<u32> = (0..16_384).collect();
        for row in scrambled(16_384) {
            assert!(remove(&mut order, row));
            assert!(!remove(&mut order, row), "{row} was there twice");
            left.remove(&row);
            if left.len() % 1_000 == 0 || left.len() < BLOCK {
                assert!(order.validate().into_iter().eq(left.iter().copied()));
                let most = left.len() / (MERGE / 2) + 1;
                assert!(
                    order.blocks() <= most,
                    "{} blocks for {}",
                    order.blocks(),
                    left.len()
                );
            }
        }
        assert!(order.is_empty());
        assert_eq!(order.first(), None);
    }

    #[test]
    fn a_block_merges_with_a_neighbour_that_has_room_or_leaves_when_it_is_empty() {
        let blocks = |lengths: &[usize]| -> Vec<Vec<u32>> {
            lengths.iter().map(|length| vec![0; *length]).collect()
        };
        for (before, after) in [
            ([MERGE - 1, 1, MERGE - 1], &[MERGE, MERGE - 1] as &[usize]),
            ([MERGE, 1, MERGE - 1], &[MERGE, MERGE]),
            ([MERGE, 1, MERGE], &[MERGE, 1, MERGE]),
            ([MERGE + 1, 0, MERGE + 1], &[MERGE + 1, MERGE + 1]),
        ] {
            let mut merged = blocks(&before);
            merge_around(&mut merged, 1);
            assert_eq!(merged, blocks(after), "of {before:?}");
        }
        let mut at_the_end = blocks(&[1, MERGE - 1]);
        merge_around(&mut at_the_end, 1);
        assert_eq!(at_the_end, blocks(&[MERGE]));
    }

    #[test]
    fn a_range_lies_between_its_places_from_either_end() {
        let mut order = Order::of(0);
        (1..3_000).for_each(|row| insert(&mut order, 2 * row));
        for (from, to) in [
            (0, 6_000),
            (1, 1_025),
            (1_023, 1_024),
            (5_997, 9_000),
            (700, 300),
        ] {
            let place = |bound: u32| order.place(|row| row < bound);
            let rows: Vec<u32> = order.range(place(from), place(to)).collect();
            let expected: Vec<u32> = (from..to.min(6_000)).filter(|row| row % 2 == 0).collect();
            assert_eq!(rows, expected, "{from}..{to}");
            assert_eq!(order.count(place(from), place(to)), expected.len());
            assert!(
                order
                    .range(place(from), place(to))
                    .rev()
                    .eq(expected.into_iter().rev())
            );
        }
    }
}
