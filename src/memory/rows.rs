//! The rows of a stripe, by hash and by number.

use hashbrown::HashTable;
use std::mem;

/// A hash table whose rows also have numbers.
///
/// A row lies in the table itself, so that a look-up by hash reads no memory in between. Its number
/// does not change until it is removed, even if the table grows and moves it. Indexes refer to rows
/// by number, which takes half the space of a pointer.
///
/// Invariants between calls, which `validate` checks in tests:
///
/// 1. The slot of a row's number has the bucket of the row.
/// 2. Every other slot is in the list of vacant numbers once.
#[derive(Debug)]
pub(super) struct Rows<E> {
    table: HashTable<Row<E>>,
    /// By row number.
    slots: Vec<Slot>,
    first_vacant: u32,
}

#[derive(Debug)]
struct Slot {
    /// The bucket of the row, or the next vacant number.
    bucket: u32,
    /// See [`Rows::block`].
    block: u32,
}

/// What is stored under a key, with the hash of the key. There is one for every item, so it takes at
/// most 24 bytes.
#[derive(Debug)]
pub(super) struct Row<E> {
    pub(super) entry: E,
    hash: u32,
    number: u32,
}

impl<E> Row<E> {
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

/// The number of no row.
pub(super) const NO_ROW: u32 = u32::MAX;

/// The largest number of rows: a table of 2^32 buckets, which are numbered by 32 bits, holds as many.
pub(super) const MAX_ROWS: usize = 7 << 29;

/// Widens a 32-bit hash for a table, which chooses the bucket by a hash's lowest bits and the tag by
/// its highest seven. Duplicating 32 bits serves both, and halves the space per row.
pub(super) fn widen_hash(hash: u32) -> u64 {
    u64::from(hash) * 0x1_0000_0001
}

impl<E> Rows<E> {
    /// Creates a table that reserves memory for `capacity` rows. This is a hint: an allocation failure
    /// is ignored.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        let mut rows = Rows {
            table: HashTable::new(),
            slots: Vec::new(),
            first_vacant: NO_ROW,
        };
        if rows.slots.try_reserve(capacity).is_ok() {
            let _ = rows.table.try_reserve(capacity, |_| 0);
        }
        rows
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns the number of row numbers in use so far: those of all rows are smaller.
    pub(super) fn numbers(&self) -> usize {
        self.slots.len()
    }

    /// Returns the first row with this hash, which nearly always has the right key. Comparing only
    /// hashes keeps the table's probe loop in registers.
    #[inline]
    pub(super) fn find(&self, hash: u32) -> Option<&Row<E>> {
        self.table.find(widen_hash(hash), |row| row.hash == hash)
    }

    #[inline]
    pub(super) fn find_mut(&mut self, hash: u32) -> Option<&mut Row<E>> {
        self.table
            .find_mut(widen_hash(hash), |row| row.hash == hash)
    }

    /// Returns the row with this hash whose entry `is_wanted`.
    #[cold]
    pub(super) fn find_colliding(
        &self,
        hash: u32,
        is_wanted: impl Fn(&E) -> bool,
    ) -> Option<&Row<E>> {
        self.table
            .find(widen_hash(hash), |row| is_wanted(&row.entry))
    }

    #[cold]
    pub(super) fn find_colliding_mut(
        &mut self,
        hash: u32,
        is_wanted: impl Fn(&E) -> bool,
    ) -> Option<&mut Row<E>> {
        self.table
            .find_mut(widen_hash(hash), |row| is_wanted(&row.entry))
    }

    /// Returns the entry of the row with this number, if there is one.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&E> {
        let bucket = self.slots.get(number as usize)?.bucket;
        let row = self.table.get_bucket(bucket as usize)?;
        // A vacant slot has the number of another one, which may be the bucket of some row.
        (row.number == number).then_some(&row.entry)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut E> {
        let bucket = self.slots.get(number as usize)?.bucket;
        let row = self.table.get_bucket_mut(bucket as usize)?;
        (row.number == number).then_some(&mut row.entry)
    }

    /// Returns the block of sorted rows that was set last for the row with this number; zero for a new
    /// row.
    pub(super) fn block(&self, number: u32) -> u32 {
        self.slots.get(number as usize).map_or(0, |slot| slot.block)
    }

    pub(super) fn set_block(&mut self, number: u32, block: u32) {
        if let Some(slot) = self.slots.get_mut(number as usize) {
            slot.block = block;
        }
    }

    /// Returns the number that the next inserted row will have.
    pub(super) fn next_number(&self) -> u32 {
        if self.first_vacant == NO_ROW {
            self.slots.len() as u32
        } else {
            self.first_vacant
        }
    }

    /// Inserts a row, even if another one has the same hash, and returns its number.
    pub(super) fn insert(&mut self, hash: u32, entry: E) -> u32 {
        if self.table.len() == self.table.capacity() {
            self.grow();
        }
        let number = self.next_number();
        match self.slots.get(number as usize) {
            Some(slot) => self.first_vacant = slot.bucket,
            None => self.slots.push(Slot {
                bucket: 0,
                block: 0,
            }),
        }
        let row = Row {
            entry,
            hash,
            number,
        };
        let row = self
            .table
            .insert_unique(widen_hash(hash), row, |row| widen_hash(row.hash));
        self.slots[number as usize] = Slot {
            bucket: row.bucket_index() as u32,
            block: 0,
        };
        number
    }

    /// Makes room for another row, and updates the slots of all rows, which may have moved.
    #[cold]
    fn grow(&mut self) {
        self.table.reserve(1, |row| widen_hash(row.hash));
        for bucket in self.table.iter_buckets() {
            if let Some(row) = self.table.get_bucket(bucket) {
                self.slots[row.number as usize].bucket = bucket as u32;
            }
        }
    }

    /// Removes the row with this number, if there is one, and returns its entry.
    pub(super) fn remove(&mut self, number: u32) -> Option<E> {
        let slot = self.slots.get_mut(number as usize)?;
        let row = self.table.get_bucket_entry(slot.bucket as usize).ok()?;
        if row.get().number != number {
            return None;
        }
        slot.bucket = mem::replace(&mut self.first_vacant, number);
        Some(row.remove().0.entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    impl<E> Rows<E> {
        /// Checks the invariants.
        pub(crate) fn validate(&self) {
            let mut numbers = HashSet::new();
            for bucket in self.table.iter_buckets() {
                let row = self.table.get_bucket(bucket).unwrap();
                assert!(numbers.insert(row.number), "two rows have one number");
                assert_eq!(self.slots[row.number as usize].bucket, bucket as u32);
                let same = |other: &Row<E>| std::ptr::eq(other, row);
                let found = self.table.find(widen_hash(row.hash), same);
                assert!(found.is_some(), "row {} is not under its hash", row.number);
            }
            let mut next = self.first_vacant;
            while next != NO_ROW {
                assert!(numbers.insert(next), "{next} is vacant twice, or has a row");
                next = self.slots[next as usize].bucket;
            }
            assert_eq!(numbers.len(), self.slots.len(), "a number is lost");
        }

        pub(crate) fn iter(&self) -> impl Iterator<Item = &Row<E>> {
            self.table.iter()
        }
    }

    #[test]
    fn a_row_keeps_its_number_while_the_table_grows_and_others_are_removed() {
        let mut rows = Rows::with_capacity(0);
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        // Two steps forward, one step back; every hash is shared by eight rows.
        for step in 0..6_000_u32 {
            if step % 3 == 2 {
                let value = step / 3;
                let number = numbers.remove(&value).unwrap();
                assert_eq!(rows.remove(number), Some(value));
                assert_eq!(rows.remove(number), None);
                assert_eq!(rows.get(number), None);
            } else {
                let value = step / 3 * 2 + step % 3;
                let expected = rows.next_number();
                let number = rows.insert(value / 8, value);
                assert_eq!(number, expected);
                assert!(numbers.insert(value, number).is_none());
            }
            if step % 500 == 0 {
                rows.validate();
            }
        }
        rows.validate();
        assert_eq!(rows.len(), 2_000);
        for (value, number) in numbers {
            assert_eq!(rows.get(number), Some(&value));
            let found = rows.find_colliding(value / 8, |entry| *entry == value);
            assert_eq!(found.map(Row::number), Some(number));
            assert!(rows.find(value / 8).is_some());
        }
    }

    #[test]
    fn the_numbers_of_removed_rows_are_reused() {
        let mut rows = Rows::with_capacity(0);
        for _ in 0..100 {
            let numbers = [0, 1, 2].map(|hash| rows.insert(hash, ()));
            rows.validate();
            for number in [1, 0, 2].map(|place: usize| numbers[place]) {
                rows.remove(number);
                rows.validate();
            }
        }
        assert_eq!((rows.len(), rows.numbers()), (0, 3));
    }

    /// Removed rows leave marks in the table, which the next growth clears without another size.
    #[test]
    fn rows_that_come_and_go_are_found_without_growth() {
        let mut rows = Rows::with_capacity(0);
        let kept: Vec<u32> = (0..20).map(|hash| rows.insert(hash, hash)).collect();
        let mut sizes = HashSet::new();
        for hash in 20..20_000 {
            let number = rows.insert(hash, hash);
            rows.remove(number);
            sizes.insert(rows.table.num_buckets());
        }
        rows.validate();
        assert!(sizes.len() <= 2, "{sizes:?}");
        assert!((0..20).all(|hash| rows.get(kept[hash as usize]) == Some(&hash)));
    }

    #[test]
    fn a_widened_hash_has_all_its_bits_in_each_half() {
        for hash in [0, 1, 0x8000_0000, 0x1234_5678, u32::MAX] {
            let wide = widen_hash(hash);
            assert_eq!((wide as u32, (wide >> 32) as u32), (hash, hash));
        }
    }
}
