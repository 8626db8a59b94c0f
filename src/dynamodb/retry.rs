//! Asking again: until when, and with what pauses.

use super::error::{DynamoDbError, trouble};
use crate::Error;
use crate::random::jitter;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use std::error::Error as StdError;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From the beginning of a call, or the last thing that it got done, to its end.
    pub(super) call: Duration,
    /// One request and its answer.
    pub(super) attempt: Duration,
}

/// The first pause is drawn from nothing to this, and each further one from twice as much.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why a request did not end well.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Asking again may help.
    Again {
        error: DynamoDbError,
        /// Whether the request may have been done, or may still be: its answer is lost, or says
        /// neither.
        in_doubt: bool,
    },
    /// Asking again will not help.
    Final(DynamoDbError),
}

impl Trouble {
    pub(super) fn again(error: DynamoDbError, in_doubt: bool) -> Self {
        Trouble::Again { error, in_doubt }
    }
}

/// What is left when there is no use or no time for another request.
#[derive(Debug)]
pub(super) struct GaveUp {
    /// What was wrong the last time.
    pub(super) error: DynamoDbError,
    /// Whether no later request will help either.
    for_good: bool,
    /// Whether any of the requests may have been done, or may still be.
    pub(super) in_doubt: bool,
}

impl GaveUp {
    /// The error of a call after which nothing matters that was, perhaps, done.
    pub(super) fn undone(self) -> Error {
        match self.for_good {
            true => Error::Backend(Box::new(self.error)),
            false => Error::Unavailable(Box::new(self.error)),
        }
    }

    /// The error of a call that was to write.
    pub(super) fn unwritten(self) -> Error {
        match self.in_doubt {
            true => Error::OutcomeUnknown(Box::new(self.error)),
            false => self.undone(),
        }
    }
}

/// The requests of one call that ask for the same thing.
#[derive(Debug)]
pub(super) struct Attempts {
    /// No request begins after this. One that had no time left for its answer would bring nothing
    /// but doubt.
    last_begin: Instant,
    /// No request is waited for after this.
    end: Instant,
    attempt: Duration,
    pauses: u32,
    /// Whether any request so far may have been done.
    in_doubt: bool,
}

impl Attempts {
    pub(super) fn new(patience: Patience) -> Self {
        let end = Instant::now() + patience.call;
        let last = patience.attempt.min(patience.call / 8);
        Attempts::between(end - last, end, patience.attempt)
    }

    pub(super) fn between(last_begin: Instant, end: Instant, attempt: Duration) -> Self {
        Attempts {
            last_begin,
            end,
            attempt,
            pauses: 0,
            in_doubt: false,
        }
    }

    /// Awaits one request, for as long as an attempt may take and there is time.
    pub(super) async fn send<A, E>(
        &self,
        request: impl Future<Output = Result<A, SdkError<E, HttpResponse>>>,
    ) -> Result<A, Box<SdkError<E, HttpResponse>>> {
        let began = Instant::now();
        let latest = self.end.min(began + self.attempt);
        match timeout_at(latest, request).await {
            Ok(outcome) => outcome.map_err(Box::new),
            Err(_) => Err(Box::new(SdkError::timeout_error(
                DynamoDbError::silent_for(latest.saturating_duration_since(began)),
            ))),
        }
    }

    /// Pauses after a request that did not end well, so that it may be sent again.
    ///
    /// # Errors
    ///
    /// What was wrong, if there is no use or no time for another request.
    pub(super) async fn pause_after<E>(
        &mut self,
        error: Box<SdkError<E, HttpResponse>>,
        table: &str,
    ) -> Result<(), GaveUp>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        self.pause_in(trouble(*error, table)).await
    }

    pub(super) async fn pause_in(&mut self, trouble: Trouble) -> Result<(), GaveUp> {
        let (error, for_good) = match trouble {
            Trouble::Final(error) => (error, true),
            Trouble::Again { error, in_doubt } => {
                self.in_doubt |= in_doubt;
                let pause = self.next_pause();
                if Instant::now() + pause < self.last_begin {
                    sleep(pause).await;
                    return Ok(());
                }
                (error, false)
            }
        };
        Err(GaveUp {
            error,
            for_good,
            in_doubt: self.in_doubt,
        })
    }

    /// Pauses because something, though not all, got done: as briefly as after a first failure.
    pub(super) async fn breathe() {
        sleep(jitter(FIRST_PAUSE)).await;
    }

    fn next_pause(&mut self) -> Duration {
        let most = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16));
        self.pauses = self.pauses.saturating_add(1);
        jitter(most.min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Trouble {
        Trouble::again(DynamoDbError::silent_for(Duration::ZERO), true)
    }

    fn attempts(call: Duration) -> Attempts {
        Attempts::new(Patience {
            call,
            attempt: call,
        })
    }

    #[test]
    fn pauses_grow_to_a_second_and_no_further() {
        let mut attempts = attempts(Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..200).map(|_| attempts.next_pause()).collect();
        assert!(pauses[0] <= FIRST_PAUSE);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        assert!(pauses.iter().any(|pause| *pause > LONGEST_PAUSE / 2));
    }

    #[tokio::test]
    async fn a_doubt_stays_whatever_is_heard_later() {
        let mut attempts = attempts(Duration::from_secs(60));
        attempts.pause_in(lost()).await.unwrap();
        let denied = DynamoDbError::AccessDenied {
            code: String::new(),
            message: String::new(),
        };
        let gave_up = attempts.pause_in(Trouble::Final(denied)).await.unwrap_err();
        assert!(matches!(gave_up.unwritten(), Error::OutcomeUnknown(_)));
    }

    #[tokio::test]
    async fn nothing_is_asked_again_past_the_deadline() {
        let mut attempts = attempts(Duration::ZERO);
        let gave_up = attempts.pause_in(lost()).await.unwrap_err();
        assert!(matches!(gave_up.undone(), Error::Unavailable(_)));
    }
}
