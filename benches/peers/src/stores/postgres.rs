//! Clients of one PostgreSQL server. Both store the same records as the same JSON, in the same type of
//! column.

use super::files::Record;
use crate::keys::Pair;
use atomic_db::{AtomicDb, Item, Key, Lock, PostgresDb};
use postgres::{Client, NoTls, Statement};

/// A table of a server under measurement, through the connections of one client.
pub(crate) trait SqlStore: Send + Sync + Sized {
    const NAME: &'static str;

    /// What one thread has: its lock, and a connection if the client does not share them.
    type Session: Send;

    /// Connects to the server at `url`, and creates the table. At most `threads` sessions are used.
    fn create(url: &str, threads: usize) -> Self;

    /// Returns a session with a new lock at `lock`.
    fn session(&self, lock: Pair) -> Self::Session;

    /// Writes records with these numbers.
    fn load(&self, session: &mut Self::Session, records: &[(Pair, u64)]);

    /// Reads and decodes the record at `key` and returns its number.
    fn get(&self, session: &mut Self::Session, key: &Pair) -> Option<u64>;

    /// Writes `record` and renews the session's lock in one transaction if the lock is unchanged, which
    /// it always is here.
    fn set_atomic(&self, session: &mut Self::Session, key: &Pair, record: Record);
}

/// atomic-db, with as many connections as there are threads.
pub(crate) struct PostgresDbStore(PostgresDb<Record>);

impl SqlStore for PostgresDbStore {
    const NAME: &'static str = "PostgresDb";

    type Session = Lock;

    fn create(url: &str, threads: usize) -> Self {
        let db = PostgresDb::builder().pool_size(threads).connect(url);
        PostgresDbStore(db.expect("the server accepts connections"))
    }

    fn session(&self, lock: Pair) -> Lock {
        self.0.get_lock(at(&lock)).expect("the lock can be read")
    }

    fn load(&self, _: &mut Lock, records: &[(Pair, u64)]) {
        let records = records.iter();
        let items = records.map(|(key, number)| item(key, Record::new(*number)));
        let items: Vec<Item<Record>> = items.collect();
        self.0.set(&items).expect("a write succeeds");
    }

    fn get(&self, _: &mut Lock, key: &Pair) -> Option<u64> {
        let item = self.0.get(at(key)).expect("a read succeeds");
        item.and_then(|item| item.data().map(Record::stored_number))
    }

    fn set_atomic(&self, lock: &mut Lock, key: &Pair, record: Record) {
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

/// The `postgres` crate, with one connection for each thread and prepared statements.
pub(crate) struct ByHand {
    url: String,
}

const TABLES: &str = "\
    CREATE TABLE items (pk text COLLATE \"C\", sk text COLLATE \"C\", data text NOT NULL, PRIMARY KEY (pk, sk))
        WITH (fillfactor = 80);
    CREATE TABLE locks (pk text COLLATE \"C\", sk text COLLATE \"C\", version bigint NOT NULL, PRIMARY KEY (pk, sk))
        WITH (fillfactor = 80);";

const LOCK: &str = "SELECT version FROM locks WHERE pk = $1 AND sk = $2 FOR UPDATE";
const RENEW: &str = "UPDATE locks SET version = $3 WHERE pk = $1 AND sk = $2";
const READ: &str = "SELECT data FROM items WHERE pk = $1 AND sk = $2";
const WRITE: &str = "INSERT INTO items (pk, sk, data) VALUES ($1, $2, $3) \
    ON CONFLICT (pk, sk) DO UPDATE SET data = EXCLUDED.data";

pub(crate) struct Connection {
    client: Client,
    lock: Statement,
    renew: Statement,
    read: Statement,
    write: Statement,
    place: Pair,
    version: i64,
}

impl ByHand {
    fn connect(&self) -> Client {
        Client::connect(&self.url, NoTls).expect("the server accepts connections")
    }
}

impl SqlStore for ByHand {
    const NAME: &'static str = "by hand";

    type Session = Connection;

    fn create(url: &str, _: usize) -> Self {
        let store = ByHand {
            url: url.to_owned(),
        };
        let created = store.connect().batch_execute(TABLES);
        created.expect("the tables can be created");
        store
    }

    fn session(&self, lock: Pair) -> Connection {
        let mut client = self.connect();
        let created = client.execute(
            "INSERT INTO locks (pk, sk, version) VALUES ($1, $2, 0)",
            &[&&*lock.pk, &&*lock.sk],
        );
        created.expect("a write succeeds");
        let mut prepare = |text| client.prepare(text).expect("the statement is valid");
        Connection {
            lock: prepare(LOCK),
            renew: prepare(RENEW),
            read: prepare(READ),
            write: prepare(WRITE),
            client,
            place: lock,
            version: 0,
        }
    }

    fn load(&self, session: &mut Connection, records: &[(Pair, u64)]) {
        let Connection { client, write, .. } = session;
        let mut transaction = client.transaction().expect("a transaction begins");
        for (Pair { pk, sk }, number) in records {
            let data = json(&Record::new(*number));
            let written = transaction.execute(&*write, &[&&**pk, &&**sk, &data]);
            written.expect("a write succeeds");
        }
        transaction.commit().expect("a commit succeeds");
    }

    fn get(&self, session: &mut Connection, key: &Pair) -> Option<u64> {
        let Connection { client, read, .. } = session;
        let row = client.query_opt(&*read, &[&&*key.pk, &&*key.sk]);
        let row = row.expect("a read succeeds")?;
        Some(Record::number(row.get::<_, &str>(0).as_bytes()))
    }

    /// Five round trips.
    fn set_atomic(&self, session: &mut Connection, key: &Pair, record: Record) {
        let Connection {
            client,
            lock,
            renew,
            write,
            place,
            version,
            ..
        } = session;
        let (pk, sk, data) = (&*place.pk, &*place.sk, json(&record));
        let mut commit = || -> Result<(), postgres::Error> {
            let mut transaction = client.transaction()?;
            let stored: i64 = transaction.query_one(&*lock, &[&pk, &sk])?.get(0);
            assert_eq!(stored, *version, "no other thread writes");
            transaction.execute(&*write, &[&&*key.pk, &&*key.sk, &data])?;
            transaction.execute(&*renew, &[&pk, &sk, &(stored + 1)])?;
            transaction.commit()
        };
        commit().expect("a commit succeeds");
        *version += 1;
    }
}

fn json(record: &Record) -> String {
    serde_json::to_string(record).expect("a record can be encoded")
}
