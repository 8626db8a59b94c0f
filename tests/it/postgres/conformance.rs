//! The conformance suite in several configurations.

use super::server::{Server, new_name};
use atomic_db::testing::{Capabilities, check};
use atomic_db::{LruCache, ManualClock, PostgresDb, PostgresDbBuilder};
use std::sync::OnceLock;

fn builder(clock: ManualClock) -> PostgresDbBuilder<String> {
    PostgresDb::builder().table(new_name("suite")).clock(clock)
}

/// Makes one test of each conformance case, as `suite!` does. The tests are skipped where PostgreSQL is
/// not installed.
macro_rules! conformance_tests {
    (($make:expr) $($case:ident)*) => {$(
        #[test]
        fn $case() {
            if let Some(server) = Server::shared() {
                let make = |clock| ($make)(server, clock);
                check(atomic_db::testing::$case, make, Capabilities::new());
            }
        }
    )*};
}

/// Creates a database of its own, once, and returns its URL.
fn database(server: &Server, name: &'static str, options: &str, settings: &str) -> String {
    server.sql(&format!("CREATE DATABASE {name} {options}"));
    if !settings.is_empty() {
        server.sql(&format!("ALTER DATABASE {name} SET {settings}"));
    }
    server.url_of(name)
}

mod named_statements {
    use super::*;
    atomic_db::__testing_cases! {
        [conformance_tests]
        (|server: &Server, clock| builder(clock).connect(server.url()).unwrap())
    }
    atomic_db::__testing_scan_cases! {
        [conformance_tests]
        (|server: &Server, clock| builder(clock).connect(server.url()).unwrap())
    }
}

mod unnamed_statements {
    use super::*;
    atomic_db::__testing_cases! {
        [conformance_tests]
        (|server: &Server, clock| builder(clock).pooled(true).connect(server.url()).unwrap())
    }
}

mod cached {
    use super::*;
    atomic_db::__testing_cases! {
        [conformance_tests]
        (|server: &Server, clock: ManualClock| {
            let db = builder(clock.clone()).connect(server.url()).unwrap();
            LruCache::builder(db).capacity(20).clock(clock).build()
        })
    }
}

mod repeatable_read {
    use super::*;

    static URL: OnceLock<String> = OnceLock::new();

    atomic_db::__testing_cases! {
        [conformance_tests]
        (|server: &Server, clock| {
            let settings = "default_transaction_isolation = 'repeatable read'";
            let url = URL.get_or_init(|| database(server, "repeatable_read", "", settings));
            builder(clock).connect(url).unwrap()
        })
    }
}

mod serializable {
    use super::*;

    static URL: OnceLock<String> = OnceLock::new();

    atomic_db::__testing_cases! {
        [conformance_tests]
        (|server: &Server, clock| {
            let settings = "default_transaction_isolation = 'serializable'";
            let url = URL.get_or_init(|| database(server, "serializable", "", settings));
            builder(clock).connect(url).unwrap()
        })
    }
}

mod another_collation {
    use super::*;

    static URL: OnceLock<String> = OnceLock::new();

    atomic_db::__testing_cases! {
        [conformance_tests]
        (|server: &Server, clock| {
            let options = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'";
            let url = URL.get_or_init(|| database(server, "collated", options, ""));
            builder(clock).connect(url).unwrap()
        })
    }
}
