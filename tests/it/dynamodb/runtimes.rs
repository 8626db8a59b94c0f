//! `DynamoDb` inside and outside async runtimes (guarantee 23).

use super::{START, TEST_TIMEOUT, new_db_or_skip, server};
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{AtomicDb, DynamoDb, Item, Key, ManualClock, Query};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

/// Opens a new table, uses it and drops the handle.
fn open_and_use(endpoint: &str) {
    let db = server::builder::<u32>(endpoint, ManualClock::new(START));
    call_every_method(&db.open().unwrap());
}

fn call_every_method(db: &DynamoDb<u32>) {
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
    db.delete(&[item.key()]).unwrap();
}

#[test]
fn works_on_a_current_thread_runtime() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    with_timeout(TEST_TIMEOUT, move |_| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            open_and_use(endpoint);
            let task = tokio::spawn(async { open_and_use(endpoint) });
            task.await.unwrap();
            let blocking = tokio::task::spawn_blocking(|| open_and_use(endpoint));
            blocking.await.unwrap();
        });
    });
}

#[test]
fn works_on_a_runtime_with_one_worker() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    with_timeout(TEST_TIMEOUT, move |_| {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            open_and_use(endpoint);
            // All on the only worker, which each of them blocks.
            let tasks = [0; 3].map(|_| tokio::spawn(async { open_and_use(endpoint) }));
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
}

#[test]
fn works_on_a_runtime_without_timers_and_network() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    with_timeout(TEST_TIMEOUT, move |_| {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { open_and_use(endpoint) });
    });
}

#[test]
fn works_from_many_threads_with_several_workers() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let db = server::builder::<u32>(endpoint, ManualClock::new(START));
    let db = db.worker_threads(3).open().unwrap();
    run_concurrently(8, |number| {
        let db = db.clone();
        for data in 0..10 {
            let item = Item::new("threads", number.to_string(), data);
            db.set(&[item.clone()]).unwrap();
            assert_eq!(db.get(item.key()).unwrap(), Some(item));
        }
    });
    call_every_method(&db);
}

#[test]
fn the_last_handle_may_be_dropped_inside_a_runtime() {
    let Some(db) = new_db_or_skip::<u32>() else {
        return;
    };
    let items: Vec<Item<u32>> = (0..50)
        .map(|n| Item::new("pk", format!("{n:02}"), n))
        .collect();
    db.set(&items).unwrap();
    with_timeout(TEST_TIMEOUT, move |_| {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move {
            let mut stream = db.stream(Query::new("pk"));
            assert_eq!(stream.next().unwrap().unwrap(), items[0]);
            drop(stream);
            drop(db);
        });
    });
}

/// tokio lets a task poll 128 times before it has to yield. A blocking call must not use this budget
/// up: it once timed out from the 129th call on, although its response had arrived.
#[test]
fn a_task_may_make_any_number_of_calls_without_yielding() {
    let Some(db) = new_db_or_skip::<u32>() else {
        return;
    };
    with_timeout(TEST_TIMEOUT, move |_| {
        let many = Builder::new_multi_thread().worker_threads(1).build();
        for runtime in [Builder::new_current_thread().build(), many] {
            let db = db.clone();
            let task = async move {
                db.set(&[Item::new("pk", "a", 1)]).unwrap();
                for _ in 0..1_000 {
                    assert!(db.get(Key::new("pk", "a")).unwrap().is_some());
                }
            };
            let runtime = runtime.unwrap();
            runtime.block_on(runtime.spawn(task)).unwrap();
        }
    });
}

/// A thread-local value that calls the database when its thread ends. It is destroyed after the
/// thread-local values that were first used after it.
struct CallsOnDrop {
    db: DynamoDb<u32>,
    outcome: mpsc::Sender<thread::Result<()>>,
}

impl Drop for CallsOnDrop {
    fn drop(&mut self) {
        // A panic here would abort the process.
        let called = catch_unwind(AssertUnwindSafe(|| call_every_method(&self.db)));
        let _ = self.outcome.send(called);
    }
}

#[test]
fn works_in_the_destructor_of_a_thread_local() {
    thread_local! {
        static CALLS_ON_DROP: RefCell<Option<CallsOnDrop>> = const { RefCell::new(None) };
    }
    let Some(db) = new_db_or_skip::<u32>() else {
        return;
    };
    let (outcome, called) = mpsc::channel();
    let calls = CallsOnDrop {
        db: db.clone(),
        outcome,
    };
    thread::spawn(move || {
        CALLS_ON_DROP.set(Some(calls));
        // Creates all that the library keeps for this thread, after the value above.
        call_every_method(&db);
    });
    let called = called.recv_timeout(TEST_TIMEOUT);
    called
        .expect("the destructor ended")
        .expect("no call panicked");
}

/// Credentials and region are taken from the configuration, but not its connections: those belong to
/// the other runtime.
#[test]
fn an_sdk_config_from_another_runtime_is_accepted() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let config = runtime.block_on(async {
        let credentials =
            aws_sdk_dynamodb::config::Credentials::new("local", "local", None, None, "test");
        aws_config::defaults(aws_config::BehaviorVersion::latest())
            .region("server")
            .endpoint_url(endpoint)
            .credentials_provider(credentials)
            .load()
            .await
    });
    let open = || {
        DynamoDb::<u32>::builder(server::unique_table_name())
            .sdk_config(&config)
            .create_table(true)
            .clock(ManualClock::new(START))
            .open()
            .unwrap()
    };
    call_every_method(&open());
    runtime.block_on(async { call_every_method(&open()) });
}

#[test]
fn dropping_databases_stops_their_threads() {
    // Linux lists the threads of a process here.
    let threads = || std::fs::read_dir("/proc/self/task").map(|tasks| tasks.count());
    let (Some(endpoint), Ok(before)) = (server::endpoint(), threads()) else {
        return;
    };
    const DATABASES: usize = 200;
    let table = server::unique_table_name();
    for _ in 0..DATABASES {
        let builder = server::builder_for_table::<u32>(endpoint, table.as_str());
        drop(builder.open().unwrap());
    }
    // The threads end after the drop has returned, and concurrent tests have threads of their own.
    let deadline = Instant::now() + Duration::from_secs(30);
    while threads().unwrap() > before + DATABASES / 2 {
        assert!(Instant::now() < deadline, "threads are left");
        thread::yield_now();
    }
}
