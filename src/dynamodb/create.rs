//! The table itself: made if it is not there, and looked at if it is.

use super::error::{DynamoDbError, VALIDATION};
use super::retry::Attempts;
use super::server::{Server, unbuilt};
use super::table::{PK, SK, TTL};
use crate::sync::Arc;
use crate::{Error, Result};
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TableDescription, TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a new table may take until it can be used.
pub(super) const CREATION: Duration = Duration::from_secs(120);

/// How often it is asked whether it can.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Server {
    /// Sees to it that the table is there, has the right keys, can be used, and deletes what has
    /// expired.
    pub(super) async fn create_table(self: Arc<Self>) -> Result<()> {
        let latest = Instant::now() + CREATION;
        loop {
            let status = match self.describe().await? {
                None => self.make_table().await?,
                Some(table) => {
                    self.check_schema(&table)?;
                    table.table_status
                }
            };
            match status {
                Some(TableStatus::Active | TableStatus::Updating) => break,
                // It is told of late, too, that there is a new table at all.
                None | Some(TableStatus::Creating) if Instant::now() < latest => {
                    sleep(LOOK_AGAIN).await;
                }
                status => {
                    let status =
                        status.map_or_else(|| "MISSING".into(), |status| status.to_string());
                    let error = DynamoDbError::Service {
                        code: "the table cannot be used".to_owned(),
                        message: format!("its status is {status}"),
                    };
                    return Err(Error::Unavailable(Box::new(error)));
                }
            }
        }
        self.enable_ttl().await
    }

    async fn describe(&self) -> Result<Option<TableDescription>> {
        let mut attempts = Attempts::new(self.patience);
        loop {
            let request = self.client.describe_table().table_name(&self.table);
            match attempts.send(request.send()).await {
                Ok(answer) => return Ok(answer.table),
                Err(error) if error.code() == Some("ResourceNotFoundException") => return Ok(None),
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }

    /// Makes the table, and returns its status, if that is told.
    async fn make_table(&self) -> Result<Option<TableStatus>> {
        let mut attempts = Attempts::new(self.patience);
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
                    .attribute_definitions(attribute.build().map_err(unbuilt)?)
                    .key_schema(key.build().map_err(unbuilt)?);
            }
            match attempts.send(request.send()).await {
                Ok(answer) => {
                    return Ok(answer
                        .table_description
                        .and_then(|table| table.table_status));
                }
                // Somebody else, or an earlier request, was faster.
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
        match keys[..] == ["pk S HASH", "sk S RANGE"] {
            true => Ok(()),
            false => Err(self.other_schema(format!(
                "its keys are ({}), not (pk S HASH, sk S RANGE)",
                keys.join(", ")
            ))),
        }
    }

    fn other_schema(&self, detail: String) -> Error {
        let table = self.table.clone();
        DynamoDbError::SchemaMismatch { table, detail }.backend()
    }

    async fn enable_ttl(&self) -> Result<()> {
        let mut attempts = Attempts::new(self.patience);
        loop {
            let request = self.client.describe_time_to_live().table_name(&self.table);
            let described = match attempts.send(request.send()).await {
                Ok(answer) => answer.time_to_live_description,
                Err(error) => {
                    self.pause(&mut attempts, error).await?;
                    continue;
                }
            };
            let attribute = described.as_ref().and_then(|ttl| ttl.attribute_name());
            let status = described.as_ref().and_then(|ttl| ttl.time_to_live_status());
            if let Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling) = status {
                return match attribute {
                    Some(TTL) => Ok(()),
                    other => Err(self.other_schema(format!(
                        "its time to live is in {:?}, not in {TTL:?}",
                        other.unwrap_or_default()
                    ))),
                };
            }
            let ttl = TimeToLiveSpecification::builder()
                .attribute_name(TTL)
                .enabled(true)
                .build();
            let request = self
                .client
                .update_time_to_live()
                .table_name(&self.table)
                .time_to_live_specification(ttl.map_err(unbuilt)?);
            match attempts.send(request.send()).await {
                Ok(_) => return Ok(()),
                // Somebody else, or an earlier request, was faster: it is looked at again.
                Err(error)
                    if error.code() == Some(VALIDATION)
                        && error
                            .message()
                            .is_some_and(|text| text.contains("already enabled")) =>
                {
                    attempts
                        .pause_in(Server::nothing_done())
                        .await
                        .map_err(|gave_up| gave_up.undone())?;
                }
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }
}
