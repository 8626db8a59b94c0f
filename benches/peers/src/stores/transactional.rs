//! Databases with transactions. They store bytes and detect conflicts themselves, so a transfer needs no
//! rows for locks.

use super::store::{Account, Operation, Store};
use crate::keys::Span;
use parking_lot::Mutex;
use redb::{ReadableDatabase, TableDefinition};
use rusqlite::{Connection, OptionalExtension, params};
use std::ops::Range;

/// Joins a key. NUL sorts before all bytes of the parts, so the order is that of the pairs.
pub(super) fn joined(pk: &str, sk: &str) -> Box<[u8]> {
    [pk.as_bytes(), b"\0", sk.as_bytes()].concat().into()
}

fn bounds(span: &Span) -> Range<Box<[u8]>> {
    joined(&span.pk, &span.first)..joined(&span.pk, &span.beyond)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

const EVERYTHING: &[Operation] = &[
    Operation::Get,
    Operation::GetMiss,
    Operation::Set,
    Operation::Insert,
    Operation::Delete,
    Operation::SetAtomic,
    Operation::Transfer,
    Operation::Query,
];

pub(crate) struct SurrealStore(surrealmx::Database);

impl SurrealStore {
    /// Runs `body` in transactions until one commits.
    fn retry(&self, body: impl Fn(&mut surrealmx::Transaction)) {
        loop {
            let mut tx = self.0.transaction(true);
            body(&mut tx);
            match tx.commit() {
                Ok(()) => return,
                Err(surrealmx::Error::KeyReadConflict | surrealmx::Error::KeyWriteConflict) => {}
                Err(error) => panic!("a commit failed: {error}"),
            }
        }
    }
}

fn balance(tx: &surrealmx::Transaction, key: &[u8]) -> u64 {
    let value = tx.with_value(key, number).expect("a read succeeds");
    value.unwrap_or(0)
}

impl Store for SurrealStore {
    const NAME: &'static str = "surrealmx";
    const OPERATIONS: &'static [Operation] = &[
        Operation::Get,
        Operation::GetInPlace,
        Operation::GetMiss,
        Operation::Set,
        Operation::Insert,
        Operation::Delete,
        Operation::SetAtomic,
        Operation::Transfer,
        Operation::Query,
    ];

    type Key = Box<[u8]>;
    type Range = Range<Box<[u8]>>;
    type Lock = ();

    fn new() -> Self {
        SurrealStore(surrealmx::Database::new())
    }

    fn key(pk: &str, sk: &str) -> Box<[u8]> {
        joined(pk, sk)
    }

    fn range(span: &Span) -> Range<Box<[u8]>> {
        bounds(span)
    }

    fn load(&self, items: &[(Box<[u8]>, u64)]) {
        for some in items.chunks(10_000) {
            let mut tx = self.0.transaction(true);
            for (key, value) in some {
                let written = tx.set(&**key, value.to_le_bytes());
                written.expect("a write succeeds");
            }
            tx.commit().expect("no other thread writes");
        }
        // Readers clean up after so many writes, a little at each call. Afterwards they pay only for
        // their own work.
        for (key, _) in items {
            self.get(key);
        }
    }

    fn get(&self, key: &Box<[u8]>) -> Option<u64> {
        let value = self.0.get(&**key).expect("a read succeeds");
        value.map(|value| number(&value))
    }

    fn get_in_place(&self, key: &Box<[u8]>) -> Option<u64> {
        self.0.with_value(&**key, number).expect("a read succeeds")
    }

    fn set(&self, key: &Box<[u8]>, value: u64) {
        let written = self.0.set(&**key, value.to_le_bytes());
        written.expect("a write succeeds");
    }

    fn delete(&self, key: &Box<[u8]>) {
        self.0.del(&**key).expect("a write succeeds");
    }

    fn get_lock(&self, _: &Account<Self::Key>) {}

    fn set_atomic(&self, account: &Account<Box<[u8]>>, (): &mut (), value: u64) {
        self.retry(|tx| {
            balance(tx, &account.balance);
            let written = tx.set(&*account.balance, value.to_le_bytes());
            written.expect("a write succeeds");
        });
    }

    fn transfer(&self, from: &Account<Box<[u8]>>, to: &Account<Box<[u8]>>) {
        self.retry(|tx| {
            for (account, by) in [(from, u64::MAX), (to, 1)] {
                let moved = balance(tx, &account.balance).wrapping_add(by);
                let written = tx.set(&*account.balance, moved.to_le_bytes());
                written.expect("a write succeeds");
            }
        });
    }

    fn query(&self, range: &Range<Box<[u8]>>) -> usize {
        let mut found = Vec::with_capacity(crate::keys::QUERIED);
        let scanned = self
            .0
            .scan_with(&*range.start..&*range.end, None, None, |_, value| {
                found.push(number(value));
                true
            });
        scanned.expect("a read succeeds");
        found.len()
    }
}

pub(crate) struct RedbInMemory(redb::Database);

const TABLE: TableDefinition<'static, &[u8], u64> = TableDefinition::new("items");

impl RedbInMemory {
    fn write<R>(&self, body: impl FnOnce(&mut redb::Table<'_, &'static [u8], u64>) -> R) -> R {
        let mut transaction = self.0.begin_write().expect("a transaction begins");
        // In memory, nothing survives the process.
        let durability = transaction.set_durability(redb::Durability::None);
        durability.expect("there is no savepoint");
        let mut table = transaction.open_table(TABLE).expect("the table is there");
        let result = body(&mut table);
        drop(table);
        transaction.commit().expect("a commit succeeds");
        result
    }
}

fn put(table: &mut redb::Table<'_, &'static [u8], u64>, key: &[u8], value: u64) {
    table.insert(key, value).expect("a write succeeds");
}

fn held(table: &redb::Table<'_, &'static [u8], u64>, key: &[u8]) -> u64 {
    use redb::ReadableTable;
    let value = table.get(key).expect("a read succeeds");
    value.map_or(0, |value| value.value())
}

impl Store for RedbInMemory {
    const NAME: &'static str = "redb in memory";
    const OPERATIONS: &'static [Operation] = EVERYTHING;

    type Key = Box<[u8]>;
    type Range = Range<Box<[u8]>>;
    type Lock = ();

    fn new() -> Self {
        let memory = redb::backends::InMemoryBackend::new();
        let db = redb::Database::builder().create_with_backend(memory);
        let db = RedbInMemory(db.expect("memory can be allocated"));
        db.write(|_| ());
        db
    }

    fn key(pk: &str, sk: &str) -> Box<[u8]> {
        joined(pk, sk)
    }

    fn range(span: &Span) -> Range<Box<[u8]>> {
        bounds(span)
    }

    fn load(&self, items: &[(Box<[u8]>, u64)]) {
        self.write(|table| {
            for (key, value) in items {
                put(table, key, *value);
            }
        });
    }

    fn get(&self, key: &Box<[u8]>) -> Option<u64> {
        let transaction = self.0.begin_read().expect("a transaction begins");
        let table = transaction.open_table(TABLE).expect("the table is there");
        let value = table.get(&**key).expect("a read succeeds");
        value.map(|value| value.value())
    }

    fn set(&self, key: &Box<[u8]>, value: u64) {
        self.write(|table| put(table, key, value));
    }

    fn delete(&self, key: &Box<[u8]>) {
        self.write(|table| {
            table.remove(&**key).expect("a write succeeds");
        });
    }

    fn get_lock(&self, _: &Account<Self::Key>) {}

    fn set_atomic(&self, account: &Account<Box<[u8]>>, (): &mut (), value: u64) {
        self.write(|table| {
            held(table, &account.balance);
            put(table, &account.balance, value);
        });
    }

    fn transfer(&self, from: &Account<Box<[u8]>>, to: &Account<Box<[u8]>>) {
        self.write(|table| {
            for (account, by) in [(from, u64::MAX), (to, 1)] {
                let moved = held(table, &account.balance).wrapping_add(by);
                put(table, &account.balance, moved);
            }
        });
    }

    fn query(&self, range: &Range<Box<[u8]>>) -> usize {
        let transaction = self.0.begin_read().expect("a transaction begins");
        let table = transaction.open_table(TABLE).expect("the table is there");
        let found = table
            .range::<&[u8]>(&*range.start..&*range.end)
            .expect("a read succeeds");
        let mut values = Vec::with_capacity(crate::keys::QUERIED);
        values.extend(found.map(|entry| entry.expect("a read succeeds").1.value()));
        values.len()
    }
}

/// One connection under a mutex, because `:memory:` belongs to one connection. Statements are prepared
/// once.
pub(crate) struct SqliteInMemory(Mutex<Connection>);

/// The two columns of the key, and the bounds of a range.
pub(crate) struct Part {
    pk: String,
    first: String,
    beyond: String,
}

const CREATE: &str = "CREATE TABLE items (
    pk TEXT NOT NULL, sk TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (pk, sk)
) WITHOUT ROWID";
const GET: &str = "SELECT value FROM items WHERE pk = ? AND sk = ?";
const SET: &str = "INSERT OR REPLACE INTO items VALUES (?, ?, ?)";
const UPDATE: &str = "UPDATE items SET value = ?3 WHERE pk = ?1 AND sk = ?2";
const DELETE: &str = "DELETE FROM items WHERE pk = ? AND sk = ?";
const QUERY: &str = "SELECT value FROM items WHERE pk = ? AND sk >= ? AND sk < ? ORDER BY sk";

/// Returns the number of rows that were written.
pub(super) fn execute(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> usize {
    let statement = connection.prepare_cached(sql);
    let done = statement.and_then(|mut statement| statement.execute(parameters));
    done.expect("a write succeeds")
}

fn select(connection: &Connection, (pk, sk): &(String, String)) -> Option<i64> {
    let mut statement = connection
        .prepare_cached(GET)
        .expect("the statement is valid");
    let row = statement.query_row(params![pk, sk], |row| row.get(0));
    row.optional().expect("a read succeeds")
}

/// Runs `body` in a transaction.
pub(super) fn atomically(connection: &Connection, body: impl FnOnce()) {
    execute(connection, "BEGIN IMMEDIATE", []);
    body();
    execute(connection, "COMMIT", []);
}

impl Store for SqliteInMemory {
    const NAME: &'static str = "SQLite :memory:";
    const OPERATIONS: &'static [Operation] = EVERYTHING;

    type Key = (String, String);
    type Range = Part;
    type Lock = ();

    fn new() -> Self {
        let connection = Connection::open_in_memory().expect("memory can be allocated");
        connection.set_prepared_statement_cache_capacity(16);
        execute(&connection, CREATE, []);
        SqliteInMemory(Mutex::new(connection))
    }

    fn key(pk: &str, sk: &str) -> (String, String) {
        (pk.to_owned(), sk.to_owned())
    }

    fn range(span: &Span) -> Part {
        Part {
            pk: span.pk.clone(),
            first: span.first.clone(),
            beyond: span.beyond.clone(),
        }
    }

    fn load(&self, items: &[((String, String), u64)]) {
        let connection = self.0.lock();
        atomically(&connection, || {
            for ((pk, sk), value) in items {
                execute(&connection, SET, params![pk, sk, *value as i64]);
            }
        });
    }

    fn get(&self, key: &(String, String)) -> Option<u64> {
        select(&self.0.lock(), key).map(|value| value as u64)
    }

    fn set(&self, (pk, sk): &(String, String), value: u64) {
        execute(&self.0.lock(), SET, params![pk, sk, value as i64]);
    }

    fn delete(&self, (pk, sk): &(String, String)) {
        execute(&self.0.lock(), DELETE, params![pk, sk]);
    }

    fn get_lock(&self, _: &Account<Self::Key>) {}

    fn set_atomic(&self, account: &Account<(String, String)>, (): &mut (), value: u64) {
        let connection = self.0.lock();
        let (pk, sk) = &account.balance;
        atomically(&connection, || {
            select(&connection, &account.balance);
            execute(&connection, UPDATE, params![pk, sk, value as i64]);
        });
    }

    fn transfer(&self, from: &Account<(String, String)>, to: &Account<(String, String)>) {
        let connection = self.0.lock();
        atomically(&connection, || {
            for (account, by) in [(from, -1), (to, 1)] {
                let (pk, sk) = &account.balance;
                let moved = select(&connection, &account.balance)
                    .unwrap_or(0)
                    .wrapping_add(by);
                execute(&connection, UPDATE, params![pk, sk, moved]);
            }
        });
    }

    fn query(&self, part: &Part) -> usize {
        let connection = self.0.lock();
        let mut statement = connection
            .prepare_cached(QUERY)
            .expect("the statement is valid");
        let found = statement.query_map(params![part.pk, part.first, part.beyond], |row| {
            row.get::<_, i64>(0)
        });
        let mut values = Vec::with_capacity(crate::keys::QUERIED);
        values.extend(found.expect("a read succeeds").flatten());
        values.len()
    }
}
