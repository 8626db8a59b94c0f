//! The errors that a caller can act on.

use crate::{BoxError, Error};

/// An error from PostgreSQL or from the connection to it.
///
/// A call of a [`PostgresDb`](crate::PostgresDb) returns it as the source of one of these, which give
/// the state afterwards:
///
/// - [`Error::Backend`]: a retry cannot help. A commit wrote nothing; a `set` or `delete` of several
///   statements may have written some of its keys.
/// - [`Error::Unavailable`]: retries did not help until the call's timeout. The state is the same.
/// - [`Error::OutcomeUnknown`]: the write may have been applied, or may still be.
///
/// Messages contain neither passwords nor data of items. The error is that of the last attempt.
///
/// ```
/// use atomic_db::{Error, PostgresDbError};
///
/// fn advice(error: &Error) -> &'static str {
///     let (Error::Backend(source) | Error::Unavailable(source)) = error else {
///         return "see the error itself";
///     };
///     match source.downcast_ref() {
///         Some(PostgresDbError::TableNotFound { .. }) => "create the table",
///         Some(PostgresDbError::Denied { .. }) => "check the password and the privileges",
///         Some(PostgresDbError::ReadOnly { .. }) => "connect to the primary server",
///         _ => "see the source",
///     }
/// }
/// # let denied = PostgresDbError::Denied { code: String::new(), message: String::new() };
/// # assert!(advice(&Error::Backend(denied.into())).contains("password"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresDbError {
    /// The server cannot be reached, the connection broke, or no response arrived in time.
    #[error("no response from the server: {detail}")]
    NoResponse {
        /// What happened, without the text of `source`.
        detail: String,
        /// The error of the connection, if there is one.
        source: Option<BoxError>,
    },

    /// No encrypted connection could be made: the server does not support TLS, its certificate is not
    /// trusted or is for another host, or the certificate authorities could not be loaded.
    ///
    /// Returned at once, as `Backend`.
    #[error("no encrypted connection to the server: {detail}")]
    Tls {
        /// What happened, without the text of `source`.
        detail: String,
        /// The error of TLS, if there is one.
        source: Option<BoxError>,
    },

    /// The server refused the user or the password, or the user lacks a privilege.
    ///
    /// The statement was not executed. Returned at once, as `Backend`.
    /// [`PostgresDb`](crate::PostgresDb#privileges) lists the privileges that are required.
    #[error("access denied ({code}): {message}")]
    Denied {
        /// The SQLSTATE, such as `28P01` or `42501`; empty if the server was not asked.
        code: String,
        /// The message.
        message: String,
    },

    /// The table does not exist, and was not to be created.
    ///
    /// Returned at once, as `Backend`.
    #[error("the table {table} does not exist")]
    TableNotFound {
        /// The table's name.
        table: String,
    },

    /// The table, the database or the server is not as [`PostgresDb`](crate::PostgresDb#the-table)
    /// requires: a column, its type or collation, the primary key, the format, the codec, the encoding
    /// or the version.
    ///
    /// Found when the database is opened. Returned at once, as `Backend`.
    #[error("the table {table} cannot be used: {detail}")]
    SchemaMismatch {
        /// The table's name.
        table: String,
        /// The difference: what was found, and what is required.
        detail: String,
    },

    /// The server is a standby, or its transactions are read-only.
    ///
    /// The statement was not executed.
    #[error("the server is read-only: {detail}")]
    ReadOnly {
        /// What was found.
        detail: String,
    },

    /// All connections of the pool were in use until the call's timeout.
    ///
    /// Nothing was sent.
    #[error("all {connections} connections are in use")]
    PoolExhausted {
        /// The [size of the pool](crate::PostgresDbBuilder::pool_size).
        connections: usize,
    },

    /// Another error that the server reported.
    #[error("PostgreSQL reported {code}: {message}")]
    Server {
        /// The SQLSTATE, such as `57014` for a statement that was cancelled.
        code: String,
        /// The server's message.
        message: String,
    },
}

impl PostgresDbError {
    pub(super) fn into_backend(self) -> Error {
        Error::Backend(Box::new(self))
    }
}
