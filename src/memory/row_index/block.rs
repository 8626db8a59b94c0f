//! One block of the rows of a large partition.

use super::cut::{Cut, IndexedRows, SearchHead, head, search_head, shared_bytes, upper_half};

/// Some rows in the order of their keys.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// The number of bytes at the beginning of all keys that are known to be equal.
    pub(super) shared: usize,
    /// The upper halves of the heads of all keys.
    pub(super) heads: Vec<u32>,
    pub(super) rows: Vec<u32>,
}

/// 1 KiB of row numbers. An insertion moves half of them on average. A million rows then have some
/// 6,000 blocks.
pub(super) const BLOCK_CAPACITY: usize = 256;

/// Two neighbouring blocks that together have at most this many rows become one block.
pub(super) const MERGE_THRESHOLD: usize = BLOCK_CAPACITY / 2;

impl Block {
    pub(super) fn new(block: Vec<u32>, rows: &impl IndexedRows) -> Self {
        let mut block = Block {
            shared: 0,
            heads: Vec::with_capacity(BLOCK_CAPACITY),
            rows: block,
        };
        block.set_shared(block.shared_bytes(rows), rows);
        block
    }

    /// Returns how many bytes all keys share: those that the first and the last one share.
    pub(super) fn shared_bytes(&self, rows: &impl IndexedRows) -> usize {
        let ends = self.rows.first().zip(self.rows.last());
        ends.map_or(0, |(first, last)| {
            shared_bytes(rows.sk(*first), rows.sk(*last))
        })
    }

    pub(super) fn set_shared(&mut self, shared: usize, rows: &impl IndexedRows) {
        self.shared = shared;
        let heads = self
            .rows
            .iter()
            .map(|row| upper_half(head(rows.sk(*row), shared)));
        self.heads.clear();
        self.heads.extend(heads);
    }

    /// Returns the number of rows before `cut`.
    pub(super) fn index(&self, cut: Cut<'_>, rows: &impl IndexedRows) -> usize {
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

    pub(super) fn insert(&mut self, index: usize, row: u32, rows: &impl IndexedRows) {
        let sk = rows.sk(row);
        let first = self.rows.first().map_or(sk, |first| rows.sk(*first));
        // A block that was just split off at the end has no rows, and shares nothing yet.
        let shared = match first.get(..self.shared) {
            Some(beginning) if !self.rows.is_empty() && sk.starts_with(beginning) => self.shared,
            _ => shared_bytes(first, sk),
        };
        if shared != self.shared {
            self.set_shared(shared, rows);
        }
        self.heads.insert(index, upper_half(head(sk, shared)));
        self.rows.insert(index, row);
    }

    pub(super) fn remove(&mut self, index: usize) {
        self.heads.remove(index);
        self.rows.remove(index);
    }

    /// Moves the rows from `index` on to a new block.
    pub(super) fn split_off(&mut self, index: usize, rows: &impl IndexedRows) -> Self {
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

/// Returns the index of `wanted`. Comparing all numbers of a chunk before the first branch lets the
/// compiler compare several at once.
pub(super) fn index_of(numbers: &[u32], wanted: u32) -> Option<usize> {
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
