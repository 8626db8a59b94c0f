//! Retries: deadlines and back-off.

use super::budget::RetryBudget;
use super::error::DynamoDbError;
use super::failure::Failure;
use crate::Error;
use crate::random::jitter;
use crate::sync::Arc;
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
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// After a conflict, which is over as soon as the other transaction is.
const MAX_PAUSE_AFTER_CONFLICT: Duration = Duration::from_secs(1);

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
    budget: Arc<RetryBudget>,
    pauses: u32,
    /// Whether any request so far may have been applied.
    in_doubt: bool,
    has_replaced_credentials: bool,
}

impl Attempts {
    pub(super) fn new(timeouts: Timeouts, budget: Arc<RetryBudget>) -> Self {
        let deadline = Instant::now() + timeouts.call;
        let last_attempt = timeouts.attempt.min(timeouts.call / 8);
        Attempts::with_deadlines(deadline - last_attempt, deadline, timeouts.attempt, budget)
    }

    pub(super) fn with_deadlines(
        no_new_attempt_after: Instant,
        deadline: Instant,
        attempt_timeout: Duration,
        budget: Arc<RetryBudget>,
    ) -> Self {
        Attempts {
            no_new_attempt_after,
            deadline,
            attempt_timeout,
            budget,
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
    /// The failure of the call, if no further request helps, no time is left for one, or the server
    /// fails so often that the retry budget is spent.
    pub(super) async fn pause_after(&mut self, failure: Failure) -> Result<(), CallFailure> {
        let (error, fatal) = match failure {
            Failure::Fatal(error) => (error, true),
            Failure::Retryable { error, in_doubt } => {
                self.in_doubt |= in_doubt;
                let is_conflict = matches!(error, DynamoDbError::TransactionConflict { .. });
                // Conflicts show that the server works. A single retry resolves most lost responses.
                let is_free = is_conflict || self.pauses == 0;
                let pause = self.next_pause(if is_conflict {
                    MAX_PAUSE_AFTER_CONFLICT
                } else {
                    MAX_PAUSE
                });
                let is_in_time = Instant::now() + pause < self.no_new_attempt_after;
                if is_in_time && (is_free || self.budget.take()) {
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

    fn next_pause(&mut self, max: Duration) -> Duration {
        let ceiling = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16));
        self.pauses = self.pauses.saturating_add(1);
        jitter(ceiling.min(max))
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
        attempts_with(call, new_budget())
    }

    fn new_budget() -> Arc<RetryBudget> {
        Arc::new(RetryBudget::new())
    }

    fn attempts_with(call: Duration, budget: Arc<RetryBudget>) -> Attempts {
        let timeouts = Timeouts {
            call,
            attempt: call,
        };
        Attempts::new(timeouts, budget)
    }

    /// The outcome of the last pause after `failures`, in a call that may take `timeout`.
    fn pause_after_each(
        budget: Arc<RetryBudget>,
        timeout: Duration,
        failures: impl IntoIterator<Item = Failure> + Send + 'static,
    ) -> Result<(), CallFailure> {
        with_timeout(Duration::from_secs(60), move |_| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut attempts = attempts_with(timeout, budget);
                for failure in failures {
                    attempts.pause_after(failure).await?;
                }
                Ok(())
            })
        })
    }

    #[test]
    fn pauses_grow_to_their_maximum_and_no_further() {
        for max in [MAX_PAUSE, MAX_PAUSE_AFTER_CONFLICT] {
            let mut attempts = attempts(Duration::from_secs(1));
            let pauses: Vec<Duration> = (0..200).map(|_| attempts.next_pause(max)).collect();
            assert!(pauses[0] <= FIRST_PAUSE);
            assert!(pauses.iter().all(|pause| *pause <= max));
            assert!(pauses.iter().any(|pause| *pause > max / 2));
        }
    }

    #[test]
    fn only_the_first_retry_and_those_after_conflicts_are_free() {
        let conflict = || {
            Failure::not_applied(DynamoDbError::TransactionConflict {
                code: String::new(),
                message: String::new(),
            })
        };
        let spent = new_budget();
        while spent.take() {}
        for (failures, is_retried) in [
            (vec![lost_response()], true),
            (vec![lost_response(), lost_response()], false),
            (vec![lost_response(), conflict(), conflict()], true),
        ] {
            let paused = pause_after_each(Arc::clone(&spent), Duration::from_secs(60), failures);
            assert_eq!(paused.is_ok(), is_retried);
        }
    }

    #[test]
    fn a_call_stays_in_doubt_whatever_later_responses_say() {
        let denied = DynamoDbError::AccessDenied {
            code: String::new(),
            message: String::new(),
        };
        let failures = [lost_response(), Failure::Fatal(denied)];
        let failure =
            pause_after_each(new_budget(), Duration::from_secs(60), failures).unwrap_err();
        assert!(matches!(failure.error, DynamoDbError::AccessDenied { .. }));
        assert!(matches!(
            failure.into_write_error(),
            Error::OutcomeUnknown(_)
        ));
    }

    #[test]
    fn no_request_is_repeated_after_the_deadline() {
        let failure =
            pause_after_each(new_budget(), Duration::ZERO, [lost_response()]).unwrap_err();
        assert!(matches!(failure.into_read_error(), Error::Unavailable(_)));
    }
}
