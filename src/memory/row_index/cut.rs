//! Places between sort keys, and the heads of keys.

use std::cmp::Ordering;

/// The rows that the index of a partition refers to.
pub(in crate::memory) trait IndexedRows {
    /// Returns the sort key of a row in the index.
    fn sk(&self, row: u32) -> &[u8];

    /// Stores the block of a row, which a removal of the row is passed.
    fn set_block(&mut self, row: u32, block: u32);
}

/// A place between sort keys.
#[derive(Clone, Copy)]
pub(in crate::memory) enum Cut<'a> {
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
    pub(super) fn is_after(self, sk: &[u8]) -> bool {
        match self {
            Cut::Before(key) => sk < key,
            Cut::After(key) => sk <= key,
            // Truncated to the prefix's length, a sort key that begins with the prefix is equal to it.
            // So no upper bound has to be computed from the prefix.
            Cut::AfterPrefix(prefix) => sk.get(..prefix.len()).unwrap_or(sk) <= prefix,
        }
    }
}

/// Returns the first eight bytes of `sk` after the `shared` ones, as a number in the order of the keys.
/// Keys with equal heads may differ.
pub(super) fn head(sk: &[u8], shared: usize) -> u64 {
    let rest = sk.get(shared..).unwrap_or_default();
    let bytes = rest.first_chunk::<8>().copied().unwrap_or_else(|| {
        let mut padded = [0; 8];
        padded[..rest.len()].copy_from_slice(rest);
        padded
    });
    u64::from_be_bytes(bytes)
}

pub(super) fn upper_half(head: u64) -> u32 {
    (head >> 32) as u32
}

/// Where a cut is among keys that share their first bytes.
pub(super) enum SearchHead {
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
pub(super) fn search_head(cut: Cut<'_>, first: &[u8], shared: usize) -> SearchHead {
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
pub(super) fn shared_bytes(one: &[u8], other: &[u8]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}
