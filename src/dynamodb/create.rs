//! The table itself: created if it does not exist, and its schema checked if it does.

use super::client::{TableClient, build_error};
use super::error::{DynamoDbError, VALIDATION};
use super::failure::RequestError;
use super::retry::{Attempts, CallFailure};
use super::table::{PK, SK, TTL};
use crate::sync::Arc;
use crate::{Error, Result};
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TableDescription, TableStatus, TimeToLiveDescription, TimeToLiveSpecification,
    TimeToLiveStatus,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a new table may take to become active.
pub(super) const CREATE_TIMEOUT: Duration = Duration::from_secs(120);

/// The first pause before the status of a new table is requested again. It doubles each time, up to
/// [`MAX_POLL_INTERVAL`]: local servers take milliseconds, AWS takes seconds.
const FIRST_POLL_INTERVAL: Duration = Duration::from_millis(25);

/// The longest pause between two requests for the status of a new table.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(1);

impl TableClient {
    /// Ensures that the table exists, has the right schema, is active, and has TTL enabled.
    pub(super) async fn create_table(self: Arc<Self>) -> Result<()> {
        let deadline = Instant::now() + CREATE_TIMEOUT;
        let mut interval = FIRST_POLL_INTERVAL;
        loop {
            let status = match self.describe_table().await? {
                None => self.send_create_table().await?,
                Some(table) => {
                    self.check_schema(&table)?;
                    table.table_status
                }
            };
            match status {
                Some(TableStatus::Active | TableStatus::Updating) => break,
                // `DescribeTable` is eventually consistent, and may not find a new table yet.
                None | Some(TableStatus::Creating) if Instant::now() < deadline => {
                    sleep(interval).await;
                    interval = MAX_POLL_INTERVAL.min(interval * 2);
                }
                status => {
                    let status =
                        status.map_or_else(|| "unknown".into(), |status| status.to_string());
                    let error = DynamoDbError::Service {
                        code: "TableNotActive".to_owned(),
                        message: format!("the table's status is {status}"),
                    };
                    return Err(Error::Unavailable(Box::new(error)));
                }
            }
        }
        self.enable_ttl().await
    }

    async fn describe_table(&self) -> Result<Option<TableDescription>> {
        let mut attempts = self.attempts();
        loop {
            let request = self.client.describe_table().table_name(&self.table);
            match self
                .send(&mut attempts, "DescribeTable", request.send())
                .await
            {
                Ok(response) => return Ok(response.table),
                Err(error) if error.code() == Some("ResourceNotFoundException") => return Ok(None),
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }

    /// Creates the table, and returns its status if the response has one.
    async fn send_create_table(&self) -> Result<Option<TableStatus>> {
        let mut attempts = self.attempts();
        loop {
            let mut request = self
                .client
                .create_table()
                .table_name(&self.table)
                .billing_mode(BillingMode::PayPerRequest);
            for (name, kind) in [(PK, KeyType::Hash), (SK, KeyType::Range)] {
                let attribute = AttributeDefinition::builder()
                    .attribute_name(name)
                    .attribute_type(ScalarAttributeType::S);
                let key = KeySchemaElement::builder()
                    .attribute_name(name)
                    .key_type(kind);
                request = request
                    .attribute_definitions(attribute.build().map_err(build_error)?)
                    .key_schema(key.build().map_err(build_error)?);
            }
            match self
                .send(&mut attempts, "CreateTable", request.send())
                .await
            {
                Ok(response) => {
                    return Ok(response
                        .table_description
                        .and_then(|table| table.table_status));
                }
                // Another process, or an earlier request, has created it.
                Err(error) if error.code() == Some("ResourceInUseException") => return Ok(None),
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }

    fn check_schema(&self, table: &TableDescription) -> Result<()> {
        let kind_of = |name: &str| {
            let mut attributes = table.attribute_definitions().iter();
            attributes
                .find(|attribute| attribute.attribute_name() == name)
                .map_or_else(String::new, |attribute| {
                    attribute.attribute_type().to_string()
                })
        };
        let keys: Vec<String> = table
            .key_schema()
            .iter()
            .map(|key| {
                let (name, role) = (key.attribute_name(), key.key_type());
                format!("{name} {} {role}", kind_of(name))
            })
            .collect();
        if keys[..] == ["pk S HASH", "sk S RANGE"] {
            Ok(())
        } else {
            Err(self.schema_mismatch(format!(
                "its keys are ({}), not (pk S HASH, sk S RANGE)",
                keys.join(", ")
            )))
        }
    }

    fn schema_mismatch(&self, detail: String) -> Error {
        let table = self.table.clone();
        DynamoDbError::SchemaMismatch { table, detail }.into_backend()
    }

    /// Enables the time to live. If several processes do so at the same time, AWS refuses all but one, in
    /// several ways. So after each refusal, another look shows whether it is enabled now.
    async fn enable_ttl(&self) -> Result<()> {
        let mut attempts = self.attempts();
        let mut refusal = None;
        loop {
            let described = self.describe_ttl(&mut attempts).await?;
            let attribute = described.as_ref().and_then(|ttl| ttl.attribute_name());
            let status = described.as_ref().and_then(|ttl| ttl.time_to_live_status());
            if let Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling) = status {
                return match attribute {
                    Some(TTL) => Ok(()),
                    other => Err(self.schema_mismatch(format!(
                        "its time to live attribute is {:?}, not {TTL:?}",
                        other.unwrap_or_default()
                    ))),
                };
            }
            if let Some(refusal) = refusal.take() {
                let paused = attempts.pause_after(refusal).await;
                paused.map_err(CallFailure::into_read_error)?;
            }
            let ttl = TimeToLiveSpecification::builder()
                .attribute_name(TTL)
                .enabled(true)
                .build();
            let request = self
                .client
                .update_time_to_live()
                .table_name(&self.table)
                .time_to_live_specification(ttl.map_err(build_error)?);
            let sent = self.send(&mut attempts, "UpdateTimeToLive", request.send());
            match sent.await {
                Ok(_) => return Ok(()),
                Err(error) if is_change_in_progress(&error) => {
                    refusal = Some(error.failure.into_retryable());
                }
                Err(error) => refusal = Some(error.failure),
            }
        }
    }

    async fn describe_ttl(&self, attempts: &mut Attempts) -> Result<Option<TimeToLiveDescription>> {
        loop {
            let request = self.client.describe_time_to_live().table_name(&self.table);
            let sent = self.send(attempts, "DescribeTimeToLive", request.send());
            match sent.await {
                Ok(response) => return Ok(response.time_to_live_description),
                Err(error) => self.pause(attempts, error).await?,
            }
        }
    }
}

/// Returns whether the time to live was not changed because it, or the table, is being changed already.
/// The description of the table may not show that yet.
fn is_change_in_progress<E: ProvideErrorMetadata>(error: &RequestError<E>) -> bool {
    let messages = ["already enabled", "modified multiple times"];
    match error.code() {
        Some("ResourceInUseException") => true,
        Some(VALIDATION) => messages.iter().any(|text| error.message().contains(text)),
        _ => false,
    }
}
