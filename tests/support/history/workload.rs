//! The settings of the workload.

use std::fmt;

/// The initial balance of every account. Transfers keep the sum.
pub(super) const BALANCE: i64 = 100;

/// What threads do while their calls are recorded.
///
/// There are accounts with a lock each, and shelves with one lock for all their places. Every shelf
/// also has notes, which all threads write without a lock. Threads transfer money between accounts,
/// read and query, create and delete places, write notes, delete locks, and let notes expire, by
/// single calls and in transactions.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub(super) accounts: usize,
    pub(super) shelves: usize,
    pub(super) places: usize,
    pub(super) notes: usize,
    pub(super) threads: usize,
    pub(super) calls: usize,
    pub(super) seed: u64,
    pub(super) snapshots: bool,
}

impl Workload {
    /// About a thousand calls by four threads over few keys.
    #[must_use]
    pub fn new() -> Self {
        Workload {
            accounts: 5,
            shelves: 2,
            places: 4,
            notes: 2,
            threads: 4,
            calls: 245,
            seed: 0,
            snapshots: true,
        }
    }

    /// Sets the seed that chooses the calls. Their interleaving depends on the threads.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the least number of recorded calls of each thread.
    #[must_use]
    pub fn calls(mut self, calls: usize) -> Self {
        self.calls = calls;
        self
    }

    #[must_use]
    pub fn accounts(mut self, accounts: usize) -> Self {
        self.accounts = accounts;
        self
    }

    /// Sets the number of shelves, and of places and notes on each.
    #[must_use]
    pub fn shelves(mut self, shelves: usize, places: usize, notes: usize) -> Self {
        (self.shelves, self.places, self.notes) = (shelves, places, notes);
        self
    }

    /// Leaves out guarantee 7: reads of several keys need not be snapshots.
    #[must_use]
    pub fn without_snapshots(mut self) -> Self {
        self.snapshots = false;
        self
    }
}

impl Workload {
    /// The sum of the accounts, at any time.
    pub fn sum(self) -> i64 {
        BALANCE * self.accounts as i64
    }
}

impl Default for Workload {
    fn default() -> Self {
        Workload::new()
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
