//! The retry budget: how many requests of a database may repeat others while the server fails.
//!
//! Without it, each call of each thread would repeat its request until its deadline, and an outage, or
//! throttling, would multiply the load that may be its cause. As in the SDK's standard retries, a retry
//! spends the budget, and a success refills it.

use crate::sync::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The number of retries without a success in between.
const CAPACITY: u64 = 100;

/// A retry is added for each success, and for each of these intervals.
const REFILL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct RetryBudget {
    start: Instant,
    /// When the budget will be full, in milliseconds since the start. A retry delays this by an
    /// interval, a success advances it by one.
    full_at: AtomicU64,
}

impl RetryBudget {
    pub(super) fn new() -> Self {
        RetryBudget {
            start: Instant::now(),
            full_at: AtomicU64::new(0),
        }
    }

    /// Returns whether a request may be repeated.
    pub(super) fn take(&self) -> bool {
        self.take_at(self.now())
    }

    /// Records that the server is working.
    pub(super) fn refill(&self) {
        self.refill_at(self.now());
    }

    fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    fn take_at(&self, now: u64) -> bool {
        self.update(|full_at| {
            let full_at = full_at.max(now) + millis(REFILL);
            (full_at <= now + CAPACITY * millis(REFILL)).then_some(full_at)
        })
    }

    fn refill_at(&self, now: u64) {
        self.update(|full_at| (full_at > now).then(|| full_at.saturating_sub(millis(REFILL))));
    }

    /// Returns whether the budget was changed.
    fn update(&self, change: impl FnMut(u64) -> Option<u64>) -> bool {
        // The counter guards no other data.
        let updated = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        updated.is_ok()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes retries until none is left.
    fn drain(budget: &RetryBudget, now: u64) -> u64 {
        let mut taken = 0;
        while budget.take_at(now) {
            taken += 1;
            assert!(taken <= CAPACITY);
        }
        taken
    }

    #[test]
    fn an_outage_ends_retries() {
        let budget = RetryBudget::new();
        assert_eq!(drain(&budget, 0), CAPACITY);
        assert_eq!(drain(&budget, 999), 0);
        assert_eq!(drain(&budget, 1_000), 1);
        assert_eq!(drain(&budget, 5_500), 4);
        // More is not saved.
        assert_eq!(drain(&budget, 1_000_000), CAPACITY);
    }

    #[test]
    fn each_success_allows_a_retry() {
        let budget = RetryBudget::new();
        for _ in 0..10 {
            budget.refill_at(0);
        }
        assert_eq!(drain(&budget, 0), CAPACITY);
        for _ in 0..3 {
            budget.refill_at(500);
        }
        assert_eq!(drain(&budget, 500), 3);
    }
}
