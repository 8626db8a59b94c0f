//! A database whose calls are executed by several processes, in turn, on one shared file.
//!
//! Each call is sent to one of the processes, with the time at which it is made, and executed there.

use super::child::{KilledOnDrop, child};
use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, ManualClock, Page, Query, RedbDb,
    Result, Version,
};
use serde::{Deserialize, Serialize};
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Bound;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// The environment variable that gives a process its file.
const FILE: &str = "ATOMIC_DB_SHARED_FILE";

type WireKey = (String, String);
type WireItem = (WireKey, Option<String>, Option<u64>);
type WireLock = (WireKey, String, u64);
type WireRange = (Bound<String>, Bound<String>);

#[derive(Deserialize, Serialize)]
struct WireQuery {
    pk: String,
    prefix: String,
    range: WireRange,
    reverse: bool,
    limit: Option<usize>,
    after: Option<String>,
}

#[derive(Deserialize, Serialize)]
enum Call {
    Get(WireKey),
    GetMany(Vec<WireKey>),
    GetLock(WireKey),
    GetLocks(Vec<WireKey>),
    Set(Vec<WireItem>),
    SetAtomic(Vec<WireItem>, Vec<WireLock>),
    Commit {
        locks: Vec<WireLock>,
        checks: Vec<WireLock>,
        sets: Vec<WireItem>,
        creates: Vec<WireItem>,
        deletes: Vec<WireKey>,
    },
    Delete(Vec<WireKey>),
    Page(WireQuery, Option<String>),
    Query(WireQuery),
}

#[derive(Deserialize, Serialize)]
enum Reply {
    Done,
    Items(Vec<Option<WireItem>>),
    Page(Vec<WireItem>, Option<String>),
    Locks(Vec<WireLock>),
    Version(String),
    Failed(WireError),
}

#[derive(Deserialize, Serialize)]
enum WireError {
    RaceCondition(Vec<WireKey>),
    AlreadyExists(WireKey),
    InvalidInput(String),
    LimitExceeded(String, usize, usize),
    Unavailable(String),
    Other(String),
}

fn to_wire_key<'a>(key: impl Into<Key<'a>>) -> WireKey {
    let key = key.into();
    (key.pk.to_owned(), key.sk.to_owned())
}

fn key((pk, sk): &WireKey) -> Key<'_> {
    Key::new(pk, sk)
}

fn to_wire_item(item: &Item<String>) -> WireItem {
    (to_wire_key(item), item.data().cloned(), item.ttl())
}

fn item((key, data, ttl): WireItem) -> Item<String> {
    let item = match data {
        Some(data) => Item::new(key.0, key.1, data),
        None => Item::without_data(key.0, key.1),
    };
    match ttl {
        Some(ttl) => item.expires_at(ttl),
        None => item,
    }
}

fn to_wire_lock(lock: &Lock) -> WireLock {
    (to_wire_key(lock), lock.version().to_string(), lock.ttl())
}

fn lock((lock_key, version, ttl): &WireLock) -> Lock {
    Lock::new(key(lock_key), version.parse().unwrap(), *ttl)
}

impl From<&Query> for WireQuery {
    fn from(query: &Query) -> Self {
        WireQuery {
            pk: query.pk.to_string(),
            prefix: query.prefix.to_string(),
            range: query.range.clone(),
            reverse: query.reverse,
            limit: query.limit,
            after: query.after.as_ref().map(ToString::to_string),
        }
    }
}

impl WireQuery {
    fn query(self) -> Query {
        let mut query = Query::new(self.pk).prefix(self.prefix);
        query.range = self.range;
        query.reverse = self.reverse;
        query.limit = self.limit;
        match self.after {
            Some(after) => query.after(after),
            None => query,
        }
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        match error {
            Error::RaceCondition { keys } => {
                WireError::RaceCondition(keys.iter().map(to_wire_key).collect())
            }
            Error::AlreadyExists { key } => WireError::AlreadyExists(to_wire_key(&key)),
            Error::InvalidInput(message) => WireError::InvalidInput(message),
            Error::LimitExceeded {
                what,
                limit,
                actual,
            } => WireError::LimitExceeded(what.to_owned(), limit, actual),
            Error::Unavailable(source) => WireError::Unavailable(source.to_string()),
            other => WireError::Other(format!("{other:?}")),
        }
    }
}

impl WireError {
    fn error(self) -> Error {
        let key_buf = |key: WireKey| KeyBuf::new(key.0, key.1);
        match self {
            WireError::RaceCondition(keys) => Error::RaceCondition {
                keys: keys.into_iter().map(key_buf).collect(),
            },
            WireError::AlreadyExists(key) => Error::AlreadyExists { key: key_buf(key) },
            WireError::InvalidInput(message) => Error::InvalidInput(message),
            WireError::LimitExceeded(what, limit, actual) => Error::LimitExceeded {
                what: what.leak(),
                limit,
                actual,
            },
            WireError::Unavailable(source) => Error::Unavailable(source.into()),
            WireError::Other(text) => Error::Backend(text.into()),
        }
    }
}

fn execute(db: &RedbDb<String>, call: Call) -> Result<Reply> {
    let keys = |keys: &[WireKey]| keys.to_vec();
    let items = |items: Vec<WireItem>| -> Vec<_> { items.into_iter().map(item).collect() };
    let locks = |locks: &[WireLock]| -> Vec<_> { locks.iter().map(lock).collect() };
    let found = |found: &[Option<Item<String>>]| {
        let found = found.iter().map(|item| item.as_ref().map(to_wire_item));
        Reply::Items(found.collect())
    };
    Ok(match call {
        Call::Get(wire) => found(&[db.get(key(&wire))?]),
        Call::GetMany(wire) => {
            let wire = keys(&wire);
            found(&db.get_many(&wire.iter().map(key).collect::<Vec<_>>())?)
        }
        Call::GetLock(wire) => Reply::Locks(vec![to_wire_lock(&db.get_lock(key(&wire))?)]),
        Call::GetLocks(wire) => {
            let locks = db.get_locks(&wire.iter().map(key).collect::<Vec<_>>())?;
            Reply::Locks(locks.iter().map(to_wire_lock).collect())
        }
        Call::Set(wire) => {
            db.set(&items(wire))?;
            Reply::Done
        }
        Call::SetAtomic(wire, guards) => {
            Reply::Version(db.set_atomic(&items(wire), &locks(&guards))?.to_string())
        }
        Call::Commit {
            locks,
            checks,
            sets,
            creates,
            deletes,
        } => {
            let batch = Batch::new();
            let batch = locks.iter().map(lock).fold(batch, Batch::lock);
            let batch = checks.iter().map(lock).fold(batch, Batch::check);
            let batch = items(sets).into_iter().fold(batch, Batch::set);
            let batch = items(creates).into_iter().fold(batch, Batch::create);
            let batch = deletes.iter().map(key).fold(batch, Batch::delete);
            Reply::Version(db.commit(&batch)?.to_string())
        }
        Call::Delete(wire) => {
            db.delete(&wire.iter().map(key).collect::<Vec<_>>())?;
            Reply::Done
        }
        Call::Page(wire, after) => {
            let page = db.page(&wire.query(), after.as_deref())?;
            Reply::Page(page.items.iter().map(to_wire_item).collect(), page.next)
        }
        Call::Query(wire) => {
            let items = db.query(&wire.query())?;
            Reply::Page(items.iter().map(to_wire_item).collect(), None)
        }
    })
}

/// Executes the calls that it reads from its standard input, until that is closed.
#[test]
#[ignore = "a child process of the tests of shared files"]
fn child_process_that_executes_calls() {
    let Ok(path) = env::var(FILE) else {
        return;
    };
    let clock = ManualClock::new(0);
    let builder = RedbDb::builder().clock(clock.clone()).shared();
    let db: RedbDb<String> = builder.open(path).unwrap();
    for line in io::stdin().lines() {
        let (now, call): (Duration, Call) = serde_json::from_str(&line.unwrap()).unwrap();
        // `set` takes seconds.
        clock.set(now.as_secs());
        clock.advance(Duration::from_nanos(now.subsec_nanos().into()));
        let reply = execute(&db, call).unwrap_or_else(|error| Reply::Failed(error.into()));
        let line = format!("\nreply {}\n", serde_json::to_string(&reply).unwrap());
        io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

struct Connection {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _process: KilledOnDrop,
}

/// Fields are dropped in order: the processes end before the directory is removed.
pub(crate) struct RemoteDb {
    processes: Vec<Mutex<Connection>>,
    next: AtomicUsize,
    clock: ManualClock,
    _directory: TempDir,
}

impl RemoteDb {
    pub(crate) fn new(processes: usize, clock: ManualClock) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.redb");
        let connect = |_| {
            let mut process = child("redb::remote::child_process_that_executes_calls")
                .env(FILE, &path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            Mutex::new(Connection {
                stdin: process.stdin.take().unwrap(),
                stdout: BufReader::new(process.stdout.take().unwrap()),
                _process: KilledOnDrop(process),
            })
        };
        RemoteDb {
            processes: (0..processes).map(connect).collect(),
            next: AtomicUsize::new(0),
            clock,
            _directory: directory,
        }
    }

    /// Has the next process execute `call`.
    fn call(&self, call: Call) -> Result<Reply> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.processes.len();
        let mut connection = self.processes[next].lock().unwrap();
        let mut request = serde_json::to_string(&(self.clock.now(), call)).unwrap();
        request.push('\n');
        connection.stdin.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            let length = connection.stdout.read_line(&mut line).unwrap();
            assert!(length > 0, "the process ended");
            if let Some(reply) = line.strip_prefix("reply ") {
                return match serde_json::from_str(reply).unwrap() {
                    Reply::Failed(error) => Err(error.error()),
                    reply => Ok(reply),
                };
            }
        }
    }

    fn call_for_items(&self, call: Call) -> Result<Vec<Option<Item<String>>>> {
        match self.call(call)? {
            Reply::Items(found) => Ok(found.into_iter().map(|found| found.map(item)).collect()),
            _ => panic!("another kind of reply"),
        }
    }

    fn call_for_page(&self, call: Call) -> Result<Page<String>> {
        match self.call(call)? {
            Reply::Page(items, next) => Ok(Page {
                items: items.into_iter().map(item).collect(),
                next,
            }),
            _ => panic!("another kind of reply"),
        }
    }

    fn call_for_locks(&self, call: Call) -> Result<Vec<Lock>> {
        match self.call(call)? {
            Reply::Locks(locks) => Ok(locks.iter().map(lock).collect()),
            _ => panic!("another kind of reply"),
        }
    }

    fn call_for_version(&self, call: Call) -> Result<Version> {
        match self.call(call)? {
            Reply::Version(version) => version.parse(),
            _ => panic!("another kind of reply"),
        }
    }
}

fn wire_keys(keys: &[Key<'_>]) -> Vec<WireKey> {
    keys.iter().copied().map(to_wire_key).collect()
}

fn wire_items(items: &[Item<String>]) -> Vec<WireItem> {
    items.iter().map(to_wire_item).collect()
}

fn wire_locks(locks: &[Lock]) -> Vec<WireLock> {
    locks.iter().map(to_wire_lock).collect()
}

impl AtomicDb for RemoteDb {
    type Data = String;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<String>>> {
        Ok(self.call_for_items(Call::Get(to_wire_key(key)))?.remove(0))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<String>>> {
        self.get(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<String>>>> {
        self.call_for_items(Call::GetMany(wire_keys(keys)))
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<String>>>> {
        self.get_many(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        Ok(self
            .call_for_locks(Call::GetLock(to_wire_key(key)))?
            .remove(0))
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        self.call_for_locks(Call::GetLocks(wire_keys(keys)))
    }

    fn set(&self, items: &[Item<String>]) -> Result<()> {
        self.call(Call::Set(wire_items(items))).map(drop)
    }

    fn commit(&self, batch: &Batch<String>) -> Result<Version> {
        self.call_for_version(Call::Commit {
            locks: wire_locks(batch.locks()),
            checks: wire_locks(batch.checks()),
            sets: wire_items(batch.sets()),
            creates: wire_items(batch.creates()),
            deletes: batch.deletes().iter().map(to_wire_key).collect(),
        })
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.call(Call::Delete(wire_keys(keys))).map(drop)
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<String>> {
        self.call_for_page(Call::Page(query.into(), after.map(str::to_owned)))
    }

    fn set_atomic(&self, items: &[Item<String>], locks: &[Lock]) -> Result<Version> {
        self.call_for_version(Call::SetAtomic(wire_items(items), wire_locks(locks)))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<String>>> {
        Ok(self.call_for_page(Call::Query(query.into()))?.items)
    }
}
