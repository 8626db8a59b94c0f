//! Settings: which are refused by `open`, and proxies and certificates.

use super::behind_proxy::{ITEM, TIMEOUT, full_text, item, with_short_timeouts};
use super::{START, dynamodb_error, server};
use atomic_db::{
    AtomicDb, Batch, DynamoDb, DynamoDbBuilder, DynamoDbError, Error, Item, Key, ManualClock,
};
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

type Change = fn(DynamoDbBuilder<u64>) -> DynamoDbBuilder<u64>;

fn open(change: Change) -> atomic_db::Result<DynamoDb<u64>> {
    change(server::builder_for_table("http://127.0.0.1:1", "table")).open()
}

#[test]
fn invalid_settings_are_refused_by_open() {
    open(|builder| builder).expect("opening sends no requests");
    open(|builder| builder.region(aws_config::Region::new("local"))).unwrap();
    let changes: [Change; 24] = [
        |builder| builder.timeout(Duration::ZERO),
        |builder| builder.timeout(Duration::MAX),
        |builder| builder.attempt_timeout(Duration::ZERO),
        |builder| builder.connect_timeout(Duration::ZERO),
        |builder| builder.worker_threads(0),
        |builder| builder.worker_threads(usize::MAX),
        |builder| builder.endpoint_url(""),
        |builder| builder.endpoint_url("not a URL"),
        |builder| builder.endpoint_url("localhost:8000"),
        |builder| builder.endpoint_url("127.0.0.1:8000"),
        |builder| builder.endpoint_url("http://"),
        |builder| builder.endpoint_url("ftp://localhost"),
        |builder| builder.endpoint_url("http://localhost:8000\n"),
        |builder| builder.region(""),
        |builder| builder.region("eu central 1"),
        |builder| builder.region("eu-central-1\n"),
        |builder| builder.region("evil.example/"),
        |builder| builder.credentials("", "secret", None),
        |builder| builder.credentials("AKID\n", "hunter2", None),
        |builder| builder.credentials("AKID", "hunter2\n", None),
        |builder| builder.credentials("AKID", "secret", Some("hunter2\n".to_owned())),
        |builder| builder.ca_bundle(""),
        |builder| builder.ca_bundle("hunter2"),
        |builder| {
            let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
            builder.ca_bundle(pem)
        },
    ];
    let opened = changes.into_iter().map(open);
    let tables = ["", "a table"]
        .map(|table| server::builder_for_table::<u64>("http://127.0.0.1:1", table).open());
    for outcome in opened.chain(tables) {
        let error = outcome.unwrap_err();
        assert!(
            matches!(error, Error::InvalidInput(_) | Error::LimitExceeded { .. }),
            "{error:?}"
        );
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    let open_with = |config: aws_config::SdkConfig| {
        let builder = DynamoDb::<u8>::builder("table").sdk_config(&config);
        builder.open().unwrap_err()
    };
    let config = aws_config::SdkConfig::builder;
    let error = open_with(config().build());
    assert!(
        matches!(&error, Error::InvalidInput(text) if text.contains("region")),
        "{error:?}"
    );
    let region = || aws_config::Region::new("local");
    let error = open_with(config().region(region()).build());
    assert!(
        matches!(dynamodb_error(&error), DynamoDbError::AccessDenied { .. }),
        "{error:?}"
    );
    let error = open_with(config().region(region()).endpoint_url("localhost").build());
    assert!(matches!(error, Error::InvalidInput(_)), "{error:?}");
}

/// Returns a builder for a new table, through TLS.
fn tls_builder(tls: &server::Tls) -> DynamoDbBuilder<u64> {
    let endpoint = server::endpoint().unwrap();
    let table = server::unique_table_name();
    let created = server::builder_for_table::<u64>(endpoint, table.as_str());
    created.create_table(true).open().unwrap();
    with_short_timeouts(server::builder_for_table(&tls.endpoint, table))
}

/// It used to be retried until the timeout.
#[test]
fn an_untrusted_certificate_is_reported_at_once() {
    let Some(tls) = server::tls() else {
        return;
    };
    let db = tls_builder(tls).open().unwrap();
    for call in [
        &|| db.get(ITEM).map(drop) as atomic_db::Result<()>,
        &|| db.set(&[item(1)]),
        &|| db.commit(&Batch::new().set(item(1))).map(drop),
    ] as [&dyn Fn() -> atomic_db::Result<()>; 3]
    {
        let start = Instant::now();
        let error = call().unwrap_err();
        assert!(start.elapsed() < TIMEOUT / 2, "{:?}", start.elapsed());
        assert!(matches!(error, Error::Backend(_)), "{error:?}");
        assert!(full_text(&error).contains("certificate"), "{error:?}");
    }
}

#[test]
fn the_certificates_of_a_ca_bundle_are_trusted() {
    let Some(tls) = server::tls() else {
        return;
    };
    let builder = tls_builder(tls).ca_bundle(tls.certificate.as_str());
    use_table(&builder.open().unwrap());
}

fn use_table(db: &DynamoDb<u64>) {
    db.set(&[item(1)]).unwrap();
    assert_eq!(db.get(ITEM).unwrap(), Some(item(1)));
    db.commit(&Batch::new().set(item(2))).unwrap();
}

#[test]
fn connections_are_kept_for_the_pool_idle_timeout() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let server = endpoint.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let forwarder = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            let server = TcpStream::connect(&server).unwrap();
            thread::spawn(move || copy_both_ways(client, server).ok());
        }
    });
    let builder = || {
        let table = server::unique_table_name();
        server::builder_for_table::<u64>(&forwarder, table).create_table(true)
    };
    let connections_of_reads = |db: DynamoDb<u64>| {
        let before = connections.load(Ordering::SeqCst);
        for _ in 0..5 {
            db.get(ITEM).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        connections.load(Ordering::SeqCst) - before
    };
    assert_eq!(connections_of_reads(builder().open().unwrap()), 0);
    let builder = builder().pool_idle_timeout(Duration::from_millis(1));
    assert!(connections_of_reads(builder.open().unwrap()) >= 4);
}

/// Returns the status of the response to a body, its body, and how many bytes it lacks.
type Respond = fn(&str) -> (u16, String, usize);

/// An error's text must not bring data or secrets into logs, whatever the server does.
#[test]
fn errors_show_neither_data_nor_secrets() {
    // Servers that answer with what they received, which no server does on purpose.
    let respond: [Respond; 5] = [
        |body| (200, body.to_owned(), 10),
        |body| (200, body[..body.len() - 1].to_owned(), 0),
        |body| (400, body[..body.len() - 1].to_owned(), 0),
        |body| (400, format!("<html>cannot read {body}</html>"), 0),
        |body| {
            let message = format!("cannot read {body}");
            (
                400,
                serde_json::json!({ "message": message }).to_string(),
                0,
            )
        },
    ];
    for respond in respond {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || echo(&listener, respond));
        assert_no_secrets(format!("http://{address}"));
        // Ends the server.
        TcpStream::connect(address).unwrap();
        assert!(server.join().unwrap() > 0, "the server was not reached");
    }
    assert_no_secrets("http://127.0.0.1:1".to_owned());
}

/// Calls a server with secrets. The calls fail.
fn assert_no_secrets(endpoint: String) {
    let db = DynamoDb::<String>::builder("table")
        .endpoint_url(endpoint)
        .region("local")
        .credentials("AKID", "hunter2-secret", Some("hunter2-token".to_owned()))
        .clock(ManualClock::new(START))
        .timeout(Duration::from_millis(300));
    let db = db.open().unwrap();
    let secret = Item::new("pk", "a", "hunter2".to_owned());
    for error in [
        db.set(&[secret.clone()]).unwrap_err(),
        db.commit(&Batch::new().set(secret)).unwrap_err(),
        db.get(Key::new("pk", "hunter2")).unwrap_err(),
    ] {
        let texts = format!("{error:?} {}", full_text(&error));
        assert!(!texts.contains("hunter2"), "{texts}");
    }
}

/// Responds to each request. Returns the number of requests when a client sends nothing.
fn echo(listener: &TcpListener, respond: Respond) -> usize {
    let mut count = 0;
    loop {
        let (mut client, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        let mut buffer = [0; 4_096];
        // The body is one JSON object.
        while !received.ends_with(b"}") {
            match client.read(&mut buffer) {
                Ok(read @ 1..) => received.extend_from_slice(&buffer[..read]),
                _ if received.is_empty() => return count,
                _ => break,
            }
        }
        count += 1;
        let received = String::from_utf8_lossy(&received);
        let body = received.split("\r\n\r\n").nth(1).unwrap_or_default();
        let (status, body, missing) = respond(body);
        // The client may have given up.
        let _ = write!(
            client,
            "HTTP/1.1 {status} Echo\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len() + missing
        );
    }
}

/// A proxy for the method `CONNECT`, which records the heads of the requests to it.
struct ConnectProxy {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://user:word@{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::default());
        let recorded = Arc::clone(&heads);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let recorded = Arc::clone(&recorded);
                // Either end may close its connection at any time.
                thread::spawn(move || connect_and_copy(client, &recorded).ok());
            }
        });
        ConnectProxy { url, heads }
    }
}

fn connect_and_copy(client: TcpStream, heads: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        lines.read_line(&mut head)?;
    }
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    heads.lock().unwrap().push(head);
    let server = TcpStream::connect(target)?;
    (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    copy_both_ways(client, server)
}

fn copy_both_ways(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (mut from_server, mut to_client) = (server, client);
    thread::spawn(move || io::copy(&mut from_client, &mut to_server));
    io::copy(&mut from_server, &mut to_client).map(drop)
}

/// Environment variables apply to a whole process, so these tests run in processes of their own.
fn run_child(name: &str, variables: &[(&str, &str)]) {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", &format!("dynamodb::settings::{name}")]);
    child.args(["--ignored", "--nocapture"]);
    for proxy in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
        child.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    // The server of this process is used.
    child.env("ATOMIC_DB_DYNAMODB_ENDPOINT", server::endpoint().unwrap());
    let output = child.envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{variables:?}: {text}");
    assert!(text.contains("1 passed"), "{text}");
}

const TLS_ENDPOINT: &str = "ATOMIC_DB_TEST_TLS_ENDPOINT";

#[test]
fn requests_are_sent_through_the_proxy_of_the_environment() {
    let Some(tls) = server::tls() else {
        return;
    };
    let bundle = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bundle.path(), &tls.certificate).unwrap();
    let run = |variables: &[(&str, &str)]| {
        let bundle = bundle.path().to_str().unwrap();
        let common = [
            (TLS_ENDPOINT, &*tls.endpoint),
            ("AWS_CA_BUNDLE", bundle),
            // It is not used for https.
            ("HTTP_PROXY", "socks5://127.0.0.1:1"),
        ];
        run_child("child_that_uses_a_table", &[&common, variables].concat());
    };
    let host = tls.endpoint.strip_prefix("https://").unwrap();

    let proxy = ConnectProxy::new();
    run(&[("HTTPS_PROXY", &proxy.url)]);
    let heads = std::mem::take(&mut *proxy.heads.lock().unwrap());
    assert!(!heads.is_empty(), "the proxy was not used");
    for head in heads {
        assert!(head.starts_with(&format!("CONNECT {host} ")), "{head}");
        let head = head.to_lowercase();
        // user:word
        assert!(
            head.contains("proxy-authorization: basic dxnlcjp3b3jk"),
            "{head}"
        );
    }
    // The server's TLS port is a proxy, too.
    run(&[("all_proxy", &tls.endpoint)]);

    run(&[
        ("https_proxy", &proxy.url),
        ("NO_PROXY", "10.0.0.1,127.0.0.0/8"),
    ]);
    assert_eq!(*proxy.heads.lock().unwrap(), [""; 0]);
}

#[test]
#[ignore = "runs as a child process"]
fn child_that_uses_a_table() {
    let endpoint = env::var(TLS_ENDPOINT).unwrap();
    let tls = server::Tls {
        endpoint,
        certificate: String::new(),
    };
    use_table(&tls_builder(&tls).open().unwrap());
}

#[test]
fn invalid_settings_of_the_environment_are_refused_by_open() {
    if server::endpoint().is_none() {
        return;
    }
    for (name, value) in [
        ("AWS_ENDPOINT_URL", "localhost:8000"),
        ("AWS_ENDPOINT_URL_DYNAMODB", "127.0.0.1:8000"),
        ("AWS_REGION", "eu central"),
        ("HTTPS_PROXY", "socks5://localhost:1080"),
        ("NO_PROXY", "*.example.com"),
        ("AWS_CA_BUNDLE", "/does/not/exist"),
    ] {
        let variables = [
            ("AWS_REGION", "local"),
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "local"),
            ("HTTPS_PROXY", "http://localhost:1"),
            (name, value),
        ];
        run_child("child_that_is_refused", &variables);
    }
}

#[test]
#[ignore = "runs as a child process"]
fn child_that_is_refused() {
    let error = DynamoDb::<u64>::open("table").unwrap_err();
    assert!(matches!(error, Error::InvalidInput(_)), "{error:?}");
}
