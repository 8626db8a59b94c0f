//! Runs the workload.

use super::keys::value_of;
use super::recorder::Recorder;
use super::recording::History;
use super::worker::Worker;
use super::workload::Workload;
use atomic_db::{AtomicDb, ManualClock};
use std::sync::Arc;

/// The work of the thread of this number, counted from zero.
pub type Job = Arc<dyn Fn(usize) + Send + Sync>;

impl Workload {
    /// Opens the accounts, has `run` run the job on the given number of threads, and reads
    /// everything at the end. Returns the history and the sum of the accounts.
    ///
    /// If the clock of `db` is given, one thread moves it and writes notes that expire.
    pub fn run<D>(
        self,
        db: &Arc<D>,
        time: Option<&ManualClock>,
        run: impl FnOnce(usize, Job),
    ) -> (History, i64)
    where
        D: AtomicDb<Data = String> + Send + Sync + 'static,
    {
        let recorder = Arc::new(Recorder::with_snapshots(value_of, self.snapshots));
        let first = Worker::new(recorder.record(db), self, 0, None);
        let opened = first.open_accounts();
        let _ = opened.inspect_err(|error| first.record_failure(error));
        let (db, time) = (Arc::clone(db), time.cloned());
        let job: Job = {
            let recorder = Arc::clone(&recorder);
            Arc::new(move |thread| {
                let time = time.clone().filter(|_| thread == 0);
                let db = recorder.record(&db);
                Worker::new(db, self, thread + 1, time).work();
            })
        };
        run(self.threads, job);
        let sum = first.read_everything();
        let sum = sum.inspect_err(|error| first.record_failure(error));
        (recorder.history(), sum.unwrap_or_default())
    }
}
