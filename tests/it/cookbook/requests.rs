//! The requests of a recipe on each backend, as the page states them.

use super::page::section;
use super::recipes::counter::{increment, increment_shard, total};
use atomic_db::AtomicDb;

/// Returns a column of the table of the recipe by the first cells of its rows.
fn stated(row: &str, backend: &str) -> &'static str {
    let mut rows = section("A counter")
        .lines()
        .filter(|line| line.starts_with("| "));
    let headings = rows.next().unwrap().split(" | ");
    let column = headings
        .take_while(|heading| !heading.contains(backend))
        .count();
    let row = rows.find(|line| line.starts_with(&format!("| {row} |")));
    let cell = row.and_then(|row| row.split(" | ").nth(column));
    cell.unwrap().trim_end_matches(" |")
}

/// Asserts that the page states how many requests the calls of the recipe make.
fn assert_stated(
    db: &impl AtomicDb<Data = u64>,
    backend: &str,
    unit: &str,
    requests: impl Fn() -> usize,
) {
    let calls: [(&str, &dyn Fn()); 3] = [
        ("`increment`", &|| increment(db, "page#1").unwrap()),
        ("`increment_shard`", &|| {
            increment_shard(db, "page#1", 3).unwrap();
        }),
        ("`total`", &|| assert!(total(db, "page#1").unwrap() > 0)),
    ];
    for (name, call) in calls {
        // The first call creates locks, and may prepare statements.
        call();
        let before = requests();
        call();
        let counted = match requests() - before {
            1 => format!("1 {unit}"),
            counted => format!("{counted} {unit}s"),
        };
        assert_eq!(stated(name, backend), counted, "{backend}: {name}");
    }
}

#[cfg(feature = "redb")]
#[test]
fn the_page_states_the_syncs_of_a_file() {
    use crate::redb::storage::Disk;
    use atomic_db::RedbDb;

    let disk = Disk::default();
    let db = RedbDb::builder().open_with(disk.clone()).unwrap();
    assert_stated(&db, "RedbDb", "sync", || disk.syncs());
}

#[cfg(feature = "postgres")]
#[test]
fn the_page_states_the_round_trips_to_postgresql() {
    use crate::postgres::proxy::Proxy;
    use crate::postgres::server::{Server, new_name};
    use atomic_db::PostgresDb;

    let Some(server) = Server::shared() else {
        return;
    };
    let proxy = Proxy::start(server.folder());
    let db = PostgresDb::builder().table(new_name("cookbook"));
    let db = db.pool_size(1).connect(proxy.url()).unwrap();
    assert_stated(&db, "PostgresDb", "round trip", || proxy.sent());
}

#[cfg(feature = "dynamodb")]
#[test]
fn the_page_states_the_requests_to_dynamodb() {
    use crate::dynamodb::fault_proxy::FaultProxy;
    use crate::dynamodb::server;
    use atomic_db::SystemClock;

    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let proxy = FaultProxy::new(endpoint);
    let db = server::builder(&proxy.endpoint(), SystemClock)
        .open()
        .unwrap();
    assert_stated(&db, "DynamoDb", "request", || proxy.operations().len());
}
