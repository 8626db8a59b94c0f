//! `PostgresDb` inside and outside async runtimes (guarantee 23).

use super::server::{Server, new_name};
use crate::common::HANG_LIMIT;
use atomic_db::testing::with_timeout;
use atomic_db::{AtomicDb, Item, Key, PostgresDb, Query, Scan};
use std::cell::RefCell;
use std::thread;
use std::time::Instant;
use tokio::runtime::Builder;

/// Opens a new table, uses it and drops the handle.
fn open_and_use(url: &str) {
    let builder = PostgresDb::<u32>::builder().table(new_name("runtimes"));
    call_every_method(&builder.connect(url).unwrap());
}

fn call_every_method(db: &PostgresDb<u32>) {
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    let item = Item::new("pk", "a", 1);
    db.set_atomic(&[item.clone()], &[lock]).unwrap();
    db.set(&[item.clone()]).unwrap();
    assert_eq!(db.get(item.key()).unwrap(), Some(item.clone()));
    assert_eq!(db.get_many(&[item.key()]).unwrap(), [Some(item.clone())]);
    assert_eq!(db.query(&Query::new("pk")).unwrap(), [item.clone()]);
    let mut stream = db.stream(Query::new("pk"));
    assert!(stream.next().is_some());
    drop(stream);
    assert_eq!(db.scan().count(), 1);
    db.delete(&[item.key()]).unwrap();
    db.purge_expired().unwrap();
}

#[test]
fn works_inside_every_runtime() {
    let Some(server) = Server::shared() else {
        return;
    };
    let url: &'static str = server.url().leak();
    with_timeout(HANG_LIMIT, move |_| {
        let current_thread = || Builder::new_current_thread().enable_all().build().unwrap();
        let one_worker = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        for runtime in [current_thread(), one_worker] {
            runtime.block_on(async {
                open_and_use(url);
                let tasks = [0; 3].map(|_| tokio::spawn(async { open_and_use(url) }));
                for task in tasks {
                    task.await.unwrap();
                }
                let blocking = tokio::task::spawn_blocking(|| open_and_use(url));
                blocking.await.unwrap();
            });
        }
        // Without timers and network.
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { open_and_use(url) });
    });
}

#[test]
fn a_task_may_make_any_number_of_calls_without_yielding() {
    let Some(server) = Server::shared() else {
        return;
    };
    with_timeout(HANG_LIMIT, |_| {
        let db = PostgresDb::<u32>::builder().table(new_name("runtimes"));
        let db = db.connect(server.url()).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..500 {
                assert_eq!(db.get(Key::new("pk", "a")).unwrap(), None);
            }
        });
    });
}

/// Uses its database when it is dropped.
struct UsesOnDrop(PostgresDb<u32>);

impl Drop for UsesOnDrop {
    fn drop(&mut self) {
        call_every_method(&self.0);
    }
}

thread_local! {
    static LOCAL: RefCell<Option<UsesOnDrop>> = const { RefCell::new(None) };
}

#[test]
fn works_in_the_destructor_of_a_thread_local() {
    let Some(server) = Server::shared() else {
        return;
    };
    with_timeout(HANG_LIMIT, |_| {
        let db = PostgresDb::<u32>::builder().table(new_name("runtimes"));
        let db = db.connect(server.url()).unwrap();
        let handle = db.clone();
        let user = thread::spawn(move || LOCAL.set(Some(UsesOnDrop(handle))));
        user.join().unwrap();
        assert_eq!(db.get(Key::new("pk", "a")).unwrap(), None);
        assert!(db.get_lock(Key::new("pk", "lock")).is_ok());
    });
}

#[test]
fn dropping_a_database_closes_its_connections() {
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("ended");
    let url = format!("{}&application_name={name}", server.url());
    let db = PostgresDb::<u32>::builder().table(&name);
    let db = db.connect(&url).unwrap();
    call_every_method(&db);
    let sessions =
        format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
    let observer = super::sql::Session::connect(&server.url());
    assert_eq!(observer.value(&sessions), "1");
    // Inside a runtime, where dropping another one would panic.
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async move { drop(db) });
    let start = Instant::now();
    while observer.value(&sessions) != "0" {
        assert!(start.elapsed() < HANG_LIMIT, "the connection stays open");
    }
}
