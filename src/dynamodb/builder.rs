//! The options of a database.

use super::client::Consistency;
use super::retry::Timeouts;
use crate::sync::Arc;
use crate::{Clock, SystemClock};
use aws_config::SdkConfig;
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// Configures a [`DynamoDb`](crate::DynamoDb).
///
/// Region, credentials and endpoint default to those that all AWS tools find: in the environment,
/// the profile files, a web identity, the container or the instance. For `https` endpoints, the
/// proxy in `HTTPS_PROXY` or `ALL_PROXY` is used, except for the hosts in `NO_PROXY`.
///
/// ```no_run
/// use atomic_db::DynamoDb;
/// use std::time::Duration;
///
/// let db: DynamoDb<String> = DynamoDb::builder("flights")
///     .region("eu-central-1")
///     .create_table(true)
///     .timeout(Duration::from_secs(5))
///     .open()?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// Connecting to a local DynamoDB-compatible server:
///
/// ```no_run
/// use atomic_db::DynamoDb;
///
/// let db: DynamoDb<String> = DynamoDb::builder("flights")
///     .endpoint_url("http://localhost:8000")
///     .region("local")
///     .credentials("any", "any", None)
///     .create_table(true)
///     .open()?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[must_use = "a builder does nothing until it opens a database"]
pub struct DynamoDbBuilder<T> {
    pub(super) options: Options,
    data: PhantomData<fn() -> T>,
}

pub(super) struct Options {
    pub(super) table: String,
    pub(super) endpoint_url: Option<String>,
    pub(super) region: Option<String>,
    pub(super) credentials: Option<SharedCredentialsProvider>,
    pub(super) sdk_config: Option<SdkConfig>,
    pub(super) create_table: bool,
    pub(super) timeouts: Timeouts,
    pub(super) consistency: Consistency,
    pub(super) worker_threads: usize,
    pub(super) clock: Arc<dyn Clock>,
}

impl<T> DynamoDbBuilder<T> {
    pub(super) fn new(table: String) -> Self {
        DynamoDbBuilder {
            options: Options {
                table,
                endpoint_url: None,
                region: None,
                credentials: None,
                sdk_config: None,
                create_table: false,
                timeouts: Timeouts {
                    call: Duration::from_secs(10),
                    attempt: Duration::from_secs(3),
                },
                consistency: Consistency::Strong,
                worker_threads: 1,
                clock: Arc::new(SystemClock),
            },
            data: PhantomData,
        }
    }

    /// Sets the URL that requests are sent to, instead of the region's own endpoint.
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.options.endpoint_url = Some(url.into());
        self
    }

    /// Sets the region of the table, such as `eu-central-1`.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.options.region = Some(region.into());
        self
    }

    /// Sets static credentials, with a session token if they are temporary.
    pub fn credentials(
        mut self,
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<String>,
        session_token: Option<String>,
    ) -> Self {
        let credentials = Credentials::new(
            access_key_id,
            secret_access_key,
            session_token,
            None,
            "DynamoDbBuilder",
        );
        self.options.credentials = Some(SharedCredentialsProvider::new(credentials));
        self
    }

    /// Sets the configuration of the AWS SDK, instead of the one that it would load from the
    /// environment. An endpoint, a region or credentials set on this builder take precedence.
    ///
    /// The configuration's HTTP client, retries and timeouts are not used: a connection belongs to
    /// the runtime that opened it, and this database has a runtime of its own. For the same reason,
    /// there is no way to pass a `Client`.
    pub fn sdk_config(mut self, config: &SdkConfig) -> Self {
        self.options.sdk_config = Some(config.clone());
        self
    }

    /// Sets whether [`open`](DynamoDbBuilder::open) creates the table if it does not exist. The
    /// default is `false`.
    ///
    /// With `true`, `open` creates a missing table with on-demand billing, waits up to two minutes
    /// until it is active, and enables time to live on the attribute `ttl`. Of an existing table it
    /// checks the key schema, and enables time to live if it is disabled.
    ///
    /// With `false`, `open` sends no request to the table.
    pub fn create_table(mut self, create: bool) -> Self {
        self.options.create_table = create;
        self
    }

    /// Sets how long a call may take without progress. The default is 10 seconds, the maximum 300.
    ///
    /// - `get`, `get_fresh`, `get_lock` and `commit` end within this time, retries included.
    /// - `get_many`, `get_many_fresh`, `get_locks`, `set`, `delete`, `query`, `page` and `stream` may
    ///   send many requests, and have this time for each batch or page, and for each lock that is
    ///   created or extended.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeouts.call = timeout;
        self
    }

    /// Sets how long a request waits for its response before it is retried. The default is 3
    /// seconds, the maximum 300.
    ///
    /// On a slow network, the 4 MiB of a large commit or the 16 MB of a large `get_many` may need
    /// more.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeouts.attempt = timeout;
        self
    }

    /// Sets whether reads are strongly consistent. The default is `true`.
    ///
    /// With `false`, `get`, `get_many`, `query`, `page` and `stream` may miss recent writes, and
    /// consume half the read capacity, except for [fresh](crate::Query::fresh) queries.
    ///
    /// **`false` is dangerous.** A value read in this way may be older than a lock that was read
    /// before it. A commit under that lock then overwrites a change that the caller never saw: the
    /// update is lost without an error. Compute what you commit only from
    /// [`get_fresh`](crate::AtomicDb::get_fresh),
    /// [`get_many_fresh`](crate::AtomicDb::get_many_fresh) and fresh queries, as
    /// [`transact`](crate::AtomicDbExt::transact) does: these, `get_lock` and `get_locks` remain
    /// strongly consistent.
    pub fn consistent_reads(mut self, consistent: bool) -> Self {
        self.options.consistency = if consistent {
            Consistency::Strong
        } else {
            Consistency::Eventual
        };
        self
    }

    /// Sets the number of threads that sign requests and parse responses. The default is 1, the
    /// maximum 64.
    ///
    /// One thread handles several thousand calls a second.
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.options.worker_threads = threads;
        self
    }

    /// Sets the clock that the expiry of items and locks is measured by, instead of the system
    /// clock. Timeouts and pauses between retries always use the system's.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.options.clock = Arc::new(clock);
        self
    }
}

/// Omits the credentials.
impl<T> fmt::Debug for DynamoDbBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        f.debug_struct("DynamoDbBuilder")
            .field("table", &options.table)
            .field("endpoint_url", &options.endpoint_url)
            .field("region", &options.region)
            .field("create_table", &options.create_table)
            .field("timeouts", &options.timeouts)
            .field("consistency", &options.consistency)
            .field("worker_threads", &options.worker_threads)
            .field("clock", &options.clock)
            .finish_non_exhaustive()
    }
}
