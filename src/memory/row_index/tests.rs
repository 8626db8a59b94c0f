use super::block::{Block, index_of};
use super::blocks::{Fence, MERGE_INTERVAL};
use super::cut::{head, upper_half};
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
            let count =
                |is_before: &dyn Fn(&[u8]) -> bool| model.iter().filter(|sk| is_before(sk)).count();
            if step % 7 == 0 {
                let before = count(&|sk| sk < probe.as_slice());
                assert_eq!(rows.count_before(Cut::Before(&probe)), before, "{family}");
                let through = count(&|sk| sk <= probe.as_slice());
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
