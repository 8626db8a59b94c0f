//! A PostgreSQL server that the tests start, and that ends with them.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_postgres::NoTls;

const START_LIMIT: Duration = Duration::from_secs(60);

/// A server with a data directory of its own, in memory if possible, on a Unix socket.
pub(crate) struct Server {
    bin: PathBuf,
    folder: PathBuf,
    user: Option<(u32, u32)>,
    arguments: Vec<String>,
    port: u16,
    /// Ends the server and removes the folder when this is closed, even if the test is killed.
    _guard: ChildStdin,
}

impl Server {
    /// Returns the server that the tests share, or `None` if PostgreSQL is not installed.
    pub(crate) fn shared() -> Option<&'static Server> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED
            .get_or_init(|| Server::start(&["-c", "max_connections=300"]))
            .as_ref()
    }

    /// Starts a server with these arguments in addition, or returns `None` if PostgreSQL is not
    /// installed, which is an error in CI.
    pub(crate) fn start(arguments: &[&str]) -> Option<Server> {
        let Some(bin) = installed() else {
            assert!(
                std::env::var_os("CI").is_none(),
                "PostgreSQL is not installed: no `initdb` in ATOMIC_DB_POSTGRES_BIN, PATH or /usr/lib/postgresql"
            );
            eprintln!("skipped: PostgreSQL is not installed (no `initdb` was found)");
            return None;
        };
        let folder = new_folder(Path::new("/dev/shm"));
        let folder = folder.or_else(|_| new_folder(&std::env::temp_dir()));
        Some(Server::start_in(folder.unwrap(), bin, arguments))
    }

    /// Starts a server with the programs in `bin` and its data in `folder`, which is removed when it
    /// ends.
    pub(crate) fn start_in(folder: PathBuf, bin: PathBuf, arguments: &[&str]) -> Server {
        // Both programs refuse to run as root.
        let is_root = fs::metadata(&folder).unwrap().uid() == 0;
        let user = is_root.then(unprivileged_user);
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let mut port = arguments.iter().skip_while(|&&argument| argument != "-p");
        let port = port.nth(1).map_or(5432, |port| port.parse().unwrap());
        let server = Server {
            port,
            _guard: guard(&folder),
            bin,
            folder,
            user,
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
        };
        let mut initdb = server.command("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        initdb.args(["--no-sync", "--no-instructions", "-D"]);
        let output = initdb.arg(server.data()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        server.launch();
        server
    }

    /// Returns a command of the server's user, for one of its programs or that of an absolute path.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(&self.folder).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("d")
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes `path` the server's own file, which no other user can read.
    pub(crate) fn own(&self, path: &Path) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = self.user {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Starts the server again after it was stopped, and waits until it accepts connections.
    pub(crate) fn launch(&self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .unwrap();
        let mut postgres = self.command("postgres");
        postgres
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(&self.folder);
        postgres.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        postgres
            .args(["-c", "shared_buffers=32MB"])
            .args(&self.arguments);
        postgres.stdout(Stdio::null()).stderr(log).process_group(0);
        let mut child = postgres.spawn().unwrap();
        let start = Instant::now();
        while self.try_sql("SELECT 1").is_err() {
            let exited = child.try_wait().unwrap();
            assert!(
                exited.is_none() && start.elapsed() < START_LIMIT,
                "the server did not start: {exited:?}, {}",
                fs::read_to_string(self.folder.join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        // Reaps it when it ends.
        std::thread::spawn(move || child.wait());
    }

    /// Returns a URL of the database `name`, as the superuser.
    pub(crate) fn url_of(&self, name: &str) -> String {
        let (folder, port) = (self.folder.display(), self.port);
        format!("postgresql:///{name}?host={folder}&port={port}&user=postgres")
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Executes statements without a result, on a connection of their own.
    pub(crate) fn sql(&self, statements: &str) {
        self.try_sql(statements).unwrap();
    }

    fn try_sql(&self, statements: &str) -> Result<(), tokio_postgres::Error> {
        try_sql(&self.url(), statements)
    }

    /// Returns the process of the server.
    pub(crate) fn pid(&self) -> u32 {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        file.lines().next().unwrap().parse().unwrap()
    }

    /// Sends `signal` to the server, and waits until all of its processes have ended. Those of a server
    /// that was killed notice it when they wait for something the next time, and no other server can
    /// start before.
    pub(crate) fn stop(&self, signal: &str) {
        kill(signal, self.pid());
        let data = self.data();
        let start = Instant::now();
        while let Some(pid) = process_in(&data) {
            assert!(
                start.elapsed() < START_LIMIT,
                "process {pid} of the server does not end"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Returns a process that works in `folder`, as all processes of a server do. `None` where the system has
/// no `/proc`.
fn process_in(folder: &Path) -> Option<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut processes = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let works_in = fs::read_link(entry.path().join("cwd")).ok()?;
        (works_in == folder).then_some(pid)
    });
    processes.next()
}

/// Executes statements without a result, on a connection of their own.
pub(crate) fn try_sql(url: &str, statements: &str) -> Result<(), tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let connection = tokio::spawn(connection);
        let executed = client.batch_execute(statements).await;
        drop(client);
        let _ = connection.await;
        executed
    })
}

/// Sends `signal` to the process `pid`, which may have ended.
pub(crate) fn kill(signal: &str, pid: u32) {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{signal}")).arg(pid.to_string());
    let _ = kill.stderr(Stdio::null()).status().unwrap();
}

/// Returns a new name of a table or a database.
pub(crate) fn new_name(prefix: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{prefix}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Creates a folder for a server in `parent`.
pub(crate) fn new_folder(parent: &Path) -> io::Result<PathBuf> {
    let mut folder = tempfile::Builder::new();
    folder
        .prefix("adb-pg-")
        .tempdir_in(parent)
        .map(TempDir::keep)
}

/// Returns the folder with `initdb` and `postgres`.
pub(crate) fn installed() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("ATOMIC_DB_POSTGRES_BIN")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    for (parent, suffix) in [
        ("/usr/lib/postgresql", "bin"),
        ("/usr", "bin"),
        ("/opt/homebrew/opt", "bin"),
    ] {
        let entries: io::Result<Vec<_>> = fs::read_dir(parent).and_then(Iterator::collect);
        let mut entries: Vec<PathBuf> = entries
            .unwrap_or_default()
            .into_iter()
            .map(|entry| entry.path().join(suffix))
            .collect();
        entries.sort();
        // The highest version first.
        folders.extend(entries.into_iter().rev());
    }
    folders.into_iter().find(|folder| {
        ["initdb", "postgres"]
            .iter()
            .all(|program| folder.join(program).is_file())
    })
}

/// Returns the user and the group of `postgres`, or else of `nobody`.
fn unprivileged_user() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = passwd
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody")).unwrap()
}

/// Starts a process that ends the server in `folder` and removes the folder when its input is closed.
fn guard(folder: &Path) -> ChildStdin {
    let script = "cat > /dev/null; \
        pid=$(head -n 1 \"$1/d/postmaster.pid\" 2> /dev/null) && kill -QUIT $pid && \
        while kill -0 $pid 2> /dev/null; do sleep 0.05; done; rm -rf \"$1\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(folder)
        .process_group(0);
    let guard: io::Result<Child> = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    guard.unwrap().stdin.take().unwrap()
}
