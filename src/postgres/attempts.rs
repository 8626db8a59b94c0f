//! The attempts of one call, their deadlines and the pauses between them.

use super::failure::{Failure, FailureKind};
use crate::random::jitter;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// How long a call and each of its attempts may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) call: Duration,
    pub(super) attempt: Duration,
}

impl Timeouts {
    /// Returns how long the server may work on a statement: less than the client waits for it, so that
    /// a statement that is too slow ends with a known outcome.
    pub(super) fn statement(self) -> Duration {
        self.attempt - self.attempt / 10
    }
}

#[derive(Debug)]
pub(super) struct Attempts {
    deadline: Instant,
    attempt: Duration,
    pauses: u32,
    /// Whether an attempt so far may have been executed, or may still be.
    in_doubt: bool,
}

impl Attempts {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Attempts {
            deadline: Instant::now() + timeouts.call,
            attempt: timeouts.attempt,
            pauses: 0,
            in_doubt: false,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Returns until when the response to a request that is sent now is awaited.
    pub(super) fn end_of_attempt(&self) -> Instant {
        self.deadline.min(Instant::now() + self.attempt)
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.attempt
    }

    /// Pauses after a failed attempt, before the next one.
    ///
    /// # Errors
    ///
    /// The failure, if no other attempt helps or no time is left for one.
    pub(super) async fn pause_after(&mut self, failure: Failure) -> Result<(), Failure> {
        match failure.kind {
            FailureKind::Permanent | FailureKind::Cancelled => return Err(failure),
            FailureKind::InDoubt => self.in_doubt = true,
            FailureKind::CreatedConcurrently | FailureKind::Transient => {}
        }
        let pause = if failure.kind == FailureKind::CreatedConcurrently {
            // The item is there now.
            Duration::ZERO
        } else {
            let ceiling = FIRST_PAUSE * 2_u32.saturating_pow(self.pauses.min(10));
            self.pauses += 1;
            jitter(ceiling.min(MAX_PAUSE))
        };
        if Instant::now() + pause >= self.deadline {
            return Err(failure);
        }
        if !pause.is_zero() {
            sleep(pause).await;
        }
        Ok(())
    }
}
