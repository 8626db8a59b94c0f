//! The rows of one partition in sort-key order.
//!
//! - `mod.rs`: [`SortedRows`], a small vector or a sequence of blocks.
//! - `blocks.rs`: the sequence of blocks of a large partition.
//! - `block.rs`: one block.
//! - `cut.rs`: places between sort keys, and the heads of keys.

mod block;
mod blocks;
mod cut;

pub(super) use blocks::Position;
pub(super) use cut::{Cut, IndexedRows};

use block::{BLOCK_CAPACITY, MERGE_THRESHOLD, index_of};
use blocks::{Blocks, ONLY_BLOCK};
use smallvec::SmallVec;
use std::iter;

/// The numbers of a partition's rows, sorted by their sort keys.
///
/// A partition begins as one small vector, which is inline while it has at most four rows. A large
/// partition is a sequence of blocks of at most [`BLOCK_CAPACITY`] rows. A search is a binary search
/// over the blocks and one within a block. An insertion moves at most one block's row numbers.
///
/// A binary search that reads the key of a row at each step would wait for memory most of the time.
/// So the sequence and the blocks have the [heads](cut::head) of the keys themselves, and only keys with
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

#[cfg(test)]
mod tests;
