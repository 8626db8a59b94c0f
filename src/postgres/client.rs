//! Requests to one table, each in a loop of attempts.

use super::attempts::{Attempts, Timeouts};
use super::commit::{Commit, Verdict};
use super::failure::{Failure, FailureKind, Stage};
use super::pool::Pool;
use super::session::{Request, Transaction};
use crate::sync::Arc;
use crate::{Error, Result, VersionGenerator};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Row;

/// How late a timer may be before that means that the process was suspended, and how long it may then
/// read what has arrived.
const SUSPENSION: Duration = Duration::from_millis(100);

/// The client of one table.
#[derive(Debug)]
pub(super) struct TableClient {
    pub(super) pool: Arc<Pool>,
    pub(super) timeouts: Timeouts,
    pub(super) versions: VersionGenerator,
}

impl TableClient {
    /// Executes `transaction` once.
    pub(super) async fn attempt(
        &self,
        attempts: &Attempts,
        transaction: &Transaction,
    ) -> std::result::Result<Vec<Row>, Failure> {
        let acquired = self
            .pool
            .acquire(attempts.deadline(), attempts.connect_timeout());
        let mut pooled = acquired.await?;
        let Some(session) = pooled.session() else {
            let detail = "internal error: a connection without a session";
            return Err(Failure::timed_out(detail, Stage::BeforeCommit));
        };
        let start = Instant::now();
        let executed = {
            let end = attempts.end_of_attempt();
            let mut execution = pin!(session.execute(transaction));
            match timeout_at(end, &mut execution).await {
                // The process was suspended. What arrived in that time has not been read yet.
                Err(_) if Instant::now() > end + SUSPENSION => {
                    timeout(SUSPENSION, &mut execution).await
                }
                executed => executed,
            }
        };
        match executed {
            Ok(Ok(rows)) => {
                pooled.keep();
                Ok(rows)
            }
            Ok(Err(failure)) => {
                if failure.keeps_session {
                    pooled.keep();
                }
                Err(failure)
            }
            Err(_) => {
                // If the network has dropped this connection without notice, it has probably dropped
                // those that were idle, too. Otherwise each of them would cost an attempt.
                self.pool.abort_unused_since(start);
                let detail = "it did not arrive in time";
                Err(Failure::timed_out(detail, session.stage()))
            }
        }
    }

    /// Executes a transaction that may be repeated: a read, or a write that is harmless if it is executed
    /// twice.
    pub(super) async fn repeat(
        &self,
        attempts: &mut Attempts,
        transaction: &Transaction,
    ) -> Result<Vec<Row>> {
        loop {
            match self.attempt(attempts, transaction).await {
                Ok(rows) => return Ok(rows),
                Err(failure) => attempts
                    .pause_after(failure)
                    .await
                    .map_err(Failure::into_read_error)?,
            }
        }
    }

    /// Executes one statement as [`repeat`](TableClient::repeat) does.
    pub(super) async fn read(self: Arc<Self>, request: Request) -> Result<Vec<Row>> {
        let mut attempts = Attempts::new(self.timeouts);
        let transaction = Transaction {
            first: request,
            second: None,
            is_write: false,
        };
        self.repeat(&mut attempts, &transaction).await
    }

    /// Executes an unconditional write. It is not repeated if it may have been executed: if another
    /// writer overwrote it, it would appear a second time.
    pub(super) async fn write(self: Arc<Self>, request: Request) -> Result<()> {
        let transaction = Transaction {
            first: request,
            second: None,
            is_write: true,
        };
        let mut attempts = Attempts::new(self.timeouts);
        loop {
            match self.attempt(&attempts, &transaction).await {
                Ok(_) => return Ok(()),
                Err(failure) if failure.kind == FailureKind::InDoubt => {
                    return Err(failure.into_write_error(true));
                }
                Err(failure) => attempts
                    .pause_after(failure)
                    .await
                    .map_err(Failure::into_read_error)?,
            }
        }
    }

    /// Validates and writes a commit.
    ///
    /// If the response to an attempt is lost, the same commit is sent again, with the same new version.
    /// If the locks are as expected, it is executed now, and an earlier attempt that is still running
    /// cannot be executed any more. If they have the new version, an earlier attempt was executed.
    pub(super) async fn commit(self: Arc<Self>, commit: Commit) -> Result<Verdict> {
        let mut attempts = Attempts::new(self.timeouts);
        loop {
            let failure = match self.attempt(&attempts, &commit.transaction).await {
                Ok(rows) => {
                    let verdict = Verdict::from_rows(&rows, &commit, attempts.is_in_doubt());
                    return verdict.map_err(|error| match error {
                        Error::Backend(source) if attempts.is_in_doubt() => {
                            Error::OutcomeUnknown(source)
                        }
                        other => other,
                    });
                }
                Err(failure) => failure,
            };
            if failure.kind == FailureKind::InDoubt && !commit.can_be_resolved() {
                return Err(failure.into_write_error(true));
            }
            if let Err(failure) = attempts.pause_after(failure).await {
                return Err(failure.into_write_error(attempts.is_in_doubt()));
            }
        }
    }
}
