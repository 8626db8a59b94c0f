//! PgBouncer in transaction mode between `PostgresDb` and its server: each transaction of a client's
//! connection is executed on another session of the server. The tests are skipped where it is not
//! installed.

use super::counters::{self, Counters, assert_exact, run};
use super::proxy::Proxy;
use super::server::{Server, new_name, try_sql};
use super::sql::Session;
use crate::common::HANG_LIMIT;
use atomic_db::testing::{Capabilities, check, with_timeout};
use atomic_db::{AtomicDb, Error, Item, ManualClock, PostgresDb};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// The sessions of the server for each database: fewer than there are threads.
const SESSIONS: usize = 4;

/// A pooler in front of `server`, on a Unix socket next to that of the server.
struct PgBouncer {
    server: &'static Server,
    port: u16,
    /// Ends the pooler when its input is closed, even if the test is killed.
    guard: Child,
}

impl PgBouncer {
    /// Returns the pooler that the tests share, or `None` if PostgreSQL or PgBouncer is not installed.
    fn shared() -> Option<&'static PgBouncer> {
        static SHARED: OnceLock<Option<PgBouncer>> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                let server = Server::shared()?;
                PgBouncer::start(server, server.folder(), 6432)
            })
            .as_ref()
    }

    /// Starts a pooler at a port of its own, which is only a part of the socket's name. It reaches the
    /// server through the socket in `host`.
    fn start(server: &'static Server, host: &Path, port: u16) -> Option<PgBouncer> {
        let Some(program) = installed() else {
            assert!(
                std::env::var_os("CI").is_none(),
                "PgBouncer is not installed: no `pgbouncer` in PATH or /usr/sbin"
            );
            eprintln!("skipped: PgBouncer is not installed (no `pgbouncer` was found)");
            return None;
        };
        let folder = server.folder();
        let settings = folder.join(format!("pgbouncer-{port}.ini"));
        let text = format!(
            "[databases]\n\
             * = host={host} port=5432 user=postgres\n\
             [pgbouncer]\n\
             listen_port = {port}\n\
             unix_socket_dir = {folder}\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = {SESSIONS}\n\
             max_client_conn = 1000\n\
             server_login_retry = 1\n",
            host = host.display(),
            folder = folder.display()
        );
        fs::write(&settings, text).unwrap();
        fs::set_permissions(&settings, fs::Permissions::from_mode(0o644)).unwrap();
        // It refuses to run as root, as the server does.
        let mut guard = server.command("/bin/sh");
        let script = "\"$1\" -q \"$2\" & cat > /dev/null; kill $!; wait $!";
        guard.args(["-c", script, "sh"]).arg(program).arg(&settings);
        guard.stdin(Stdio::piped()).stdout(Stdio::null());
        guard.stderr(Stdio::null()).process_group(0);
        let pooler = PgBouncer {
            server,
            port,
            guard: guard.spawn().unwrap(),
        };
        let start = Instant::now();
        while let Err(error) = try_sql(&pooler.url_of("postgres"), "SELECT 1") {
            assert!(start.elapsed() < HANG_LIMIT, "PgBouncer: {error}");
            thread::sleep(Duration::from_millis(10));
        }
        Some(pooler)
    }

    /// Returns a URL of the database `name`.
    fn url_of(&self, name: &str) -> String {
        let (folder, port) = (self.server.folder().display(), self.port);
        format!("postgresql:///{name}?host={folder}&port={port}&user=postgres")
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let mut programs = folders.map(|folder| folder.join("pgbouncer"));
    programs.find(|program| program.is_file())
}

/// Makes one test of each conformance case.
macro_rules! conformance_tests {
    (() $($case:ident)*) => {$(
        #[test]
        fn $case() {
            if let Some(pooler) = PgBouncer::shared() {
                let make = |clock: ManualClock| {
                    let db = PostgresDb::<String>::builder().table(new_name("pgbouncer"));
                    db.pooled(true).clock(clock).connect(pooler.url_of("postgres")).unwrap()
                };
                check(atomic_db::testing::$case, make, Capabilities::new());
            }
        }
    )*};
}

mod conformance {
    use super::*;
    atomic_db::__testing_cases! { [conformance_tests] () }
    atomic_db::__testing_scan_cases! { [conformance_tests] () }
}

/// What a pooler reports of a broken session says nothing about the transaction.
#[test]
fn counts_are_exact_while_the_sessions_of_a_pooler_are_terminated() {
    let Some(pooler) = PgBouncer::shared() else {
        return;
    };
    with_timeout(HANG_LIMIT, move |_| {
        let database = new_name("pooled");
        pooler.server.sql(&format!("CREATE DATABASE {database}"));
        let session = Session::connect(&pooler.server.url());
        let terminate = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = '{database}' ORDER BY random() LIMIT 1"
        );
        for counters in [Counters::Own, Counters::Shared] {
            let db = counters::builder().pooled(true);
            let db = db.connect(pooler.url_of(&database)).unwrap();
            let mut terminated = 0;
            let outcomes = run(&db, counters, || {
                for _ in 0..40 {
                    terminated += session.try_rows(&terminate).unwrap().len();
                    thread::sleep(Duration::from_millis(50));
                }
            });
            println!("{terminated} sessions were terminated");
            assert!(terminated > 10);
            assert_exact(&db, &outcomes, counters);
            if counters == Counters::Own {
                assert_eq!(outcomes.unknown.len(), 0, "all of them can be resolved");
                assert_eq!(outcomes.failed.len(), 0);
            }
        }
    });
}

/// Starts a pooler whose answers from the server go through a proxy.
fn behind_proxy(port: u16) -> Option<(PgBouncer, Proxy)> {
    let server = Server::shared()?;
    let proxy = Proxy::start(server.folder());
    proxy.admit(server);
    Some((PgBouncer::start(server, proxy.folder(), port)?, proxy))
}

#[test]
fn counts_are_exact_while_a_pooler_loses_answers() {
    let Some((pooler, proxy)) = behind_proxy(6434) else {
        return;
    };
    with_timeout(HANG_LIMIT, move |_| {
        let db = counters::builder().pooled(true);
        let db = db.connect(pooler.url_of("postgres")).unwrap();
        proxy.swallow_one_of(29);
        let outcomes = run(&db, Counters::Own, || {
            thread::sleep(Duration::from_secs(3));
        });
        proxy.swallow_one_of(0);
        println!("{} answers were lost", proxy.swallowed());
        assert!(proxy.swallowed() > 3);
        assert_exact(&db, &outcomes, Counters::Own);
        assert_eq!(outcomes.unknown.len(), 0, "all of them can be resolved");
        assert_eq!(outcomes.failed.len(), 0);
    });
}

/// The pooler reports an error of its own, which the server would report before it commits.
#[test]
fn a_write_whose_answer_a_pooler_lost_is_unknown() {
    let Some((pooler, proxy)) = behind_proxy(6435) else {
        return;
    };
    let db = PostgresDb::<u64>::builder().table(new_name("pgbouncer"));
    let db = db.pooled(true).connect(pooler.url_of("postgres")).unwrap();
    let item = Item::new("pk", "a", 1);
    proxy.swallow_next();
    let outcome = db.set(std::slice::from_ref(&item));
    assert!(
        matches!(outcome, Err(Error::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    // It was executed.
    assert!(db.get(item.key()).unwrap().is_some());
}

#[test]
fn counts_are_exact_while_a_pooler_is_restarted() {
    let start = || {
        let server = Server::shared()?;
        PgBouncer::start(server, server.folder(), 6433)
    };
    let Some(first) = start() else {
        return;
    };
    with_timeout(HANG_LIMIT, move |_| {
        let db = counters::builder().pooled(true);
        let db = db.connect(first.url_of("postgres")).unwrap();
        let mut pooler = Some(first);
        let outcomes = run(&db, Counters::Own, || {
            for _ in 0..5 {
                thread::sleep(Duration::from_millis(300));
                drop(pooler.take());
                pooler = start();
            }
            thread::sleep(Duration::from_millis(300));
        });
        assert_exact(&db, &outcomes, Counters::Own);
        assert_eq!(outcomes.unknown.len(), 0, "all of them can be resolved");
        assert_eq!(outcomes.failed.len(), 0);
    });
}

/// At once, instead of waiting for a server that is starting.
#[test]
fn a_pooler_that_refuses_the_settings_of_a_session_is_reported() {
    let Some(pooler) = PgBouncer::shared() else {
        return;
    };
    let start = Instant::now();
    let error = PostgresDb::<u64>::connect(pooler.url_of("postgres")).unwrap_err();
    let Error::Backend(source) = &error else {
        panic!("{error:?}");
    };
    assert!(source.to_string().contains("pooled(true)"), "{source}");
    assert!(start.elapsed() < Duration::from_secs(20));
}
