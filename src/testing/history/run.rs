//! Runs the workload and checks what it recorded.

use super::anomaly::Anomaly;
use super::keys::value_of;
use super::recorder::Recorder;
use super::recording::History;
use super::worker::Worker;
use super::workload::Workload;
use crate::testing::fixture::Database;
use crate::testing::threads::{run_concurrently, with_timeout};
use crate::{AtomicDb, ManualClock};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The work of the thread of this number, counted from zero.
pub type Job = Arc<dyn Fn(usize) + Send + Sync>;

/// How long a history may take before the test fails instead of hanging.
const HANG_LIMIT: Duration = Duration::from_secs(600);

/// Runs threads that use a database, records their calls, and checks that the calls are strictly
/// serializable: that one order of them explains all results and agrees with real time.
///
/// `make` returns an empty database that uses the given clock. It is called once for each history.
///
/// ```
/// use atomic_db::MemoryDb;
/// use atomic_db::testing::{Workload, check_history};
///
/// let make = |clock| MemoryDb::builder().clock(clock).build();
/// let evidence = check_history(make, &Workload::new())?;
/// assert!(evidence.calls() > 900);
/// # Ok::<(), atomic_db::testing::Violation>(())
/// ```
///
/// A success is evidence, not a proof: other interleavings of the threads may show an anomaly. See the
/// [limits](super#limits).
///
/// # Errors
///
/// [`Violation`]: a history has an anomaly, or a call failed that must succeed. Its text names the
/// anomaly and shows the calls that prove it.
///
/// # Panics
///
/// If the database panics, or if a history takes more than ten minutes.
pub fn check_history<D: Database>(
    mut make: impl FnMut(ManualClock) -> D,
    workload: &Workload,
) -> Result<Evidence, Violation> {
    let mut evidence = Evidence::default();
    for number in 0..workload.histories {
        let workload = workload.seed(workload.seed.wrapping_add(number as u64));
        // In 2033, as in the conformance suite.
        let clock = ManualClock::new(2_000_000_000);
        let db = Arc::new(make(clock.clone()));
        let history = workload.run(&db, Some(&clock), |threads, job| {
            let run = move |_: &dyn Fn()| run_concurrently(threads, |thread| job(thread));
            with_timeout(HANG_LIMIT, run);
        });
        if let Err(anomaly) = history.check_with(workload.versions) {
            return Err(Violation {
                anomaly,
                seed: workload.seed,
                history,
            });
        }
        evidence.add(&history);
    }
    Ok(evidence)
}

/// What [`check_history`] has checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Evidence {
    histories: usize,
    calls: usize,
    overlapping: usize,
    pairs: usize,
}

impl Evidence {
    fn add(&mut self, history: &History) {
        let (overlapping, pairs) = history.overlaps();
        self.histories += 1;
        self.calls += history.ops.len();
        self.overlapping += overlapping;
        self.pairs += pairs;
    }

    /// Returns the number of histories.
    #[must_use]
    pub fn histories(&self) -> usize {
        self.histories
    }

    /// Returns the number of calls in all histories.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Returns how many of a hundred adjacent calls overlap. Calls that do not overlap show little.
    #[must_use]
    pub fn overlap(&self) -> usize {
        100 * self.overlapping / self.pairs.max(1)
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let overlap = self.overlap();
        let (histories, calls) = (self.histories, self.calls);
        write!(
            f,
            "histories {histories}, calls {calls}, overlap {overlap} %"
        )
    }
}

/// A history that is not strictly serializable.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Violation {
    /// The anomaly and the calls that show it.
    pub anomaly: Anomaly,
    /// The seed of this history.
    pub seed: u64,
    /// All calls.
    pub history: History,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (anomaly, seed) = (&self.anomaly, self.seed);
        let calls = self.history.ops.len();
        write!(
            f,
            "a history of {calls} calls, seed {seed}, has this anomaly: {anomaly}"
        )
    }
}

/// As `Display`, so that `unwrap` shows the calls one a line.
impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for Violation {}

impl Workload {
    /// Runs one history on threads of the caller's own, such as those of a model checker, and returns
    /// it unchecked. [`check_history`] is the usual way.
    ///
    /// `run` runs the job on the given number of threads and waits for all of them. If the clock of
    /// `db` is given, one thread moves it and writes notes that expire.
    #[must_use]
    pub fn run<D>(
        &self,
        db: &Arc<D>,
        clock: Option<&ManualClock>,
        run: impl FnOnce(usize, Job),
    ) -> History
    where
        D: AtomicDb<Data = String> + Send + Sync + 'static,
    {
        let shape = *self;
        let recorder = Arc::new(Recorder::with_snapshots(value_of, shape.snapshots));
        let first = Worker::new(recorder.record_shared(db), shape, 0, None);
        first.open_accounts();
        let (db, clock) = (Arc::clone(db), clock.cloned());
        let job: Job = {
            let recorder = Arc::clone(&recorder);
            Arc::new(move |thread| {
                let clock = clock.clone().filter(|_| thread == 0 && shape.expiry);
                let db = recorder.record_shared(&db);
                Worker::new(db, shape, thread + 1, clock).work();
            })
        };
        run(shape.threads, job);
        first.read_everything();
        recorder.history()
    }
}
