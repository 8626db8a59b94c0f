//! Credentials: loaded before a request is sent, shared, and loaded again before they expire.
//!
//! The SDK would load them within a request: the time that it takes would be that of the attempt, a
//! timeout of the attempt would abandon it, and a failure could not be distinguished from a lost response. So a
//! request is sent only when its credentials are loaded, and the SDK is given those.
//!
//! The mutex is locked for a moment, and never while a provider runs: it is user code.

use super::error::DynamoDbError;
use super::failure::{Failure, describe, no_response};
use super::settings::check_credentials;
use crate::sync::{Arc, Mutex};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_dynamodb::config::{Credentials, ProvideCredentials, SharedCredentialsProvider};
use std::fmt;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout, timeout_at};

/// How long before they expire credentials are loaded again.
const REFRESH_WINDOW: Duration = Duration::from_secs(10);

/// When credentials that do not expire are loaded again, as the SDK does.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How long a provider may take. Calls give up at their own deadlines, and the next ones find what
/// was loaded after that.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The credentials of a database.
#[derive(Clone)]
pub(super) struct CredentialsCache(Arc<Shared>);

struct Shared {
    provider: SharedCredentialsProvider,
    /// Locked while the provider runs.
    loading: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Loaded>>,
    /// The number of times that the provider has returned.
    loads: u64,
    /// Why the provider failed the last time, if it did.
    failure: Option<String>,
}

struct Loaded {
    credentials: Credentials,
    refresh_at: SystemTime,
}

impl Loaded {
    fn new(credentials: Credentials, now: SystemTime) -> Self {
        let refresh_at = match credentials.expiry() {
            None => now + DEFAULT_LIFETIME,
            Some(expiry) => {
                let lifetime = expiry.duration_since(now).unwrap_or_default();
                now + (lifetime - REFRESH_WINDOW.min(lifetime / 2))
            }
        };
        Loaded {
            credentials,
            refresh_at,
        }
    }

    fn is_fresh(&self, now: SystemTime) -> bool {
        now < self.refresh_at
    }

    fn is_unexpired(&self, now: SystemTime) -> bool {
        let expiry = self.credentials.expiry();
        expiry.is_none_or(|expiry| now < expiry)
    }
}

impl CredentialsCache {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        CredentialsCache(Arc::new(Shared {
            provider,
            loading: tokio::sync::Mutex::default(),
            state: Mutex::new(State::default()),
        }))
    }

    /// Returns credentials to send a request with. Loads them if they are missing or about to expire.
    ///
    /// # Errors
    ///
    /// The failure of the request, which need not be sent.
    pub(super) async fn get(&self, deadline: Instant) -> Result<Credentials, Failure> {
        let (current, loads) = self.0.current();
        if let Some(loaded) = current.filter(|loaded| loaded.is_fresh(SystemTime::now())) {
            return Ok(loaded.credentials.clone());
        }
        let outcome = self.load(loads, deadline).await;
        if outcome.is_err()
            && let (Some(loaded), _) = self.0.current()
            && loaded.is_unexpired(SystemTime::now())
        {
            return Ok(loaded.credentials.clone());
        }
        outcome
    }

    /// Returns whether there are other credentials than `rejected`, which AWS has rejected as expired or
    /// unknown. Loads them if necessary.
    pub(super) async fn replace(&self, rejected: &Credentials, deadline: Instant) -> bool {
        let (current, loads) = self.0.current();
        if current.is_some_and(|loaded| loaded.credentials != *rejected) {
            return true;
        }
        let loaded = self.load(loads, deadline).await;
        loaded.is_ok_and(|credentials| credentials != *rejected)
    }

    /// Waits for the provider, which has returned `loads` times. It runs to its end even if no call
    /// waits for it any more.
    async fn load(&self, loads: u64, deadline: Instant) -> Result<Credentials, Failure> {
        let loading = tokio::spawn(Arc::clone(&self.0).load(loads));
        match timeout_at(deadline, loading).await {
            Ok(Ok(Ok(credentials))) => Ok(credentials),
            Ok(Ok(Err(reason))) => Err(Failure::Fatal(no_credentials(reason))),
            Ok(Err(_)) => Err(Failure::Fatal(no_credentials(
                "the credentials provider panicked".to_owned(),
            ))),
            Err(_) => Err(Failure::not_applied(no_response(
                "credentials provider",
                "it did not return in time",
            ))),
        }
    }
}

impl Shared {
    /// Returns the current credentials, and the number of times that the provider has returned.
    fn current(&self) -> (Option<Arc<Loaded>>, u64) {
        let state = self.state.lock();
        (state.current.clone(), state.loads)
    }

    /// Runs the provider, unless it has returned since it had returned `loads` times.
    async fn load(self: Arc<Self>, loads: u64) -> Result<Credentials, String> {
        let _loading = self.loading.lock().await;
        if let Some(outcome) = self.outcome_since(loads) {
            return outcome.map(|loaded| loaded.credentials.clone());
        }
        let provided = timeout(LOAD_TIMEOUT, self.provider.provide_credentials()).await;
        let outcome = match provided {
            Ok(Ok(credentials)) => check_credentials(&credentials)
                .map(|()| credentials)
                .map_err(str::to_owned),
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err(format!("no credentials within {LOAD_TIMEOUT:?}")),
        };
        self.record(&outcome);
        outcome
    }

    /// Returns what the provider returned last, if it has returned since it had returned `loads` times.
    fn outcome_since(&self, loads: u64) -> Option<Result<Arc<Loaded>, String>> {
        let state = self.state.lock();
        if state.loads == loads {
            return None;
        }
        match &state.failure {
            Some(reason) => Some(Err(reason.clone())),
            None => state.current.clone().map(Ok),
        }
    }

    fn record(&self, outcome: &Result<Credentials, String>) {
        let (mut loaded, failure) = match outcome {
            Ok(credentials) => {
                let loaded = Loaded::new(credentials.clone(), SystemTime::now());
                (Some(Arc::new(loaded)), None)
            }
            Err(reason) => (None, Some(reason.clone())),
        };
        let mut state = self.state.lock();
        state.loads += 1;
        state.failure = failure;
        if loaded.is_some() {
            // What is replaced is dropped after the mutex is unlocked: credentials have properties of
            // any type.
            std::mem::swap(&mut state.current, &mut loaded);
        }
        drop(state);
    }
}

pub(super) fn no_credentials(message: String) -> DynamoDbError {
    DynamoDbError::AccessDenied {
        code: "NoCredentials".to_owned(),
        message,
    }
}

/// The SDK's view: it asks for credentials within a request, after [`CredentialsCache::get`] has loaded
/// them.
impl ProvideCredentials for CredentialsCache {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let (current, _) = self.0.current();
        let current = current.map(|loaded| loaded.credentials.clone());
        future::ProvideCredentials::ready(
            current.ok_or_else(|| CredentialsError::not_loaded("they were not loaded before")),
        )
    }
}

/// Shows no credentials.
impl fmt::Debug for CredentialsCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsCache").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_loaded_again_before_they_expire() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let after = |seconds: u64| now + Duration::from_secs(seconds);
        let loaded = |lifetime: Option<u64>| {
            let expiry = lifetime.map(after);
            Loaded::new(Credentials::new("a", "b", None, expiry, "test"), now)
        };
        for (lifetime, refresh) in [
            (None, 900),
            (Some(3_600), 3_590),
            (Some(8), 4),
            (Some(0), 0),
        ] {
            let loaded = loaded(lifetime);
            assert_eq!(loaded.refresh_at, after(refresh), "{lifetime:?}");
            assert!(!loaded.is_fresh(after(refresh)));
        }
        assert!(loaded(Some(8)).is_fresh(after(3)));
        assert!(loaded(Some(8)).is_unexpired(after(7)));
        assert!(!loaded(Some(8)).is_unexpired(after(8)));
        assert!(loaded(None).is_unexpired(after(1_000_000)));
    }

    /// A failure does not matter while the last credentials can be used.
    #[test]
    fn unexpired_credentials_outlive_a_failure_of_their_provider() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        runtime.block_on(async {
            let failing = SharedCredentialsProvider::new(FailingProvider);
            let cache = CredentialsCache::new(failing);
            let deadline = Instant::now() + Duration::from_secs(60);
            assert!(cache.get(deadline).await.is_err());
            let now = SystemTime::now();
            // They are due for a refresh.
            for (lifetime, usable) in [(3_600, true), (1, false)] {
                let loaded_at = now - Duration::from_secs(1_800);
                let expiry = loaded_at + Duration::from_secs(lifetime);
                let credentials = Credentials::new("a", "b", None, Some(expiry), "test");
                let mut loaded = Loaded::new(credentials, loaded_at);
                loaded.refresh_at = now;
                cache.0.state.lock().current = Some(Arc::new(loaded));
                assert_eq!(cache.get(deadline).await.is_ok(), usable);
            }
        });
    }

    #[derive(Debug)]
    struct FailingProvider;

    impl ProvideCredentials for FailingProvider {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("injected")))
        }
    }
}
