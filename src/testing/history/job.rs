//! The mix of calls that each thread makes.

use super::anomaly_kind::AnomalyKind;
use super::recording::Action;
use super::worker::Worker;
use crate::{AtomicDb, Error, Result};

impl<D: AtomicDb<Data = String>> Worker<D> {
    /// Makes calls until there are as many as the workload has, or until one fails that must not.
    pub(super) fn work(&self) {
        while self.db.recorded() < self.shape.calls {
            if let Err(error) = self.step() {
                return self.record_failure(&error);
            }
        }
    }

    pub(super) fn open_accounts(&self) {
        if let Err(error) = self.try_open_accounts() {
            self.record_failure(&error);
        }
    }

    /// Reads all items and locks, and compares the sum of the accounts with what it must be.
    pub(super) fn read_everything(&self) {
        match self.try_read_everything() {
            Ok(sum) if sum == self.shape.sum() => {}
            Ok(sum) => {
                let text = format!("the sum of the accounts is {sum}, not {}", self.shape.sum());
                self.record_problem(AnomalyKind::WrongSum, text);
            }
            Err(error) => self.record_failure(&error),
        }
    }

    fn record_failure(&self, error: &Error) {
        self.record_problem(AnomalyKind::FailedCall, format!("a call failed: {error:?}"));
    }

    fn record_problem(&self, kind: AnomalyKind, text: String) {
        self.db.push(self.db.stamp(), [Action::Problem(kind, text)]);
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
