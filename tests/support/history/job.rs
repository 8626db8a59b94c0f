//! The mix of calls that each thread makes.

use super::anomaly_kind::AnomalyKind;
use super::recording::Action;
use super::worker::Worker;
use atomic_db::{AtomicDb, Error, Result};

impl<D: AtomicDb<Data = String>> Worker<D> {
    /// Makes calls until there are as many as the workload has, or until one fails that must not.
    pub(super) fn work(&self) {
        while self.db.recorded() < self.shape.calls {
            if let Err(error) = self.step() {
                return self.record_failure(&error);
            }
        }
    }

    pub(super) fn record_failure(&self, error: &Error) {
        let text = format!("a call failed: {error:?}");
        let problem = Action::Problem(AnomalyKind::FailedCall, text);
        self.db.push(self.db.stamp(), [problem]);
    }

    fn step(&self) -> Result<()> {
        match self.below(36) {
            0..=2 => return self.transfer(),
            3..=4 => return self.read_one(),
            5..=7 => return self.read_several(),
            8..=11 => return self.read_shelf(),
            12..=14 => return self.restock(),
            15..=16 => return self.check_shelf_and_write_account(),
            17 => return self.create_without_reading(),
            18 => return self.delete_lock(),
            19..=20 => return self.set_notes(),
            21 => return self.delete_notes(),
            22..=24 => return self.commit_notes(),
            25 => return self.expire(),
            26..=27 => self.transact_transfer(),
            28..=30 => self.transact_restock(),
            31 => self.transact_after_query(),
            32..=33 => self.transact_audit(),
            34 => match self.below(2) {
                0 => self.transact_without_locks(),
                _ => self.transact_notes(),
            },
            _ => self.update(),
        }
        Ok(())
    }
}
