//! The table's side of a database: the client, what it was told, and how its requests are repeated.

use super::error::DynamoDbError;
use super::read::Consistency;
use super::retry::{Attempts, Patience, Trouble};
use crate::{Error, Result, VersionGenerator};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use std::error::Error as StdError;

/// What a request needs to know. Requests hold this, and not the database: whoever holds the
/// runtime must not be held by what runs on it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) table: String,
    pub(super) patience: Patience,
    /// That of all reads but [`get_fresh`](crate::AtomicDb::get_fresh) and
    /// [`get_lock`](crate::AtomicDb::get_lock), which are always strong.
    pub(super) consistency: Consistency,
    pub(super) versions: VersionGenerator,
}

impl Server {
    /// Pauses after a request that failed, if it may be sent again: one after which it does not
    /// matter whether it was done.
    pub(super) async fn pause<E>(
        &self,
        attempts: &mut Attempts,
        error: Box<SdkError<E, HttpResponse>>,
    ) -> Result<()>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let paused = attempts.pause_after(error, &self.table).await;
        paused.map_err(|gave_up| gave_up.undone())
    }

    /// The trouble of a batch of which nothing was done, though there was an answer.
    pub(super) fn nothing_done() -> Trouble {
        let error = DynamoDbError::Throttled {
            code: "UnprocessedItems".to_owned(),
            message: "nothing of a batch was done".to_owned(),
        };
        Trouble::again(error, false)
    }
}

/// The error of a request that lacks something. None does; it is one line less to argue about than
/// a panic.
pub(super) fn unbuilt(error: impl StdError + Send + Sync + 'static) -> Error {
    Error::Backend(Box::new(error))
}
