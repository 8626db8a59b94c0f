//! The service of `examples/web.rs`, by requests over TCP.

use super::bench::{THREADS, on_each_database, on_each_database_without_faults, on_threads};
use super::recipes::web::router;
use crate::common::{Call, HookedDb, Moment};
use atomic_db::{AtomicDb, Error, ErrorKind, Key, MemoryDb};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A running service, which ends when it is dropped.
struct Service {
    address: SocketAddr,
    _runtime: Runtime,
}

struct Response {
    status: u16,
    etag: Option<String>,
    body: String,
}

impl Service {
    fn start(db: impl AtomicDb<Data = String> + Send + Sync + 'static) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async { axum::serve(listener, router(db)).await });
        Service {
            address,
            _runtime: runtime,
        }
    }

    fn request(&self, method: &str, path: &str, condition: &str, body: &str) -> Response {
        let mut connection = TcpStream::connect(self.address).unwrap();
        let condition = if condition.is_empty() {
            String::new()
        } else {
            format!("{condition}\r\n")
        };
        let length = body.len();
        write!(
            connection,
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{condition}Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut response = String::new();
        connection.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let etag = head.lines().find_map(|line| line.strip_prefix("etag: "));
        Response {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            etag: etag.map(str::to_owned),
            body: body.to_owned(),
        }
    }

    fn get(&self, path: &str) -> Response {
        self.request("GET", path, "", "")
    }

    fn put(&self, path: &str, condition: &str, text: &str) -> Response {
        self.request("PUT", path, condition, text)
    }
}

#[test]
fn conditional_requests_have_the_status_of_their_condition() {
    on_each_database_without_faults::<String>(|bench| {
        let service = Service::start(bench.db.clone());
        assert_eq!(service.get("/notes/1").status, 404);
        assert_eq!(service.put("/notes/1", "", "tea").status, 428);
        let created = service.put("/notes/1", "If-None-Match: *", "tea");
        assert_eq!(created.status, 201);
        assert_eq!(
            service.put("/notes/1", "If-None-Match: *", "coffee").status,
            412
        );

        let read = service.get("/notes/1");
        assert_eq!(
            (read.status, &*read.body, &read.etag),
            (200, "tea", &created.etag)
        );
        let first = read.etag.unwrap();
        let is_new =
            |etag: &str| service.request("GET", "/notes/1", &format!("If-None-Match: {etag}"), "");
        let not_modified = is_new(&first);
        assert_eq!((not_modified.status, &*not_modified.body), (304, ""));
        assert_eq!(not_modified.etag.as_deref(), Some(&*first));

        let edited = service.put("/notes/1", &format!("If-Match: {first}"), "milk");
        assert_eq!(edited.status, 204);
        let second = edited.etag.unwrap();
        assert_eq!(
            service
                .put("/notes/1", &format!("If-Match: {first}"), "beer")
                .status,
            412
        );
        assert_eq!((is_new(&first).status, is_new(&second).status), (200, 304));
        assert_eq!(
            service
                .put("/notes/1", "If-Match: \"other\"", "beer")
                .status,
            400
        );
        assert_eq!(service.put("/notes/1", "If-Match: *", "beer").status, 400);

        let delete =
            |condition: String| service.request("DELETE", "/notes/1", &condition, "").status;
        assert_eq!(delete(String::new()), 428);
        assert_eq!(delete(format!("If-Match: {first}")), 412);
        assert_eq!(service.get("/notes/1").body, "milk");
        assert_eq!(delete(format!("If-Match: {second}")), 204);
        assert_eq!(service.get("/notes/1").status, 404);
        // The version of a deleted note is valid neither for it nor for the next one.
        let edit = service.put("/notes/1", &format!("If-Match: {second}"), "beer");
        assert_eq!(edit.status, 412);
        assert_eq!(
            service.put("/notes/1", "If-None-Match: *", "water").status,
            201
        );
        assert_eq!(delete(format!("If-Match: {second}")), 412, "{}", bench.name);
    });
}

#[test]
fn concurrent_edits_do_not_overwrite_each_other() {
    on_each_database::<String>(|bench| {
        let service = Service::start(bench.db.clone());
        while ![201, 412].contains(&service.put("/notes/1", "If-None-Match: *", "").status) {}
        let edits = on_threads(|thread| {
            let (mut done, mut unknown, mut refused) = (0, 0, 0);
            while done < 5 {
                let old = service.get("/notes/1");
                if [500, 503].contains(&old.status) {
                    continue;
                }
                assert_eq!(old.status, 200, "{}", old.body);
                let text = format!("{}{thread} ", old.body);
                let condition = format!("If-Match: {}", old.etag.unwrap());
                match service.put("/notes/1", &condition, &text).status {
                    204 => done += 1,
                    412 => refused += 1,
                    // Nothing was written.
                    500 | 503 => {}
                    504 => unknown += 1,
                    status => panic!("{status}"),
                }
            }
            (unknown, refused)
        });
        let note = bench
            .plain()
            .get_fresh(Key::new("notes", "1"))
            .unwrap()
            .unwrap();
        let stored = note.data().unwrap().split_whitespace().count() as u64;
        let unknown: u64 = edits.iter().map(|(unknown, _)| unknown).sum();
        let refused: u64 = edits.iter().map(|(_, refused)| refused).sum();
        let done = 5 * THREADS;
        assert!(
            (done..=done + unknown).contains(&stored),
            "{}: {stored} edits",
            bench.name
        );
        let counters = service.get("/metrics").body;
        let conflicts = counters.split("race_condition ").nth(1).unwrap_or("0");
        let conflicts = conflicts.split(|end: char| !end.is_ascii_digit()).next();
        let conflicts: u64 = conflicts.unwrap().parse().unwrap();
        assert!(
            conflicts >= refused,
            "{}: {refused} refused, {counters}",
            bench.name
        );
    });
}

#[test]
fn a_list_is_read_in_pages() {
    let service = Service::start(MemoryDb::new());
    for id in 0..7 {
        assert_eq!(
            service
                .put(&format!("/notes/{id}"), "If-None-Match: *", "text")
                .status,
            201
        );
    }
    let (mut ids, mut path) = (Vec::new(), "/notes?limit=3".to_owned());
    loop {
        let page: serde_json::Value = serde_json::from_str(&service.get(&path).body).unwrap();
        let notes = page["notes"].as_array().unwrap();
        assert!(notes.len() <= 3);
        ids.extend(
            notes
                .iter()
                .map(|note| note["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/notes?limit=3&after={next}");
    }
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6"]);
    assert_eq!(service.get("/notes?limit=x").status, 400);
}

#[test]
fn errors_of_the_database_have_a_status_and_are_counted() {
    let errors: [(fn() -> Error, u16); 3] = [
        (|| Error::Unavailable("no connection".into()), 503),
        (|| Error::OutcomeUnknown("no response".into()), 504),
        (|| Error::Backend("broken".into()), 500),
    ];
    for (error, status) in errors {
        let kind = ErrorKind::from(&error());
        let db = HookedDb::new(MemoryDb::new(), move |call, moment| match (call, moment) {
            (Call::Commit, Moment::After) => Err(error()),
            _ => Ok(()),
        });
        let service = Service::start(db);
        let refused = service.put("/notes/1", "If-None-Match: *", "tea");
        assert_eq!(
            (refused.status, refused.body),
            (status, format!("{}\n", error()))
        );
        let counters = service.get("/metrics").body;
        assert!(counters.contains(&format!("{kind} 1")), "{counters}");
    }
}
