//! `DynamoDb` is called, opened and dropped wherever code runs.

use super::{START, new_table, server};
use atomic_db::{AtomicDb, DynamoDb, Item, Key, ManualClock, Query};
use std::thread;
use tokio::runtime::Builder;

/// Opens a table, uses all of it, and drops it.
fn all_there_is(endpoint: &str) {
    let db = server::builder::<u32>(endpoint, ManualClock::new(START));
    use_all_of(&db.open().unwrap());
}

fn use_all_of(db: &DynamoDb<u32>) {
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
fn it_works_on_a_runtime_of_one_thread() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        all_there_is(endpoint);
        tokio::spawn(async { all_there_is(endpoint) })
            .await
            .unwrap();
        let blocking = tokio::task::spawn_blocking(|| all_there_is(endpoint));
        blocking.await.unwrap();
    });
}

#[test]
fn it_works_on_a_runtime_of_one_worker() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        all_there_is(endpoint);
        // On the only worker, while others wait for it.
        let tasks = [0; 3].map(|_| tokio::spawn(async { all_there_is(endpoint) }));
        for task in tasks {
            task.await.unwrap();
        }
    });
    // Also one without time and network of its own.
    let bare = Builder::new_current_thread().build().unwrap();
    bare.block_on(async { all_there_is(endpoint) });
}

#[test]
fn it_works_from_many_threads_and_with_several_of_its_own() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let db = server::builder::<u32>(endpoint, ManualClock::new(START));
    let db = db.worker_threads(3).open().unwrap();
    thread::scope(|scope| {
        for number in 0..8 {
            let db = db.clone();
            scope.spawn(move || {
                for turn in 0..10 {
                    let item = Item::new("others", format!("{number}"), turn);
                    db.set(&[item.clone()]).unwrap();
                    assert_eq!(db.get(item.key()).unwrap(), Some(item));
                }
            });
        }
    });
    use_all_of(&db);
}

#[test]
fn the_last_handle_may_be_a_stream_or_go_where_async_code_runs() {
    let Some(db) = new_table::<u32>() else {
        return;
    };
    let items: Vec<Item<u32>> = (0..50)
        .map(|n| Item::new("pk", format!("{n:02}"), n))
        .collect();
    db.set(&items).unwrap();
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async move {
        let mut stream = db.stream(Query::new("pk"));
        assert_eq!(stream.next().unwrap().unwrap(), items[0]);
        drop(stream);
        drop(db);
    });
}

/// Credentials and region may come from the SDK's own configuration; its connections do not.
#[test]
fn a_configuration_of_the_sdk_is_accepted_from_another_runtime() {
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
    use_all_of(&open());
    runtime.block_on(async { use_all_of(&open()) });
}

#[test]
fn many_that_are_opened_and_dropped_leave_no_threads() {
    // Only where a process can look at its own threads.
    let threads = || std::fs::read_dir("/proc/self/task").map(|tasks| tasks.count());
    let (Some(endpoint), Ok(before)) = (server::endpoint(), threads()) else {
        return;
    };
    const MANY: usize = 200;
    let table = server::unique_table_name();
    for _ in 0..MANY {
        drop(
            server::builder_for_table::<u32>(endpoint, table.as_str())
                .open()
                .unwrap(),
        );
    }
    // They end by themselves, and other tests have threads too.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while threads().unwrap() > before + MANY / 2 {
        assert!(std::time::Instant::now() < deadline, "threads are left");
        thread::yield_now();
    }
}
