//! Commits: from a batch to a statement, and from its result to a verdict.

use super::data_type::DataType;
use super::param::Param;
use super::row::{EncodedItem, check_key, check_statement_size, column, seconds};
use super::session::{Request, Transaction};
use super::statement::Statement;
use crate::batch::BatchRef;
use crate::{Codec, Error, Key, KeyBuf, Result, Version};
use std::collections::HashSet;
use tokio_postgres::Row;

/// A commit, ready to be sent.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) transaction: Transaction,
    /// The locks that get the new version.
    renewed: HashSet<KeyBuf>,
}

struct CommitRow<'a> {
    key: Key<'a>,
    kind: &'static str,
    /// The data and the expiry of an item that is written.
    item: EncodedItem,
    /// The expected version of a lock.
    version: Option<Version>,
}

impl Commit {
    /// Encodes `batch`, which is not empty.
    ///
    /// # Errors
    ///
    /// `InvalidInput`, `LimitExceeded` or `Codec` if it cannot be stored.
    pub(super) fn new<T, C: Codec<T>>(
        batch: &BatchRef<'_, T>,
        codec: &C,
        data_type: DataType,
        version: Version,
        now: u64,
    ) -> Result<Self> {
        batch.keys().try_for_each(|key| check_key(key.as_key()))?;
        let nothing = || EncodedItem {
            data: None,
            ttl: None,
        };
        let locks = |locks: &[crate::Lock], kind| -> Vec<(KeyBuf, &'static str, Version)> {
            let rows = locks.iter();
            rows.map(|lock| (lock.key().to_buf(), kind, lock.version()))
                .collect()
        };
        let guards = [locks(batch.locks, "l"), locks(batch.checks, "c")].concat();
        let guards = guards.iter().map(|(key, kind, version)| CommitRow {
            key: key.as_key(),
            kind,
            item: nothing(),
            version: Some(*version),
        });
        let mut rows: Vec<CommitRow<'_>> = guards.collect();
        let sets = batch.sets.iter().map(|item| (item, "s"));
        let creates = batch.creates.iter().map(|item| (item, "n"));
        for (item, kind) in sets.chain(creates) {
            rows.push(CommitRow {
                key: item.key(),
                kind,
                item: EncodedItem::encode(item, codec, data_type)?,
                version: None,
            });
        }
        rows.extend(batch.deletes.iter().map(|key| CommitRow {
            key: key.as_key(),
            kind: "d",
            item: nothing(),
            version: None,
        }));
        let sizes = rows
            .iter()
            .map(|row| row.key.pk.len() + row.key.sk.len() + row.item.len());
        check_statement_size(sizes.sum())?;
        // The order in which all writers lock rows.
        rows.sort_unstable_by_key(|row| row.key);

        let deleted = batch.deletes.iter().map(KeyBuf::as_key);
        let second = (!batch.deletes.is_empty()).then(|| Request {
            statement: Statement::DeleteMarked,
            params: [key_params(deleted), vec![Param::Text(version.to_string())]].concat(),
        });
        let statement = Statement::Commit {
            checks: !batch.checks.is_empty(),
            creates: !batch.creates.is_empty(),
        };
        let mut params = key_params(rows.iter().map(|row| row.key));
        params.push(Param::Kinds(rows.iter().map(|row| row.kind).collect()));
        let versions = rows.iter().map(|row| Some(row.version?.to_string()));
        let versions = Param::MaybeTexts(versions.collect());
        let ttls = Param::MaybeInts(rows.iter().map(|row| row.item.ttl).collect());
        let data = rows.into_iter().map(|row| row.item.data).collect();
        params.push(Param::data(data_type, data));
        params.extend([versions, ttls]);
        params.extend([Param::Text(version.to_string()), Param::Int(seconds(now))]);
        Ok(Commit {
            transaction: Transaction {
                first: Request { statement, params },
                second,
                is_write: true,
            },
            renewed: batch.locks.iter().map(|lock| lock.key().to_buf()).collect(),
        })
    }

    /// Returns whether the locks tell if an earlier attempt was executed.
    pub(super) fn can_be_resolved(&self) -> bool {
        !self.renewed.is_empty()
    }
}

/// The keys as two arrays.
pub(super) fn key_params<'a>(keys: impl Iterator<Item = Key<'a>>) -> Vec<Param> {
    let (pks, sks) = keys
        .map(|key| (key.pk.to_owned(), key.sk.to_owned()))
        .unzip();
    vec![Param::Texts(pks), Param::Texts(sks)]
}

/// What became of a commit.
#[derive(Debug)]
pub(super) enum Verdict {
    Committed,
    /// These locks have changed.
    Lost(HashSet<KeyBuf>),
    /// All locks are unchanged, but these items exist.
    Exists(HashSet<KeyBuf>),
}

impl Verdict {
    /// Reads the result of the statement. `in_doubt` is whether an earlier attempt may have been
    /// executed, or may still be.
    ///
    /// # Errors
    ///
    /// `OutcomeUnknown`, or `Backend` if the server sent something else.
    pub(super) fn from_rows(rows: &[Row], commit: &Commit, in_doubt: bool) -> Result<Self> {
        let mut lost = HashSet::new();
        let mut exist = HashSet::new();
        let mut is_lock_unchanged = false;
        for row in rows {
            let key = KeyBuf::new(column::<&str>(row, 0)?, column::<&str>(row, 1)?);
            match column(row, 2)? {
                "mine" => return Ok(Verdict::Committed),
                "held" => is_lock_unchanged |= commit.renewed.contains(&key),
                "lost" => {
                    lost.insert(key);
                }
                "there" => {
                    exist.insert(key);
                }
                other => {
                    let text = format!("the server returned the verdict {other:?}");
                    return Err(Error::Backend(text.into()));
                }
            }
        }
        if lost.is_empty() && exist.is_empty() {
            return Ok(Verdict::Committed);
        }
        if !in_doubt {
            return Ok(if lost.is_empty() {
                Verdict::Exists(exist)
            } else {
                Verdict::Lost(lost)
            });
        }
        // An earlier attempt gave all locks the new version, or none. If one is as expected, it was
        // not executed, and never will be, because another lock has changed for good.
        if is_lock_unchanged && !lost.is_empty() {
            return Ok(Verdict::Lost(lost));
        }
        // Otherwise it may have been executed before the locks changed again, or, if an item exists,
        // it may still be executed after that item is gone.
        let reason = "the response was lost, and other writers have changed the data since";
        Err(Error::OutcomeUnknown(reason.into()))
    }
}
