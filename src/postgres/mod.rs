//! The database on PostgreSQL.
//!
//! A call validates and encodes its input on the caller's thread, where all user code runs: the
//! clock, codecs, and `Drop` and `Clone` of data. Then it runs its statements on a private async
//! runtime and waits for the result.
//!
//! # Files
//!
//! From the bottom up; each imports only files above it in this list.
//!
//! - `error`: the errors that a caller can act on.
//! - `failure`: what an error of the server or the connection means, and whether the statement may
//!   have been executed.
//! - `data_type`: the type of the column `data`.
//! - `table_name`: the table's name, quoted.
//! - `commit_statement`, `statement`: the SQL.
//! - `param`: the parameters of a statement.
//! - `row`: what can be stored, and how rows are read.
//! - `selection`: which rows of a partition a query asks for.
//! - `url`, `tls`: the connection URL, and encrypted connections.
//! - `session`: one connection to the server.
//! - `schema`: creates and checks the table.
//! - `pool`: the connections of a database.
//! - `attempts`: timeouts, deadlines and pauses.
//! - `commit`: from a batch to a statement, and from its result to a verdict.
//! - `client`: the client of one table: statements in a loop of attempts. `lock` adds that of locks.
//! - `connection`: a client with its runtime, which is in `src/blocking_runtime.rs`, and its clock.
//! - `scan`: reads all partitions.
//! - `builder` has the options, and `open` makes a connection from them.
//!
//! # Threads and locks
//!
//! Each database has one thread, named `atomic-db-postgres`, which runs its statements. The thread
//! ends, without being joined, when the last handle or stream is dropped.
//!
//! There is one mutex, around the idle connections. It is locked for a moment, and no other code runs
//! then. What handles share in addition is the pool's semaphore, the version generator's atomic
//! counters, and the clock.

mod attempts;
mod builder;
mod client;
mod commit;
mod commit_statement;
mod connection;
mod data_type;
mod error;
mod failure;
mod lock;
mod open;
mod param;
mod pool;
mod row;
mod scan;
mod schema;
mod selection;
mod session;
mod statement;
mod table_name;
mod tls;
mod url;

pub use builder::PostgresDbBuilder;
pub use error::PostgresDbError;

use crate::batch::BatchRef;
use crate::sync::Arc;
use crate::{
    AtomicDb, Batch, Codec, Error, Item, Json, Key, KeyBuf, Lock, Observer, Page, Query, Result,
    RetryQueue, Version,
};
use commit::{Commit, Verdict, key_params};
use connection::Connection;
use lock::{Known, usable_lock};
use param::Param;
use row::{EncodedItem, check_key, check_statement_size, column, decode, decode_lock, seconds};
use selection::Selection;
use session::Request;
use statement::Statement;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;
use tokio_postgres::Row;

/// A table of PostgreSQL, version 12 or later.
///
/// Calls block until they are done, and may be made from any thread: from the tasks of an async
/// runtime, in any number and without yielding in between, and from the destructors of thread-local
/// values. A clone is another handle to the same table, through the same connections.
///
/// ```no_run
/// use atomic_db::{AtomicDb, AtomicDbExt, Item, PostgresDb};
///
/// let db: PostgresDb<u64> = PostgresDb::builder()
///     .table("counters")
///     .connect("postgresql://shop:secret@localhost/shop")?;
/// let visits = db.transact(|tx| {
///     tx.lock(("page#1", "lock"))?;
///     let visits = tx.get(("page#1", "visits"))?.and_then(Item::into_data).unwrap_or(0) + 1;
///     tx.set(Item::new("page#1", "visits", visits))?;
///     Ok(visits)
/// })?;
/// # let _: u64 = visits;
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// # Guarantees
///
/// `PostgresDb` keeps the whole contract of [`AtomicDb`]. In addition:
///
/// - One [`query`](AtomicDb::query), one [`get_many`](AtomicDb::get_many) and one
///   [`page`](AtomicDb::page) are each a snapshot (guarantee 7). A [`stream`](AtomicDb::stream) reads
///   one page at a time: each page is a snapshot, and nothing is held between pages (guarantee 6).
/// - A commit is validated and written by the server in one statement, under any isolation level that
///   the database has as its default. It locks rows in the order of their keys, so commits wait for
///   each other and do not deadlock, as long as no commit deletes or overwrites the *locks* of others.
///   If one does, the server detects the deadlock after a second, and the commit is repeated.
/// - A write that has returned is as durable as the server's `synchronous_commit` makes it.
/// - A version is generated before the statement that writes it; see [`Version`].
///
/// # The table
///
/// ```sql
/// CREATE TABLE atomic_db (
///   pk text COLLATE "C" NOT NULL,
///   sk text COLLATE "C" NOT NULL,
///   data text,                      -- bytea for codecs other than Json; NULL: an item without data
///   version text COLLATE "C",       -- a ULID: this row is a lock
///   ttl bigint,                     -- the last epoch second; NULL: never expires
///   PRIMARY KEY (pk, sk),
///   CHECK (version IS NULL OR (data IS NULL AND ttl IS NOT NULL))
/// ) WITH (fillfactor = 80);
/// CREATE INDEX atomic_db_ttl ON atomic_db (ttl) WHERE ttl IS NOT NULL;
/// COMMENT ON TABLE atomic_db IS 'atomic-db format 1, codec json';
/// ```
///
/// It is created when a database is opened, unless it exists or
/// [`create_table(false)`](PostgresDbBuilder::create_table) is set. Openings at the same time wait for
/// each other. A table that was created by hand is accepted if these columns, the collation of the keys
/// and the primary key are as shown; further columns are allowed, and the comment may have more lines.
/// A table without a comment has the format 1 and the codec `json`. The database must have the encoding
/// `UTF8`; its collation does not matter.
///
/// Expired items and locks stay in the table, where no read returns them, until they are written again
/// or [`purge_expired`](PostgresDb::purge_expired) removes them.
///
/// # Privileges
///
/// `SELECT`, `INSERT`, `UPDATE` and `DELETE` on the table, and `USAGE` on its schema. To create the
/// table, `CREATE` on the schema as well.
///
/// # The data in `psql`
///
/// ```sql
/// SELECT sk, data::json->>'name' AS name, to_timestamp(ttl) AS expires
///   FROM atomic_db
///   WHERE pk = 'user#1' AND version IS NULL
///     AND (ttl IS NULL OR ttl >= extract(epoch FROM now()))
///   ORDER BY sk;
/// SELECT pk, sk, version, to_timestamp(ttl) FROM atomic_db WHERE version IS NOT NULL; -- the locks
/// ```
///
/// SQL that changes items is a writer like any other that takes no lock: a commit that has read an item
/// under a lock does not notice the change. To be noticed, give the lock's row another `version` in the
/// same transaction, or delete that row.
///
/// # Connections
///
/// The URL is as for `psql`: `postgresql://user:password@host:5432/database?option=value`, with several
/// hosts separated by commas, or a folder of Unix sockets in the option `host`. The options are those of
/// [`tokio_postgres::Config`], and `sslrootcert`. Environment variables such as `PGPASSWORD` are not
/// read.
///
/// | `sslmode` | encrypted | the server's certificate |
/// | --- | --- | --- |
/// | `disable` | no | |
/// | `prefer`, the default | if the server can | is not verified |
/// | `require` | yes | is verified as by `verify-ca` if `sslrootcert` is given, otherwise not |
/// | `verify-ca` | yes | must be signed by a trusted authority |
/// | `verify-full` | yes | must also be for the host of the URL |
///
/// Trusted authorities are those of [`tls_roots`](PostgresDbBuilder::tls_roots), of the file
/// `sslrootcert`, or of the system (`sslrootcert=system`, the default). Use `verify-full` on networks
/// that you do not control. Passwords are sent by SCRAM-SHA-256, bound to the encrypted channel, if the
/// server asks for it. If the server asks for the password itself, it gets it, even without encryption.
///
/// A connection sets `enable_seqscan` and `jit` off, because statements are planned when they are used
/// first, perhaps while the table is almost empty, and `statement_timeout`. A connection that the server
/// has closed while it was idle is noticed before it is used. If the response to an attempt does not arrive
/// in time, the connections that are idle are given up, too.
///
/// # Cost
///
/// | call | round trips |
/// | --- | --- |
/// | `get`, `get_many`, `query`, `page`, a page of `stream` and `scan` | 1 |
/// | `get_lock` of a live lock, `get_locks` of live locks | 1 |
/// | `get_lock` of a missing, expired or expiring lock | 2 |
/// | `commit`, `set_atomic`, also with checks, creations and deletions | 1 |
/// | `set` | 1 for every 5,000 items, or 4 MiB |
/// | `delete` | 1 for every 5,000 keys |
/// | `purge_expired` | 1 for every 1,000 rows, and 1 |
///
/// The first use of a statement on a connection takes one more, to prepare it. A page has up to 500
/// items, and ends after a MiB of data. Writers on different threads share the server's disk syncs
/// (group commit), so that throughput grows with the number of connections.
///
/// # Errors
///
/// Most errors have a [`PostgresDbError`] as their source. On every error of a commit but
/// [`OutcomeUnknown`](Error::OutcomeUnknown), nothing was written.
///
/// - [`Unavailable`](Error::Unavailable): the server could not be reached, has no connection left, is
///   read-only, or took too long. The call was repeated until its
///   [timeout](PostgresDbBuilder::timeout), except after a `statement_timeout`. Conflicts between
///   transactions that the server resolves by an error (40001, 40P01) are repeated, too.
/// - [`Backend`](Error::Backend): an error that a retry cannot change, such as a missing privilege.
/// - [`OutcomeUnknown`](Error::OutcomeUnknown): the connection broke, or no response came in time, after
///   a write was sent. A commit with [`lock`](Batch::lock)s is sent again with the same new version: if
///   the locks have that version, it was executed; if they are as expected, it is executed now. So this
///   error remains only if other writers have changed all of the locks since, if an item that was to be
///   created exists, or if the server does not respond until the timeout. Commits without locks, `set`
///   and `delete` are not repeated once they may have been executed: a repeated write could overwrite
///   that of another caller.
/// - [`InvalidInput`](Error::InvalidInput), [`LimitExceeded`](Error::LimitExceeded): see below. Nothing
///   was sent.
///
/// If the server loses acknowledged transactions, as in a failover to a replica that lags behind, no
/// client can notice.
///
/// # Limits
///
/// | | limit |
/// | --- | --- |
/// | a partition key and a sort key together | 2,600 bytes |
/// | an item's encoded data | 16 MiB |
/// | the keys and the data of one commit, or the keys of one read | 256 MiB |
/// | an expiry | `i64::MAX` |
///
/// A key with a NUL is refused with [`InvalidInput`](Error::InvalidInput), because PostgreSQL's text
/// cannot contain one. A query's bounds may have one.
///
/// # Poolers and compatible servers
///
/// Tested: PostgreSQL 15, directly and through PgBouncer 1.18 in transaction mode. The rest is from the
/// documentation of these products and was not tested.
///
/// - **PgBouncer**: set [`pooled(true)`](PostgresDbBuilder::pooled). Without it, PgBouncer refuses the
///   settings of a connection, in session mode, too.
/// - **The pooled endpoints of Neon and Supabase**: set `pooled(true)`.
/// - **Amazon RDS and Aurora PostgreSQL**: use the writer's endpoint. Their authority is in no system's
///   store, so `verify-full` needs its file. After a failover, calls fail for a while and connect again.
/// - **Neon** suspends idle servers, which closes connections: they are opened again.
/// - **YugabyteDB** hashes the first column of a primary key: create the table by hand with
///   `PRIMARY KEY (pk HASH, sk ASC)`, and enable READ COMMITTED.
/// - **CockroachDB** may refuse row locks in subqueries; readers wait for writers there.
/// - **Aurora DSQL** has no collations and no waiting row locks, and is not supported.
///
/// # Example program
///
/// ```sh
/// cargo run --release --features postgres --example flights -- --postgres postgresql://user@localhost/database
/// ```
pub struct PostgresDb<T, C = Json> {
    connection: Arc<Connection>,
    codec: C,
    data: PhantomData<fn() -> T>,
}

/// The largest number of items in a page. A page also ends after a MiB of data.
const PAGE_SIZE: usize = 500;

/// The most rows that `set` and `delete` send in one statement, and the most bytes of keys and data that
/// `set` does.
const CHUNK_ROWS: usize = 5_000;
const CHUNK_BYTES: usize = 4 << 20;

/// The number of expired rows that are removed by one statement.
const PURGE_ROWS: i64 = 1_000;

impl<T> PostgresDb<T> {
    /// Connects to the server at `url` with the defaults of [`PostgresDbBuilder`], and creates the table
    /// `atomic_db` if it does not exist.
    ///
    /// ```no_run
    /// use atomic_db::{AtomicDb, Key, PostgresDb};
    ///
    /// let db: PostgresDb<String> = PostgresDb::connect("postgresql://shop:secret@localhost/shop")?;
    /// let name = db.get(Key::new("user#1", "name"))?;
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`PostgresDbBuilder::connect`].
    pub fn connect(url: impl AsRef<str>) -> Result<Self>
    where
        Json: Codec<T>,
    {
        PostgresDb::builder().connect(url)
    }

    /// Returns a builder, to choose the table, the codec, the clock, the number of connections or the
    /// timeouts.
    pub fn builder() -> PostgresDbBuilder<T> {
        PostgresDbBuilder::new()
    }
}

impl<T, C: Codec<T>> PostgresDbBuilder<T, C> {
    /// Connects to the server at `url`, checks the table, and creates it if it does not exist.
    ///
    /// The URL is as for `psql`, see [`PostgresDb`](PostgresDb#connections). A server that is starting
    /// is waited for until the [timeout](PostgresDbBuilder::timeout). One that cannot be reached is not.
    ///
    /// # Errors
    ///
    /// No item was written. The table may have been created, except after `InvalidInput` or
    /// `LimitExceeded`.
    ///
    /// - [`InvalidInput`](Error::InvalidInput), [`LimitExceeded`](Error::LimitExceeded): the URL or the
    ///   table name is invalid, or an option is out of range.
    /// - [`Backend`](Error::Backend) with a [`PostgresDbError`]: the server does not accept the user
    ///   ([`Denied`](PostgresDbError::Denied)) or an encrypted connection
    ///   ([`Tls`](PostgresDbError::Tls)); the table is missing and was not to be created
    ///   ([`TableNotFound`](PostgresDbError::TableNotFound)); or the encoding of the database, a column,
    ///   its collation, the primary key, the format or the codec is another one than required
    ///   ([`SchemaMismatch`](PostgresDbError::SchemaMismatch)). Also, no thread could be started.
    /// - [`Unavailable`](Error::Unavailable): the server cannot be reached or has no connection left, or
    ///   it is a standby ([`ReadOnly`](PostgresDbError::ReadOnly)).
    pub fn connect(self, url: impl AsRef<str>) -> Result<PostgresDb<T, C>> {
        Ok(PostgresDb {
            connection: Arc::new(open::connect(url.as_ref(), C::NAME, self.options)?),
            codec: self.codec,
            data: PhantomData,
        })
    }
}

impl<T, C> PostgresDb<T, C> {
    /// Returns another handle to the same table, which reads and writes data of type `U` with the same
    /// codec.
    ///
    /// This allows a different type per partition. Reading an item as the wrong type is a
    /// [`Codec`](Error::Codec) error that names its key; a query that meets one fails as a whole.
    ///
    /// ```no_run
    /// use atomic_db::{AtomicDb, PostgresDb, Query};
    ///
    /// let names: PostgresDb<String> = PostgresDb::connect("postgresql://localhost/shop?user=shop")?;
    /// let scores = names.with_data::<u64>();
    /// for score in scores.stream(Query::new("user#1").prefix("score#")) {
    ///     println!("{:?}", score?.data());
    /// }
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    #[must_use]
    pub fn with_data<U>(&self) -> PostgresDb<U, C>
    where
        C: Clone,
    {
        PostgresDb {
            connection: Arc::clone(&self.connection),
            codec: self.codec.clone(),
            data: PhantomData,
        }
    }

    /// Removes all expired items and locks, and returns their number.
    ///
    /// The cost is proportional to the number of expired items and locks, not to the size of the table.
    /// They are removed in statements of a thousand. Rows that another transaction is writing are
    /// skipped. Run it now and then, for instance once an hour: reads do not return expired items, but
    /// a query has to step over them.
    ///
    /// ```no_run
    /// use atomic_db::PostgresDb;
    ///
    /// let db: PostgresDb<String> = PostgresDb::connect("postgresql://localhost/shop?user=shop")?;
    /// let removed = db.purge_expired()?;
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Unavailable`](Error::Unavailable), [`Backend`](Error::Backend): some of the expired items and
    /// locks may have been removed. No read returns the others either.
    pub fn purge_expired(&self) -> Result<usize> {
        let now = self.now();
        let mut total = 0;
        loop {
            let params = vec![Param::Int(now), Param::Int(PURGE_ROWS)];
            let removed = self.read(Statement::Purge, params)?.len();
            total += removed;
            if removed < PURGE_ROWS as usize {
                return Ok(total);
            }
        }
    }

    /// Returns the current time as it is compared with the column `ttl`.
    fn now(&self) -> i64 {
        seconds(self.connection.now().as_secs())
    }

    fn read(&self, statement: Statement, params: Vec<Param>) -> Result<Vec<Row>> {
        let request = Request { statement, params };
        self.connection.call_read(|client| client.read(request))
    }

    fn write(&self, statement: Statement, params: Vec<Param>) -> Result<()> {
        let request = Request { statement, params };
        self.connection.call_write(|client| client.write(request))
    }

    /// Reads the rows at `keys`, each distinct key once, and returns what `decode` returns for them, in
    /// the order of `keys`. `None` where there is no row.
    fn read_many<R: Clone>(
        &self,
        statement: Statement,
        now: Option<i64>,
        keys: &[Key<'_>],
        decode: impl Fn(&Row, Key<'_>) -> Result<R>,
    ) -> Result<Vec<Option<R>>> {
        keys.iter().copied().try_for_each(check_key)?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut distinct: Vec<Key<'_>> = Vec::with_capacity(keys.len());
        let mut places: HashMap<Key<'_>, usize> = HashMap::with_capacity(keys.len());
        for key in keys {
            places.entry(*key).or_insert_with(|| {
                distinct.push(*key);
                distinct.len() - 1
            });
        }
        check_statement_size(distinct.iter().map(|key| key.pk.len() + key.sk.len()).sum())?;
        let mut params = key_params(distinct.iter().copied());
        params.extend(now.map(Param::Int));
        let mut found: Vec<Option<R>> = vec![None; distinct.len()];
        for row in self.read(statement, params)? {
            // The first place is 1.
            let place: i64 = column(&row, 0)?;
            let place = usize::try_from(place - 1).unwrap_or(usize::MAX);
            if let (Some(found), Some(key)) = (found.get_mut(place), distinct.get(place)) {
                *found = Some(decode(&row, *key)?);
            }
        }
        let value = |key| found.get(*places.get(key)?)?.clone();
        Ok(keys.iter().map(value).collect())
    }

    /// Returns the rows that `query` selects after the sort key `after`, or `None` if there can be none.
    fn select(
        &self,
        query: &Query,
        after: Option<&str>,
        limit: Option<usize>,
        statement: impl FnOnce(statement::Bounds) -> Statement,
    ) -> Result<Option<Vec<Row>>> {
        check_key(Key::new(&query.pk, ""))?;
        let selection = Selection::from_query(query, after);
        let Some(selection) = selection.filter(|_| limit != Some(0)) else {
            return Ok(None);
        };
        let limit = limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let mut params = vec![
            Param::Text(query.pk.clone()),
            Param::Int(self.now()),
            Param::MaybeInt(limit),
        ];
        params.extend(selection.values.into_iter().map(Param::Text));
        self.read(statement(selection.bounds), params).map(Some)
    }
}

impl<T, C: Codec<T>> PostgresDb<T, C> {
    /// Decodes a row of a query.
    fn decode_selected(&self, row: &Row, pk: &str) -> Result<Item<T>> {
        let sk: &str = column(row, 0)?;
        decode(row, 1, Key::new(pk, sk), &self.codec)
    }

    fn commit_batch(&self, batch: &BatchRef<'_, T>) -> Result<Version> {
        batch.validate()?;
        let now = self.connection.now();
        let version = self.connection.client.versions.next(now);
        let data_type = self.connection.data_type;
        let commit = Commit::new(batch, &self.codec, data_type, version, now.as_secs())?;
        if batch.len() == 0 {
            return Ok(version);
        }
        let verdict = self.connection.call_write(|client| client.commit(commit))?;
        let in_order = |keys: &mut dyn Iterator<Item = KeyBuf>, found: &dyn Fn(&KeyBuf) -> bool| {
            keys.filter(|key| found(key)).collect::<Vec<KeyBuf>>()
        };
        match verdict {
            Verdict::Committed => Ok(version),
            Verdict::Lost(lost) => {
                let locks = batch.locks.iter().chain(batch.checks);
                let mut keys = locks.map(|lock| lock.key().to_buf());
                Err(Error::RaceCondition {
                    keys: in_order(&mut keys, &|key| lost.contains(key)),
                })
            }
            Verdict::Exists(exist) => {
                let mut keys = batch.creates.iter().map(|item| item.key().to_buf());
                let keys = in_order(&mut keys, &|key| exist.contains(key));
                match keys.into_iter().next() {
                    Some(key) => Err(Error::AlreadyExists { key }),
                    None => Err(Error::Backend(
                        "the server reported an item that was not to be created".into(),
                    )),
                }
            }
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<T, C: Codec<T>> AtomicDb for PostgresDb<T, C> {
    type Data = T;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        check_key(key)?;
        let params = vec![
            Param::Text(key.pk.to_owned()),
            Param::Text(key.sk.to_owned()),
            Param::Int(self.now()),
        ];
        let rows = self.read(Statement::Get, params)?;
        let row = rows.first();
        row.map(|row| decode(row, 0, key, &self.codec)).transpose()
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.get(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        let now = Some(self.now());
        self.read_many(Statement::GetMany, now, keys, |row, key| {
            decode(row, 1, key, &self.codec)
        })
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        self.get_many(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        check_key(key)?;
        let now = self.connection.now();
        let key = key.to_buf();
        self.connection
            .call_read(|client| client.get_lock(key, now, Known::Nothing))
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        let now = self.connection.now();
        // All rows are read before a lock is created: if one is an item, nothing is written.
        let found = self.read_many(Statement::ReadLocks, None, keys, |row, key| {
            usable_lock(Some(decode_lock(row, 1)?), key, now.as_secs())
        })?;
        let mut written: HashMap<Key<'_>, Lock> = HashMap::new();
        let locks = keys.iter().zip(found).map(|(key, found)| {
            if let Some(Some(lock)) = found {
                return Ok(lock);
            }
            if let Some(lock) = written.get(key) {
                return Ok(lock.clone());
            }
            let buf = key.to_buf();
            let lock = self
                .connection
                .call_read(|client| client.get_lock(buf, now, Known::IsStale))?;
            written.insert(*key, lock.clone());
            Ok(lock)
        });
        locks.collect()
    }

    fn set(&self, items: &[Item<T>]) -> Result<()> {
        // Sorted, as all writers lock rows in the order of keys. The last one of a key wins.
        let mut rows = BTreeMap::new();
        for item in items {
            let encoded = EncodedItem::encode(item, &self.codec, self.connection.data_type)?;
            rows.insert(item.key(), encoded);
        }
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let (mut keys, mut data, mut ttls) = (Vec::new(), Vec::new(), Vec::new());
            let mut bytes = 0;
            while let Some((key, item)) = rows.next_if(|(key, item)| {
                bytes += key.pk.len() + key.sk.len() + item.len();
                keys.is_empty() || (keys.len() < CHUNK_ROWS && bytes <= CHUNK_BYTES)
            }) {
                keys.push(key);
                data.push(item.data);
                ttls.push(item.ttl);
            }
            let mut params = key_params(keys.into_iter());
            params.push(Param::data(self.connection.data_type, data));
            params.push(Param::MaybeInts(ttls));
            self.write(Statement::Set, params)?;
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch<T>) -> Result<Version> {
        self.commit_batch(&batch.as_batch_ref())
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        keys.iter().copied().try_for_each(check_key)?;
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        for chunk in keys.chunks(CHUNK_ROWS) {
            self.write(Statement::Delete, key_params(chunk.iter().copied()))?;
        }
        Ok(())
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<T>> {
        let limit = query.limit.map_or(PAGE_SIZE, |limit| limit.min(PAGE_SIZE));
        let rows = self.select(query, after, Some(limit), Statement::Page)?;
        let rows = rows.unwrap_or_default();
        let mut page = Page {
            items: Vec::with_capacity(rows.len()),
            next: None,
        };
        // The number of rows that were found: some may have been left out because of their size.
        let found = rows.first().map(|row| column::<i64>(row, 3)).transpose()?;
        let found = found.map_or(0, |found| usize::try_from(found).unwrap_or(usize::MAX));
        let mut has_more = found > rows.len() || found >= limit;
        for row in &rows {
            match self.decode_selected(row, &query.pk) {
                Ok(item) => page.items.push(item),
                Err(error) if page.items.is_empty() => return Err(error),
                // It is the first item of the next page.
                Err(_) => {
                    has_more = true;
                    break;
                }
            }
        }
        let last = page.items.last().filter(|_| has_more);
        page.next = last.map(|item| item.sk().to_owned());
        Ok(page)
    }

    fn set_atomic(&self, items: &[Item<T>], locks: &[Lock]) -> Result<Version> {
        self.commit_batch(&BatchRef::for_set_atomic(items, locks)?)
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<T>>> {
        let rows = self.select(query, None, query.limit, Statement::Query)?;
        let rows = rows.unwrap_or_default();
        let items = rows.iter();
        items
            .map(|row| self.decode_selected(row, &query.pk))
            .collect()
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<T>>> {
        crate::query::Stream::new(query, |query, after| self.page(query, after))
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        Some(&self.connection.retry_queue)
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        None
    }
}

impl<T, C: Clone> Clone for PostgresDb<T, C> {
    fn clone(&self) -> Self {
        self.with_data()
    }
}

/// Shows the table, but no data, and nothing of the URL.
impl<T, C> fmt::Debug for PostgresDb<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDb")
            .field("table", &self.connection.table)
            .field("clock", &self.connection.clock)
            .finish_non_exhaustive()
    }
}
