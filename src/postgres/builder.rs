//! The options of a [`PostgresDb`](crate::PostgresDb), their defaults and their setters.

use super::attempts::Timeouts;
use crate::sync::Arc;
use crate::{Clock, Json, SystemClock};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// Configures and opens a [`PostgresDb`](crate::PostgresDb).
///
/// # Defaults
///
/// | option | default |
/// | --- | --- |
/// | [`table`](PostgresDbBuilder::table) | `atomic_db`, found by the `search_path` |
/// | [`create_table`](PostgresDbBuilder::create_table) | on |
/// | [`pool_size`](PostgresDbBuilder::pool_size) | 16 connections |
/// | [`timeout`](PostgresDbBuilder::timeout) | 30 seconds |
/// | [`attempt_timeout`](PostgresDbBuilder::attempt_timeout) | 10 seconds |
/// | [`tls_roots`](PostgresDbBuilder::tls_roots) | those of the URL, or else of the system |
/// | [`pooled`](PostgresDbBuilder::pooled) | off |
/// | [`codec`](PostgresDbBuilder::codec) | [`Json`] |
/// | [`clock`](PostgresDbBuilder::clock) | [`SystemClock`] |
///
/// ```no_run
/// use atomic_db::PostgresDb;
/// use std::time::Duration;
///
/// let db: PostgresDb<String> = PostgresDb::builder()
///     .table("shop.orders")
///     .create_table(false)
///     .pool_size(32)
///     .timeout(Duration::from_secs(5))
///     .connect("postgresql://shop:secret@db.example.org/shop?sslmode=verify-full")?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[must_use = "a builder does nothing until it connects"]
pub struct PostgresDbBuilder<T, C = Json> {
    pub(super) options: Options,
    pub(super) codec: C,
    data: PhantomData<fn() -> T>,
}

pub(super) struct Options {
    pub(super) table: String,
    pub(super) create_table: bool,
    pub(super) pool_size: usize,
    pub(super) timeouts: Timeouts,
    pub(super) tls_roots: Option<Vec<u8>>,
    pub(super) is_pooled: bool,
    pub(super) clock: Arc<dyn Clock>,
}

impl<T> PostgresDbBuilder<T> {
    pub(super) fn new() -> Self {
        PostgresDbBuilder {
            options: Options {
                table: "atomic_db".into(),
                create_table: true,
                pool_size: 16,
                timeouts: Timeouts {
                    call: Duration::from_secs(30),
                    attempt: Duration::from_secs(10),
                },
                tls_roots: None,
                is_pooled: false,
                clock: Arc::new(SystemClock),
            },
            codec: Json,
            data: PhantomData,
        }
    }
}

impl<T, C> PostgresDbBuilder<T, C> {
    /// Sets the table, as `name` or `schema.name`, each of at most 50 bytes. The names are quoted, so
    /// upper and lower case differ.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.options.table = name.into();
        self
    }

    /// Sets whether the table is created if it does not exist. If it exists, nothing is changed, and no
    /// privilege to create it is required.
    pub fn create_table(mut self, create: bool) -> Self {
        self.options.create_table = create;
        self
    }

    /// Sets the largest number of connections, from 1 to 1,000. They are opened when they are needed,
    /// and closed when they were not used for a minute.
    ///
    /// A call occupies one connection. Calls that find all of them in use wait for one until their
    /// timeout. Each connection is a process of the server, whose
    /// [`max_connections`](https://www.postgresql.org/docs/current/runtime-config-connection.html) is
    /// shared by all clients. More connections than concurrent writers do not help.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.options.pool_size = connections;
        self
    }

    /// Sets how long a call may take with all its attempts, from 10 milliseconds to an hour.
    ///
    /// Then it fails with [`Unavailable`](crate::Error::Unavailable) if nothing was written, or
    /// [`OutcomeUnknown`](crate::Error::OutcomeUnknown) if that is not known. A
    /// [`set`](crate::AtomicDb::set), a [`delete`](crate::AtomicDb::delete) and a
    /// [purge](crate::PostgresDb::purge_expired) have this time for each of their statements.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeouts.call = timeout;
        self
    }

    /// Sets how long an attempt may take: to connect, or to execute one statement. At most the
    /// [timeout](PostgresDbBuilder::timeout) of the call.
    ///
    /// The server cancels a statement after nine tenths of this time (`statement_timeout`), so that it
    /// ends with a known outcome: [`Unavailable`](crate::Error::Unavailable), and nothing was written.
    /// A query whose result does not arrive within this time cannot succeed.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeouts.attempt = timeout;
        self
    }

    /// Sets the certificate authorities to trust, as the bytes of a PEM file, for the `sslmode`s
    /// `verify-ca` and `verify-full`. They take precedence over the `sslrootcert` of the URL.
    pub fn tls_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.options.tls_roots = Some(pem.into());
        self
    }

    /// Sets whether there is a pooler between this process and the server, such as PgBouncer in
    /// transaction mode, which gives each transaction another connection to the server.
    ///
    /// Then no statement is prepared and no session setting is made. So the server plans each statement
    /// again, which takes about 0.3 milliseconds for a commit, and `statement_timeout` is that of the
    /// user: set it below the [`attempt_timeout`](PostgresDbBuilder::attempt_timeout) with
    /// `ALTER ROLE … SET statement_timeout`. If the connection breaks while a write is executed, more
    /// outcomes are unknown, because a pooler's errors say nothing about the server.
    pub fn pooled(mut self, pooled: bool) -> Self {
        self.options.is_pooled = pooled;
        self
    }

    /// Sets the clock that decides when items and locks expire. Timeouts always use the system's.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.options.clock = Arc::new(clock);
        self
    }

    /// Sets how data is converted. [`Json`] is stored in a column of the type `text`, so that it can be
    /// read in `psql`, and every other codec in one of the type `bytea`. The table's comment has the
    /// name of the codec, and a table with another one is refused.
    ///
    /// ```no_run
    /// use atomic_db::{Bytes, PostgresDb};
    ///
    /// let db: PostgresDb<Vec<u8>, Bytes> = PostgresDb::builder()
    ///     .codec(Bytes)
    ///     .table("pictures")
    ///     .connect("postgresql://localhost/shop?user=shop")?;
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    pub fn codec<D>(self, codec: D) -> PostgresDbBuilder<T, D> {
        PostgresDbBuilder {
            options: self.options,
            codec,
            data: PhantomData,
        }
    }
}

impl<T, C> fmt::Debug for PostgresDbBuilder<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        f.debug_struct("PostgresDbBuilder")
            .field("table", &options.table)
            .field("create_table", &options.create_table)
            .field("pool_size", &options.pool_size)
            .field("timeouts", &options.timeouts)
            .field("pooled", &options.is_pooled)
            .field("clock", &options.clock)
            .finish_non_exhaustive()
    }
}
