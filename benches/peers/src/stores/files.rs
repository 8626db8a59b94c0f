//! Databases in files, each by the fastest correct use of its own interface that preserves acknowledged
//! writes through a power failure. All store the same records as the same JSON.

use super::transactional::{atomically, execute, joined};
use crate::keys::Pair;
use atomic_db::{AtomicDb, Item, Key, Lock, RedbDb};
use fjall::{KeyspaceCreateOptions, OptimisticTxDatabase, OptimisticTxKeyspace, PersistMode};
use parking_lot::Mutex;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The data of an item.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    number: u64,
    name: String,
    amount: f64,
    tags: Vec<String>,
}

impl Record {
    pub(crate) fn new(number: u64) -> Self {
        Record {
            number,
            name: format!("record {number}"),
            amount: number as f64 / 8.0,
            tags: vec!["durable".into(), "measured".into()],
        }
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record can be encoded")
    }

    /// Decodes the whole record and returns its number.
    pub(super) fn number(json: &[u8]) -> u64 {
        let record: Record = serde_json::from_slice(json).expect("the row is a record");
        record.number
    }

    pub(super) fn stored_number(&self) -> u64 {
        self.number
    }
}

/// A database in files under measurement. A write is durable when its call returns.
pub(crate) trait FileStore: Send + Sync + Sized {
    const NAME: &'static str;

    /// A key, in the form that the database takes.
    type Key: Send + Sync;

    /// The version that a conditional write checks, kept by the caller from write to write.
    type Lock: Send;

    /// Creates the database in `directory`, which may contain the files of others.
    fn create(directory: &Path) -> Self;

    fn key(pk: &str, sk: &str) -> Self::Key;

    /// Writes records with these numbers in one transaction.
    fn load(&self, records: &[(Self::Key, u64)]);

    /// Reads and decodes the record at `key` and returns its number.
    fn get(&self, key: &Self::Key) -> Option<u64>;

    fn set(&self, key: &Self::Key, record: Record);

    /// Creates a lock.
    fn get_lock(&self, key: Self::Key) -> Self::Lock;

    /// Writes `record` and renews `lock` in one transaction if `lock` is unchanged, which it always is
    /// here, and updates `lock` to its new version.
    fn set_atomic(&self, key: &Self::Key, record: Record, lock: &mut Self::Lock);
}

/// The lock of a database without locks: a row whose number changes at every commit.
pub(crate) struct Versioned<K> {
    key: K,
    version: u128,
}

impl<K> Versioned<K> {
    fn row(&self) -> [u8; 16] {
        self.version.to_be_bytes()
    }

    fn next_row(&self) -> [u8; 16] {
        (self.version + 1).to_be_bytes()
    }

    /// Compares the stored row with this version.
    fn check(&self, stored: Option<&[u8]>) {
        assert_eq!(stored, Some(&self.row()[..]), "no other thread writes");
    }
}

/// atomic-db.
pub(crate) struct RedbDbStore(RedbDb<Record>);

impl FileStore for RedbDbStore {
    const NAME: &'static str = "RedbDb";

    type Key = Pair;
    type Lock = Lock;

    fn create(directory: &Path) -> Self {
        let database = RedbDb::open(directory.join("atomic-db.redb"));
        RedbDbStore(database.expect("the file can be created"))
    }

    fn key(pk: &str, sk: &str) -> Pair {
        Pair::new(pk, sk)
    }

    fn load(&self, records: &[(Pair, u64)]) {
        let records = records.iter();
        let items = records.map(|(key, number)| item(key, Record::new(*number)));
        let items: Vec<Item<Record>> = items.collect();
        self.0.set(&items).expect("a write succeeds");
    }

    fn get(&self, key: &Pair) -> Option<u64> {
        let item = self.0.get(at(key)).expect("a read succeeds");
        item.and_then(|item| item.data().map(|record| record.number))
    }

    fn set(&self, key: &Pair, record: Record) {
        let written = self.0.set(&[item(key, record)]);
        written.expect("a write succeeds");
    }

    fn get_lock(&self, key: Pair) -> Lock {
        self.0.get_lock(at(&key)).expect("the lock can be read")
    }

    fn set_atomic(&self, key: &Pair, record: Record, lock: &mut Lock) {
        let items = [item(key, record)];
        let version = self.0.set_atomic(&items, std::slice::from_ref(lock));
        *lock = lock
            .clone()
            .with_version(version.expect("no other thread writes"));
    }
}

fn at(pair: &Pair) -> Key<'_> {
    Key::new(&pair.pk, &pair.sk)
}

fn item(pair: &Pair, record: Record) -> Item<Record> {
    Item::new(&pair.pk, &pair.sk, record)
}

/// redb, with one transaction for each commit.
pub(crate) struct RawRedb(redb::Database);

const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");

type Rows<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

impl RawRedb {
    fn write(&self, body: impl FnOnce(&mut Rows<'_>)) {
        let transaction = self.0.begin_write().expect("a transaction begins");
        let mut rows = transaction.open_table(ROWS).expect("the table is there");
        body(&mut rows);
        drop(rows);
        transaction.commit().expect("a commit succeeds");
    }
}

fn put(rows: &mut Rows<'_>, key: &[u8], row: &[u8]) {
    rows.insert(key, row).expect("a write succeeds");
}

impl FileStore for RawRedb {
    const NAME: &'static str = "redb";

    type Key = Box<[u8]>;
    type Lock = Versioned<Box<[u8]>>;

    fn create(directory: &Path) -> Self {
        let database = redb::Database::create(directory.join("bare.redb"));
        RawRedb(database.expect("the file can be created"))
    }

    fn key(pk: &str, sk: &str) -> Box<[u8]> {
        joined(pk, sk)
    }

    fn load(&self, records: &[(Box<[u8]>, u64)]) {
        self.write(|rows| {
            for (key, number) in records {
                put(rows, key, &Record::new(*number).encode());
            }
        });
    }

    fn get(&self, key: &Box<[u8]>) -> Option<u64> {
        let transaction = self.0.begin_read().expect("a transaction begins");
        let rows = transaction.open_table(ROWS).expect("the table is there");
        let row = rows.get(&**key).expect("a read succeeds");
        row.map(|row| Record::number(row.value()))
    }

    fn set(&self, key: &Box<[u8]>, record: Record) {
        let json = record.encode();
        self.write(|rows| put(rows, key, &json));
    }

    fn get_lock(&self, key: Box<[u8]>) -> Versioned<Box<[u8]>> {
        let lock = Versioned { key, version: 1 };
        self.write(|rows| put(rows, &lock.key, &lock.row()));
        lock
    }

    fn set_atomic(&self, key: &Box<[u8]>, record: Record, lock: &mut Versioned<Box<[u8]>>) {
        let json = record.encode();
        self.write(|rows| {
            let held = rows.get(&*lock.key).expect("a read succeeds");
            lock.check(held.as_ref().map(|row| row.value()));
            drop(held);
            put(rows, &lock.key, &lock.next_row());
            put(rows, key, &json);
        });
        lock.version += 1;
    }
}

/// One connection under a mutex. Several connections to one file would wait for each other by
/// sleeping, which is slower.
pub(crate) struct SqliteWal(Mutex<Connection>);

const CREATE: &str = "CREATE TABLE rows (
    pk TEXT NOT NULL, sk TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (pk, sk)
) WITHOUT ROWID";
const GET: &str = "SELECT data FROM rows WHERE pk = ? AND sk = ?";
const SET: &str = "INSERT OR REPLACE INTO rows VALUES (?, ?, ?)";
const RENEW: &str = "UPDATE rows SET data = ?3 WHERE pk = ?1 AND sk = ?2 AND data = ?4";

impl FileStore for SqliteWal {
    const NAME: &'static str = "SQLite";

    type Key = (String, String);
    type Lock = Versioned<(String, String)>;

    fn create(directory: &Path) -> Self {
        let connection =
            Connection::open(directory.join("sqlite.db")).expect("the file can be created");
        for (pragma, value) in [("journal_mode", "WAL"), ("synchronous", "FULL")] {
            let set = connection.pragma_update(None, pragma, value);
            set.expect("the pragma is valid");
        }
        connection.set_prepared_statement_cache_capacity(16);
        execute(&connection, CREATE, []);
        SqliteWal(Mutex::new(connection))
    }

    fn key(pk: &str, sk: &str) -> (String, String) {
        (pk.to_owned(), sk.to_owned())
    }

    fn load(&self, records: &[((String, String), u64)]) {
        let connection = self.0.lock();
        atomically(&connection, || {
            for ((pk, sk), number) in records {
                let json = Record::new(*number).encode();
                execute(&connection, SET, params![pk, sk, json]);
            }
        });
    }

    fn get(&self, (pk, sk): &(String, String)) -> Option<u64> {
        let connection = self.0.lock();
        let mut statement = connection
            .prepare_cached(GET)
            .expect("the statement is valid");
        let number = statement.query_row(params![pk, sk], |row| {
            Ok(Record::number(row.get_ref(0)?.as_blob()?))
        });
        number.optional().expect("a read succeeds")
    }

    fn set(&self, (pk, sk): &(String, String), record: Record) {
        let json = record.encode();
        execute(&self.0.lock(), SET, params![pk, sk, json]);
    }

    fn get_lock(&self, key: (String, String)) -> Versioned<(String, String)> {
        let lock = Versioned { key, version: 1 };
        let (pk, sk) = &lock.key;
        execute(&self.0.lock(), SET, params![pk, sk, lock.row()]);
        lock
    }

    fn set_atomic(
        &self,
        (pk, sk): &(String, String),
        record: Record,
        lock: &mut Versioned<(String, String)>,
    ) {
        let json = record.encode();
        let connection = self.0.lock();
        atomically(&connection, || {
            let (lock_pk, lock_sk) = &lock.key;
            let renewal = params![lock_pk, lock_sk, lock.next_row(), lock.row()];
            let renewed = execute(&connection, RENEW, renewal);
            assert_eq!(renewed, 1, "no other thread writes");
            execute(&connection, SET, params![pk, sk, json]);
        });
        lock.version += 1;
    }
}

/// fjall's optimistic transactions, each persisted by its commit.
pub(crate) struct FjallStore {
    database: OptimisticTxDatabase,
    rows: OptimisticTxKeyspace,
}

impl FjallStore {
    /// Runs `body` in transactions until one commits.
    fn retry(&self, body: impl Fn(&mut fjall::OptimisticWriteTx)) {
        loop {
            let transaction = self.database.write_tx().expect("a transaction begins");
            let mut transaction = transaction.durability(Some(PersistMode::SyncAll));
            body(&mut transaction);
            let committed = transaction.commit().expect("a commit succeeds");
            if committed.is_ok() {
                return;
            }
        }
    }
}

impl FileStore for FjallStore {
    const NAME: &'static str = "fjall";

    type Key = Box<[u8]>;
    type Lock = Versioned<Box<[u8]>>;

    fn create(directory: &Path) -> Self {
        let database = OptimisticTxDatabase::builder(directory.join("fjall")).open();
        let database = database.expect("the files can be created");
        let rows = database.keyspace("rows", KeyspaceCreateOptions::default);
        FjallStore {
            rows: rows.expect("the files can be created"),
            database,
        }
    }

    fn key(pk: &str, sk: &str) -> Box<[u8]> {
        joined(pk, sk)
    }

    fn load(&self, records: &[(Box<[u8]>, u64)]) {
        self.retry(|transaction| {
            for (key, number) in records {
                let json = Record::new(*number).encode();
                transaction.insert(&self.rows, &**key, json);
            }
        });
    }

    fn get(&self, key: &Box<[u8]>) -> Option<u64> {
        let row = self.rows.get(key).expect("a read succeeds");
        row.map(|row| Record::number(&row))
    }

    fn set(&self, key: &Box<[u8]>, record: Record) {
        let json = record.encode();
        self.retry(|transaction| transaction.insert(&self.rows, &**key, &*json));
    }

    fn get_lock(&self, key: Box<[u8]>) -> Versioned<Box<[u8]>> {
        let lock = Versioned { key, version: 1 };
        self.retry(|transaction| transaction.insert(&self.rows, &*lock.key, lock.row()));
        lock
    }

    fn set_atomic(&self, key: &Box<[u8]>, record: Record, lock: &mut Versioned<Box<[u8]>>) {
        use fjall::Readable;
        let json = record.encode();
        self.retry(|transaction| {
            let held = transaction.get(&self.rows, &lock.key);
            lock.check(held.expect("a read succeeds").as_deref());
            transaction.insert(&self.rows, &*lock.key, lock.next_row());
            transaction.insert(&self.rows, &**key, &*json);
        });
        lock.version += 1;
    }
}
