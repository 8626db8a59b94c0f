//! One connection to the server, with its prepared statements.

use super::data_type::DataType;
use super::failure::{Failure, FailureKind, Stage};
use super::param::Param;
use super::statement::Statement;
use crate::sync::Arc;
use futures_util::future::join4;
use futures_util::{StreamExt, pin_mut};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use tokio::task::{AbortHandle, yield_now};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Row, RowStream};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How sessions are made.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) config: Config,
    pub(super) tls: Tls,
    /// Whether a pooler may be in between, which gives each transaction another connection to the
    /// server, so that statements cannot be prepared.
    pub(super) is_pooled: bool,
    pub(super) table: Arc<str>,
    pub(super) data_type: DataType,
}

/// Makes encrypted connections. It has no `Debug` of its own.
#[derive(Clone)]
pub(super) struct Tls(pub(super) MakeRustlsConnect);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// A statement with its parameters.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) statement: Statement,
    pub(super) params: Vec<Param>,
}

/// One or two statements that are one transaction.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) first: Request,
    /// Sent together with the first one. Its result is not returned.
    pub(super) second: Option<Request>,
    /// Whether the caller has to know if it was executed. If not, it may be repeated.
    pub(super) is_write: bool,
}

/// A connection to the server.
pub(super) struct Session {
    client: Client,
    /// The task that reads and writes the socket.
    task: AbortHandle,
    connector: Arc<Connector>,
    prepared: HashMap<Statement, Prepared>,
    /// The parameter `server_encoding`, which the server sends when a session begins.
    pub(super) encoding: Option<String>,
    stage: Stage,
}

#[derive(Clone)]
enum Prepared {
    Named(tokio_postgres::Statement),
    /// The text, which is parsed each time.
    Unnamed(Arc<str>),
}

impl Session {
    /// Connects. The caller limits the time.
    pub(super) async fn connect(connector: Arc<Connector>) -> Result<Self, Failure> {
        let connected = connector.config.connect(connector.tls.0.clone()).await;
        let (client, connection) =
            connected.map_err(|error| Failure::of_connect(error, &connector.table))?;
        let encoding = connection.parameter("server_encoding").map(str::to_owned);
        // Ends with an error when the connection breaks, which the next request finds out.
        let task = tokio::spawn(connection).abort_handle();
        Ok(Session {
            client,
            task,
            connector,
            prepared: HashMap::new(),
            encoding,
            stage: Stage::BeforeCommit,
        })
    }

    /// Returns whether the connection is known to be broken.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Ends the session, so that the server does not have to notice it.
    pub(super) fn close(self) {
        // The task sends a farewell and ends when the client is dropped.
        drop(self.client);
    }

    /// Ends the session at once, even if the server does not respond.
    pub(super) fn abort(self) {
        self.task.abort();
    }

    /// Returns what is known of the transaction that was executed last, if its future was dropped.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Executes `transaction`, and returns the rows of its first statement.
    pub(super) async fn execute(&mut self, transaction: &Transaction) -> Result<Vec<Row>, Failure> {
        self.stage = Stage::BeforeCommit;
        let first = self.prepare(transaction.first.statement).await?;
        let second = match &transaction.second {
            Some(second) => Some((self.prepare(second.statement).await?, second)),
            None => None,
        };
        if transaction.is_write {
            // Lets the connection's task read what has arrived. If that is the end of the session, the
            // write is not sent, instead of being in doubt.
            yield_now().await;
        }
        if self.is_closed() {
            let detail = "the connection was closed";
            return Err(Failure::timed_out(detail, Stage::BeforeCommit));
        }
        match second {
            None => {
                self.stage = Stage::MayBeCommitted;
                self.execute_alone(&first, &transaction.first).await
            }
            Some((second, request)) => {
                self.execute_both(&first, &transaction.first, &second, request)
                    .await
            }
        }
    }

    /// Executes one statement, which is a transaction of its own.
    async fn execute_alone(
        &self,
        prepared: &Prepared,
        request: &Request,
    ) -> Result<Vec<Row>, Failure> {
        let stream = self.send(prepared, request).await;
        // The server commits after it has reported that the command is complete. If an error comes
        // first, nothing was committed; see `reported_failure` for the errors that are not reported
        // by the server.
        let stream = stream.map_err(|error| self.failure(error, Stage::MayBeCommitted))?;
        self.rows(stream).await
    }

    /// Executes two statements as one transaction, in one round trip.
    async fn execute_both(
        &mut self,
        first: &Prepared,
        first_request: &Request,
        second: &Prepared,
        second_request: &Request,
    ) -> Result<Vec<Row>, Failure> {
        self.stage = Stage::MayBeCommitted;
        let session = &*self;
        // The futures are polled in this order, and each one sends its message when it is polled
        // first. After an error, the server refuses the statements that follow, and `COMMIT` undoes the
        // transaction.
        let (begun, rows, removed, committed) = join4(
            session.client.batch_execute("BEGIN"),
            session.execute_alone(first, first_request),
            session.execute_alone(second, second_request),
            session.client.batch_execute("COMMIT"),
        )
        .await;
        // An error that the server reported for a statement says that nothing was committed.
        let before_commit = |error: tokio_postgres::Error| {
            let stage = match error.as_db_error() {
                Some(_) => Stage::BeforeCommit,
                None => Stage::MayBeCommitted,
            };
            session.failure(error, stage)
        };
        begun.map_err(before_commit)?;
        let rows = rows?;
        removed?;
        committed.map_err(|error| session.failure_of_commit(error))?;
        Ok(rows)
    }

    fn failure(&self, error: tokio_postgres::Error, stage: Stage) -> Failure {
        let Connector {
            is_pooled, table, ..
        } = &*self.connector;
        Failure::of_request(error, stage, *is_pooled, table)
    }

    /// Returns the failure of `COMMIT`. Unlike that of a statement, it may be done when the session is
    /// ended.
    fn failure_of_commit(&self, error: tokio_postgres::Error) -> Failure {
        let mut failure = self.failure(error, Stage::MayBeCommitted);
        if !failure.keeps_session {
            failure.kind = FailureKind::InDoubt;
        }
        failure
    }

    async fn send(
        &self,
        prepared: &Prepared,
        request: &Request,
    ) -> Result<RowStream, tokio_postgres::Error> {
        match prepared {
            Prepared::Named(statement) => {
                let params = request.params.iter().map(Param::sql);
                self.client.query_raw(statement, params).await
            }
            Prepared::Unnamed(text) => {
                let params = request.params.iter();
                let params = params.map(|param| (param.sql(), param.sql_type()));
                self.client.query_typed_raw(text, params).await
            }
        }
    }

    /// Reads all rows.
    async fn rows(&self, stream: RowStream) -> Result<Vec<Row>, Failure> {
        pin_mut!(stream);
        let mut rows = Vec::new();
        while let Some(row) = stream.next().await {
            match row {
                Ok(row) => rows.push(row),
                Err(error) => {
                    let mut failure = self.failure(error, Stage::MayBeCommitted);
                    let is_complete = stream.rows_affected().is_some();
                    if is_complete && !failure.keeps_session {
                        failure.kind = FailureKind::InDoubt;
                    }
                    return Err(failure);
                }
            }
        }
        Ok(rows)
    }

    /// Returns the statement as it is sent. A named one is prepared when it is used first, which is a
    /// round trip.
    async fn prepare(&mut self, statement: Statement) -> Result<Prepared, Failure> {
        let Connector {
            is_pooled,
            table,
            data_type,
            ..
        } = &*self.connector;
        let vacant = match self.prepared.entry(statement) {
            Entry::Occupied(entry) => return Ok(entry.get().clone()),
            Entry::Vacant(entry) => entry,
        };
        let text = statement.text(table, *data_type);
        let prepared = if *is_pooled {
            Prepared::Unnamed(text.into())
        } else {
            let prepared = self.client.prepare(&text).await;
            Prepared::Named(prepared.map_err(|error| {
                Failure::of_request(error, Stage::BeforeCommit, *is_pooled, table)
            })?)
        };
        Ok(vacant.insert(prepared).clone())
    }

    /// Executes statements without parameters, and returns nothing.
    pub(super) async fn batch(&mut self, text: &str) -> Result<(), Failure> {
        let done = self.client.batch_execute(text).await;
        done.map_err(|error| self.failure(error, Stage::BeforeCommit))
    }

    /// Executes a statement that is used once.
    pub(super) async fn query(
        &mut self,
        text: &str,
        params: &[&(dyn ToSql + Sync)],
        types: &[Type],
    ) -> Result<Vec<Row>, Failure> {
        let params = params.iter().copied().zip(types.iter().cloned());
        let stream = self.client.query_typed_raw(text, params).await;
        let stream = stream.map_err(|error| self.failure(error, Stage::BeforeCommit))?;
        self.rows(stream).await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
