//! The table: its creation, and what is checked when a database is opened.

use super::data_type::DataType;
use super::error::PostgresDbError;
use super::failure::{Failure, FailureKind};
use super::row::column;
use super::session::Session;
use super::table_name::TableName;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

/// Two creations wait for each other. The number is arbitrary.
const ADVISORY_LOCK: i64 = 0x6174_6f6d_6963_6462;

/// `MATERIALIZED` is needed.
const MIN_SERVER_VERSION: i32 = 120_000;

/// What is required of the table.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    pub(super) table: TableName,
    pub(super) data_type: DataType,
    /// The name of the codec.
    pub(super) codec: &'static str,
    /// Whether a missing table is created.
    pub(super) create: bool,
}

/// The state of the server, and the table if it exists.
struct Found {
    oid: Option<u32>,
    kind: Option<String>,
    comment: Option<String>,
    is_read_only: bool,
    is_in_recovery: bool,
    encoding: String,
    server_version: i32,
    /// The privileges that are missing.
    missing: Vec<&'static str>,
}

const PRIVILEGES: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

impl Schema {
    /// Checks the server and the table, and creates the table if it is missing and may be created.
    pub(super) async fn ensure(&self, session: &mut Session) -> Result<(), Failure> {
        let mut found = self.look(session).await?;
        self.check_server(&found, session.encoding.as_deref())?;
        if found.oid.is_none() {
            if !self.create {
                return Err(permanent(PostgresDbError::TableNotFound {
                    table: self.table.to_string(),
                }));
            }
            self.create_table(session).await?;
            found = self.look(session).await?;
        }
        match found.oid {
            Some(oid) => self.check_table(session, oid, &found).await,
            None => Err(self.mismatch("it is not found by the search path after its creation")),
        }
    }

    async fn look(&self, session: &mut Session) -> Result<Found, Failure> {
        let privileges = PRIVILEGES.map(|name| format!("has_table_privilege(c.oid, '{name}')"));
        let text = format!(
            "SELECT c.oid, c.relkind::text, obj_description(c.oid, 'pg_class'), \
               current_setting('transaction_read_only') = 'on', pg_is_in_recovery(), \
               current_setting('server_encoding'), current_setting('server_version_num')::int, {} \
             FROM (SELECT to_regclass($1::text) AS oid) t LEFT JOIN pg_catalog.pg_class c ON c.oid = t.oid",
            privileges.join(", ")
        );
        let table = self.table.to_string();
        let rows = session.query(&text, &[&table], &[Type::TEXT]).await?;
        let row = rows
            .first()
            .ok_or_else(|| self.mismatch("the server did not describe it"))?;
        let mut missing = Vec::new();
        for (index, name) in PRIVILEGES.iter().enumerate() {
            if self.column::<Option<bool>>(row, 7 + index)? == Some(false) {
                missing.push(*name);
            }
        }
        Ok(Found {
            oid: self.column(row, 0)?,
            kind: self.column(row, 1)?,
            comment: self.column(row, 2)?,
            is_read_only: self.column(row, 3)?,
            is_in_recovery: self.column(row, 4)?,
            encoding: self.column(row, 5)?,
            server_version: self.column(row, 6)?,
            missing,
        })
    }

    fn check_server(&self, found: &Found, reported: Option<&str>) -> Result<(), Failure> {
        if found.server_version < MIN_SERVER_VERSION {
            let version = found.server_version / 10_000;
            return Err(self.mismatch(format!("PostgreSQL {version} is older than 12")));
        }
        let encoding = reported.unwrap_or(&found.encoding);
        if encoding != "UTF8" {
            return Err(self.mismatch(format!(
                "the database has the encoding {encoding}, not UTF8"
            )));
        }
        let detail = if found.is_in_recovery {
            "it is a standby"
        } else if found.is_read_only {
            "its transactions are read-only (`default_transaction_read_only`)"
        } else {
            return Ok(());
        };
        // After a failover it may be the primary server.
        let detail = detail.into();
        Err(Failure::new(
            FailureKind::Transient,
            PostgresDbError::ReadOnly { detail },
        ))
    }

    /// Creates the table in a transaction that others wait for, because `IF NOT EXISTS` alone fails if
    /// two sessions create a table at the same time.
    async fn create_table(&self, session: &mut Session) -> Result<(), Failure> {
        let begin = format!("BEGIN; SELECT pg_advisory_xact_lock({ADVISORY_LOCK})");
        session.batch(&begin).await?;
        let table = self.table.to_string();
        // Without a table in it, the statement would trust a cache from before the wait.
        let text = "SELECT count(*) = 0 FROM pg_catalog.pg_class WHERE oid = to_regclass($1::text)";
        let rows = session.query(text, &[&table], &[Type::TEXT]).await?;
        let is_missing = match rows.first() {
            Some(row) => self.column(row, 0)?,
            None => false,
        };
        if is_missing {
            session.batch(&self.definition()).await?;
        }
        session.batch("COMMIT").await
    }

    /// Returns the statements that create the table.
    fn definition(&self) -> String {
        format!(
            "CREATE TABLE {table} (\
               pk text COLLATE \"C\" NOT NULL, \
               sk text COLLATE \"C\" NOT NULL, \
               data {data}, \
               version text COLLATE \"C\", \
               ttl bigint, \
               PRIMARY KEY (pk, sk), \
               CHECK (version IS NULL OR (data IS NULL AND ttl IS NOT NULL))\
             ) WITH (fillfactor = 80); \
             CREATE INDEX {index} ON {table} (ttl) WHERE ttl IS NOT NULL; \
             COMMENT ON TABLE {table} IS '{format}'",
            table = self.table,
            index = self.table.expiry_index(),
            data = self.data_type.name(),
            format = format_comment(self.codec).replace('\'', "''"),
        )
    }

    async fn check_table(
        &self,
        session: &mut Session,
        oid: u32,
        found: &Found,
    ) -> Result<(), Failure> {
        if !matches!(found.kind.as_deref(), Some("r" | "p")) {
            return Err(self.mismatch("it is not a table"));
        }
        self.check_format(found.comment.as_deref())?;
        let text = "SELECT a.attname::text, t.typname::text, a.attnotnull, \
               coalesce(c.collname::text IN ('C', 'POSIX'), false), a.attgenerated::text = '', \
               array_position((SELECT string_to_array(i.indkey::text, ' ') FROM pg_catalog.pg_index i \
                 WHERE i.indrelid = a.attrelid AND i.indisprimary), a.attnum::text), \
               (SELECT i.indnkeyatts::int FROM pg_catalog.pg_index i \
                 WHERE i.indrelid = a.attrelid AND i.indisprimary) \
             FROM pg_catalog.pg_attribute a \
             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
             LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation \
             WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped";
        let rows = session.query(text, &[&oid], &[Type::OID]).await?;
        let data_type = self.data_type.name();
        // Name, type, whether it must be NOT NULL and in the order of bytes, place in the primary key.
        for (name, sql_type, is_key, place) in [
            ("pk", "text", true, Some(1)),
            ("sk", "text", true, Some(2)),
            ("data", data_type, false, None),
            ("version", "text", false, None),
            ("ttl", "int8", false, None),
        ] {
            let mut row = None;
            for candidate in &rows {
                if self.column::<&str>(candidate, 0)? == name {
                    row = Some(candidate);
                }
            }
            let row = row.ok_or_else(|| self.mismatch(format!("it has no column {name}")))?;
            let found_type: &str = self.column(row, 1)?;
            if found_type != sql_type {
                return Err(self.mismatch(format!(
                    "the column {name} has the type {found_type}, not {sql_type}"
                )));
            }
            if is_key && !self.column::<bool>(row, 3)? {
                return Err(self.mismatch(format!("the column {name} has no COLLATE \"C\"")));
            }
            if self.column::<bool>(row, 2)? != is_key {
                let not = if is_key { "no" } else { "a" };
                return Err(self.mismatch(format!("the column {name} has {not} NOT NULL")));
            }
            if !self.column::<bool>(row, 4)? {
                return Err(self.mismatch(format!("the column {name} is generated")));
            }
            let columns: Option<i32> = self.column(row, 6)?;
            if self.column::<Option<i32>>(row, 5)? != place || columns != Some(2) {
                return Err(self.mismatch("its primary key is not (pk, sk)"));
            }
        }
        if found.missing.is_empty() {
            return Ok(());
        }
        Err(permanent(PostgresDbError::Denied {
            code: "42501".into(),
            message: format!(
                "the user has no privilege to {} on the table {}",
                found.missing.join(", "),
                self.table
            ),
        }))
    }

    /// Checks the first line of the comment. A table without a comment has the first format and the
    /// default codec.
    fn check_format(&self, comment: Option<&str>) -> Result<(), Failure> {
        let expected = format_comment(self.codec);
        let found = match comment {
            None => format_comment("json"),
            Some(comment) => comment.lines().next().unwrap_or("").to_owned(),
        };
        if found == expected {
            return Ok(());
        }
        Err(self.mismatch(format!(
            "the first line of its comment is {found:?}, and it is opened as {expected:?}"
        )))
    }

    fn mismatch(&self, detail: impl Into<String>) -> Failure {
        permanent(PostgresDbError::SchemaMismatch {
            table: self.table.to_string(),
            detail: detail.into(),
        })
    }

    fn column<'a, V: FromSql<'a>>(&self, row: &'a Row, index: usize) -> Result<V, Failure> {
        column(row, index)
            .map_err(|error| self.mismatch(format!("the server's description is odd: {error:?}")))
    }
}

/// The comment of a table, which states its format and its codec.
fn format_comment(codec: &str) -> String {
    format!("atomic-db format 1, codec {codec}")
}

fn permanent(error: PostgresDbError) -> Failure {
    Failure::new(FailureKind::Permanent, error)
}
