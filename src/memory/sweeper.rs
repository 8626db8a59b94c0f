use crate::sync::thread::{self, JoinHandle};
use crate::{Error, Result};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A thread that periodically removes the expired items and locks of a
/// [`MemoryDb`](crate::MemoryDb).
///
/// Dropping the handle stops the thread and waits until it has ended. A purge that is in progress
/// is completed first. The thread keeps the database alive. A value whose `Drop` panics does not
/// stop the thread.
///
/// The pauses are real time, even if the database has another clock. The database's clock decides
/// which items have expired.
///
/// ```
/// use atomic_db::{MemoryDb, Sweeper};
/// use std::time::Duration;
///
/// let db = MemoryDb::<String>::new();
/// let sweeper = Sweeper::start(&db, Duration::from_secs(60))?;
/// // ... expired items are removed once a minute ...
/// drop(sweeper);
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping the handle stops the thread"]
pub struct Sweeper {
    /// Never used to send: dropping it signals the thread to stop.
    stop: Option<Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts a thread that calls `purge` each time that `every` has passed.
    pub(super) fn spawn(every: Duration, purge: impl Fn() + Send + 'static) -> Result<Self> {
        if every.is_zero() {
            return Err(Error::InvalidInput(
                "a sweeper needs a pause between purges: `every` is zero".into(),
            ));
        }
        let (stop, stopped) = bounded(0);
        let sweep = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                // A value's `Drop` may panic. The database is consistent even then, and the
                // remaining rows are purged next time.
                let _ = catch_unwind(AssertUnwindSafe(&purge));
            }
        };
        let thread = thread::Builder::new()
            .name("atomic-db-sweeper".into())
            .spawn(sweep)
            .map_err(|error| Error::Backend(error.into()))?;
        Ok(Sweeper {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A value in the database may own the handle, so the thread itself may drop it.
            if thread.thread().id() != thread::current().id() {
                // The thread catches every panic, so there is no outcome to report.
                let _ = thread.join();
            }
        }
    }
}
