//! The private runtime: the SDK is async, and lives on threads of its own. Calls are handed over
//! and their answers waited for by parking the thread, so they may come from any thread, also from
//! one that drives a runtime itself.

use crate::sync::{Arc, thread};
use crossbeam_channel::bounded;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A runtime, and the thread that owns it. The thread must own it: a runtime that is dropped where
/// async code runs panics, and a handle of a database may be dropped anywhere.
pub(super) struct Bridge {
    handle: Handle,
    identity: Identity,
    /// Dropped with the bridge, which the owner waits for. Nobody waits for the owner: dropping a
    /// database blocks nobody.
    _stop: oneshot::Sender<()>,
}

/// Where it lies says which bridge it is of: it lives for as long as anybody could ask.
type Identity = Arc<()>;

thread_local! {
    /// The bridge that this thread serves, if it serves one.
    static SERVES: RefCell<Option<Identity>> = const { RefCell::new(None) };
}

/// Whether this is a thread of the runtime itself.
fn serves(identity: &Identity) -> bool {
    SERVES.with_borrow(|served| {
        let mut served = served.iter();
        served.any(|served| Arc::ptr_eq(served, identity))
    })
}

impl Bridge {
    pub(super) fn new(threads: usize) -> io::Result<Self> {
        let identity = Identity::default();
        let served = Arc::clone(&identity);
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = bounded(1);
        thread::Builder::new()
            .name("atomic-db-dynamodb".into())
            .spawn(move || {
                let mut builder = match threads {
                    1 => Builder::new_current_thread(),
                    _ => Builder::new_multi_thread(),
                };
                if threads > 1 {
                    builder.worker_threads(threads);
                }
                SERVES.set(Some(Arc::clone(&served)));
                let runtime = builder
                    .thread_name("atomic-db-dynamodb")
                    .on_thread_start(move || SERVES.set(Some(Arc::clone(&served))))
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => {
                        let _ = ready.send(Ok(runtime.handle().clone()));
                        // It ends when the sender is dropped, and that is an error.
                        let _ = runtime.block_on(stopped);
                        // A name that is still being resolved on a blocking thread is not waited for.
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
        Ok(Bridge {
            handle,
            identity,
            _stop: stop,
        })
    }

    /// Begins `future` on the runtime.
    pub(super) fn start<R: Send + 'static>(
        &self,
        future: impl Future<Output = R> + Send + 'static,
    ) -> Pending<R> {
        Pending {
            task: self.handle.spawn(future),
            server: Arc::clone(&self.identity),
        }
    }
}

/// A call that is under way. Dropped, it is given up.
pub(super) struct Pending<R> {
    task: JoinHandle<R>,
    server: Identity,
}

impl<R> Pending<R> {
    /// Blocks until the answer is there.
    ///
    /// What is called keeps a deadline by itself; `latest` is for a runtime that is stuck, as in a
    /// credentials provider that blocks its thread.
    pub(super) fn wait(mut self, latest: Instant) -> Result<R, NoReturn> {
        if serves(&self.server) {
            return Err(NoReturn::CalledFromWithin);
        }
        // Parked at once: a channel would spin for a while first, and a request takes longer.
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(answer) = Pin::new(&mut self.task).poll(&mut context) {
                return answer.map_err(|_| NoReturn::Died);
            }
            let left = latest.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NoReturn::Stuck);
            }
            thread::park_timeout(left);
        }
    }
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
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

/// Why a call brought nothing back.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum NoReturn {
    #[error("a database cannot be called from the thread that serves it")]
    CalledFromWithin,
    #[error("the runtime of the database is stuck")]
    Stuck,
    #[error("the runtime of the database has died")]
    Died,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::RecvTimeoutError;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn a_call_is_answered_whatever_the_number_of_threads() {
        for threads in [1, 3] {
            let bridge = Bridge::new(threads).unwrap();
            assert_eq!(bridge.start(async { 7 }).wait(soon()), Ok(7));
        }
    }

    #[test]
    fn a_call_that_panics_is_told() {
        let bridge = Bridge::new(1).unwrap();
        let call = bridge.start(async { panic!("as the test wants") });
        assert_eq!(call.wait(soon()), Err::<(), _>(NoReturn::Died));
        assert_eq!(bridge.start(async { 7 }).wait(soon()), Ok(7));
    }

    #[test]
    fn a_call_from_within_is_refused() {
        for threads in [1, 2] {
            let bridge = Arc::new(Bridge::new(threads).unwrap());
            let inner = Arc::clone(&bridge);
            let refused = bridge.start(async move { inner.start(async {}).wait(soon()) });
            assert_eq!(refused.wait(soon()), Ok(Err(NoReturn::CalledFromWithin)));
        }
    }

    #[test]
    fn a_runtime_that_is_stuck_is_not_waited_for() {
        let bridge = Bridge::new(1).unwrap();
        let (go_on, told) = bounded::<()>(0);
        let stuck = bridge.start(async move { told.recv() });
        let call = bridge.start(async {});
        assert_eq!(call.wait(Instant::now()), Err(NoReturn::Stuck));
        drop(go_on);
        stuck.wait(soon()).unwrap().unwrap_err();
    }

    #[test]
    fn the_runtime_ends_with_its_bridge() {
        for threads in [1, 3] {
            let bridge = Bridge::new(threads).unwrap();
            let (alive, dropped) = bounded::<()>(0);
            let call = bridge.start(async move {
                let _alive = alive;
                std::future::pending::<()>().await;
            });
            drop(bridge);
            assert_eq!(
                dropped.recv_deadline(soon()),
                Err(RecvTimeoutError::Disconnected)
            );
            assert_eq!(call.wait(soon()), Err(NoReturn::Died));
        }
    }

    #[test]
    fn a_call_that_is_given_up_is_stopped() {
        let bridge = Bridge::new(1).unwrap();
        let (alive, dropped) = bounded::<()>(0);
        drop(bridge.start(async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        }));
        assert_eq!(
            dropped.recv_deadline(soon()),
            Err(RecvTimeoutError::Disconnected)
        );
    }
}
