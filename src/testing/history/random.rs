//! Random choices that a seed repeats.

/// Steele, Lea and Flood's splitmix64.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut seeds = Random(seed);
        Random(seeds.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 32) as usize % end.max(1)
    }

    pub(super) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Returns between `least` and `most` distinct numbers below `end`.
    pub(super) fn some_below(&mut self, end: usize, least: usize, most: usize) -> Vec<usize> {
        let wanted = (least + self.below(most - least + 1)).min(end);
        let mut numbers: Vec<usize> = (0..end).collect();
        for place in 0..wanted {
            let other = place + self.below(end - place);
            numbers.swap(place, other);
        }
        numbers.truncate(wanted);
        numbers
    }
}
