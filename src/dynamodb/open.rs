//! Opening: from options to a connection.

use super::budget::RetryBudget;
use super::builder::{CredentialsOption, Options};
use super::client::TableClient;
use super::connection::Connection;
use super::create::CREATE_TIMEOUT;
use super::credentials::{CredentialsCache, no_credentials};
use super::failure::{Failure, no_response};
use super::http_client::http_client;
use super::response::ValidateResponses;
use super::settings::{
    MAX_TIMEOUT, check_credentials, check_endpoint, check_region, check_table_name, check_timeout,
    check_worker_threads,
};
use crate::blocking_runtime::{BlockingRuntime, CallError, HANG_GRACE};
use crate::sync::Arc;
use crate::{Error, Result, VersionGenerator};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{IdentityCache, SharedCredentialsProvider, SharedHttpClient};
use aws_types::service_config::ServiceConfigKey;
use std::time::{Duration, Instant};
use tokio::time::{Instant as Deadline, timeout_at};

/// Connects to the table, and creates it if the options say so.
pub(super) fn connect(options: Options) -> Result<Connection> {
    check_table_name(&options.table)?;
    check_timeout("the timeout", options.timeouts.call)?;
    check_timeout("the timeout of an attempt", options.timeouts.attempt)?;
    check_worker_threads(options.worker_threads)?;
    if let Some(timeout) = options.connect_timeout {
        check_timeout("the timeout of connecting", timeout)?;
    }
    let connect_timeout = connect_timeout(options.timeouts.attempt, options.connect_timeout);
    if let Some(url) = &options.endpoint_url {
        check_endpoint(url)?;
    }
    if let Some(region) = &options.region {
        check_region(region)?;
    }
    let credentials = match options.credentials {
        None => None,
        Some(CredentialsOption::Provider(provider)) => Some(provider),
        Some(CredentialsOption::Static(credentials)) => {
            check_credentials(&credentials)
                .map_err(|reason| Error::InvalidInput(reason.to_owned()))?;
            Some(SharedCredentialsProvider::new(credentials))
        }
    };
    let settings = Settings {
        sdk_config: options.sdk_config,
        endpoint_url: options.endpoint_url,
        region: options.region,
        credentials,
        http_client: http_client(options.http)?,
        connect_timeout,
    };
    let runtime = BlockingRuntime::new("atomic-db-dynamodb", options.worker_threads);
    let runtime = runtime.map_err(|error| Error::Backend(Box::new(error)))?;

    let timeouts = options.timeouts;
    let client = runtime.spawn(async move {
        let deadline = Deadline::now() + timeouts.call;
        let client = timeout_at(deadline, new_client(settings, deadline)).await;
        client.unwrap_or_else(|_| {
            let error = no_response("configuration", "it was not loaded in time");
            Err(Error::Unavailable(Box::new(error)))
        })
    });
    let deadline = Instant::now() + timeouts.call + HANG_GRACE;
    let (client, credentials) = client
        .wait(deadline)
        .map_err(CallError::into_read_error)??;
    let client = Arc::new(TableClient {
        client,
        credentials,
        table: options.table,
        timeouts,
        budget: Arc::new(RetryBudget::new()),
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

/// Returns how long connecting may take. It ends before the attempt does, so that it is known that nothing
/// was sent.
fn connect_timeout(attempt: Duration, chosen: Option<Duration>) -> Duration {
    let max = attempt * 2 / 3;
    chosen.map_or(max, |chosen| chosen.min(max))
}

/// What a client is made from.
struct Settings {
    sdk_config: Option<SdkConfig>,
    endpoint_url: Option<String>,
    region: Option<String>,
    credentials: Option<SharedCredentialsProvider>,
    http_client: SharedHttpClient,
    connect_timeout: Duration,
}

/// Returns a client with connections of its own, and its credentials, which are loaded.
async fn new_client(settings: Settings, deadline: Deadline) -> Result<(Client, CredentialsCache)> {
    let region = settings.region.map(Region::new);
    let sdk_config = match settings.sdk_config {
        Some(config) => config,
        None => {
            let mut loader = aws_config::defaults(BehaviorVersion::latest())
                .http_client(settings.http_client.clone());
            if let Some(region) = region.clone() {
                loader = loader.region(region);
            }
            if let Some(credentials) = settings.credentials.clone() {
                loader = loader.credentials_provider(credentials);
            }
            loader.load().await
        }
    };
    let Some(region) = region.or_else(|| sdk_config.region().cloned()) else {
        return Err(Error::InvalidInput(
            "no region is configured: set one on the builder, or in AWS_REGION".into(),
        ));
    };
    check_region(region.as_ref())?;
    let endpoint_url = settings.endpoint_url.or_else(|| endpoint_url(&sdk_config));
    if let Some(url) = &endpoint_url {
        check_endpoint(url)?;
    }
    // Loads the credentials now, so that missing ones are reported clearly.
    let provider = settings
        .credentials
        .or_else(|| sdk_config.credentials_provider());
    let Some(provider) = provider else {
        let error = no_credentials("no credentials provider is configured".to_owned());
        return Err(error.into_backend());
    };
    let credentials = CredentialsCache::new(provider);
    credentials
        .get(deadline)
        .await
        .map_err(|failure| match failure {
            Failure::Fatal(error) => error.into_backend(),
            Failure::Retryable { error, .. } => Error::Unavailable(Box::new(error)),
        })?;

    let mut config = aws_sdk_dynamodb::config::Builder::from(&sdk_config)
        .behavior_version(BehaviorVersion::latest())
        .http_client(settings.http_client)
        .region(region)
        .credentials_provider(credentials.clone())
        // They are cached already.
        .identity_cache(IdentityCache::no_cache())
        .interceptor(ValidateResponses)
        .sleep_impl(aws_smithy_async::rt::sleep::TokioSleep::new())
        // The database retries, because only it knows what a lost response means.
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(settings.connect_timeout)
                .build(),
        );
    config.set_endpoint_url(endpoint_url);
    Ok((Client::from_conf(config.build()), credentials))
}

/// Returns the endpoint that the SDK would take from its configuration: one that was set in code, or
/// that of DynamoDB, or that of all services.
fn endpoint_url(config: &SdkConfig) -> Option<String> {
    let of_all = config.endpoint_url().map(str::to_owned);
    if config.get_origin("endpoint_url").is_client_config() {
        return of_all;
    }
    let key = ServiceConfigKey::builder()
        .service_id("DynamoDB")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build();
    let services = config.service_config();
    let of_service = services.and_then(|services| services.load_config(key.ok()?));
    of_service.or(of_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connecting_ends_before_the_attempt() {
        let seconds = Duration::from_secs;
        assert_eq!(connect_timeout(seconds(3), None), seconds(2));
        assert_eq!(connect_timeout(seconds(3), Some(seconds(1))), seconds(1));
        assert_eq!(connect_timeout(seconds(3), Some(seconds(9))), seconds(2));
    }
}
