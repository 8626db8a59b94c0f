//! The options of a database.

use super::client::Consistency;
use super::http_client::HttpOptions;
use super::retry::Timeouts;
use crate::sync::Arc;
use crate::{Clock, Json, SystemClock};
use aws_config::SdkConfig;
use aws_sdk_dynamodb::config::{Credentials, ProvideCredentials, SharedCredentialsProvider};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// Configures a [`DynamoDb`](crate::DynamoDb).
///
/// Region, credentials and endpoint default to those that all AWS tools find: in the environment,
/// the profile files, a web identity, the container or the instance.
///
/// # Proxies
///
/// For `https` endpoints, requests are sent through the proxy in the environment variable
/// `HTTPS_PROXY`, or else `https_proxy`, `ALL_PROXY` or `all_proxy`. It is an `http` or `https` URL
/// that may contain a user name and a password for basic authentication; without a scheme it is
/// `http`. `NO_PROXY` or `no_proxy` lists the exceptions, separated by commas: domains, which include
/// their subdomains, IP addresses, subnets such as `10.0.0.0/8`, and `*` for all hosts.
///
/// Other values of these variables, such as a SOCKS proxy, a rule with a port or a rule like
/// `*.example.com`, are refused by [`open`](DynamoDbBuilder::open) with the name of the variable.
///
/// Plain `http` is never sent through a proxy, and `HTTP_PROXY` is not read: such endpoints are
/// servers on this machine and the addresses that credentials are loaded from.
///
/// # Examples
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
pub struct DynamoDbBuilder<T, C = Json> {
    pub(super) options: Options,
    pub(super) codec: C,
    data: PhantomData<fn() -> T>,
}

pub(super) struct Options {
    pub(super) table: String,
    pub(super) endpoint_url: Option<String>,
    pub(super) region: Option<String>,
    pub(super) credentials: Option<CredentialsOption>,
    pub(super) sdk_config: Option<SdkConfig>,
    pub(super) create_table: bool,
    pub(super) timeouts: Timeouts,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) http: HttpOptions,
    pub(super) consistency: Consistency,
    pub(super) worker_threads: usize,
    pub(super) clock: Arc<dyn Clock>,
}

/// Where credentials come from.
pub(super) enum CredentialsOption {
    Static(Credentials),
    Provider(SharedCredentialsProvider),
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
                connect_timeout: None,
                http: HttpOptions {
                    ca_bundle: None,
                    pool_idle_timeout: Duration::from_secs(90),
                },
                consistency: Consistency::Strong,
                worker_threads: 1,
                clock: Arc::new(SystemClock),
            },
            codec: Json,
            data: PhantomData,
        }
    }
}

impl<T, C> DynamoDbBuilder<T, C> {
    /// Sets how data is converted to bytes. Rows of [`Json`] can be read by the TypeScript package; rows
    /// of any other codec have its name in the attribute `codec`.
    ///
    /// ```no_run
    /// use atomic_db::{Bytes, DynamoDb};
    ///
    /// let db: DynamoDb<Vec<u8>, Bytes> = DynamoDb::builder("files").codec(Bytes).open()?;
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    pub fn codec<D>(self, codec: D) -> DynamoDbBuilder<T, D> {
        DynamoDbBuilder {
            options: self.options,
            codec,
            data: PhantomData,
        }
    }

    /// Sets the URL that requests are sent to, such as `http://localhost:8000`, instead of the region's
    /// own endpoint.
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.options.endpoint_url = Some(url.into());
        self
    }

    /// Sets the region of the table, such as `eu-central-1`. The SDK's `Region` is accepted, too.
    pub fn region(mut self, region: impl AsRef<str>) -> Self {
        self.options.region = Some(region.as_ref().to_owned());
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
        self.options.credentials = Some(CredentialsOption::Static(credentials));
        self
    }

    /// Sets the source of credentials, such as one of those in the crate `aws-config`.
    ///
    /// It is called by [`open`](DynamoDbBuilder::open), and again before the credentials expire: ten
    /// seconds before, or after half of their life if that is later; after 15 minutes if they do not
    /// expire; and when AWS rejects them as expired or unknown. Calls share what it returns, and at
    /// most one runs at a time.
    ///
    /// It runs on the thread that sends requests, which it must not block. It may take longer than an
    /// [attempt](DynamoDbBuilder::attempt_timeout): calls wait for it until their
    /// [timeout](DynamoDbBuilder::timeout). If it fails, they return
    /// [`AccessDenied`](crate::DynamoDbError::AccessDenied) at once, unless the last credentials
    /// have not expired yet.
    ///
    /// ```no_run
    /// use atomic_db::DynamoDb;
    /// use aws_config::environment::EnvironmentVariableCredentialsProvider;
    ///
    /// let db: DynamoDb<String> = DynamoDb::builder("flights")
    ///     .credentials_provider(EnvironmentVariableCredentialsProvider::new())
    ///     .open()?;
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    pub fn credentials_provider(mut self, provider: impl ProvideCredentials + 'static) -> Self {
        let provider = SharedCredentialsProvider::new(provider);
        self.options.credentials = Some(CredentialsOption::Provider(provider));
        self
    }

    /// Sets the certificate authorities to trust, as the bytes of a PEM file, instead of those of the
    /// system. The default is the file that `AWS_CA_BUNDLE` names, if it is set.
    pub fn ca_bundle(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.options.http.ca_bundle = Some(pem.into());
        self
    }

    /// Sets the configuration of the AWS SDK, instead of the one that it would load from the
    /// environment. An endpoint, a region or credentials set on this builder take precedence.
    ///
    /// The configuration's HTTP client, retries, timeouts and cache of credentials are not used: a
    /// connection belongs to the runtime that opened it, and this database has a runtime of its own.
    /// For the same reason, there is no way to pass a `Client`. Connections have settings here:
    /// [`ca_bundle`](DynamoDbBuilder::ca_bundle), [proxies](DynamoDbBuilder#proxies),
    /// [`connect_timeout`](DynamoDbBuilder::connect_timeout) and
    /// [`pool_idle_timeout`](DynamoDbBuilder::pool_idle_timeout).
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

    /// Sets how long opening a connection may take. The default, and the maximum, is two thirds of an
    /// [attempt](DynamoDbBuilder::attempt_timeout): it is then known that a write was not sent.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = Some(timeout);
        self
    }

    /// Sets how long an unused connection is kept open. The default is 90 seconds.
    ///
    /// It should be less than the idle timeout of a proxy or a firewall on the way.
    pub fn pool_idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.http.pool_idle_timeout = timeout;
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
impl<T, C> fmt::Debug for DynamoDbBuilder<T, C> {
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
