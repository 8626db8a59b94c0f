//! The settings of the workload.

use super::recording::Versions;

/// The initial balance of every account. Transfers keep the sum.
pub(super) const BALANCE: i64 = 100;

/// What the threads of [`check_history`](super::check_history) do.
///
/// There are accounts with a lock each, and shelves with one lock for all their places. Every shelf
/// also has notes, which all threads write without a lock. The threads transfer money between
/// accounts; read and query; create, replace and delete places; write and delete notes; delete locks;
/// and let notes expire. They use single calls, `transact` and `update`.
///
/// The default is one history of about a thousand calls by four threads over few keys.
///
/// ```
/// use atomic_db::testing::Workload;
///
/// let longer = Workload::new().histories(10).threads(8).calls(500).seed(42);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    pub(super) histories: usize,
    pub(super) threads: usize,
    pub(super) calls: usize,
    pub(super) seed: u64,
    pub(super) accounts: usize,
    pub(super) shelves: usize,
    pub(super) places: usize,
    pub(super) notes: usize,
    pub(super) snapshots: bool,
    pub(super) expiry: bool,
    pub(super) versions: Versions,
}

impl Workload {
    /// Creates the default workload.
    #[must_use]
    pub fn new() -> Self {
        Workload {
            histories: 1,
            threads: 4,
            calls: 245,
            seed: 0,
            accounts: 5,
            shelves: 2,
            places: 4,
            notes: 2,
            snapshots: true,
            expiry: true,
            versions: Versions::Early,
        }
    }

    /// Sets the number of histories, each of a new database and with the next seed. Several short ones
    /// show more than a long one.
    #[must_use]
    pub fn histories(mut self, histories: usize) -> Self {
        self.histories = histories;
        self
    }

    /// Sets the number of threads.
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

    /// Sets the seed, which chooses the calls of each thread. It does not choose how the threads
    /// interleave.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the number of accounts.
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

    /// Leaves out guarantee 7: a read of several keys need not be a snapshot.
    #[must_use]
    pub fn without_snapshots(mut self) -> Self {
        self.snapshots = false;
        self
    }

    /// Leaves out expiry, for a database that does not use the clock that it is given.
    #[must_use]
    pub fn without_expiry(mut self) -> Self {
        self.expiry = false;
        self
    }

    /// Sets when the database assigns versions. With [`Versions::AtCommit`], the order of versions must
    /// be that of the commits, and more anomalies are found. The default is [`Versions::Early`].
    #[must_use]
    pub fn versions(mut self, versions: Versions) -> Self {
        self.versions = versions;
        self
    }

    /// The sum of the accounts, at any time.
    pub(super) fn sum(&self) -> i64 {
        BALANCE * self.accounts as i64
    }
}

impl Default for Workload {
    fn default() -> Self {
        Workload::new()
    }
}
