//! Running test code on threads, with a limit on how long it may hang.

use crate::sync::thread;
use crossbeam_channel::{RecvTimeoutError, unbounded};
use std::panic::resume_unwind;
use std::sync::Barrier;
use std::time::Duration;

/// Runs `body` on a thread of its own and returns its result. A call that never returns then fails
/// a test instead of stopping the whole test run.
///
/// `body` is given a function that reports progress: each call of it restarts the limit.
///
/// ```
/// use atomic_db::testing::with_timeout;
/// use std::time::Duration;
///
/// let sum = with_timeout(Duration::from_secs(60), |_progress| 1 + 1);
/// assert_eq!(sum, 2);
/// ```
///
/// # Panics
///
/// If `body` panics, with the same panic; or if it neither ends nor reports progress for as long as
/// `limit`. Its thread goes on in that case.
pub fn with_timeout<R: Send + 'static>(
    limit: Duration,
    body: impl FnOnce(&dyn Fn()) -> R + Send + 'static,
) -> R {
    let (progress, progressed) = unbounded::<()>();
    let thread = thread::spawn(move || {
        // The channel is closed when the body has ended, even by a panic.
        body(&|| {
            // The receiver is gone if the limit has passed.
            let _ = progress.send(());
        })
    });
    loop {
        match progressed.recv_timeout(limit) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => panic!("a call hangs: no progress for {limit:?}"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs `body` on `threads` threads, each given its number, and returns their results in that
/// order. All threads have started before the first one enters `body`.
///
/// ```
/// use atomic_db::testing::run_concurrently;
///
/// assert_eq!(run_concurrently(3, |number| number * 2), [0, 2, 4]);
/// ```
///
/// # Panics
///
/// If `body` panics on a thread, with the panic of the first such thread, after all have ended.
pub fn run_concurrently<R: Send>(threads: usize, body: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let run = |number| {
            let (start, body) = (&start, &body);
            scope.spawn(move || {
                start.wait();
                body(number)
            })
        };
        let threads: Vec<_> = (0..threads).map(run).collect();
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|outcome| outcome.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}
