//! Retries: deadlines and back-off.

use super::error::DynamoDbError;
use super::failure::Failure;
use crate::Error;
use crate::random::jitter;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The time limits of a database.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// From the start of a call, or from its last progress, to its end.
    pub(super) call: Duration,
    /// One request and its response.
    pub(super) attempt: Duration,
}

/// The ceiling of the first pause. Each further pause has twice the ceiling of the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The failure of a call: no further request helps, or no time is left for one.
#[derive(Debug)]
pub(super) struct CallFailure {
    /// The error of the last request.
    pub(super) error: DynamoDbError,
    /// Whether the last request failed for good, so that repeating the call does not help either.
    fatal: bool,
    /// Whether any of the requests may have been applied, or may still be.
    pub(super) in_doubt: bool,
}

impl CallFailure {
    /// Converts to the error of a read, or of a write that is harmless if it was applied.
    pub(super) fn into_read_error(self) -> Error {
        if self.fatal {
            Error::Backend(Box::new(self.error))
        } else {
            Error::Unavailable(Box::new(self.error))
        }
    }

    /// Converts to the error of a write.
    pub(super) fn into_write_error(self) -> Error {
        if self.in_doubt {
            Error::OutcomeUnknown(Box::new(self.error))
        } else {
            self.into_read_error()
        }
    }
}

/// The requests of one call that repeat each other.
#[derive(Debug)]
pub(super) struct Attempts {
    /// A request without time for its response would only leave the outcome unknown.
    no_new_attempt_after: Instant,
    /// No response is awaited after this.
    deadline: Instant,
    attempt_timeout: Duration,
    pauses: u32,
    /// Whether any request so far may have been applied.
    in_doubt: bool,
    has_replaced_credentials: bool,
}

impl Attempts {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        let deadline = Instant::now() + timeouts.call;
        let last_attempt = timeouts.attempt.min(timeouts.call / 8);
        Attempts::with_deadlines(deadline - last_attempt, deadline, timeouts.attempt)
    }

    pub(super) fn with_deadlines(
        no_new_attempt_after: Instant,
        deadline: Instant,
        attempt_timeout: Duration,
    ) -> Self {
        Attempts {
            no_new_attempt_after,
            deadline,
            attempt_timeout,
            pauses: 0,
            in_doubt: false,
            has_replaced_credentials: false,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns whether any request so far may have been applied, or may still be.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Returns whether no time is left for a request and its response.
    pub(super) fn is_late(&self) -> bool {
        Instant::now() >= self.no_new_attempt_after
    }

    /// Returns whether credentials that were rejected may be replaced, which is once in a call.
    pub(super) fn may_replace_credentials(&mut self) -> bool {
        !std::mem::replace(&mut self.has_replaced_credentials, true)
    }

    /// Returns until when the response to a request that is sent now is awaited.
    pub(super) fn end_of_attempt(&self) -> Instant {
        self.deadline.min(Instant::now() + self.attempt_timeout)
    }

    /// Pauses after a failed request, before it is sent again.
    ///
    /// # Errors
    ///
    /// The failure of the call, if no further request helps or no time is left for one.
    pub(super) async fn pause_after(&mut self, failure: Failure) -> Result<(), CallFailure> {
        let (error, fatal) = match failure {
            Failure::Fatal(error) => (error, true),
            Failure::Retryable { error, in_doubt } => {
                self.in_doubt |= in_doubt;
                let pause = self.next_pause();
                if Instant::now() + pause < self.no_new_attempt_after {
                    sleep(pause).await;
                    return Ok(());
                }
                (error, false)
            }
        };
        Err(CallFailure {
            error,
            fatal,
            in_doubt: self.in_doubt,
        })
    }

    /// Pauses as briefly as after a first failure, because a batch was processed in part.
    pub(super) async fn pause_briefly() {
        sleep(jitter(FIRST_PAUSE)).await;
    }

    fn next_pause(&mut self) -> Duration {
        let ceiling = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16));
        self.pauses = self.pauses.saturating_add(1);
        jitter(ceiling.min(MAX_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_timeout;

    fn lost_response() -> Failure {
        Failure::maybe_applied(DynamoDbError::NoResponse("injected".into()))
    }

    fn attempts(call: Duration) -> Attempts {
        Attempts::new(Timeouts {
            call,
            attempt: call,
        })
    }

    /// The outcome of the last pause after `failures`, in a call that may take `timeout`.
    fn pause_after_each(
        timeout: Duration,
        failures: impl IntoIterator<Item = Failure> + Send + 'static,
    ) -> Result<(), CallFailure> {
        with_timeout(Duration::from_secs(60), move |_| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut attempts = attempts(timeout);
                for failure in failures {
                    attempts.pause_after(failure).await?;
                }
                Ok(())
            })
        })
    }

    #[test]
    fn pauses_grow_to_a_second_and_no_further() {
        let mut attempts = attempts(Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..200).map(|_| attempts.next_pause()).collect();
        assert!(pauses[0] <= FIRST_PAUSE);
        assert!(pauses.iter().all(|pause| *pause <= MAX_PAUSE));
        assert!(pauses.iter().any(|pause| *pause > MAX_PAUSE / 2));
    }

    #[test]
    fn a_call_stays_in_doubt_whatever_later_responses_say() {
        let denied = DynamoDbError::AccessDenied {
            code: String::new(),
            message: String::new(),
        };
        let failures = [lost_response(), Failure::Fatal(denied)];
        let failure = pause_after_each(Duration::from_secs(60), failures).unwrap_err();
        assert!(matches!(failure.error, DynamoDbError::AccessDenied { .. }));
        assert!(matches!(
            failure.into_write_error(),
            Error::OutcomeUnknown(_)
        ));
    }

    #[test]
    fn no_request_is_repeated_after_the_deadline() {
        let failure = pause_after_each(Duration::ZERO, [lost_response()]).unwrap_err();
        assert!(matches!(failure.into_read_error(), Error::Unavailable(_)));
    }
}
