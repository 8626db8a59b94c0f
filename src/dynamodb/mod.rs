//! The database on DynamoDB: checks and encodes on the caller's thread, where all code of a caller
//! runs, and hands over to the [`bridge`] what is to be sent.

mod bridge;
mod builder;
mod commit;
mod create;
mod error;
mod lock;
mod read;
mod retry;
mod server;
mod stream;
mod table;
mod write;

pub use builder::DynamoDbBuilder;
pub use error::DynamoDbError;

use crate::batch::BatchRef;
use crate::sync::Arc;
use crate::{AtomicDb, Batch, Clock, Error, Item, Key, Lock, Page, Query, Result, Version};
use aws_sdk_dynamodb::types::WriteRequest;
use bridge::{Bridge, NoReturn, Pending};
use commit::Commit;
use read::{Consistency, KEYS_AT_ONCE, Range, Rows};
use serde::Serialize;
use serde::de::DeserializeOwned;
use server::Server;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};
use stream::{Start, Stream};
use table::Row;

/// A table of Amazon DynamoDB, or of a server that speaks its protocol.
///
/// A handle: clones are handles to the same table, through the same connections. The official SDK
/// does the talking, on a thread of its own; every call blocks until it is done, from any thread,
/// also from one that drives an async runtime.
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
/// | `data` | S | JSON text, if it holds data | |
/// | `ttl` | N | epoch seconds, if it expires | epoch seconds |
/// | `version` | S | | a ULID of 26 characters |
///
/// These are the rows of the TypeScript package atomic-dynamodb, and both can share a table, also
/// at the same time. What it writes besides is read as well: `data` as B, which is gzip of the JSON
/// text, and a `ttl` with a fraction of a second. A `ttl` of zero, and one that is no number, is
/// none. Attributes of other names are not seen, and are gone when the item is written again.
///
/// Enable the deletion of expired rows by the attribute `ttl`, as
/// [`create_table`](DynamoDbBuilder::create_table) does; DynamoDB takes days over it at times, and until
/// then a row that has expired costs what it always did, but no read shows it. Several types find
/// place in one table by [`with_data`](DynamoDb::with_data). What cannot be read is an
/// [`Error::Codec`] that names the key; the version of a lock must be a ULID in upper case.
///
/// # What it promises
///
/// All of [`AtomicDb`]'s contract. Of what the contract leaves to a database:
///
/// - **Every read sees every write that finished before it** (a consistent read), unless
///   [`consistent_reads(false)`](DynamoDbBuilder::consistent_reads) was asked for.
/// - **A commit is one `TransactWriteItems`.** It is repeated under one token until its outcome is
///   known, so that it happens once or not at all. If all answers are lost, a lock is read back: its
///   new version there proves that the commit happened. What is unknown after that is
///   [`Error::OutcomeUnknown`], never a race. Locks, and the items that are created, are judged by
///   the clock as it was when the call began.
/// - **A version is made before it is written.** So a lock that is made again may have a lesser version
///   than it had before, and of versions only equality tells anything.
/// - **A `get_many` or a `query` sees no one instant.** Each item is as it was at some time during
///   the call, and of a commit that happens meanwhile some items may be seen and others not. What was
///   read together and must fit together is guarded by a lock. A `query` of many pages is no
///   snapshot.
/// - **Where transactions meet,** DynamoDB refuses some without judging them. They are repeated with
///   back-off until the call's timeout; if it was only that, and at locks, the call ends in
///   [`Error::RaceCondition`] that names these.
/// - **A `stream` fetches the next page while the loop works on this one,** holds two at most, and
///   stops when dropped. Of the trait's rules it bends one: after an [`Error::Codec`] it goes on with
///   the next row, so that one bad row hides no others; after any other error it ends. A
///   [`page`](AtomicDb::page) ends before a bad row, and begins with its error where nothing else
///   comes before it; who is told of one there goes on with
///   [`after`](crate::Query::after) its sort key.
/// - **Every call ends.** See [`timeout`](DynamoDbBuilder::timeout). A `set` or `delete` of several
///   requests that fails has perhaps done some of them.
///
/// # Errors
///
/// The source of a [`Backend`](Error::Backend), [`Unavailable`](Error::Unavailable) or
/// [`OutcomeUnknown`](Error::OutcomeUnknown) is a [`DynamoDbError`] where DynamoDB had something to
/// say. A missing table, denied access and another schema are `Backend` and told at once; throttling,
/// lost connections and failures of the server are repeated with back-off and then `Unavailable`,
/// or `OutcomeUnknown` if a write may have happened.
///
/// # Limits
///
/// Refused with [`Error::LimitExceeded`] or [`Error::InvalidInput`] before anything is sent
/// ([AWS's documentation][quotas]):
///
/// - A partition key has 1 to 2048 bytes, a sort key 1 to 1024.
/// - An item has at most 400 KiB with its key and its attributes' names.
/// - A commit has at most 100 locks, checks, items and deletions, and 4 MiB in all.
///
/// Numbers in `data` beyond 2<sup>53</sup> are exact here and are rounded by JavaScript.
///
/// # What it costs
///
/// In read and write units ([AWS's documentation][units]): a read unit is 4 KiB that are read
/// consistently, a write unit 1 KiB that is written, each of a row and rounded up.
///
/// | call | requests | units, for rows of up to 1 KiB |
/// | --- | --- | --- |
/// | `get`, `get_fresh` | `GetItem` | 1 read |
/// | `get_many` | `BatchGetItem` for every 100 keys | 1 read for each key |
/// | `get_lock` | `GetItem`; `PutItem` if it is made, `UpdateItem` if it is refreshed | 1 read; 1 write |
/// | `set`, `delete` | `BatchWriteItem` for every 25 keys, or MiB | 1 write for each key |
/// | `commit`, `set_atomic` | `TransactWriteItems` | 2 writes for each lock, check, item and deletion |
/// | `query`, `page`, `stream` | `Query` for every MiB | 1 read for every 4 KiB, hidden rows included |
///
/// Eventually consistent reads cost half. A commit that loses costs what one that wins does. So an
/// update of one item under one lock is a `get_lock`, a `get_fresh` and a commit: 2 reads and 4
/// writes; with [`Lock::with_version`] from one update to the next, it is a read less.
///
/// # Access
///
/// The actions that a policy must allow on the table: `dynamodb:GetItem`, `dynamodb:BatchGetItem`,
/// `dynamodb:Query`, `dynamodb:PutItem`, `dynamodb:UpdateItem`, `dynamodb:DeleteItem`,
/// `dynamodb:BatchWriteItem` and `dynamodb:ConditionCheckItem`. With
/// [`create_table`](DynamoDbBuilder::create_table), also `dynamodb:DescribeTable`,
/// `dynamodb:CreateTable`, `dynamodb:DescribeTimeToLive` and `dynamodb:UpdateTimeToLive`.
///
/// # Try it
///
/// Against a table that is not there yet, at AWS or on a server of your own:
///
/// ```sh
/// cargo run --release --features dynamodb --example flights -- --dynamodb flights
/// cargo run --release --features dynamodb --example flights -- --dynamodb flights --endpoint http://localhost:8000
/// ```
///
/// [quotas]: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html
/// [units]: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
pub struct DynamoDb<T> {
    shared: Arc<Shared>,
    data: PhantomData<fn() -> T>,
}

struct Shared {
    server: Arc<Server>,
    bridge: Bridge,
    clock: Arc<dyn Clock>,
}

// Requests change nothing in these that a panic could leave half done; the SDK's client does not
// say so of itself.
impl UnwindSafe for Shared {}
impl RefUnwindSafe for Shared {}

/// What a stuck runtime is given beyond the time that its work is to end by.
const GRACE: Duration = Duration::from_secs(1);

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

    /// A database in `table`, with an endpoint, credentials, time limits or a clock of your own.
    pub fn builder(table: impl Into<String>) -> DynamoDbBuilder<T> {
        DynamoDbBuilder::new(table.into())
    }

    /// Another handle to the same table, which reads and writes its data as `U`. What it meets that
    /// is no `U` is an [`Error::Codec`] that names its key.
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
    pub fn with_data<U>(&self) -> DynamoDb<U> {
        DynamoDb {
            shared: Arc::clone(&self.shared),
            data: PhantomData,
        }
    }

    fn new(server: Arc<Server>, bridge: Bridge, clock: Arc<dyn Clock>) -> Self {
        DynamoDb {
            shared: Arc::new(Shared {
                server,
                bridge,
                clock,
            }),
            data: PhantomData,
        }
    }

    /// The clock is asked here alone, on the threads of callers: it may call a database.
    fn now(&self) -> Duration {
        self.shared.clock.now()
    }

    fn consistency(&self) -> Consistency {
        self.shared.server.consistency
    }

    /// Begins a call to the server, and says how long to wait for it.
    fn begin<R, F>(&self, call: impl FnOnce(Arc<Server>) -> F) -> (Pending<Result<R>>, Instant)
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        let server = &self.shared.server;
        let latest = Instant::now() + server.patience.call + GRACE;
        let call = call(Arc::clone(server));
        (self.shared.bridge.start(call), latest)
    }

    /// Makes a call to the server that reads, or one after which nothing matters that it wrote.
    fn ask<R, F>(&self, call: impl FnOnce(Arc<Server>) -> F) -> Result<R>
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        let (call, latest) = self.begin(call);
        finished(call.wait(latest))?
    }

    /// Makes a call to the server that writes.
    fn tell<R, F>(&self, call: impl FnOnce(Arc<Server>) -> F) -> Result<R>
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        let (call, latest) = self.begin(call);
        match call.wait(latest) {
            Err(lost @ (NoReturn::Stuck | NoReturn::Died)) => {
                Err(Error::OutcomeUnknown(Box::new(lost)))
            }
            returned => finished(returned)?,
        }
    }

    /// Begins to fetch a page of `query`, in which so many items are wanted.
    fn fetch(
        &self,
        query: &Query,
        after: Option<String>,
        wanted: Option<usize>,
    ) -> (Pending<Result<Rows>>, Instant) {
        let range = Range {
            pk: query.pk.to_owned(),
            prefix: query.prefix.to_owned(),
            reverse: query.reverse,
            after,
            wanted,
            now: self.now().as_secs(),
        };
        let consistency = self.consistency();
        self.begin(|server| server.range(range, consistency))
    }

    /// Does `writes`, each of a key of its own.
    fn write(&self, mut writes: Vec<WriteRequest>) -> Result<()> {
        let mut begun = false;
        while !writes.is_empty() {
            let rest = writes.split_off(write::at_once(&writes));
            let sent = std::mem::replace(&mut writes, rest);
            let count = sent.len();
            let left = self.tell(|server| server.write(sent))?.writes(begun)?;
            begun |= left.len() < count;
            writes.extend(left);
        }
        Ok(())
    }
}

/// What a call brought back, if it came back.
fn finished<R>(returned: Result<R, NoReturn>) -> Result<R> {
    returned.map_err(|error| match error {
        NoReturn::CalledFromWithin => Error::InvalidInput(error.to_string()),
        NoReturn::Stuck => Error::Unavailable(Box::new(error)),
        NoReturn::Died => Error::Backend(Box::new(error)),
    })
}

impl<T: DeserializeOwned> DynamoDb<T> {
    fn read(&self, key: Key<'_>, consistency: Consistency) -> Result<Option<Item<T>>> {
        table::check_key(key)?;
        let key = table::key_row(key);
        let row = self.ask(|server| server.row(key, consistency))?;
        match row {
            Some(row) => table::decode(&row, self.now().as_secs()),
            None => Ok(None),
        }
    }
}

impl<T: Serialize> DynamoDb<T> {
    fn commit_writes(&self, writes: &BatchRef<'_, T>) -> Result<Version> {
        let now = self.now();
        let server = &self.shared.server;
        let version = server.versions.next(now);
        let commit = Commit::new(writes, &server.table, version, now.as_secs())?;
        match writes.len() {
            0 => Ok(version),
            _ => self.tell(|server| server.commit(commit)),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<T: Serialize + DeserializeOwned> AtomicDb for DynamoDb<T> {
    type Data = T;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.read(key, self.consistency())
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.read(key, Consistency::Strong)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        keys.iter().try_for_each(|key| table::check_key(*key))?;
        let consistency = self.consistency();
        // Each key is asked for once, and answered as often as it is asked.
        let mut places: HashMap<Key<'_>, usize> = HashMap::with_capacity(keys.len());
        let mut unread: Vec<Row> = Vec::with_capacity(keys.len());
        let asked = |key: &Key<'_>, unread: &mut Vec<Row>| {
            unread.push(table::key_row(*key));
            unread.len() - 1
        };
        let answers: Vec<usize> = keys
            .iter()
            .map(|key| {
                *places
                    .entry(*key)
                    .or_insert_with(|| asked(key, &mut unread))
            })
            .collect();
        let mut found: Vec<Option<Item<T>>> = unread.iter().map(|_| None).collect();
        while !unread.is_empty() {
            let rest = unread.split_off(unread.len().min(KEYS_AT_ONCE));
            let asked = std::mem::replace(&mut unread, rest);
            let (rows, left) = self.ask(|server| server.rows(asked, consistency))?;
            unread.extend(left);
            let now = self.now().as_secs();
            for row in &rows {
                let place = places.get(&table::key_of(row)?);
                if let Some(found) = place.and_then(|place| found.get_mut(*place)) {
                    *found = table::decode(row, now)?;
                }
            }
        }
        let answer = |place: usize| found.get(place).cloned().flatten();
        Ok(answers.into_iter().map(answer).collect())
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        table::check_key(key)?;
        let now = self.now();
        self.ask(|server| server.lock(key.to_buf(), now))
    }

    fn set(&self, items: &[Item<T>]) -> Result<()> {
        let mut last: HashMap<Key<'_>, usize> = HashMap::with_capacity(items.len());
        let mut rows = Vec::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            last.insert(item.key(), place);
            rows.push(table::encode(item)?.0);
        }
        let rows = items.iter().zip(rows).enumerate();
        let stands = rows.filter(|(place, (item, _))| last.get(&item.key()) == Some(place));
        let writes: Result<Vec<_>> = stands.map(|(_, (_, row))| write::put(row)).collect();
        self.write(writes?)
    }

    fn commit(&self, batch: &Batch<T>) -> Result<Version> {
        self.commit_writes(&batch.writes())
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        keys.iter().try_for_each(|key| table::check_key(*key))?;
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let writes = keys.into_iter().map(table::key_row).map(write::delete);
        let writes: Result<Vec<_>> = writes.collect();
        self.write(writes?)
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<T>> {
        let mut page = Page {
            items: Vec::new(),
            next: None,
        };
        let mut start = match Start::of(query, after)? {
            _ if query.limit == Some(0) => return Ok(page),
            Start::End => return Ok(page),
            Start::First => None,
            Start::After(after) => Some(after),
        };
        let limit = query.limit.unwrap_or(usize::MAX);
        // Of some pages everything is hidden.
        while page.items.is_empty() {
            let (fetching, latest) = self.fetch(query, start, query.limit);
            let Rows { rows, next } = finished(fetching.wait(latest))??;
            page.next = next;
            let now = self.now().as_secs();
            for row in rows {
                match table::decode(&row, now) {
                    Ok(None) => continue,
                    Ok(Some(item)) if page.items.len() < limit => {
                        page.items.push(item);
                        continue;
                    }
                    // One that cannot be read is told when it is the first, so that what comes before
                    // it is not lost with it.
                    Err(error) if page.items.is_empty() => return Err(error),
                    Ok(Some(_)) | Err(_) => {}
                }
                page.next = page.items.last().map(|item| item.sk().to_owned());
                break;
            }
            match &page.next {
                Some(next) => start = Some(next.clone()),
                None => break,
            }
        }
        Ok(page)
    }

    fn set_atomic(&self, items: &[Item<T>], locks: &[Lock]) -> Result<Version> {
        self.commit_writes(&BatchRef::for_set_atomic(items, locks)?)
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<T>>> {
        self.stream(query.clone()).collect()
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<T>>> {
        Stream::new(self.clone(), query)
    }
}

impl<T> Clone for DynamoDb<T> {
    fn clone(&self) -> Self {
        self.with_data()
    }
}

impl<T> fmt::Debug for DynamoDb<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDb")
            .field("table", &self.shared.server.table)
            .finish_non_exhaustive()
    }
}
