use super::MemoryDb;
use crate::sync::thread::{self, JoinHandle};
use crate::{Error, Result};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A thread that drops what has expired in a [`MemoryDb`], now and again.
///
/// Dropping the handle stops the thread and waits until it has ended; a purge that is under way is
/// finished first. The thread keeps the database alive. A value whose `Drop` panics ends neither
/// the thread nor the sweeping.
///
/// The pauses are real time, whatever clock the database has; what has expired is judged by the
/// database's clock.
///
/// ```
/// use atomic_db::{MemoryDb, Sweeper};
/// use std::time::Duration;
///
/// let db = MemoryDb::<String>::new();
/// let sweeper = Sweeper::start(&db, Duration::from_secs(60))?;
/// // ... expired items are dropped once a minute ...
/// drop(sweeper);
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping the handle stops the sweeping"]
pub struct Sweeper {
    /// Nothing is ever sent: that the other end is gone is the message.
    stop: Option<Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts a thread that purges `db` each time that `every` has passed.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidInput`]: `every` is zero. No thread was started.
    /// - [`Error::Backend`]: the operating system has no thread to give.
    pub fn start<T: Send + Sync + 'static>(db: &MemoryDb<T>, every: Duration) -> Result<Self> {
        if every.is_zero() {
            return Err(Error::InvalidInput(
                "a sweeper cannot purge without any pause: `every` is zero".into(),
            ));
        }
        let (stop, stopped) = bounded(0);
        let db = db.clone();
        let sweep = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                // A value's `Drop` may panic. The database is whole then, and what is left is
                // purged next time.
                let _ = catch_unwind(AssertUnwindSafe(|| db.purge_expired()));
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
            // The handle may live in a value of the database, and be dropped by the thread itself.
            if thread.thread().id() != thread::current().id() {
                // The thread catches every panic, so there is no outcome to tell.
                let _ = thread.join();
            }
        }
    }
}
