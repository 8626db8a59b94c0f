//! Credentials that are slow, fail, expire, are replaced or cannot be sent.

use super::behind_proxy::{
    COMMIT, ITEM, LOCK, TIMEOUT, always, for_first, full_text, item, with_short_timeouts,
    within_timeout,
};
use super::fault_proxy::{Fault, FaultProxy};
use super::{dynamodb_error, server};
use atomic_db::testing::run_concurrently;
use atomic_db::{AtomicDb, Batch, DynamoDb, DynamoDbError, Error, Lock, Query, Result, Version};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_dynamodb::config::{Credentials, ProvideCredentials};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

type Provided = std::result::Result<Credentials, CredentialsError>;

/// A provider that takes a while, and then returns what a function returns for the number of earlier
/// loads.
#[derive(Clone)]
struct TestProvider {
    loads: Arc<AtomicUsize>,
    load: Arc<dyn Fn(usize) -> (Duration, Provided) + Send + Sync>,
}

impl TestProvider {
    fn new(load: impl Fn(usize) -> (Duration, Provided) + Send + Sync + 'static) -> Self {
        TestProvider {
            loads: Arc::default(),
            load: Arc::new(load),
        }
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for TestProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestProvider").finish_non_exhaustive()
    }
}

impl ProvideCredentials for TestProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let number = self.loads.fetch_add(1, Ordering::SeqCst);
            let (delay, provided) = (self.load)(number);
            tokio::time::sleep(delay).await;
            provided
        })
    }
}

fn credentials(access_key_id: &str) -> Credentials {
    Credentials::new(access_key_id, "secret", None, None, "test")
}

/// Credentials that have to be loaded again for each request.
fn expired(access_key_id: &str) -> Credentials {
    Credentials::new(
        access_key_id,
        "secret",
        None,
        Some(SystemTime::now()),
        "test",
    )
}

const NO_DELAY: Duration = Duration::ZERO;

/// Opens a table behind a proxy with the provider and short timeouts. `None` without a server.
fn open(provider: &TestProvider) -> Option<(Result<DynamoDb<u64>>, FaultProxy)> {
    let endpoint = server::endpoint()?;
    let table = server::unique_table_name();
    let created = server::builder_for_table::<u64>(endpoint, table.as_str());
    created.create_table(true).open().unwrap();
    let proxy = FaultProxy::new(endpoint);
    let builder = DynamoDb::builder(table)
        .endpoint_url(proxy.endpoint())
        .region("local")
        .credentials_provider(provider.clone());
    let opened = within_timeout(|| with_short_timeouts(builder).open());
    proxy.set_rule(always(Fault::None));
    Some((opened, proxy))
}

/// Returns the errors of a call of each kind, and asserts that each was returned at once.
fn errors_at_once(db: &DynamoDb<u64>) -> Vec<Error> {
    let lock = Lock::new(LOCK, Version::from_u128(1), u64::MAX);
    let calls: [&dyn Fn() -> Result<()>; 7] = [
        &|| db.get(ITEM).map(drop),
        &|| db.get_many(&[ITEM]).map(drop),
        &|| db.query(&Query::new("pk")).map(drop),
        &|| db.get_lock(LOCK).map(drop),
        &|| db.set(&[item(1)]),
        &|| db.delete(&[ITEM]),
        &|| db.set_atomic(&[item(1)], &[lock.clone()]).map(drop),
    ];
    let error = |call: &dyn Fn() -> Result<()>| {
        let start = Instant::now();
        let error = call().unwrap_err();
        assert!(start.elapsed() < TIMEOUT / 2, "{:?}", start.elapsed());
        error
    };
    calls.into_iter().map(error).collect()
}

fn assert_no_credentials(error: &Error, reason: &str) {
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    match dynamodb_error(error) {
        DynamoDbError::AccessDenied { code, message } => {
            assert_eq!(code, "NoCredentials");
            assert!(message.contains(reason), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_use_the_credentials_that_open_loaded() {
    let provider = TestProvider::new(|_| (NO_DELAY, Ok(credentials("first"))));
    let Some((db, proxy)) = open(&provider) else {
        return;
    };
    let db = db.unwrap();
    run_concurrently(4, |_| {
        db.set(&[item(1)]).unwrap();
        assert_eq!(db.get(ITEM).unwrap(), Some(item(1)));
    });
    assert_eq!(provider.loads(), 1);
    let requests = proxy.requests_for("GetItem");
    assert!(
        requests
            .iter()
            .all(|request| request.access_key_id == "first")
    );
}

#[test]
fn a_provider_may_take_longer_than_an_attempt() {
    let delay = Duration::from_millis(1_200);
    let provider = TestProvider::new(move |_| (delay, Ok(expired("slow"))));
    let Some((db, proxy)) = open(&provider) else {
        return;
    };
    let db = db.unwrap();
    within_timeout(|| db.set(&[item(1)])).unwrap();
    assert_eq!(within_timeout(|| db.get(ITEM)).unwrap(), Some(item(1)));
    within_timeout(|| db.commit(&Batch::new().set(item(2)))).unwrap();
    assert_eq!(proxy.operations(), ["BatchWriteItem", "GetItem", COMMIT]);
}

/// Nothing is sent, and what the provider returns after the call's end is not lost.
#[test]
fn a_provider_that_takes_longer_than_a_call_is_unavailable() {
    let provider = TestProvider::new(|number| match number {
        0 => (NO_DELAY, Ok(expired("first"))),
        1 => (TIMEOUT * 3 / 2, Ok(credentials("second"))),
        _ => (Duration::MAX, Err(CredentialsError::not_loaded("unused"))),
    });
    let Some((db, proxy)) = open(&provider) else {
        return;
    };
    let db = db.unwrap();
    let error = within_timeout(|| db.commit(&Batch::new().set(item(1)))).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(full_text(&error).contains("credentials"), "{error:?}");
    assert_eq!(proxy.operations(), [""; 0]);
    within_timeout(|| db.commit(&Batch::new().set(item(1)))).unwrap();
    assert_eq!(provider.loads(), 2);
    assert_eq!(proxy.requests_for(COMMIT)[0].access_key_id, "second");
}

#[test]
fn credentials_that_fail_later_are_denied_at_once() {
    let provider = TestProvider::new(|number| match number {
        0 => (NO_DELAY, Ok(expired("first"))),
        _ => (NO_DELAY, Err(CredentialsError::provider_error("no token"))),
    });
    let Some((db, proxy)) = open(&provider) else {
        return;
    };
    for error in errors_at_once(&db.unwrap()) {
        assert_no_credentials(&error, "no token");
    }
    assert_eq!(proxy.operations(), [""; 0]);
}

#[test]
fn open_reports_credentials_that_cannot_be_loaded() {
    let provider = TestProvider::new(|_| (NO_DELAY, Err(CredentialsError::not_loaded("no file"))));
    let Some((opened, _proxy)) = open(&provider) else {
        return;
    };
    assert_no_credentials(&opened.unwrap_err(), "no file");
    let provider = TestProvider::new(|_| panic!("injected"));
    let (opened, _proxy) = open(&provider).unwrap();
    assert_no_credentials(&opened.unwrap_err(), "panicked");
    let provider = TestProvider::new(|_| (Duration::MAX, Ok(credentials("late"))));
    let (opened, _proxy) = open(&provider).unwrap();
    let error = opened.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
}

/// The SDK would panic when it signs a request with them.
#[test]
fn provided_credentials_that_cannot_be_sent_are_denied() {
    let provider = TestProvider::new(|number| match number {
        0 => (NO_DELAY, Ok(expired("first"))),
        1 => (NO_DELAY, Ok(expired("AKID\n"))),
        2 => (NO_DELAY, Ok(expired(""))),
        _ => {
            let token = Some("hunter2\u{0}".to_owned());
            let now = Some(SystemTime::now());
            (NO_DELAY, Ok(Credentials::new("a", "b", token, now, "test")))
        }
    });
    let Some((db, proxy)) = open(&provider) else {
        return;
    };
    for error in errors_at_once(&db.unwrap()) {
        assert_no_credentials(&error, "");
        assert!(!full_text(&error).contains("hunter2"), "{error:?}");
    }
    assert_eq!(proxy.operations(), [""; 0]);
}

#[test]
fn rejected_credentials_are_replaced_once() {
    let provider = TestProvider::new(|number| (NO_DELAY, Ok(credentials(&format!("key{number}")))));
    let Some((db, proxy)) = open(&provider) else {
        return;
    };
    let db = db.unwrap();
    let codes = ["ExpiredTokenException", "UnrecognizedClientException"];
    for (code, number) in codes.into_iter().zip(0..) {
        proxy.set_rule(for_first(1, Fault::Error(400, code)));
        within_timeout(|| db.commit(&Batch::new().set(item(1)))).unwrap();
        let requests = proxy.requests_for(COMMIT);
        let keys: Vec<&str> = requests.iter().map(|sent| &*sent.access_key_id).collect();
        assert_eq!(keys, [format!("key{number}"), format!("key{}", number + 1)]);
    }
    // Those that are always rejected are not replaced forever.
    proxy.set_rule(always(Fault::Error(400, codes[0])));
    for error in errors_at_once(&db) {
        match dynamodb_error(&error) {
            DynamoDbError::AccessDenied { code, .. } => assert_eq!(code, codes[0]),
            other => panic!("{other:?}"),
        }
        assert!(matches!(error, Error::Backend(_)), "{error:?}");
    }
    assert_eq!(proxy.operations().len(), 14);
}

#[test]
fn concurrent_calls_share_one_load() {
    let provider = TestProvider::new(|number| match number {
        0 => (NO_DELAY, Ok(expired("first"))),
        _ => (Duration::from_millis(300), Ok(credentials("second"))),
    });
    let Some((db, _proxy)) = open(&provider) else {
        return;
    };
    let db = db.unwrap();
    run_concurrently(8, |_| assert_eq!(db.get(ITEM).unwrap(), None));
    assert_eq!(provider.loads(), 2);
}
