//! Opening: from options to a connection.

use super::builder::Options;
use super::client::TableClient;
use super::connection::Connection;
use super::create::CREATE_TIMEOUT;
use super::error::DynamoDbError;
use super::failure::{describe, no_response};
use super::response::ValidateResponses;
use super::retry::Timeouts;
use super::runtime::{BlockingRuntime, CallError, HANG_GRACE};
use crate::sync::Arc;
use crate::{Error, Result, VersionGenerator};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{
    IdentityCache, ProvideCredentials, SharedCredentialsProvider, SharedHttpClient,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder as HttpBuilder, Connector};
use std::env;
use std::time::{Duration, Instant};

/// DynamoDB forgets the token of a transaction after ten minutes. A commit must not be retried
/// after that.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

const MAX_WORKER_THREADS: usize = 64;

/// Connects to the table, and creates it if the options say so.
pub(super) fn connect(options: Options) -> Result<Connection> {
    check_table_name(&options.table)?;
    check_timeout("the timeout", options.timeouts.call)?;
    check_timeout("the timeout of an attempt", options.timeouts.attempt)?;
    check_worker_threads(options.worker_threads)?;
    let http_client = http_client()?;
    let runtime = BlockingRuntime::new(options.worker_threads);
    let runtime = runtime.map_err(|error| Error::Backend(Box::new(error)))?;

    let timeouts = options.timeouts;
    let client = new_client(
        options.sdk_config,
        options.endpoint_url,
        options.region,
        options.credentials,
        http_client,
        timeouts,
    );
    let client = runtime.spawn(async move {
        let client = tokio::time::timeout(timeouts.call, client).await;
        client.unwrap_or_else(|_| {
            let reason = format!("not loaded within {:?}", timeouts.call);
            Err(Error::Unavailable(Box::new(no_response(
                "credentials",
                &reason,
            ))))
        })
    });
    let deadline = Instant::now() + timeouts.call + HANG_GRACE;
    let client = client
        .wait(deadline)
        .map_err(CallError::into_read_error)??;
    let client = Arc::new(TableClient {
        client,
        table: options.table,
        timeouts,
        consistency: options.consistency,
        versions: VersionGenerator::new(),
    });
    if options.create_table {
        let created = runtime.spawn(Arc::clone(&client).create_table());
        // Creation enforces its own deadlines, one for each of its requests.
        let deadline = Instant::now() + CREATE_TIMEOUT + MAX_TIMEOUT;
        created
            .wait(deadline)
            .map_err(CallError::into_read_error)??;
    }
    Ok(Connection::new(client, runtime, options.clock))
}

/// Returns a client with connections of its own.
async fn new_client(
    sdk_config: Option<SdkConfig>,
    endpoint_url: Option<String>,
    region: Option<String>,
    credentials: Option<SharedCredentialsProvider>,
    http_client: SharedHttpClient,
    timeouts: Timeouts,
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
        .interceptor(ValidateResponses)
        .sleep_impl(aws_smithy_async::rt::sleep::TokioSleep::new())
        // The database retries, because only it knows what a lost response means.
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                // Before the attempt's timeout, so that it is known that nothing was sent.
                .connect_timeout(timeouts.attempt * 2 / 3)
                .build(),
        );
    if let Some(endpoint_url) = endpoint_url {
        config = config.endpoint_url(endpoint_url);
    }
    if region.is_some() {
        config = config.region(region);
    } else if sdk_config.region().is_none() {
        return Err(Error::InvalidInput(
            "no region is configured: set one on the builder, or in AWS_REGION".into(),
        ));
    }
    // Loads the credentials now, so that missing ones are reported clearly.
    let provider = credentials.or_else(|| sdk_config.credentials_provider());
    let Some(provider) = provider else {
        return Err(no_credentials("no credentials provider is configured"));
    };
    if let Err(error) = provider.provide_credentials().await {
        return Err(no_credentials(&describe(&error)));
    }
    let config = config.credentials_provider(provider).build();
    Ok(Client::from_conf(config))
}

fn no_credentials(message: &str) -> Error {
    DynamoDbError::AccessDenied {
        code: "NoCredentials".to_owned(),
        message: message.to_owned(),
    }
    .into_backend()
}

/// Returns an HTTP client whose connections belong to the runtime that uses it first.
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

/// Returns the environment's proxy for `https`. Plain `http` is for servers on this machine and for
/// the addresses that credentials are loaded from, which no proxy can reach.
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
    let config = ProxyConfig::https(url).map_err(|error| {
        Error::InvalidInput(format!("HTTPS_PROXY or ALL_PROXY is invalid: {error}"))
    })?;
    Ok(match variable(["NO_PROXY", "no_proxy"]) {
        Some(rules) => config.no_proxy(rules),
        None => config,
    })
}

/// Checks that `table` is a table's name or ARN.
fn check_table_name(table: &str) -> Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let is_name = (3..=255).contains(&table.len()) && table.bytes().all(is_allowed);
    if is_name || table.starts_with("arn:") {
        Ok(())
    } else {
        Err(Error::InvalidInput(format!(
            "{table:?} is not a table name: a name has 3 to 255 letters, digits, `_`, `-` or `.`"
        )))
    }
}

fn check_timeout(what: &'static str, timeout: Duration) -> Result<()> {
    if timeout.is_zero() {
        return Err(Error::InvalidInput(format!("{what} is zero")));
    }
    if timeout > MAX_TIMEOUT {
        return Err(Error::LimitExceeded {
            what: "a timeout in seconds",
            limit: MAX_TIMEOUT.as_secs() as usize,
            actual: usize::try_from(timeout.as_secs()).unwrap_or(usize::MAX),
        });
    }
    Ok(())
}

fn check_worker_threads(threads: usize) -> Result<()> {
    if threads == 0 {
        return Err(Error::InvalidInput(
            "the number of worker threads is zero".into(),
        ));
    }
    if threads > MAX_WORKER_THREADS {
        return Err(Error::LimitExceeded {
            what: "the number of worker threads",
            limit: MAX_WORKER_THREADS,
            actual: threads,
        });
    }
    Ok(())
}
