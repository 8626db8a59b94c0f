//! The connections of a database: at most so many, opened when they are needed, the last used first.

use super::error::PostgresDbError;
use super::failure::{Failure, FailureKind, Stage};
use super::session::{Connector, Session};
use crate::sync::{Arc, Mutex};
use std::fmt;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};

/// How long a connection may be unused before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Pool {
    connector: Arc<Connector>,
    size: usize,
    /// One permit for each connection in use.
    permits: Semaphore,
    /// The last used one is the last. The mutex is held for a moment, and no other code runs then.
    idle: Mutex<Vec<IdleSession>>,
}

struct IdleSession {
    session: Session,
    since: Instant,
}

impl Pool {
    pub(super) fn new(connector: Connector, size: usize) -> Self {
        Pool {
            connector: Arc::new(connector),
            size,
            permits: Semaphore::new(size),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Returns a connection, which is opened if none is idle. Waits until `deadline` while all are in
    /// use, and for a new one until `connect_deadline`.
    pub(super) async fn acquire(
        &self,
        deadline: Instant,
        connect_timeout: Duration,
    ) -> Result<PooledSession<'_>, Failure> {
        let permit = match timeout_at(deadline, self.permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => {
                let error = PostgresDbError::PoolExhausted {
                    connections: self.size,
                };
                return Err(Failure::new(FailureKind::Transient, error));
            }
        };
        let session = loop {
            let idle = self.idle.lock().pop();
            match idle {
                Some(idle) if idle.session.is_closed() => {}
                Some(idle) => break idle.session,
                None => {
                    let deadline = deadline.min(Instant::now() + connect_timeout);
                    let connect = Session::connect(Arc::clone(&self.connector));
                    match timeout_at(deadline, connect).await {
                        Ok(connected) => break connected?,
                        Err(_) => {
                            let detail = "connecting took too long";
                            return Err(Failure::timed_out(detail, Stage::BeforeCommit));
                        }
                    }
                }
            }
        };
        Ok(PooledSession {
            pool: self,
            session: Some(session),
            _permit: permit,
        })
    }

    /// Ends the connections that were not used since `time`, without a farewell.
    pub(super) fn abort_unused_since(&self, time: Instant) {
        let unused: Vec<IdleSession> = {
            let mut idle = self.idle.lock();
            let first_used = first_used_since(&idle, time);
            idle.drain(..first_used).collect()
        };
        for idle in unused {
            idle.session.abort();
        }
    }

    /// Closes connections that were not used for a minute, again and again until the pool is dropped.
    pub(super) async fn close_idle_sessions(pool: std::sync::Weak<Pool>) {
        loop {
            sleep(IDLE_TIMEOUT / 4).await;
            let Some(pool) = pool.upgrade() else { return };
            let Some(limit) = Instant::now().checked_sub(IDLE_TIMEOUT) else {
                continue;
            };
            let expired: Vec<IdleSession> = {
                let mut idle = pool.idle.lock();
                let first_recent = first_used_since(&idle, limit);
                idle.drain(..first_recent).collect()
            };
            for idle in expired {
                idle.session.close();
            }
        }
    }
}

/// Returns the place of the first connection that was used since `time`. They are in the order of their
/// last use.
fn first_used_since(idle: &[IdleSession], time: Instant) -> usize {
    idle.partition_point(|idle| idle.since < time)
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// A connection in use. When it is dropped, it is closed, because a request may still be running.
pub(super) struct PooledSession<'a> {
    pool: &'a Pool,
    session: Option<Session>,
    _permit: SemaphorePermit<'a>,
}

impl PooledSession<'_> {
    /// Returns the session, which is there until `keep` takes it.
    pub(super) fn session(&mut self) -> Option<&mut Session> {
        self.session.as_mut()
    }

    /// Returns the connection to the pool.
    pub(super) fn keep(mut self) {
        if let Some(session) = self.session.take() {
            let idle = IdleSession {
                session,
                since: Instant::now(),
            };
            self.pool.idle.lock().push(idle);
        }
    }
}

impl Drop for PooledSession<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.abort();
        }
    }
}
