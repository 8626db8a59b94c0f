//! Reads of items: single, batched and by page.

use super::client::{Consistency, TableClient, build_error};
use super::error::Failure;
use super::retry::{Attempts, CallFailure};
use super::table::{
    IS_LIVE, PK, Row, SK, TTL, VERSION, attributes, check_pk, check_sk, key_of, key_row, names,
    text, time_values,
};
use crate::sync::Arc;
use crate::{Key, Query, Result};
use aws_sdk_dynamodb::types::KeysAndAttributes;

/// The most keys of one `BatchGetItem`, by DynamoDB's limit.
pub(super) const MAX_BATCH_KEYS: usize = 100;

/// The largest `Limit` that is sent with a `Query`.
const MAX_QUERY_ROWS: usize = 1000;

/// Rows that a `Query` reads in addition to the items wanted, because some rows may be locks or
/// expired.
const LIMIT_SLACK: usize = 16;

/// The rows of live items on one page of a partition.
#[derive(Debug)]
pub(super) struct RowPage {
    pub(super) rows: Vec<Row>,
    /// The sort key of the last row that was evaluated, if there are more.
    pub(super) next: Option<String>,
}

/// What one page of a query is to contain.
#[derive(Clone, Debug)]
pub(super) struct PageRequest {
    pub(super) pk: String,
    pub(super) prefix: String,
    pub(super) reverse: bool,
    pub(super) after: Option<String>,
    /// The number of items that are still wanted, if there is a limit.
    pub(super) max_items: Option<usize>,
    /// The current time in epoch seconds.
    pub(super) now: u64,
}

/// Where in its partition a query begins.
#[derive(Debug, PartialEq)]
pub(super) enum Position {
    /// At the first row that matches.
    Start,
    /// After this sort key, which has the query's prefix.
    After(String),
    /// Past the last row that matches.
    End,
}

impl Position {
    /// Returns where `query` begins if it continues after `after`.
    ///
    /// DynamoDB rejects a start key without the query's prefix. All sort keys with the prefix are
    /// on the same side of such a key, so no request is needed to skip it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` or `LimitExceeded` if the table cannot contain such keys.
    pub(super) fn from_query(query: &Query, after: Option<&str>) -> Result<Self> {
        check_pk(&query.pk)?;
        check_sk("the length in bytes of a sort key prefix", &query.prefix)?;
        let Some(after) = after.or(query.after.as_deref()) else {
            return Ok(Position::Start);
        };
        check_sk("the length in bytes of the sort key to begin after", after)?;
        let prefix = query.prefix.as_str();
        Ok(if after.starts_with(prefix) && !after.is_empty() {
            Position::After(after.to_owned())
        } else if (after <= prefix) == query.reverse {
            Position::End
        } else {
            Position::Start
        })
    }
}

impl TableClient {
    pub(super) async fn get_row(
        self: Arc<Self>,
        key: Row,
        consistency: Consistency,
    ) -> Result<Option<Row>> {
        let mut attempts = Attempts::new(self.timeouts);
        loop {
            let request = self
                .client
                .get_item()
                .table_name(&self.table)
                .set_key(Some(key.clone()))
                .consistent_read(consistency.is_strong());
            match attempts.send(request.send()).await {
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
        let mut attempts = Attempts::new(self.timeouts);
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
            match attempts.send(request.send()).await {
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
                    let paused = attempts.pause_after_failure(Failure::no_progress()).await;
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
        let mut attempts = Attempts::new(self.timeouts);
        let mut condition = "#p = :pk".to_owned();
        let mut names = names([("#p", PK), ("#t", TTL), ("#v", VERSION)]);
        let mut values = attributes(time_values(page.now));
        values.insert(":pk".to_owned(), text(page.pk.as_str()));
        if !page.prefix.is_empty() {
            condition += " AND begins_with(#s, :prefix)";
            names.insert("#s".to_owned(), SK.to_owned());
            values.insert(":prefix".to_owned(), text(page.prefix.as_str()));
        }
        let start = page
            .after
            .as_deref()
            .map(|sk| key_row(Key::new(&page.pk, sk)));
        // DynamoDB counts rows before it filters them.
        let limit = page.max_items.map(|items| {
            let rows = items.saturating_add(LIMIT_SLACK).min(MAX_QUERY_ROWS);
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
                .scan_index_forward(!page.reverse)
                .consistent_read(consistency.is_strong());
            match attempts.send(request.send()).await {
                Ok(response) => {
                    let next = match &response.last_evaluated_key {
                        Some(key) => Some(key_of(key)?.sk.to_owned()),
                        None => None,
                    };
                    let rows = response.items.unwrap_or_default();
                    return Ok(RowPage { rows, next });
                }
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_query_begins_where_its_prefix_and_its_direction_require() {
        let position =
            |query: Query, after: &str| Position::from_query(&query, Some(after)).unwrap();
        let (all, some) = (Query::new("pk"), Query::new("pk").prefix("m"));
        let (all_back, some_back) = (all.clone().reverse(), some.clone().reverse());
        assert_eq!(Position::from_query(&some, None).unwrap(), Position::Start);
        assert_eq!(position(all.clone(), "k"), Position::After("k".into()));
        assert_eq!(position(some.clone(), "m1"), Position::After("m1".into()));
        assert_eq!(position(some.clone(), "a"), Position::Start);
        assert_eq!(position(some.clone(), "z"), Position::End);
        assert_eq!(position(some_back.clone(), "a"), Position::End);
        assert_eq!(position(some_back.clone(), "z"), Position::Start);
        assert_eq!(position(all.clone(), ""), Position::Start);
        assert_eq!(position(all_back, ""), Position::End);
        assert_eq!(position(some, ""), Position::Start);
        assert_eq!(position(some_back, ""), Position::End);
        let after_k = all.after("k");
        assert_eq!(
            Position::from_query(&after_k, None).unwrap(),
            Position::After("k".into())
        );
        assert_eq!(position(after_k, "x"), Position::After("x".into()));
        let long = "k".repeat(1025);
        for rejected in [
            Position::from_query(&Query::new(""), None),
            Position::from_query(&Query::new("k".repeat(2049)), None),
            Position::from_query(&Query::new("pk").prefix(long.as_str()), None),
            Position::from_query(&Query::new("pk"), Some(&long)),
        ] {
            assert!(matches!(
                rejected,
                Err(Error::InvalidInput(_) | Error::LimitExceeded { .. })
            ));
        }
    }
}
