//! The SQL of every statement but that of a commit.
//!
//! Each text is planned once for a session, so texts are chosen by what they do, never by values.
//! Parameters have casts, because an unnamed statement is sent without their types to some servers.

use super::commit_statement;
use super::data_type::DataType;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Statement {
    Get,
    GetMany,
    ReadLock,
    ReadLocks,
    WriteLock,
    Set,
    Delete,
    Commit { checks: bool, creates: bool },
    DeleteMarked,
    Query(Bounds),
    Page(Bounds),
    Scan { is_first_page: bool },
    Purge,
}

/// Which bounds a query has, and its order.
///
/// A condition such as `$4 IS NULL OR sk > $4` would keep the index from finding the first row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bounds {
    pub(super) lower: Option<Lower>,
    pub(super) upper: Option<Upper>,
    pub(super) reverse: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lower {
    Included,
    Excluded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Upper {
    Included,
    Excluded,
}

/// The condition of rows that are live items; `$now` is the parameter of the time.
fn live(now: &str) -> String {
    format!("version IS NULL AND (ttl IS NULL OR ttl >= {now}::bigint)")
}

/// Data that fills a page, in bytes. A page has at least one row.
const PAGE_BYTES: usize = 1 << 20;

impl Statement {
    /// Returns the text. `table` is quoted.
    pub(super) fn text(self, table: &str, data: DataType) -> String {
        match self {
            Statement::Get => format!(
                "SELECT data, ttl FROM {table} WHERE pk = $1::text AND sk = $2::text AND {}",
                live("$3")
            ),
            // The arrays have no limit of parameters. `place` begins at 1.
            Statement::GetMany => format!(
                "SELECT b.place::bigint, r.data, r.ttl \
                 FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS b(pk, sk, place) \
                 CROSS JOIN LATERAL (SELECT data, ttl FROM {table} r \
                   WHERE r.pk = b.pk AND r.sk = b.sk AND {} LIMIT 1) r",
                live("$3")
            ),
            Statement::ReadLock => {
                format!("SELECT version, ttl FROM {table} WHERE pk = $1::text AND sk = $2::text")
            }
            Statement::ReadLocks => format!(
                "SELECT b.place::bigint, r.version, r.ttl \
                 FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS b(pk, sk, place) \
                 CROSS JOIN LATERAL (SELECT version, ttl FROM {table} r \
                   WHERE r.pk = b.pk AND r.sk = b.sk LIMIT 1) r"
            ),
            // Creates, recreates or refreshes a lock: $3 a new version, $4 the time, $5 the expiry of
            // a new lock, $6 the end of the last hour. Returns no row where another caller did that
            // first, or where there is a live item.
            Statement::WriteLock => format!(
                "INSERT INTO {table} AS r (pk, sk, version, ttl) \
                 VALUES ($1::text, $2::text, $3::text, $5::bigint) \
                 ON CONFLICT (pk, sk) DO UPDATE SET data = NULL, ttl = EXCLUDED.ttl, \
                   version = CASE WHEN r.version IS NOT NULL AND r.ttl >= $4::bigint \
                     THEN r.version ELSE EXCLUDED.version END \
                 WHERE r.ttl < $4::bigint OR (r.version IS NOT NULL AND r.ttl < $6::bigint) \
                 RETURNING version, ttl"
            ),
            // The rows are sorted, so that two such statements lock them in the same order.
            Statement::Set => format!(
                "INSERT INTO {table} (pk, sk, data, ttl) SELECT b.pk, b.sk, b.data, b.ttl \
                 FROM unnest($1::text[], $2::text[], $3::{}[], $4::bigint[]) AS b(pk, sk, data, ttl) \
                 ON CONFLICT (pk, sk) DO UPDATE \
                   SET data = EXCLUDED.data, ttl = EXCLUDED.ttl, version = NULL",
                data.name()
            ),
            // Locks the rows in the order of the arrays first: the join of the deletion has an order of
            // its own.
            Statement::Delete => format!(
                "WITH d AS MATERIALIZED (\
                   SELECT r.pk, r.sk FROM unnest($1::text[], $2::text[]) AS b(pk, sk) \
                   CROSS JOIN LATERAL (SELECT r.pk, r.sk FROM {table} r \
                     WHERE r.pk = b.pk AND r.sk = b.sk FOR UPDATE) r) \
                 DELETE FROM {table} r USING d WHERE r.pk = d.pk AND r.sk = d.sk"
            ),
            Statement::Commit { checks, creates } => {
                commit_statement::commit(table, data, checks, creates)
            }
            Statement::DeleteMarked => commit_statement::delete_marked(table),
            Statement::Query(bounds) => bounds.select(table),
            // The sum and the count are computed from the sizes of the rows, without reading large
            // values.
            Statement::Page(bounds) => {
                let direction = bounds.direction();
                format!(
                    "SELECT sk, data, ttl, total FROM (SELECT sk, data, ttl, count(*) OVER () AS total, {} \
                     FROM ({}) p) q WHERE preceding < {PAGE_BYTES} ORDER BY sk {direction}",
                    preceding_bytes(&format!("sk {direction}")),
                    bounds.select(table)
                )
            }
            Statement::Scan { is_first_page } => {
                let after = if is_first_page {
                    ""
                } else {
                    "(pk, sk) > ($3::text, $4::text) AND "
                };
                format!(
                    "SELECT pk, sk, data, ttl, total FROM (SELECT pk, sk, data, ttl, count(*) OVER () AS total, {} \
                     FROM (SELECT pk, sk, data, ttl FROM {table} WHERE {after}{} ORDER BY pk, sk LIMIT $2::bigint) p) q \
                     WHERE preceding < {PAGE_BYTES} ORDER BY pk, sk",
                    preceding_bytes("pk, sk"),
                    live("$1")
                )
            }
            // Rows that another transaction has locked are left to it, or to the next purge.
            Statement::Purge => format!(
                "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} \
                   WHERE ttl < $1::bigint ORDER BY ttl LIMIT $2::bigint FOR UPDATE SKIP LOCKED)) \
                 AND ttl < $1::bigint RETURNING 1"
            ),
        }
    }
}

/// The column `preceding`: the bytes of data in the rows before this one.
fn preceding_bytes(order: &str) -> String {
    format!(
        "coalesce(sum(octet_length(data)) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING), 0) \
         - coalesce(octet_length(data), 0) AS preceding"
    )
}

impl Bounds {
    fn direction(self) -> &'static str {
        if self.reverse { "DESC" } else { "ASC" }
    }

    /// The parameters are the partition key, the time, the limit, and the bounds that there are.
    fn select(self, table: &str) -> String {
        let mut conditions = String::new();
        let mut next_parameter = 4;
        let mut add = |operator: &str| {
            conditions += &format!(" AND sk {operator} ${next_parameter}::text");
            next_parameter += 1;
        };
        match self.lower {
            None => {}
            Some(Lower::Included) => add(">="),
            Some(Lower::Excluded) => add(">"),
        }
        match self.upper {
            None => {}
            Some(Upper::Included) => add("<="),
            Some(Upper::Excluded) => add("<"),
        }
        format!(
            "SELECT sk, data, ttl FROM {table} WHERE pk = $1::text{conditions} AND {} \
             ORDER BY sk {} LIMIT $3::bigint",
            live("$2"),
            self.direction()
        )
    }
}
