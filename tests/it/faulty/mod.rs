//! `FaultyDb`: which faults it injects, and that the crate keeps its guarantees under them.

mod guarantees;
mod rules;

use atomic_db::testing::{Fault, FaultRule};
use atomic_db::{Key, Operation};
use std::time::Duration;

const KEY: Key<'static> = Key::new("pk", "count");
const LOCK: Key<'static> = Key::new("pk", "lock");

/// Every fault, each at `rate`.
fn every_fault(rate: f64) -> Vec<FaultRule> {
    let faults = [
        Fault::Latency(Duration::from_millis(1)),
        Fault::Unavailable,
        Fault::Backend,
        Fault::OutcomeUnknown { applied: true },
        Fault::OutcomeUnknown { applied: false },
        Fault::Conflict,
        Fault::Partial,
        Fault::ShortPage,
    ];
    faults.map(|fault| FaultRule::new(fault).rate(rate)).into()
}

/// The operations that write.
const WRITES: [Operation; 4] = [
    Operation::Set,
    Operation::Delete,
    Operation::Commit,
    Operation::SetAtomic,
];
