//! What the errors of a request mean, and whether it may have been executed.

use super::error::PostgresDbError;
use crate::{BoxError, Error};
use std::error::Error as _;
use std::io;
use tokio_postgres::error::{DbError, Severity, SqlState};

/// Raised by the statement of a commit; see `commit_statement`.
pub(super) const CREATED_CONCURRENTLY: &str = "atomic-db: created concurrently";

/// Why an attempt of a request failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) error: PostgresDbError,
    /// Whether the session can be used again.
    pub(super) keeps_session: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum FailureKind {
    /// Nothing was written. Another attempt may succeed.
    Transient,
    /// Nothing was written, because another writer created an item first. The next attempt finds it.
    CreatedConcurrently,
    /// Nothing was written. The server gave up after the time that it was given.
    Cancelled,
    /// Nothing was written, and no other attempt can succeed.
    Permanent,
    /// The request may have been executed, or may still be.
    InDoubt,
}

/// What is known about a request when it fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    /// It was not sent, or cannot have been committed yet.
    BeforeCommit,
    /// The server may have committed it.
    MayBeCommitted,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, error: PostgresDbError) -> Self {
        Failure {
            kind,
            error,
            keeps_session: false,
        }
    }

    /// Returns the failure of a request that received no response before its deadline.
    pub(super) fn timed_out(detail: &str, stage: Stage) -> Self {
        let error = PostgresDbError::NoResponse {
            detail: detail.to_owned(),
            source: None,
        };
        Failure::new(without_answer(stage), error)
    }

    /// Returns the failure of a request. `is_pooled` is whether a pooler may have made up the error.
    pub(super) fn of_request(
        error: tokio_postgres::Error,
        stage: Stage,
        is_pooled: bool,
        table: &str,
    ) -> Self {
        match error.as_db_error() {
            Some(reported) => reported_failure(reported, stage, is_pooled, table),
            None => Failure::new(without_answer(stage), no_response(error)),
        }
    }

    /// Returns the failure to connect.
    pub(super) fn of_connect(error: tokio_postgres::Error, table: &str) -> Self {
        if let Some(reported) = error.as_db_error() {
            if is_refused_setting(reported) {
                let error = PostgresDbError::Server {
                    code: reported.code().code().to_owned(),
                    message: format!("{}; a pooler requires `pooled(true)`", reported.message()),
                };
                return Failure::new(FailureKind::Permanent, error);
            }
            return reported_failure(reported, Stage::BeforeCommit, false, table);
        }
        let Some(source) = error.source() else {
            // The connection was closed, or the time was up.
            return Failure::new(FailureKind::Transient, no_response(error));
        };
        if is_tls_error(source) {
            let error = PostgresDbError::Tls {
                detail: "the handshake failed".to_owned(),
                source: Some(error.into()),
            };
            return Failure::new(FailureKind::Permanent, error);
        }
        if source.is::<io::Error>() {
            return Failure::new(FailureKind::Transient, no_response(error));
        }
        // The client refuses to authenticate, for instance because there is no password.
        let error = PostgresDbError::Denied {
            code: String::new(),
            message: format!("{error}: {source}"),
        };
        Failure::new(FailureKind::Permanent, error)
    }

    /// Converts to the error of a call that wrote nothing, or nothing that matters.
    pub(super) fn into_read_error(self) -> Error {
        match self.kind {
            FailureKind::Permanent => self.error.into_backend(),
            _ => Error::Unavailable(Box::new(self.error)),
        }
    }

    /// Converts to the error of a write. `in_doubt` is whether an earlier attempt may have been
    /// executed.
    pub(super) fn into_write_error(self, in_doubt: bool) -> Error {
        if in_doubt || self.kind == FailureKind::InDoubt {
            Error::OutcomeUnknown(Box::new(self.error))
        } else {
            self.into_read_error()
        }
    }
}

fn without_answer(stage: Stage) -> FailureKind {
    match stage {
        Stage::BeforeCommit => FailureKind::Transient,
        Stage::MayBeCommitted => FailureKind::InDoubt,
    }
}

fn no_response(error: tokio_postgres::Error) -> PostgresDbError {
    PostgresDbError::NoResponse {
        detail: "the connection failed".to_owned(),
        source: Some(error.into()),
    }
}

fn is_tls_error(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().is_some_and(|inner| {
            inner.is::<rustls::Error>() || inner.is::<rustls::pki_types::InvalidDnsNameError>()
        }),
        // The text of tokio-postgres, which has no type for it.
        None => error.to_string().contains("TLS"),
    }
}

/// Returns the meaning of an error that the server reported.
fn reported_failure(reported: &DbError, stage: Stage, is_pooled: bool, table: &str) -> Failure {
    let code = reported.code();
    // A session survives an ERROR, and nothing else. Poolers leave out the field that is not
    // translated.
    let is_error = match reported.parsed_severity() {
        Some(severity) => severity == Severity::Error,
        None => reported.severity() == "ERROR",
    };
    let error = described(reported, table);
    // PostgreSQL ends the session with FATAL before it commits, and then reports nothing else. An
    // ERROR undoes the statement. What a pooler reports says nothing about the server.
    let is_made_up = is_pooled && (!is_error || code.code().starts_with("08"));
    let is_crash = !is_error && !is_fatal(reported);
    if stage == Stage::MayBeCommitted && (is_made_up || is_crash) {
        return Failure::new(FailureKind::InDoubt, error);
    }
    let kind = kind_of(reported);
    let breaks_session = [
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::DUPLICATE_PSTATEMENT,
        SqlState::FEATURE_NOT_SUPPORTED,
    ];
    Failure {
        kind,
        error,
        keeps_session: is_error && !breaks_session.contains(code),
    }
}

/// Returns whether a pooler refused the settings of a session. Its other errors of connecting have the
/// same code.
fn is_refused_setting(reported: &DbError) -> bool {
    *reported.code() == SqlState::PROTOCOL_VIOLATION
        && reported.message().contains("startup parameter")
}

fn is_fatal(reported: &DbError) -> bool {
    match reported.parsed_severity() {
        Some(severity) => severity == Severity::Fatal,
        None => reported.severity() == "FATAL",
    }
}

fn kind_of(reported: &DbError) -> FailureKind {
    let code = reported.code();
    if *code == SqlState::INVALID_TEXT_REPRESENTATION
        && reported.message().contains(CREATED_CONCURRENTLY)
    {
        return FailureKind::CreatedConcurrently;
    }
    if *code == SqlState::QUERY_CANCELED {
        return FailureKind::Cancelled;
    }
    let transient = [
        // Conflicts of transactions.
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
        // The server ends the session.
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        // It starts, stops, or has become a standby.
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::READ_ONLY_SQL_TRANSACTION,
        // A prepared statement is gone, is there already, or has another plan.
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::DUPLICATE_PSTATEMENT,
        SqlState::FEATURE_NOT_SUPPORTED,
    ];
    // 57P05 is `idle_session_timeout`. Classes 08 and 53 are connections and resources.
    let text = code.code();
    if transient.contains(code)
        || text == "57P05"
        || text.starts_with("08")
        || text.starts_with("53")
    {
        FailureKind::Transient
    } else {
        FailureKind::Permanent
    }
}

fn described(reported: &DbError, table: &str) -> PostgresDbError {
    let code = reported.code().code().to_owned();
    let message = reported.message().to_owned();
    match code.as_str() {
        "42P01" => PostgresDbError::TableNotFound {
            table: table.to_owned(),
        },
        "42501" => PostgresDbError::Denied { code, message },
        _ if code.starts_with("28") => PostgresDbError::Denied { code, message },
        "25006" => PostgresDbError::ReadOnly { detail: message },
        _ => PostgresDbError::Server { code, message },
    }
}

/// Returns the failure to load certificate authorities.
pub(super) fn tls_failure(detail: impl Into<String>, source: Option<BoxError>) -> PostgresDbError {
    PostgresDbError::Tls {
        detail: detail.into(),
        source,
    }
}
