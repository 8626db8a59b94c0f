//! The statement that validates and writes a whole commit.
//!
//! `b` holds the rows of the batch, in the order of their keys:
//!
//! | `kind` | row | `version` |
//! | --- | --- | --- |
//! | `l` | a lock to renew | the expected one |
//! | `c` | a lock to check | the expected one |
//! | `s` | an item to set | |
//! | `n` | an item to create | |
//! | `d` | a key to delete | |
//!
//! - `held` locks the rows of locks one after the other in the order of keys, so that two commits
//!   never wait for each other, each in its own mode: checks share. A row lock waits for the writer
//!   that holds it, then reads the newest version, and is kept to the end of the transaction.
//! - `there` finds items that are to be created. It cannot lock an absent row. If another commit
//!   creates the item after this look, the unique index lets `written` wait for it, `ON CONFLICT` then
//!   finds a live item and writes nothing, the number of rows is too small, and the last branch raises
//!   an error that undoes the statement. The next attempt finds the item.
//! - A deletion is written as an expired row with the commit's version, which a second statement of
//!   the same transaction removes. A plain `DELETE` here would work on the snapshot from before the
//!   row locks, and miss an item that was created while this statement waited; and an absent row would
//!   not keep other writers out.
//!
//! No row in the result means that the batch was written. Otherwise each row has a key and a verdict:
//! `mine`, the lock has the new version already, because an earlier attempt was executed; `held`, it
//! is as expected; `lost`, it is not; `there`, an item to be created exists.

use super::data_type::DataType;
use super::failure::CREATED_CONCURRENTLY;

/// Returns the statement for batches with or without checks and creations. The full text costs the
/// server a third more than the one for locks and items alone.
pub(super) fn commit(table: &str, data: DataType, checks: bool, creates: bool) -> String {
    let data = data.name();
    let (version, ttl, row_locks) = if checks {
        (
            "coalesce(l.version, c.version)",
            "coalesce(l.ttl, c.ttl)",
            format!(
                "LEFT JOIN LATERAL (SELECT r.version, r.ttl FROM {table} r \
                   WHERE r.pk = b.pk AND r.sk = b.sk AND b.kind = 'l' FOR NO KEY UPDATE) l ON true \
                 LEFT JOIN LATERAL (SELECT r.version, r.ttl FROM {table} r \
                   WHERE r.pk = b.pk AND r.sk = b.sk AND b.kind = 'c' FOR SHARE) c ON true"
            ),
        )
    } else {
        (
            "l.version",
            "l.ttl",
            format!(
                "LEFT JOIN LATERAL (SELECT r.version, r.ttl FROM {table} r \
                   WHERE r.pk = b.pk AND r.sk = b.sk FOR NO KEY UPDATE) l ON true"
            ),
        )
    };
    let (there, none_there, unless_live, verdicts) = if creates {
        (
            format!(
                "there AS MATERIALIZED (\
                   SELECT b.pk, b.sk FROM b CROSS JOIN LATERAL (SELECT FROM {table} r \
                     WHERE r.pk = b.pk AND r.sk = b.sk AND r.version IS NULL \
                       AND (r.ttl IS NULL OR r.ttl >= $8::bigint) LIMIT 1) r \
                   WHERE b.kind = 'n'), "
            ),
            "AND NOT EXISTS (SELECT FROM there)",
            "WHERE r.version IS NOT NULL OR r.ttl < $8::bigint \
               OR (r.pk, r.sk) NOT IN (SELECT n.pk, n.sk FROM b n WHERE n.kind = 'n')",
            format!(
                "UNION ALL SELECT n.pk, n.sk, 'there' FROM there n \
                 UNION ALL SELECT '', '', 'short' || ('{CREATED_CONCURRENTLY}, of ' || count(*))::int \
                   FROM written HAVING (SELECT go FROM verdict) \
                     AND count(*) < (SELECT count(*) FROM b WHERE kind <> 'c')"
            ),
        )
    } else {
        (String::new(), "", "", String::new())
    };
    format!(
        "WITH b AS MATERIALIZED (\
           SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::{data}[], $5::text[], $6::bigint[]) \
             AS b(pk, sk, kind, data, version, ttl)\
         ), held AS MATERIALIZED (\
           SELECT b.pk, b.sk, {version} AS version, {ttl} AS ttl, \
             coalesce({version} = b.version AND {ttl} >= $8::bigint, false) AS ok \
           FROM b {row_locks} WHERE b.kind IN ('l', 'c')\
         ), {there}verdict AS MATERIALIZED (\
           SELECT coalesce((SELECT bool_and(ok) FROM held), true) {none_there} AS go\
         ), written AS (\
           INSERT INTO {table} AS r (pk, sk, data, version, ttl) \
           SELECT b.pk, b.sk, b.data, CASE WHEN b.kind IN ('l', 'd') THEN $7::text END, \
             CASE b.kind WHEN 'l' THEN h.ttl WHEN 'd' THEN -1 ELSE b.ttl END \
           FROM b LEFT JOIN held h ON b.kind = 'l' AND h.pk = b.pk AND h.sk = b.sk \
           WHERE b.kind <> 'c' AND (SELECT go FROM verdict) \
           ORDER BY b.pk COLLATE \"C\", b.sk COLLATE \"C\" \
           ON CONFLICT (pk, sk) DO UPDATE \
             SET data = EXCLUDED.data, version = EXCLUDED.version, ttl = EXCLUDED.ttl {unless_live} \
           RETURNING 1\
         ) \
         SELECT h.pk, h.sk, CASE WHEN h.version = $7::text THEN 'mine' WHEN h.ok THEN 'held' ELSE 'lost' END \
           FROM held h WHERE NOT (SELECT go FROM verdict) {verdicts}"
    )
}

/// Returns the statement that removes what the commit marked. Executed in the same transaction.
pub(super) fn delete_marked(table: &str) -> String {
    format!(
        "DELETE FROM {table} r USING unnest($1::text[], $2::text[]) AS d(pk, sk) \
         WHERE r.pk = d.pk AND r.sk = d.sk AND r.version = $3::text AND r.ttl = -1"
    )
}
