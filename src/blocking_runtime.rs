//! A private async runtime that blocking calls run on.
//!
//! The clients of remote databases are async. A call is spawned on the runtime, and the calling thread
//! parks until the result is there. So a call may be made from any thread, including one that drives a
//! runtime itself.

use crate::Error;
use crate::sync::{Arc, thread};
use crossbeam_channel::bounded;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, unconstrained};

/// Extra time, past the deadline of a call's own, before a hung runtime is reported.
pub(crate) const HANG_GRACE: Duration = Duration::from_secs(1);

/// A runtime, owned by a thread of its own.
///
/// Dropping a runtime inside async code panics, and a database may be dropped anywhere
/// (guarantee 23), so its handles must not own it.
pub(crate) struct BlockingRuntime {
    handle: Handle,
    id: RuntimeId,
    /// Dropped with this value, which ends the owner thread. That thread is not joined, so that
    /// dropping a database never blocks.
    _stop: oneshot::Sender<()>,
}

/// Identifies a runtime. Compared by pointer.
type RuntimeId = Arc<()>;

thread_local! {
    /// The runtime that this thread belongs to, if any.
    static CURRENT_RUNTIME: RefCell<Option<RuntimeId>> = const { RefCell::new(None) };
}

/// Returns whether this is a thread of the runtime `id`.
fn is_runtime_thread(id: &RuntimeId) -> bool {
    let is_current = CURRENT_RUNTIME.try_with(|current| {
        let current = current.borrow();
        current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, id))
    });
    // A thread that ends, and whose destructors call the database, has no value any more. It is a
    // caller's thread: no user code runs in the destructors of a runtime's threads.
    is_current.unwrap_or(false)
}

impl BlockingRuntime {
    /// Starts a runtime with `threads` worker threads, all of them called `name`.
    pub(crate) fn new(name: &'static str, threads: usize) -> io::Result<Self> {
        let id = RuntimeId::default();
        let thread_id = Arc::clone(&id);
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = bounded(1);
        thread::Builder::new().name(name.into()).spawn(move || {
            let mut builder = if threads == 1 {
                Builder::new_current_thread()
            } else {
                Builder::new_multi_thread()
            };
            if threads > 1 {
                builder.worker_threads(threads);
            }
            CURRENT_RUNTIME.set(Some(Arc::clone(&thread_id)));
            let runtime = builder
                .thread_name(name)
                .on_thread_start(move || CURRENT_RUNTIME.set(Some(Arc::clone(&thread_id))))
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => {
                    let _ = ready.send(Ok(runtime.handle().clone()));
                    // Returns, with an error, when the sender is dropped.
                    let _ = runtime.block_on(stopped);
                    // Does not wait for a blocking thread that is still resolving a host name.
                    runtime.shutdown_background();
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
        let handle = started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the runtime could not be started")))?;
        Ok(BlockingRuntime {
            handle,
            id,
            _stop: stop,
        })
    }

    /// Starts `future` on the runtime.
    pub(crate) fn spawn<R: Send + 'static>(
        &self,
        future: impl Future<Output = R> + Send + 'static,
    ) -> Pending<R> {
        Pending {
            task: self.handle.spawn(future),
            runtime: Arc::clone(&self.id),
        }
    }
}

/// A running call, aborted on drop.
pub(crate) struct Pending<R> {
    task: JoinHandle<R>,
    runtime: RuntimeId,
}

impl<R> Pending<R> {
    /// Blocks until the call has returned.
    ///
    /// A call enforces a deadline of its own. `deadline` is a later one, for a runtime that hangs,
    /// as in a credentials provider that blocks its thread.
    pub(crate) fn wait(mut self, deadline: Instant) -> Result<R, CallError> {
        if is_runtime_thread(&self.runtime) {
            return Err(CallError::WouldDeadlock);
        }
        // Parks immediately. A channel would spin first, which is wasted on a network request.
        let waker = Waker::from(Arc::new(ThreadWaker(thread::current())));
        let mut context = Context::from_waker(&waker);
        // A caller may itself be a task of a runtime. Polling must not use up that task's cooperative
        // budget: once it is empty, every poll returns `Pending` until the task yields.
        let mut task = unconstrained(&mut self.task);
        loop {
            if let Poll::Ready(result) = Pin::new(&mut task).poll(&mut context) {
                return result.map_err(|_| CallError::Panicked);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CallError::TimedOut);
            }
            thread::park_timeout(left);
        }
    }
}

/// Wakes a parked thread.
struct ThreadWaker(Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<R> Drop for Pending<R> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<R> fmt::Debug for Pending<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

/// Why a call returned no result.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum CallError {
    #[error("a database cannot be called from a thread of its own runtime")]
    WouldDeadlock,
    #[error("the database's runtime hangs")]
    TimedOut,
    #[error("the call panicked, or the database's runtime has ended")]
    Panicked,
}

impl CallError {
    /// Converts to the error of a read, or of a write that is harmless if it was applied.
    pub(crate) fn into_read_error(self) -> Error {
        match self {
            CallError::WouldDeadlock => Error::InvalidInput(self.to_string()),
            CallError::TimedOut => Error::Unavailable(Box::new(self)),
            CallError::Panicked => Error::Backend(Box::new(self)),
        }
    }

    /// Converts to the error of a write.
    pub(crate) fn into_write_error(self) -> Error {
        match self {
            CallError::WouldDeadlock => self.into_read_error(),
            CallError::TimedOut | CallError::Panicked => Error::OutcomeUnknown(Box::new(self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_timeout;
    use crossbeam_channel::RecvTimeoutError;

    /// Longer than any call here takes.
    const HANG_LIMIT: Duration = Duration::from_secs(30);

    fn deadline() -> Instant {
        Instant::now() + HANG_LIMIT
    }

    fn with_watchdog(body: impl FnOnce() + Send + 'static) {
        with_timeout(HANG_LIMIT * 2, |_| body());
    }

    #[test]
    fn a_call_returns_its_result_on_any_number_of_threads() {
        with_watchdog(|| {
            for threads in [1, 3] {
                let runtime = BlockingRuntime::new("test", threads).unwrap();
                assert_eq!(runtime.spawn(async { 7 }).wait(deadline()), Ok(7));
            }
        });
    }

    /// tokio's budget of a task is 128 polls.
    #[test]
    fn a_task_may_wait_any_number_of_times_without_yielding() {
        with_watchdog(|| {
            let runtime = BlockingRuntime::new("test", 1).unwrap();
            let callers = Builder::new_current_thread().build().unwrap();
            callers.block_on(async {
                for number in 0..1_000 {
                    let call = runtime.spawn(async move { number });
                    assert_eq!(call.wait(deadline()), Ok(number));
                }
            });
        });
    }

    #[test]
    fn a_panic_in_a_call_is_reported() {
        with_watchdog(|| {
            let runtime = BlockingRuntime::new("test", 1).unwrap();
            let call = runtime.spawn(async { panic!("injected") });
            assert_eq!(call.wait(deadline()), Err::<(), _>(CallError::Panicked));
            assert_eq!(runtime.spawn(async { 7 }).wait(deadline()), Ok(7));
        });
    }

    #[test]
    fn a_call_from_a_thread_of_the_runtime_is_refused() {
        with_watchdog(|| {
            for threads in [1, 2] {
                let runtime = Arc::new(BlockingRuntime::new("test", threads).unwrap());
                let inner = Arc::clone(&runtime);
                let outer = runtime.spawn(async move { inner.spawn(async {}).wait(deadline()) });
                assert_eq!(outer.wait(deadline()), Ok(Err(CallError::WouldDeadlock)));
            }
        });
    }

    #[test]
    fn waiting_for_a_runtime_that_hangs_ends_at_the_deadline() {
        with_watchdog(|| {
            let runtime = BlockingRuntime::new("test", 1).unwrap();
            let (release, released) = bounded::<()>(0);
            let blocking = runtime.spawn(async move { released.recv() });
            let call = runtime.spawn(async {});
            assert_eq!(call.wait(Instant::now()), Err(CallError::TimedOut));
            drop(release);
            blocking.wait(deadline()).unwrap().unwrap_err();
        });
    }

    #[test]
    fn dropping_the_runtime_ends_its_thread_and_its_calls() {
        with_watchdog(|| {
            for threads in [1, 3] {
                let runtime = BlockingRuntime::new("test", threads).unwrap();
                let (alive, dropped) = bounded::<()>(0);
                let call = runtime.spawn(async move {
                    let _alive = alive;
                    std::future::pending::<()>().await;
                });
                drop(runtime);
                assert_eq!(
                    dropped.recv_deadline(deadline()),
                    Err(RecvTimeoutError::Disconnected)
                );
                assert_eq!(call.wait(deadline()), Err(CallError::Panicked));
            }
        });
    }

    #[test]
    fn dropping_a_call_aborts_it() {
        with_watchdog(|| {
            let runtime = BlockingRuntime::new("test", 1).unwrap();
            let (alive, dropped) = bounded::<()>(0);
            drop(runtime.spawn(async move {
                let _alive = alive;
                std::future::pending::<()>().await;
            }));
            assert_eq!(
                dropped.recv_deadline(deadline()),
                Err(RecvTimeoutError::Disconnected)
            );
        });
    }
}
