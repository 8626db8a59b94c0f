//! Waiting for other processes, with a deadline.
//!
//! redb waits for a lock of a shared file for as long as another process holds it, even if that process
//! is stopped. [`BoundedWait`] replaces each such wait by attempts that end at a deadline.

use crate::BoxError;
use crate::random::jitter;
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use std::cell::Cell;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::thread;
use std::time::{Duration, Instant};

/// The longest pause between two attempts. Attempts are cheap, and a commit of another process takes
/// about as long.
const MAX_PAUSE: Duration = Duration::from_millis(2);

const FIRST_PAUSE: Duration = Duration::from_micros(100);

/// The end of a wait. `None` is the end of time: a `Duration` may exceed what an `Instant` can hold.
type Deadline = Option<Instant>;

thread_local! {
    /// The deadline of the call that this thread makes, if it has one.
    static CALL_DEADLINE: Cell<Option<Deadline>> = const { Cell::new(None) };
}

/// Runs `call` with a deadline for all of its waits together, which is `wait` from now.
///
/// redb lets one thread of a process wait at a time, and the others wait for that one. So if each wait
/// had a deadline of its own, the last thread would wait for the sum of all.
pub(super) fn with_deadline<R>(wait: Duration, call: impl FnOnce() -> R) -> R {
    struct Restore(Option<Deadline>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CALL_DEADLINE.set(self.0);
        }
    }
    let deadline = Instant::now().checked_add(wait);
    let _restore = Restore(CALL_DEADLINE.replace(Some(deadline)));
    call()
}

/// Calls `attempt` until it breaks, with pauses in between. After `wait`, or at the deadline of the call
/// of this thread, returns the result with which the last attempt continued.
pub(super) fn poll<R>(wait: Duration, mut attempt: impl FnMut() -> ControlFlow<R, R>) -> R {
    let own_deadline = || Instant::now().checked_add(wait);
    let deadline = CALL_DEADLINE.get().unwrap_or_else(own_deadline);
    let mut ceiling = FIRST_PAUSE;
    loop {
        let blocked = match attempt() {
            ControlFlow::Break(result) => return result,
            ControlFlow::Continue(blocked) => blocked,
        };
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return blocked;
        }
        // With jitter, because processes that began to wait at the same time would collide again.
        let pause = jitter(ceiling);
        thread::sleep(left.map_or(pause, |left| pause.min(left)));
        ceiling = MAX_PAUSE.min(ceiling * 2);
    }
}

/// The byte that redb locks for a write transaction of a shared file.
const WRITER: Bound<u64> = Bound::Included(1 << 62);

/// How long to wait at most for a write transaction of another process before a lock is read.
const MAX_WAIT_FOR_WRITER: Duration = Duration::from_millis(10);

/// Returns whether another process is writing to a shared file.
///
/// A commit under a lock that was read while another process was about to change it fails. Where many
/// processes change one lock, one of them is always writing, so that a process that reads at any time
/// rarely succeeds. It succeeds more often if it reads when the writer has finished.
pub(super) struct OtherWriters(FileBackend);

impl OtherWriters {
    /// Observes `file`. Locks that are taken through the same open file are not those of others.
    pub(super) fn new(file: FileBackend) -> Self {
        OtherWriters(file)
    }

    /// Waits for the end of a write transaction, but not for long. An error ends the wait, too.
    pub(super) fn wait(&self) {
        poll(MAX_WAIT_FOR_WRITER, || {
            match self.0.query_lock_range(WRITER, WRITER) {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) | Err(_) => ControlFlow::Break(()),
            }
        });
    }
}

/// A storage whose locks are waited for until a deadline: that of the call, or `wait` for each.
#[derive(Debug)]
pub(super) struct BoundedWait<S> {
    pub(super) storage: S,
    pub(super) wait: Duration,
}

impl<S> BoundedWait<S> {
    fn lock(&self, try_lock: impl Fn() -> Result<bool, BackendError>) -> Result<(), BackendError> {
        poll(self.wait, || match try_lock() {
            Ok(true) => ControlFlow::Break(Ok(())),
            Ok(false) => ControlFlow::Continue(Err(BackendError::Io(timed_out(self.wait)))),
            Err(error) => ControlFlow::Break(Err(error)),
        })
    }
}

fn timed_out(wait: Duration) -> io::Error {
    let problem: BoxError = format!(
        "another process has been using the file for {wait:?}: it writes, compacts or checks it, or it is stopped"
    )
    .into();
    io::Error::new(io::ErrorKind::TimedOut, problem)
}

#[deny(clippy::missing_trait_methods)]
impl<S: StorageBackend> StorageBackend for BoundedWait<S> {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.storage.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.storage.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock(|| self.storage.try_lock_range(start, end))
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock(|| self.storage.try_lock_shared_range(start, end))
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.query_lock_range(start, end)
    }
}
