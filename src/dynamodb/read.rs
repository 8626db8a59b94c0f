//! The requests that read, each sent until it is answered.

use super::retry::{Attempts, GaveUp};
use super::server::{Server, unbuilt};
use super::table::{
    IS_LIVE, PK, Row, SK, TTL, VERSION, key_of, key_row, names, owned, text, time_values,
};
use crate::sync::Arc;
use crate::{Key, Result};
use aws_sdk_dynamodb::types::KeysAndAttributes;

/// Whether a read sees all that was written before it, or may miss what was written a moment ago.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Consistency {
    Strong,
    Eventual,
}

impl Consistency {
    fn is_strong(self) -> bool {
        self == Consistency::Strong
    }
}

/// The most keys of one `BatchGetItem`.
pub(super) const KEYS_AT_ONCE: usize = 100;

/// The most rows that a `Query` is told to look at, where it is told at all.
const ROWS_AT_ONCE: usize = 1000;

/// Rows that are looked at beyond those that are wanted, in case some are locks or have expired.
const ROWS_TO_SPARE: usize = 16;

/// Rows of one partition, from which what is no live item has been left out, and the sort key of
/// the last row that was looked at, if there are more.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) rows: Vec<Row>,
    pub(super) next: Option<String>,
}

/// One request of a query.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) pk: String,
    pub(super) prefix: String,
    pub(super) reverse: bool,
    pub(super) after: Option<String>,
    /// How many items are wanted, if there is a limit.
    pub(super) wanted: Option<usize>,
    pub(super) now: u64,
}

impl Server {
    pub(super) async fn row(
        self: Arc<Self>,
        key: Row,
        consistency: Consistency,
    ) -> Result<Option<Row>> {
        let mut attempts = Attempts::new(self.patience);
        loop {
            let request = self
                .client
                .get_item()
                .table_name(&self.table)
                .set_key(Some(key.clone()))
                .consistent_read(consistency.is_strong());
            match attempts.send(request.send()).await {
                Ok(answer) => return Ok(answer.item),
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }

    /// Reads some of `keys`, at least one, and returns what is there and the keys that are left.
    pub(super) async fn rows(
        self: Arc<Self>,
        keys: Vec<Row>,
        consistency: Consistency,
    ) -> Result<(Vec<Row>, Vec<Row>)> {
        let mut attempts = Attempts::new(self.patience);
        loop {
            let asked = KeysAndAttributes::builder()
                .set_keys(Some(keys.clone()))
                .consistent_read(consistency.is_strong())
                .build()
                .map_err(unbuilt)?;
            let request = self
                .client
                .batch_get_item()
                .request_items(&self.table, asked);
            match attempts.send(request.send()).await {
                Ok(answer) => {
                    // There is one table in the request, whatever name it goes by in the answer.
                    let rows: Vec<Row> = answer
                        .responses
                        .into_iter()
                        .flatten()
                        .flat_map(|(_, rows)| rows)
                        .collect();
                    let left: Vec<Row> = answer
                        .unprocessed_keys
                        .into_iter()
                        .flatten()
                        .flat_map(|(_, keys)| keys.keys)
                        .collect();
                    if left.len() < keys.len() {
                        if !left.is_empty() {
                            Attempts::breathe().await;
                        }
                        return Ok((rows, left));
                    }
                    let paused = attempts.pause_in(Server::nothing_done()).await;
                    paused.map_err(GaveUp::undone)?;
                }
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }

    /// Reads the rows of one page of at most a megabyte.
    pub(super) async fn range(
        self: Arc<Self>,
        range: Range,
        consistency: Consistency,
    ) -> Result<Rows> {
        let mut attempts = Attempts::new(self.patience);
        let mut condition = "#p = :pk".to_owned();
        let mut names = names([("#p", PK), ("#t", TTL), ("#v", VERSION)]);
        let mut values = owned(time_values(range.now));
        values.insert(":pk".to_owned(), text(range.pk.as_str()));
        if !range.prefix.is_empty() {
            condition += " AND begins_with(#s, :prefix)";
            names.insert("#s".to_owned(), SK.to_owned());
            values.insert(":prefix".to_owned(), text(range.prefix.as_str()));
        }
        let start = range
            .after
            .as_deref()
            .map(|sk| key_row(Key::new(&range.pk, sk)));
        // A limit counts rows before the filter.
        let limit = range.wanted.map(|wanted| {
            let rows = wanted.saturating_add(ROWS_TO_SPARE).min(ROWS_AT_ONCE);
            i32::try_from(rows).unwrap_or(i32::MAX)
        });
        loop {
            let request = self
                .client
                .query()
                .table_name(&self.table)
                .key_condition_expression(&condition)
                .filter_expression(format!("attribute_not_exists(#v) AND {IS_LIVE}"))
                .set_expression_attribute_names(Some(names.clone()))
                .set_expression_attribute_values(Some(values.clone()))
                .set_exclusive_start_key(start.clone())
                .set_limit(limit)
                .scan_index_forward(!range.reverse)
                .consistent_read(consistency.is_strong());
            match attempts.send(request.send()).await {
                Ok(answer) => {
                    let next = match &answer.last_evaluated_key {
                        Some(key) => Some(key_of(key)?.sk.to_owned()),
                        None => None,
                    };
                    let rows = answer.items.unwrap_or_default();
                    return Ok(Rows { rows, next });
                }
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }
}
