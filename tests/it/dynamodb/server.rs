//! The server that `DynamoDb` is tested against: `tests/dynamodb-server`, built when a test first
//! needs it, started once per test binary, and stopped when that process ends, however it ends.
//!
//! `ATOMIC_DB_DYNAMODB_ENDPOINT` names another server to test against, as `http://host:port`. Without
//! it, the first build needs a network and a C compiler. If it fails, one line that begins with
//! `skipped:` gives the reason and the tests pass; if `CI` is set, they fail.

use atomic_db::{Clock, DynamoDb, DynamoDbBuilder};
use std::collections::hash_map::RandomState;
use std::env;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

struct Server {
    endpoint: String,
    /// `None` for a server that is not ours.
    tls: Option<Tls>,
    /// The server runs until this pipe is closed. `None` for a server that is not ours.
    _stdin: Option<ChildStdin>,
}

/// The server's TLS port.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// `https://127.0.0.1:port`.
    pub(crate) endpoint: String,
    /// Its self-signed certificate, as PEM.
    pub(crate) certificate: String,
}

/// Returns the URL of the server and starts it if necessary. Returns `None` if the server is not
/// available; the calling test is then skipped.
pub(crate) fn endpoint() -> Option<&'static str> {
    Some(&server()?.endpoint)
}

/// Returns the TLS port of the server, or `None` if it has none.
pub(crate) fn tls() -> Option<&'static Tls> {
    server()?.tls.as_ref()
}

fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
    let is_ci = env::var_os("CI").is_some();
    let server = SERVER.get_or_init(|| {
        let server = match env::var("ATOMIC_DB_DYNAMODB_ENDPOINT") {
            Ok(endpoint) => Ok(Server {
                endpoint,
                tls: None,
                _stdin: None,
            }),
            Err(_) => start(),
        };
        if let (Err(reason), false) = (&server, is_ci) {
            // Directly to stderr: the test harness captures what `eprintln!` prints.
            let _ = writeln!(io::stderr(), "skipped: all DynamoDB tests: {reason}");
        }
        server
    });
    match server {
        Ok(server) => Some(server),
        Err(reason) if is_ci => panic!("{reason}"),
        Err(_) => None,
    }
}

/// Returns a builder that creates a new table on the server.
pub(crate) fn builder<T>(endpoint: &str, clock: impl Clock + 'static) -> DynamoDbBuilder<T> {
    builder_for_table(endpoint, unique_table_name())
        .create_table(true)
        .clock(clock)
}

/// Returns a builder for the given table.
pub(crate) fn builder_for_table<T>(endpoint: &str, table: impl Into<String>) -> DynamoDbBuilder<T> {
    DynamoDb::builder(table)
        .endpoint_url(endpoint)
        .region("local")
        .credentials("local", "local", None)
}

/// Returns a table name that has not been used before, not even by another process.
pub(crate) fn unique_table_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let random = RandomState::new().build_hasher().finish();
    format!("test-{count}-{random:016x}")
}

/// Builds the server, which takes no time if nothing has changed, and starts it. Cargo's own lock
/// lets only one process build at a time.
fn start() -> Result<Server, String> {
    const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dynamodb-server");
    const TARGET: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/dynamodb-server");
    let unavailable = |reason: &str| format!("the server in {PACKAGE} did not start: {reason}");

    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["run", "--locked", "--quiet", "--color", "never"])
        .args(["--target-dir", TARGET])
        .args(["--manifest-path", &format!("{PACKAGE}/Cargo.toml")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Flags for the tests, such as `--cfg` and `-D warnings`, do not apply to the server. They would
    // also cause it to be built again each time they change.
    for (name, _) in env::vars_os() {
        let is_flag = name.to_str().is_some_and(|name| {
            name.ends_with("RUSTFLAGS")
                || name.ends_with("RUSTDOCFLAGS")
                || name.starts_with("CARGO_PROFILE_")
        });
        if is_flag {
            cargo.env_remove(name);
        }
    }
    let mut server = cargo
        .spawn()
        .map_err(|error| unavailable(&format!("{cargo:?}: {error}")))?;
    let stdin = server.stdin.take();
    let stdout = server.stdout.take().expect("stdout is piped");
    let mut stderr = server.stderr.take().expect("stderr is piped");
    // Read until the server ends, so that it is never blocked by a full pipe.
    let messages = thread::spawn(move || {
        let mut messages = Vec::new();
        let _ = stderr.read_to_end(&mut messages);
        messages
    });
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    if let (Some(endpoint), Some(tls_endpoint)) = (lines.next(), lines.next()) {
        let mut certificate = String::new();
        for line in lines {
            certificate.push_str(&line);
            certificate.push('\n');
            if line.starts_with("-----END") {
                break;
            }
        }
        let tls = Tls {
            endpoint: tls_endpoint,
            certificate,
        };
        return Ok(Server {
            endpoint,
            tls: Some(tls),
            _stdin: stdin,
        });
    }
    let _ = server.wait();
    let messages = messages.join().unwrap_or_default();
    Err(unavailable(&summarize(&String::from_utf8_lossy(&messages))))
}

/// Reduces Cargo's messages to one line: the first error and its last cause.
fn summarize(messages: &str) -> String {
    let mut lines = messages.lines().map(str::trim);
    let first = lines.by_ref().find(|line| line.starts_with("error"));
    let last = lines.rfind(|line| !line.is_empty());
    let causes = first.into_iter().chain(last);
    let causes = causes.map(|line| line.trim_start_matches("error: "));
    causes.collect::<Vec<_>>().join(": ")
}
