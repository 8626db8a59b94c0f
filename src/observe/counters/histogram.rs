//! The distribution of a number, in buckets of a fixed relative width.

use super::snapshot::Quantiles;
use crate::sync::{AtomicU64, Ordering};

/// Each power of two is divided into this many buckets, so that a bucket's bounds differ by at most 1
/// part of it.
const BUCKETS_PER_DOUBLING: u64 = 8;

const BITS: u32 = BUCKETS_PER_DOUBLING.ilog2();

/// Numbers below [`BUCKETS_PER_DOUBLING`] have a bucket each, and every further doubling has as many.
const BUCKETS: usize = ((64 - BITS as usize) + 1) * BUCKETS_PER_DOUBLING as usize;

/// Counts numbers of any size, without a mutex.
pub(super) struct Histogram {
    buckets: Box<[AtomicU64]>,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = std::iter::repeat_with(AtomicU64::default);
        Histogram {
            buckets: buckets.take(BUCKETS).collect(),
            max: AtomicU64::default(),
        }
    }
}

impl Histogram {
    pub(super) fn record(&self, number: u64) {
        self.buckets[bucket(number)].fetch_add(1, Ordering::Relaxed);
        self.max.fetch_max(number, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        let counts = self.buckets.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Returns the largest numbers of the buckets that contain the quantiles, and the exact maximum.
    pub(super) fn quantiles<T>(&self, unit: impl Fn(u64) -> T) -> Quantiles<T> {
        let counts = self.buckets.iter();
        let counts: Vec<u64> = counts.map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let max = self.max.load(Ordering::Relaxed);
        let quantile = |percent: u64| {
            // The rank of the quantile, from 1.
            let rank = (total * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let reaches = |count: &u64| {
                seen += count;
                seen >= rank
            };
            let index = counts.iter().position(reaches);
            index.map_or(0, |index| largest(index).min(max))
        };
        Quantiles {
            p50: unit(quantile(50)),
            p99: unit(quantile(99)),
            max: unit(max),
        }
    }
}

/// Returns the index of the bucket of `number`.
fn bucket(number: u64) -> usize {
    if number < BUCKETS_PER_DOUBLING {
        return number as usize;
    }
    let shift = number.ilog2() - BITS;
    // The first digit of the number in binary, which is always 1, and the `BITS` that follow.
    let digits = number >> shift;
    (u64::from(shift) * BUCKETS_PER_DOUBLING + digits) as usize
}

/// Returns the largest number in the bucket at `index`.
fn largest(index: usize) -> u64 {
    let index = index as u64;
    if index < BUCKETS_PER_DOUBLING {
        return index;
    }
    let shift = index / BUCKETS_PER_DOUBLING - 1;
    let digits = index % BUCKETS_PER_DOUBLING + BUCKETS_PER_DOUBLING;
    let smallest = digits << shift;
    smallest + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_a_bucket_whose_largest_is_at_most_an_eighth_greater() {
        let powers = (0..64).map(|bit| 1_u64 << bit);
        let numbers =
            powers.flat_map(|power| [power - 1, power, power + power / 3, power - 1 + power]);
        for number in numbers.chain(0..5_000).chain([u64::MAX]) {
            let index = bucket(number);
            assert!(index < BUCKETS, "{number}");
            let largest = largest(index);
            assert!(largest >= number, "{number} in a bucket up to {largest}");
            assert!(largest - number <= number / 8, "{number}: {largest}");
            assert_eq!(bucket(largest), index);
            if let Some(next) = largest.checked_add(1) {
                assert_eq!(bucket(next), index + 1);
            }
        }
    }

    #[test]
    fn quantiles_are_those_of_the_recorded_numbers() {
        let histogram = Histogram::default();
        let none = histogram.quantiles(|number| number);
        assert_eq!((none.p50, none.p99, none.max), (0, 0, 0));
        for number in 1..=1_000 {
            histogram.record(number);
        }
        let Quantiles { p50, p99, max } = histogram.quantiles(|number| number);
        assert!((500..=562).contains(&p50), "{p50}");
        assert!((990..=1_000).contains(&p99), "{p99}");
        assert_eq!((max, histogram.count()), (1_000, 1_000));
    }

    #[test]
    fn the_99th_percentile_is_not_moved_by_fewer_than_one_in_a_hundred() {
        let histogram = Histogram::default();
        (0..990).for_each(|_| histogram.record(3));
        (0..10).for_each(|_| histogram.record(1_000_000));
        assert_eq!(histogram.quantiles(|number| number).p99, 3);
        histogram.record(1_000_000);
        let quantiles = histogram.quantiles(|number| number);
        assert_eq!((quantiles.p50, quantiles.p99), (3, 1_000_000));
    }
}
