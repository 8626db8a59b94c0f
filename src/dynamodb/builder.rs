use super::bridge::Bridge;
use super::create::CREATION;
use super::error::DynamoDbError;
use super::read::Consistency;
use super::retry::Patience;
use super::server::Server;
use super::{DynamoDb, GRACE, finished};
use crate::sync::Arc;
use crate::{Clock, Error, Result, SystemClock, VersionGenerator};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{
    Credentials, IdentityCache, ProvideCredentials, SharedCredentialsProvider, SharedHttpClient,
};
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder as HttpBuilder, Connector};
use std::env;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// How a [`DynamoDb`] is reached, and how patient it is.
///
/// What is not given here comes from where all AWS tools look for it: the environment, the profile
/// files, a web identity, the container or the machine. `HTTPS_PROXY` and `NO_PROXY` are heeded for
/// endpoints of `https`.
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
/// A server of DynamoDB's kind on this machine:
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
    table: String,
    endpoint_url: Option<String>,
    region: Option<String>,
    credentials: Option<SharedCredentialsProvider>,
    sdk_config: Option<SdkConfig>,
    create_table: bool,
    patience: Patience,
    consistency: Consistency,
    worker_threads: usize,
    clock: Arc<dyn Clock>,
    data: PhantomData<fn() -> T>,
}

/// DynamoDB forgets a transaction's token after ten minutes; no repetition may come near that.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

const MAX_THREADS: usize = 64;

impl<T> DynamoDbBuilder<T> {
    pub(super) fn new(table: String) -> Self {
        DynamoDbBuilder {
            table,
            endpoint_url: None,
            region: None,
            credentials: None,
            sdk_config: None,
            create_table: false,
            patience: Patience {
                call: Duration::from_secs(10),
                attempt: Duration::from_secs(3),
            },
            consistency: Consistency::Strong,
            worker_threads: 1,
            clock: Arc::new(SystemClock),
            data: PhantomData,
        }
    }

    /// The URL that requests are sent to, instead of the region's own.
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.endpoint_url = Some(url.into());
        self
    }

    /// The region that the table is in, such as `eu-central-1`.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Credentials that are known, with a session token if they are temporary ones.
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
        self.credentials = Some(SharedCredentialsProvider::new(credentials));
        self
    }

    /// The configuration of the AWS SDK, in place of what it would find in the environment. An
    /// endpoint, region or credentials given here go before those in it.
    ///
    /// Its HTTP client, retries and time limits are not used: connections belong to the runtime
    /// that opened them, and this database has a runtime of its own. For the same reason a `Client`
    /// cannot be given.
    pub fn sdk_config(mut self, config: &SdkConfig) -> Self {
        self.sdk_config = Some(config.clone());
        self
    }

    /// Whether [`open`](DynamoDbBuilder::open) creates the table if there is none: billed on
    /// demand, with the deletion of what has expired enabled. Of a table that is there already, the
    /// keys are checked, and the deletion is enabled if it is not. No by default.
    pub fn create_table(mut self, create: bool) -> Self {
        self.create_table = create;
        self
    }

    /// How long a call goes on without getting anything done: 10 seconds by default, 300 at most.
    ///
    /// A call of one request (`get`, `get_fresh`, `get_lock`, `commit`) ends within this time,
    /// whatever becomes of its request and of those that repeat it. A call that takes several
    /// (`get_many`, `set`, `delete`, `query`, `page`, `stream`) has this time for each.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.patience.call = timeout;
        self
    }

    /// How long one request waits for its answer before it is repeated: 3 seconds by default. On a
    /// slow line, the 4 MiB of a large commit and the 16 MB of a large `get_many` may want more.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.patience.attempt = timeout;
        self
    }

    /// Lets `get`, `get_many`, `query`, `page` and `stream` miss what was written a moment ago, for half
    /// the read capacity.
    ///
    /// **This is dangerous.** A value read in this way may be older than a lock that was read before
    /// it, and a commit under that lock then writes over what it never saw: the update is lost, and
    /// nobody is told. Compute what you commit from [`get_fresh`](crate::AtomicDb::get_fresh) alone, as
    /// [`transact`](crate::AtomicDbExt::transact) does; it and `get_lock` see everything all the
    /// same.
    pub fn consistent_reads(mut self, consistent: bool) -> Self {
        self.consistency = if consistent {
            Consistency::Strong
        } else {
            Consistency::Eventual
        };
        self
    }

    /// How many threads sign requests and parse answers: 1 by default, 64 at most. One does several
    /// thousand calls a second.
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.worker_threads = threads;
        self
    }

    /// The clock that times to live are measured by, instead of the system's. Time limits and
    /// pauses between requests are the system's.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Opens the table.
    ///
    /// Without [`create_table`](DynamoDbBuilder::create_table), nothing is sent to it: that it is
    /// missing is the first call's to tell.
    ///
    /// # Errors
    ///
    /// Nothing was written, but that the table may have been created.
    ///
    /// - [`InvalidInput`](Error::InvalidInput), [`LimitExceeded`](Error::LimitExceeded): the name is no table's, there is no
    ///   region, or a number makes no sense.
    /// - [`Backend`](Error::Backend): there are no credentials, they do not suffice, or the table's
    ///   keys are others; the source is a [`DynamoDbError`]. Or no thread could be started.
    /// - [`Unavailable`](Error::Unavailable): the table could not be created or looked at in time.
    pub fn open(self) -> Result<DynamoDb<T>> {
        check_table_name(&self.table)?;
        check_duration("the timeout", self.patience.call)?;
        check_duration("the timeout of an attempt", self.patience.attempt)?;
        match self.worker_threads {
            0 => {
                return Err(Error::InvalidInput(
                    "a runtime needs at least one thread".into(),
                ));
            }
            threads if threads > MAX_THREADS => {
                return Err(Error::LimitExceeded {
                    what: "the number of runtime threads",
                    limit: MAX_THREADS,
                    actual: threads,
                });
            }
            _ => {}
        }
        let http_client = http_client()?;
        let failed = |error| Error::Backend(Box::new(error));
        let bridge = Bridge::new(self.worker_threads).map_err(failed)?;

        let patience = self.patience;
        let connecting = connect(
            self.sdk_config,
            self.endpoint_url,
            self.region,
            self.credentials,
            http_client,
            patience,
        );
        let client = bridge.start(async move {
            let connected = tokio::time::timeout(patience.call, connecting).await;
            connected.unwrap_or_else(|_| {
                let error = DynamoDbError::silent_for(patience.call);
                Err(Error::Unavailable(Box::new(error)))
            })
        });
        let latest = Instant::now() + patience.call + GRACE;
        let server = Arc::new(Server {
            client: finished(client.wait(latest))??,
            table: self.table,
            patience,
            consistency: self.consistency,
            versions: VersionGenerator::new(),
        });
        if self.create_table {
            let created = bridge.start(Arc::clone(&server).create_table());
            // It watches the time itself, with each request that it makes.
            let latest = Instant::now() + CREATION + MAX_TIMEOUT;
            finished(created.wait(latest))??;
        }
        Ok(DynamoDb::new(server, bridge, self.clock))
    }
}

/// A client of its own, with connections of its own.
async fn connect(
    sdk_config: Option<SdkConfig>,
    endpoint_url: Option<String>,
    region: Option<String>,
    credentials: Option<SharedCredentialsProvider>,
    http_client: SharedHttpClient,
    patience: Patience,
) -> Result<Client> {
    let region = region.map(Region::new);
    let sdk_config = match sdk_config {
        Some(config) => config,
        None => {
            let mut loader =
                aws_config::defaults(BehaviorVersion::latest()).http_client(http_client.clone());
            if let Some(region) = region.clone() {
                loader = loader.region(region);
            }
            if let Some(credentials) = credentials.clone() {
                loader = loader.credentials_provider(credentials);
            }
            loader.load().await
        }
    };
    let mut config = aws_sdk_dynamodb::config::Builder::from(&sdk_config)
        .behavior_version(BehaviorVersion::latest())
        .http_client(http_client)
        .identity_cache(IdentityCache::lazy().build())
        .sleep_impl(aws_smithy_async::rt::sleep::TokioSleep::new())
        // Requests are repeated here, where it is known what a lost answer means.
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                // Before the attempt ends, so that it is known that nothing was sent.
                .connect_timeout(patience.attempt * 2 / 3)
                .build(),
        );
    if let Some(endpoint_url) = endpoint_url {
        config = config.endpoint_url(endpoint_url);
    }
    if region.is_some() {
        config = config.region(region);
    } else if sdk_config.region().is_none() {
        return Err(Error::InvalidInput(
            "there is no region: give one, or set AWS_REGION".into(),
        ));
    }
    // Asked for here, so that it is told at once and in words if there are none.
    let provider = credentials.or_else(|| sdk_config.credentials_provider());
    let Some(provider) = provider else {
        return Err(no_credentials("no provider of credentials is configured"));
    };
    if let Err(error) = provider.provide_credentials().await {
        return Err(no_credentials(&DisplayErrorContext(&error).to_string()));
    }
    let config = config.credentials_provider(provider).build();
    Ok(Client::from_conf(config))
}

fn no_credentials(message: &str) -> Error {
    DynamoDbError::AccessDenied {
        code: "no credentials".to_owned(),
        message: message.to_owned(),
    }
    .backend()
}

/// An HTTP client whose connections belong to the runtime that uses it first.
fn http_client() -> Result<SharedHttpClient> {
    let proxy = https_proxy()?;
    Ok(
        HttpBuilder::new().build_with_connector_fn(move |settings, components| {
            let mut connector = Connector::builder();
            connector.set_connector_settings(settings.cloned());
            connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
            connector
                .proxy_config(proxy.clone())
                .tls_provider(Provider::Rustls(CryptoMode::Ring))
                .build()
        }),
    )
}

/// The proxy for `https`, as the environment has it. Plain `http` is for this machine and for the
/// addresses that credentials come from, which no proxy reaches.
fn https_proxy() -> Result<ProxyConfig> {
    let variable = |names: [&str; 2]| {
        let mut values = names.into_iter().filter_map(|name| env::var(name).ok());
        values.find(|value| !value.is_empty())
    };
    let proxy =
        variable(["HTTPS_PROXY", "https_proxy"]).or_else(|| variable(["ALL_PROXY", "all_proxy"]));
    let Some(url) = proxy else {
        return Ok(ProxyConfig::disabled());
    };
    let config = ProxyConfig::https(url)
        .map_err(|error| Error::InvalidInput(format!("the proxy in HTTPS_PROXY: {error}")))?;
    Ok(match variable(["NO_PROXY", "no_proxy"]) {
        Some(rules) => config.no_proxy(rules),
        None => config,
    })
}

/// Tables have names of 3 to 255 letters, digits and `_-.`, or are named by their ARN.
fn check_table_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let is_name = (3..=255).contains(&name.len()) && name.bytes().all(plain);
    match is_name || name.starts_with("arn:") {
        true => Ok(()),
        false => Err(Error::InvalidInput(format!(
            "{name:?} names no table: names have 3 to 255 letters, digits, `_`, `-` or `.`"
        ))),
    }
}

fn check_duration(what: &'static str, duration: Duration) -> Result<()> {
    if duration.is_zero() {
        return Err(Error::InvalidInput(format!("{what} is zero")));
    }
    if duration > MAX_TIMEOUT {
        return Err(Error::LimitExceeded {
            what: "a timeout in seconds",
            limit: MAX_TIMEOUT.as_secs() as usize,
            actual: usize::try_from(duration.as_secs()).unwrap_or(usize::MAX),
        });
    }
    Ok(())
}

/// Without the credentials.
impl<T> fmt::Debug for DynamoDbBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbBuilder")
            .field("table", &self.table)
            .field("endpoint_url", &self.endpoint_url)
            .field("region", &self.region)
            .field("create_table", &self.create_table)
            .field("patience", &self.patience)
            .field("consistency", &self.consistency)
            .field("worker_threads", &self.worker_threads)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
