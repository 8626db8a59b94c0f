//! The Zipf distribution.

use crate::keys::Random;

/// Draws `n`, from 0, with a probability in proportion to `1 / (n + 1)^exponent`.
pub(crate) struct Zipf {
    /// The cumulative weights.
    sums: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(numbers: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let add = |rank: usize| {
            sum += (rank as f64).powf(-exponent);
            sum
        };
        Zipf {
            sums: (1..=numbers).map(add).collect(),
        }
    }

    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        let all = self.sums.last().copied().unwrap_or(0.0);
        let drawn = random.unit() * all;
        let place = self.sums.partition_point(|sum| *sum <= drawn);
        place.min(self.sums.len() - 1)
    }
}
