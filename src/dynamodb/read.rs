//! Reads of items: single, batched and by page.

use super::client::{Consistency, TableClient, build_error};
use super::failure::Failure;
use super::retry::{Attempts, CallFailure};
use super::selection::Selection;
use super::table::{
    IS_LIVE, PK, Row, SK, TTL, VERSION, attributes, key_of, key_row, names, text, time_values,
};
use crate::sync::Arc;
use crate::{Key, Result};
use aws_sdk_dynamodb::types::KeysAndAttributes;

/// The most keys of one `BatchGetItem`, by DynamoDB's limit.
pub(super) const MAX_BATCH_KEYS: usize = 100;

/// Rows that a `Query` reads in addition to the items wanted, because some rows may be locks or
/// expired.
const LIMIT_SLACK: usize = 16;

/// The rows of live items on one page of a partition.
#[derive(Debug)]
pub(super) struct RowPage {
    pub(super) rows: Vec<Row>,
    /// The sort key of the last row that was evaluated, if there are more.
    pub(super) next: Option<String>,
    /// How the size of the page after this one is chosen.
    pub(super) growth: PageGrowth,
}

/// How many rows a page asks for, in addition to the items that are wanted.
///
/// DynamoDB counts rows before it filters them, so a page may consist of locks and expired rows. The
/// page after such a one is twice as large. So `limit(1)` behind any number of them takes a number of
/// requests that is logarithmic in it, and reads at most twice as many rows as necessary.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PageGrowth {
    doublings: u32,
}

impl PageGrowth {
    /// Returns the `Limit` of a page from which `items` items are wanted. DynamoDB ends a page at a
    /// megabyte in any case.
    fn max_rows(self, items: usize) -> i32 {
        let factor = 1_usize.checked_shl(self.doublings).unwrap_or(usize::MAX);
        let rows = items.saturating_add(LIMIT_SLACK).saturating_mul(factor);
        i32::try_from(rows).unwrap_or(i32::MAX)
    }

    fn after_page(mut self, has_hidden_rows: bool) -> Self {
        self.doublings += u32::from(has_hidden_rows);
        self
    }
}

/// What one page of a query is to contain.
#[derive(Clone, Debug)]
pub(super) struct PageRequest {
    pub(super) pk: String,
    pub(super) selection: Selection,
    pub(super) reverse: bool,
    /// The number of items that are still wanted, if there is a limit.
    pub(super) max_items: Option<usize>,
    pub(super) growth: PageGrowth,
    /// The current time in epoch seconds.
    pub(super) now: u64,
}

impl TableClient {
    pub(super) async fn get_row(
        self: Arc<Self>,
        key: Row,
        consistency: Consistency,
    ) -> Result<Option<Row>> {
        let mut attempts = self.attempts();
        loop {
            let request = self
                .client
                .get_item()
                .table_name(&self.table)
                .set_key(Some(key.clone()))
                .consistent_read(consistency.is_strong());
            match self.send(&mut attempts, "GetItem", request.send()).await {
                Ok(response) => return Ok(response.item),
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }

    /// Reads at least one of `keys`, and returns the rows found and the keys that were not
    /// processed.
    pub(super) async fn batch_get(
        self: Arc<Self>,
        keys: Vec<Row>,
        consistency: Consistency,
    ) -> Result<(Vec<Row>, Vec<Row>)> {
        let mut attempts = self.attempts();
        loop {
            let batch = KeysAndAttributes::builder()
                .set_keys(Some(keys.clone()))
                .consistent_read(consistency.is_strong())
                .build()
                .map_err(build_error)?;
            let request = self
                .client
                .batch_get_item()
                .request_items(&self.table, batch);
            match self
                .send(&mut attempts, "BatchGetItem", request.send())
                .await
            {
                Ok(response) => {
                    // The request names one table, which the response may name differently (a name
                    // for an ARN).
                    let rows: Vec<Row> = response
                        .responses
                        .into_iter()
                        .flatten()
                        .flat_map(|(_, rows)| rows)
                        .collect();
                    let unprocessed: Vec<Row> = response
                        .unprocessed_keys
                        .into_iter()
                        .flatten()
                        .flat_map(|(_, keys)| keys.keys)
                        .collect();
                    if unprocessed.len() < keys.len() {
                        if !unprocessed.is_empty() {
                            Attempts::pause_briefly().await;
                        }
                        return Ok((rows, unprocessed));
                    }
                    let paused = attempts.pause_after(Failure::no_progress()).await;
                    paused.map_err(CallFailure::into_read_error)?;
                }
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }

    /// Reads one page, for which DynamoDB evaluates rows of at most a megabyte.
    pub(super) async fn query_page(
        self: Arc<Self>,
        page: PageRequest,
        consistency: Consistency,
    ) -> Result<RowPage> {
        let mut attempts = self.attempts();
        let mut condition = "#p = :pk".to_owned();
        let mut names = names([("#p", PK), ("#t", TTL), ("#v", VERSION)]);
        let mut values = attributes(time_values(page.now));
        values.insert(":pk".to_owned(), text(page.pk.as_str()));
        if let Some((expression, sks)) = page.selection.condition.expression() {
            condition = format!("{condition} AND {expression}");
            names.insert("#s".to_owned(), SK.to_owned());
            values.extend(attributes(
                sks.into_iter().map(|(name, sk)| (name, text(sk))),
            ));
        }
        let start = page.selection.start.as_deref();
        let start = start.map(|sk| key_row(Key::new(&page.pk, sk)));
        let limit = page.max_items.map(|items| page.growth.max_rows(items));
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
                .scan_index_forward(!page.reverse)
                .consistent_read(consistency.is_strong());
            match self.send(&mut attempts, "Query", request.send()).await {
                Ok(response) => {
                    let next = match &response.last_evaluated_key {
                        Some(key) => Some(key_of(key)?.sk.to_owned()),
                        None => None,
                    };
                    let hidden = response.scanned_count > response.count;
                    let mut rows = response.items.unwrap_or_default();
                    // A filter expression cannot do this: it may not contain keys.
                    if let Some(excluded) = &page.selection.excluded {
                        rows.retain(|row| !key_of(row).is_ok_and(|key| key.sk == excluded));
                    }
                    return Ok(RowPage {
                        rows,
                        next,
                        growth: page.growth.after_page(hidden),
                    });
                }
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_after_hidden_rows_only() {
        let mut growth = PageGrowth::default();
        assert_eq!(growth.max_rows(1), 17);
        growth = growth.after_page(false);
        assert_eq!(growth.max_rows(1), 17);
        growth = growth.after_page(true);
        assert_eq!(growth.max_rows(1), 34);
        for _ in 0..200 {
            growth = growth.after_page(true);
        }
        assert_eq!(growth.max_rows(1), i32::MAX);
        assert_eq!(PageGrowth::default().max_rows(usize::MAX), i32::MAX);
    }
}
