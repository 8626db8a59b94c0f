//! Scans of the whole table. The next page is fetched while the caller works on the one before.

use super::client::TableClient;
use super::connection::Call;
use super::table::{
    IS_LIVE, Row, TTL, VERSION, attributes, decode, key_of, key_row, names, time_values,
};
use crate::scan::{PagedScan, RowPage};
use crate::sync::Arc;
use crate::{Codec, DynamoDb, Item, Result, Scan};

/// Always reads consistently, regardless of
/// [`consistent_reads`](crate::DynamoDbBuilder::consistent_reads), so a scan sees every write that
/// completed before it. It holds at most two pages, and stops fetching when it is dropped.
impl<T, C: Codec<T>> Scan for DynamoDb<T, C> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<T>>> + '_> {
        let fetch = |start: Option<Row>| {
            let now = self.connection.now().as_secs();
            self.connection.spawn(|client| client.scan_page(start, now))
        };
        let mut fetched: Option<Call<RowPage<Row, Row>>> = None;
        let read_page = move |start: Option<Row>| {
            let call = fetched.take().unwrap_or_else(|| fetch(start));
            let page = call.wait_read()?;
            fetched = page.next.clone().map(|next| fetch(Some(next)));
            Ok(page)
        };
        let decode = |row| decode(&row, self.connection.now().as_secs(), &self.codec);
        Box::new(PagedScan::new(read_page, decode))
    }
}

impl TableClient {
    /// Reads the page that begins after the key `start`. DynamoDB evaluates rows of at most a megabyte
    /// for it.
    async fn scan_page(self: Arc<Self>, start: Option<Row>, now: u64) -> Result<RowPage<Row, Row>> {
        let mut attempts = self.attempts();
        let names = names([("#t", TTL), ("#v", VERSION)]);
        let values = attributes(time_values(now));
        loop {
            let request = self
                .client
                .scan()
                .table_name(&self.table)
                .filter_expression(format!("attribute_not_exists(#v) AND {IS_LIVE}"))
                .set_expression_attribute_names(Some(names.clone()))
                .set_expression_attribute_values(Some(values.clone()))
                .set_exclusive_start_key(start.clone())
                .consistent_read(true);
            match self.send(&mut attempts, "Scan", request.send()).await {
                Ok(response) => {
                    let next = match &response.last_evaluated_key {
                        Some(key) => Some(key_row(key_of(key)?)),
                        None => None,
                    };
                    return Ok(RowPage {
                        rows: response.items.unwrap_or_default(),
                        next,
                    });
                }
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }
}
