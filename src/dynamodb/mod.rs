//! The database on DynamoDB.
//!
//! A call validates and encodes its input on the caller's thread, where all user code runs: the
//! clock, serializers, and `Drop` and `Clone` of data. Then it runs its requests on a private async
//! runtime and waits for the result.
//!
//! # Files
//!
//! From the bottom up; each imports only files above it in this list.
//!
//! - `error`: the errors that a caller can act on.
//! - `response`: whether a response is DynamoDB's, and undamaged.
//! - `failure`: what the SDK's errors mean, and whether the request may have been applied.
//! - `table`: the rows of items and locks, and the limits on them.
//! - `selection`: which rows of a partition a query asks for.
//! - `budget`: how many requests may repeat others.
//! - `retry`: timeouts, deadlines and back-off.
//! - `settings`: what is checked of the options before anything is sent.
//! - `credentials`: credentials, loaded before a request is sent and shared.
//! - `http_client`: proxies, certificates and connections.
//! - `client`: the client of one table. `read`, `write`, `lock`, `commit` and `create` add its
//!   requests, each in a loop of attempts.
//! - `connection`: a client with its runtime, which is in `src/blocking_runtime.rs`, and its clock.
//! - `stream`: the iterator that fetches ahead. `scan`: the same for the whole table.
//! - `builder` has the options, and `open` makes a connection from them.
//!
//! # Threads and locks
//!
//! Each database has one thread that owns its runtime, named `atomic-db-dynamodb`. It also runs the
//! requests, unless more than one worker thread is configured. The thread ends, without being
//! joined, when the last handle or stream is dropped. Requests never hold the owner of the runtime.
//!
//! There is one mutex, around the current credentials. It is locked for a moment, and no other code
//! runs then. What handles share in addition is the SDK's client, the version generator's atomic
//! counters, and the clock.

mod budget;
mod builder;
mod client;
mod commit;
mod connection;
mod create;
mod credentials;
mod error;
mod failure;
mod http_client;
mod lock;
mod open;
mod read;
mod response;
mod retry;
mod scan;
mod selection;
mod settings;
mod stream;
mod table;
mod write;

pub use builder::DynamoDbBuilder;
pub use error::DynamoDbError;

use crate::batch::BatchRef;
use crate::sync::Arc;
use crate::{
    AtomicDb, Batch, Codec, Item, Json, Key, Lock, Observer, Page, Query, Result, RetryQueue,
    Version,
};
use client::Consistency;
use commit::Commit;
use connection::Connection;
use read::{PageGrowth, RowPage};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use stream::Stream;
use table::Row;

/// A table of Amazon DynamoDB, or of a [DynamoDB-compatible
/// server](crate::_documentation::dynamodb).
///
/// Uses the official AWS SDK on a dedicated thread. Calls block until they are done, and may be
/// made from any thread: from the tasks of an async runtime, in any number and without yielding in
/// between, and from the destructors of thread-local values. A clone is another handle to the same
/// table, through the same connections.
///
/// ```no_run
/// use atomic_db::{AtomicDb, AtomicDbExt, DynamoDb, Item};
///
/// // Region and credentials as all AWS tools find them.
/// let db: DynamoDb<u64> = DynamoDb::builder("counters").create_table(true).open()?;
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
/// # The table
///
/// | attribute | type | in an item | in a lock |
/// | --- | --- | --- | --- |
/// | `pk` | S, partition key | always | always |
/// | `sk` | S, sort key | always | always |
/// | `data` | S | JSON text, if the item has data | |
/// | | B | with another codec than [`Json`]: the encoded data | |
/// | `codec` | S | with another codec than [`Json`]: its [name](Codec::NAME) | |
/// | `ttl` | N | epoch seconds, if the item expires | epoch seconds |
/// | `version` | S | | a ULID of 26 characters, in upper case |
///
/// The TypeScript package atomic-dynamodb uses the same rows, and both can use one table at the
/// same time. Two other forms that it writes are also accepted: gzip-compressed `data` of type B of up
/// to 400 KiB decompressed, the limit of an item, and a fractional `ttl`. A `ttl` that is zero or not a number means that the row never expires.
/// Other attributes are ignored when an item is read, and lost when it is written again.
///
/// A table has no place for the name of its codec, so each row has it. A row of another codec is an
/// [`Error::Codec`] that names both. Only rows of `Json` can be shared with the TypeScript package.
///
/// A row that cannot be decoded is an [`Error::Codec`] with its key. To store several types in one
/// table, use [`with_data`](DynamoDb::with_data).
///
/// Expired rows are never returned. To have DynamoDB delete them, enable its time to live on the
/// attribute `ttl`, as [`create_table`](DynamoDbBuilder::create_table) does. Deletion may take
/// days, and until then an expired row consumes storage and read capacity.
///
/// # Guarantees
///
/// The [guarantees of `AtomicDb`](AtomicDb#contract), with one exception to guarantee 6 that is
/// named below. What they leave to a database:
///
/// - **Reads are strongly consistent**: they see every write that completed before them. With
///   [`consistent_reads(false)`](DynamoDbBuilder::consistent_reads), only `get_fresh`,
///   `get_many_fresh`, `get_lock`, `get_locks` and [fresh](crate::Query::fresh) queries are.
/// - **A commit is one `TransactWriteItems`.** It is retried under one client token until its
///   outcome is known, so it is applied once or not at all. Only a valid response of DynamoDB shows
///   the outcome, not one of a proxy. If there is none, a lock is read back: if it has the commit's
///   new version, the commit was applied. Otherwise the commit returns [`Error::OutcomeUnknown`],
///   never a race condition. Nor does it return [`AlreadyExists`] while an earlier request may still
///   arrive: that one could be applied after the existing item was deleted. Locks, and the items that are
///   created, are validated against the time at which the call began.
/// - **`set` and `delete` are retried without a token**, which DynamoDB has for transactions only. A
///   request that was repeated because the network delayed it may arrive after the call has returned
///   successfully, and overwrite what was written since. Where that matters, use a commit with a lock.
/// - **Versions are generated before they are written.** A recreated lock may therefore get a
///   smaller version than before. Compare versions only for equality.
/// - **`get_many`, `get_many_fresh` and `query` are not snapshots.** Each item is read at some point
///   during the call, so of a concurrent commit some items may be seen and others not. Guard data
///   that must be consistent with a lock.
/// - **`get_locks` reads all locks before it creates or extends one.** If there is a live item at one
///   of its keys, nothing was written, unless the item was written during the call.
/// - **Transactions in flight conflict.** DynamoDB rejects a transaction that meets another one on
///   the same row, without evaluating its conditions. It is retried with back-off until the call's
///   timeout. If only lock rows were in conflict, the commit returns [`Error::RaceCondition`] with
///   their keys.
/// - **A `stream` fetches one page ahead.** It holds at most two pages, and stops fetching when it
///   is dropped.
/// - **A [`scan`](crate::Scan::scan)** is strongly consistent, fetches one page ahead, and ends after
///   any error.
/// - **A row that cannot be decoded does not hide others.** After an [`Error::Codec`], a `stream`
///   continues with the next row; this is the exception to guarantee 6. After any other error it
///   ends. A [`page`](AtomicDb::page) ends before such a row. If the row is the first one, `page`
///   returns its error; to skip it, continue with [`after`](crate::Query::after) its sort key.
/// - **Every call ends**, by the [`timeout`](DynamoDbBuilder::timeout). Failed requests are repeated
///   until then with jittered pauses that grow to five seconds, or to one second after conflicts.
/// - **Retries have a budget**, so that an outage does not multiply requests. The handles of a
///   database share 100 retries. A successful request adds one, and so does each second. Not counted
///   are the first retry of a request, and those after conflicts. When the budget is spent, a call
///   ends after two requests, before its timeout.
///
/// # Errors
///
/// - [`InvalidInput`], [`LimitExceeded`]: the table cannot hold the input, or DynamoDB rejected it
///   as invalid; or the call was made from a thread of the database's own runtime, as in a
///   credentials provider. Nothing was written.
/// - [`RaceCondition`], [`AlreadyExists`]: a condition of the commit failed. Nothing was written.
/// - [`Codec`](crate::Error::Codec): the data could not be encoded or decoded, or was written with
///   another codec. Nothing was written.
/// - [`Backend`]: the table is missing or has a different schema, there are no credentials, access is
///   denied, the server's certificate is not trusted, or another error occurred that a retry cannot
///   help; returned at once. A commit wrote nothing. A `set` or
///   `delete` of several requests may have written some of its keys, and a `get_lock` or `get_locks`
///   may have created or extended locks.
/// - [`Unavailable`]: throttling, lost connections, internal errors of the server or the loading of
///   credentials lasted for the whole timeout, or the retry budget was spent. The state is as after
///   `Backend`.
/// - [`OutcomeUnknown`]: the same, but a request of the write may have been applied, or may still
///   be. A commit is applied as a whole or not at all; of a `set` or `delete`, each key may have
///   been written or not.
///
/// The source of the last three is a [`DynamoDbError`] if the error came from DynamoDB or from the
/// connection to it.
///
/// # Limits
///
/// A violation of [DynamoDB's limits][quotas] is [`LimitExceeded`] or [`InvalidInput`], before any
/// request is sent:
///
/// - A partition key has 1 to 2048 bytes, a sort key 1 to 1024. A query's prefix, bounds and `after`
///   may be empty, but not longer than a sort key.
/// - An item has at most 400 KiB, including its key and the names of its attributes.
/// - A commit has at most 100 locks, checks, items and deletions, and 4 MiB in total.
///
/// Integers beyond 2<sup>53</sup> in `data` are exact here, but rounded by JavaScript.
///
/// # Cost
///
/// In [capacity units][units]. A read unit is a strongly consistent read of 4 KiB, a write unit a
/// write of 1 KiB. The size of each row is rounded up, that of a query's rows in total.
///
/// | call | requests | units, for rows of up to 1 KiB |
/// | --- | --- | --- |
/// | `get`, `get_fresh` | `GetItem` | 1 read |
/// | `get_many`, `get_many_fresh` | `BatchGetItem` for every 100 distinct keys | 1 read for each distinct key |
/// | `get_lock` | `GetItem`, then `PutItem` to create or `UpdateItem` to extend the lock | 1 read, then 1 write |
/// | `get_locks` | `BatchGetItem` for every 100 distinct keys, then `PutItem` or `UpdateItem` for each lock to create or extend | 1 read for each distinct key, then 1 write |
/// | `set`, `delete` | `BatchWriteItem` for every 25 distinct keys, or MiB | 1 write for each distinct key |
/// | `commit`, `set_atomic` | `TransactWriteItems` | 2 writes for each lock, check, item and deletion |
/// | `query`, `page`, `stream` | `Query` for every MiB | 1 read for every 4 KiB of the rows that are read, including locks and expired rows |
/// | `scan` | `Scan` for every MiB | 1 read for every 4 KiB of the table, including locks and expired rows |
///
/// An eventually consistent read costs half. Reading or deleting an absent row costs 1 unit. A
/// failed commit costs as much as a successful one, and a retried request is charged again.
///
/// A query reads only rows within its prefix, its range and its `after`, and at most one row at the
/// end of the range that is not part of it. With a limit, it reads up to 16 rows more than it needs,
/// because some may be locks or expired. If some are, each further page is twice as large: `limit(1)`
/// behind 5,000 expired rows takes 9 requests, and reads at most about twice as many rows as
/// necessary. A query that can select nothing, such as one with a prefix
/// outside its range, sends no request.
///
/// A read-modify-write of one item under one lock is a `get_lock`, a `get_fresh` and a commit: 2
/// read and 4 write units. If the lock is reused by [`Lock::with_version`], it is 1 read unit less.
///
/// `get_many`, `get_many_fresh`, `get_locks`, `set` and `delete` send up to 8 batches at a time. After a
/// failure, `set` and `delete` send no further batch, and wait for those that have been sent.
///
/// A transaction has a request for each call of [`lock`](crate::Transaction::lock) and
/// [`get`](crate::Transaction::get), one after the other.
/// [`lock_all`](crate::Transaction::lock_all) and [`get_many`](crate::Transaction::get_many) send one
/// for up to 100 keys: with the commit, a transaction under existing locks is three requests.
///
/// # Access
///
/// The IAM actions that a policy must allow on the table:
///
/// | action | required by |
/// | --- | --- |
/// | `dynamodb:GetItem` | `get`, `get_fresh`, `get_lock`, `get_locks`, and a `commit` whose outcome is in doubt |
/// | `dynamodb:BatchGetItem` | `get_many`, `get_many_fresh`, `get_locks` |
/// | `dynamodb:Query` | `query`, `page`, `stream` |
/// | `dynamodb:Scan` | `scan` |
/// | `dynamodb:PutItem` | `get_lock`, `get_locks`; a `commit` that sets or creates items |
/// | `dynamodb:UpdateItem` | `get_lock`, `get_locks`; a `commit` with locks |
/// | `dynamodb:ConditionCheckItem` | a `commit` with checks |
/// | `dynamodb:DeleteItem` | a `commit` that deletes |
/// | `dynamodb:BatchWriteItem` | `set`, `delete` |
/// | `dynamodb:DescribeTable`, `dynamodb:CreateTable`, `dynamodb:DescribeTimeToLive`, `dynamodb:UpdateTimeToLive` | [`create_table(true)`](DynamoDbBuilder::create_table) |
///
/// # Example program
///
/// It creates the table `flights` at AWS, or on a DynamoDB-compatible server:
///
/// ```sh
/// cargo run --release --features dynamodb --example flights -- --dynamodb flights
/// cargo run --release --features dynamodb --example flights -- --dynamodb flights --endpoint http://localhost:8000
/// ```
///
/// [`Error::Codec`]: crate::Error::Codec
/// [`Error::OutcomeUnknown`]: crate::Error::OutcomeUnknown
/// [`Error::RaceCondition`]: crate::Error::RaceCondition
/// [`AlreadyExists`]: crate::Error::AlreadyExists
/// [`Backend`]: crate::Error::Backend
/// [`InvalidInput`]: crate::Error::InvalidInput
/// [`LimitExceeded`]: crate::Error::LimitExceeded
/// [`OutcomeUnknown`]: crate::Error::OutcomeUnknown
/// [`RaceCondition`]: crate::Error::RaceCondition
/// [`Unavailable`]: crate::Error::Unavailable
/// [quotas]: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html
/// [units]: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
pub struct DynamoDb<T, C = Json> {
    connection: Arc<Connection>,
    codec: C,
    data: PhantomData<fn() -> T>,
}

impl<T> DynamoDb<T> {
    /// Opens `table` in the region and with the credentials that the environment provides.
    ///
    /// ```no_run
    /// use atomic_db::{AtomicDb, DynamoDb, Key};
    ///
    /// let db: DynamoDb<String> = DynamoDb::open("users")?;
    /// let name = db.get(Key::new("user#1", "name"))?;
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`DynamoDbBuilder::open`].
    pub fn open(table: impl Into<String>) -> Result<Self> {
        DynamoDb::builder(table).open()
    }

    /// Returns a builder for a database in `table`.
    pub fn builder(table: impl Into<String>) -> DynamoDbBuilder<T> {
        DynamoDbBuilder::new(table.into())
    }
}

impl<T, C> DynamoDb<T, C> {
    /// Returns another handle to the same table, which reads and writes data of type `U` with the same
    /// codec.
    ///
    /// A row whose data is not a `U` is an [`Error::Codec`](crate::Error::Codec) with its key.
    ///
    /// ```no_run
    /// use atomic_db::{AtomicDb, DynamoDb, Query};
    ///
    /// let names: DynamoDb<String> = DynamoDb::open("users")?;
    /// let scores = names.with_data::<u64>();
    /// for score in scores.stream(Query::new("user#1").prefix("score#")) {
    ///     println!("{:?}", score?.data());
    /// }
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    #[must_use]
    pub fn with_data<U>(&self) -> DynamoDb<U, C>
    where
        C: Clone,
    {
        DynamoDb {
            connection: Arc::clone(&self.connection),
            codec: self.codec.clone(),
            data: PhantomData,
        }
    }
}

impl<T, C> DynamoDbBuilder<T, C> {
    /// Opens the table.
    ///
    /// Without [`create_table`](DynamoDbBuilder::create_table), no request is sent to the table, so
    /// a missing table is reported by the first call.
    ///
    /// # Errors
    ///
    /// No item was written. With `create_table`, the table may have been created, except after
    /// `InvalidInput` or `LimitExceeded`.
    ///
    /// - [`InvalidInput`](crate::Error::InvalidInput),
    ///   [`LimitExceeded`](crate::Error::LimitExceeded): the table name, the endpoint, the region, the
    ///   static credentials or the CA bundle is invalid, the [proxy](DynamoDbBuilder#proxies) is not
    ///   supported, no region is configured, or an option is out of range. Settings of the environment
    ///   are checked like those of the builder.
    /// - [`Backend`](crate::Error::Backend): there are no credentials, they do not allow an action
    ///   that `create_table` requires, or the table has a different schema (the source is a
    ///   [`DynamoDbError`]); or no thread could be started.
    /// - [`Unavailable`](crate::Error::Unavailable): the credentials could not be loaded, or the
    ///   table not created or inspected, in time.
    pub fn open(self) -> Result<DynamoDb<T, C>> {
        Ok(DynamoDb {
            connection: Arc::new(open::connect(self.options)?),
            codec: self.codec,
            data: PhantomData,
        })
    }
}

impl<T, C> DynamoDb<T, C> {
    /// Reads the rows at `keys`, each distinct key once, and returns what `decode` returns for them
    /// at the current time, in the order of `keys`. `None` where there is no row.
    fn read_many<R: Clone>(
        &self,
        keys: &[Key<'_>],
        consistency: Consistency,
        decode: impl Fn(&Row, u64) -> Result<Option<R>>,
    ) -> Result<Vec<Option<R>>> {
        keys.iter().try_for_each(|key| table::check_key(*key))?;
        // DynamoDB rejects repeated keys. Each distinct key has an index in `found`.
        let mut indices: HashMap<Key<'_>, usize> = HashMap::with_capacity(keys.len());
        let mut unread: Vec<Row> = Vec::with_capacity(keys.len());
        for key in keys {
            indices.entry(*key).or_insert_with(|| {
                unread.push(table::key_row(*key));
                unread.len() - 1
            });
        }
        let mut found: Vec<Option<R>> = vec![None; unread.len()];
        self.connection.read_all(unread, consistency, |rows| {
            let now = self.connection.now().as_secs();
            for row in &rows {
                let index = indices.get(&table::key_of(row)?);
                if let Some(found) = index.and_then(|index| found.get_mut(*index)) {
                    *found = decode(row, now)?;
                }
            }
            Ok(())
        })?;
        let value = |key| {
            indices
                .get(key)
                .and_then(|index| found.get(*index)?.clone())
        };
        Ok(keys.iter().map(value).collect())
    }
}

impl<T, C: Codec<T>> DynamoDb<T, C> {
    fn read(&self, key: Key<'_>, consistency: Consistency) -> Result<Option<Item<T>>> {
        table::check_key(key)?;
        let key = table::key_row(key);
        let row = self
            .connection
            .call_read(|client| client.get_row(key, consistency))?;
        match row {
            Some(row) => table::decode(&row, self.connection.now().as_secs(), &self.codec),
            None => Ok(None),
        }
    }

    fn commit_batch(&self, batch: &BatchRef<'_, T>) -> Result<Version> {
        let now = self.connection.now();
        let client = &self.connection.client;
        let version = client.versions.next(now);
        let commit = Commit::new(batch, &self.codec, &client.table, version, now.as_secs())?;
        if batch.len() == 0 {
            return Ok(version);
        }
        self.connection.call_write(|client| client.commit(commit))
    }
}

#[deny(clippy::missing_trait_methods)]
impl<T, C: Codec<T>> AtomicDb for DynamoDb<T, C> {
    type Data = T;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.read(key, self.connection.client.consistency)
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.read(key, Consistency::Strong)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        let consistency = self.connection.client.consistency;
        self.read_many(keys, consistency, |row, now| {
            table::decode(row, now, &self.codec)
        })
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        self.read_many(keys, Consistency::Strong, |row, now| {
            table::decode(row, now, &self.codec)
        })
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        table::check_key(key)?;
        let now = self.connection.now();
        self.connection
            .call_read(|client| client.get_lock(key.to_buf(), now))
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        // All rows are read before a lock is created: if one is an item, nothing is written.
        let found = self.read_many(keys, Consistency::Strong, |row, now| {
            Ok(Some((table::decode_lock(row, now)?, row.clone())))
        })?;
        let mut written: HashMap<Key<'_>, Lock> = HashMap::new();
        let locks = keys.iter().zip(found).map(|(key, found)| {
            let row = match found {
                Some((Some(lock), _)) => return Ok(lock),
                Some((None, row)) => Some(row),
                None => None,
            };
            if let Some(lock) = written.get(key) {
                return Ok(lock.clone());
            }
            let now = self.connection.now();
            let lock = self
                .connection
                .call_read(|client| client.get_lock_of_row(key.to_buf(), row, now))?;
            written.insert(*key, lock.clone());
            Ok(lock)
        });
        locks.collect()
    }

    fn set(&self, items: &[Item<T>]) -> Result<()> {
        let mut last: HashMap<Key<'_>, usize> = HashMap::with_capacity(items.len());
        let mut rows = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            last.insert(item.key(), index);
            rows.push(table::encode(item, &self.codec)?.0);
        }
        let rows = items.iter().zip(rows).enumerate();
        let writes: Result<Vec<_>> = rows
            .filter(|(index, (item, _))| last.get(&item.key()) == Some(index))
            .map(|(_, (_, row))| write::put(row))
            .collect();
        self.connection.write_all(writes?)
    }

    fn commit(&self, batch: &Batch<T>) -> Result<Version> {
        self.commit_batch(&batch.as_batch_ref())
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        keys.iter().try_for_each(|key| table::check_key(*key))?;
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let writes = keys.into_iter().map(table::key_row).map(write::delete);
        let writes: Result<Vec<_>> = writes.collect();
        self.connection.write_all(writes?)
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<T>> {
        let limit = query.limit.unwrap_or(usize::MAX);
        let mut page = Page {
            items: Vec::new(),
            next: after.map(str::to_owned),
        };
        let mut growth = PageGrowth::default();
        // Some of DynamoDB's pages contain only rows that are not shown.
        while page.items.is_empty() {
            let after = page.next.take();
            let call = self
                .connection
                .spawn_page(query, after.as_deref(), query.limit, growth)?;
            let Some(call) = call else { break };
            let fetched: RowPage = call.wait_read()?;
            (page.next, growth) = (fetched.next, fetched.growth);
            let now = self.connection.now().as_secs();
            for row in fetched.rows {
                match table::decode(&row, now, &self.codec) {
                    Ok(None) => continue,
                    Ok(Some(item)) if page.items.len() < limit => {
                        page.items.push(item);
                        continue;
                    }
                    // A decoding error is reported only if no item precedes it, so that it does not
                    // hide those items.
                    Err(error) if page.items.is_empty() => return Err(error),
                    Ok(Some(_)) | Err(_) => {}
                }
                page.next = page.items.last().map(|item| item.sk().to_owned());
                break;
            }
            if page.next.is_none() {
                break;
            }
        }
        Ok(page)
    }

    fn set_atomic(&self, items: &[Item<T>], locks: &[Lock]) -> Result<Version> {
        self.commit_batch(&BatchRef::for_set_atomic(items, locks)?)
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<T>>> {
        self.stream(query.clone()).collect()
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<T>>> {
        Stream::new(Arc::clone(&self.connection), &self.codec, query)
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        Some(&self.connection.retry_queue)
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        None
    }
}

impl<T, C: Clone> Clone for DynamoDb<T, C> {
    fn clone(&self) -> Self {
        self.with_data()
    }
}

impl<T, C> fmt::Debug for DynamoDb<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDb")
            .field("table", &self.connection.client.table)
            .finish_non_exhaustive()
    }
}
