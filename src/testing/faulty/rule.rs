//! Which calls get a fault.

use super::fault::Fault;
use crate::Operation;

/// A fault, and the calls that get it: by operation, key and count, or at a rate.
///
/// ```
/// use atomic_db::Operation;
/// use atomic_db::testing::{Fault, FaultRule};
/// use std::time::Duration;
///
/// // The third commit that has a key of these partitions loses a race.
/// FaultRule::new(Fault::Conflict).prefix("account#").skip(2).times(1);
/// // Every read of locks fails.
/// FaultRule::new(Fault::Unavailable).operations([Operation::GetLock, Operation::GetLocks]);
/// // One call in ten is slow.
/// FaultRule::new(Fault::Latency(Duration::from_millis(50))).rate(0.1);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FaultRule {
    pub(super) fault: Fault,
    /// Empty for all operations.
    pub(super) operations: Vec<Operation>,
    pub(super) pk_prefix: String,
    pub(super) skip: u64,
    pub(super) times: u64,
    /// `None` is every call.
    pub(super) rate: Option<f64>,
}

impl FaultRule {
    /// Injects `fault` into every call that it applies to.
    pub fn new(fault: Fault) -> Self {
        FaultRule {
            fault,
            operations: Vec::new(),
            pk_prefix: String::new(),
            skip: 0,
            times: u64::MAX,
            rate: None,
        }
    }

    /// Selects calls of these operations. `set_atomic` and `commit` are different ones, and the pages of
    /// a stream are [`Page`](Operation::Page)s.
    pub fn operations(mut self, operations: impl IntoIterator<Item = Operation>) -> Self {
        self.operations = operations.into_iter().collect();
        self
    }

    /// Selects calls with a key whose partition key begins with `pk_prefix`.
    pub fn prefix(mut self, pk_prefix: impl Into<String>) -> Self {
        self.pk_prefix = pk_prefix.into();
        self
    }

    /// Leaves the first `calls` selected calls alone.
    pub fn skip(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// Injects the fault into at most `calls` calls.
    pub fn times(mut self, calls: u64) -> Self {
        self.times = calls;
        self
    }

    /// Selects a share of the calls, from 0 to 1, by a hash of the database's seed, the operation, its
    /// keys, and how many calls of that operation with those keys there were before. The order of
    /// threads therefore does not change which of these calls fail.
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = Some(rate);
        self
    }
}
