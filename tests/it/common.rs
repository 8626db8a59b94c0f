//! The test kit of the other modules: a database with hooks, a gate that stops a call, a clock that
//! records pauses, and short forms for reading.

use atomic_db::testing::run_concurrently;
use atomic_db::{
    AtomicDb, Batch, Clock, Item, Key, Lock, ManualClock, Observer, Page, Query, Result,
    RetryQueue, Scan, Version,
};
use atomic_db_test_support::faulty_db::Fault;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a call may make no progress before a test fails instead of hanging.
pub(crate) const HANG_LIMIT: Duration = Duration::from_secs(60);

/// The methods of a database. `set_atomic` counts as a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Get,
    GetFresh,
    GetMany,
    GetManyFresh,
    GetLock,
    GetLocks,
    Set,
    Commit,
    Delete,
    Page,
    Query,
    ScannedItem,
}

/// Before or after the call of the inner database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

type Hook = dyn Fn(Call, Moment) -> Result<()> + Send + Sync;

/// A database that runs a hook before and after every call of the inner one. The hook may count,
/// pause, panic, call the database, or fail. If it fails before the call, nothing has happened. If
/// it fails after the call, the result is lost.
#[derive(Clone)]
pub(crate) struct HookedDb<D> {
    pub(crate) inner: D,
    hook: Arc<Hook>,
}

impl<D> HookedDb<D> {
    pub(crate) fn new(
        inner: D,
        hook: impl Fn(Call, Moment) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        HookedDb {
            inner,
            hook: Arc::new(hook),
        }
    }

    fn call<R>(&self, call: Call, op: impl FnOnce(&D) -> Result<R>) -> Result<R> {
        (self.hook)(call, Moment::Before)?;
        let result = op(&self.inner)?;
        (self.hook)(call, Moment::After)?;
        Ok(result)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: AtomicDb> AtomicDb for HookedDb<D> {
    type Data = D::Data;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        self.call(Call::Get, |inner| inner.get(key))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        self.call(Call::GetFresh, |inner| inner.get_fresh(key))
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        self.call(Call::GetMany, |inner| inner.get_many(keys))
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        self.call(Call::GetManyFresh, |inner| inner.get_many_fresh(keys))
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.call(Call::GetLock, |inner| inner.get_lock(key))
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        self.call(Call::GetLocks, |inner| inner.get_locks(keys))
    }

    fn set(&self, items: &[Item<Self::Data>]) -> Result<()> {
        self.call(Call::Set, |inner| inner.set(items))
    }

    fn commit(&self, batch: &Batch<Self::Data>) -> Result<Version> {
        self.call(Call::Commit, |inner| inner.commit(batch))
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.call(Call::Delete, |inner| inner.delete(keys))
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Self::Data>> {
        self.call(Call::Page, |inner| inner.page(query, after))
    }

    fn set_atomic(&self, items: &[Item<Self::Data>], locks: &[Lock]) -> Result<Version> {
        self.call(Call::Commit, |inner| inner.set_atomic(items, locks))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<Self::Data>>> {
        self.call(Call::Query, |inner| inner.query(query))
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>> {
        self.inner.stream(query)
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.inner.retry_queue()
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        self.inner.transaction_observer()
    }
}

/// The hook runs for each item. If it fails, the scan goes on after the error.
impl<D: Scan> Scan for HookedDb<D> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<Self::Data>>> + '_> {
        let scan = self.inner.scan();
        Box::new(scan.map(|item| self.call(Call::ScannedItem, |_| item)))
    }
}

/// Stops one call at a chosen moment, until the test opens the gate.
pub(crate) struct Gate {
    reached: mpsc::Receiver<()>,
    open: mpsc::Sender<()>,
}

impl Gate {
    /// Returns a database whose first `call` stops at `moment`, and the gate that stops it.
    pub(crate) fn new<D>(inner: D, call: Call, moment: Moment) -> (HookedDb<D>, Self) {
        let (reach, reached) = mpsc::channel();
        let (open, opened) = mpsc::channel();
        let ends = Mutex::new(Some((reach, opened)));
        let db = HookedDb::new(inner, move |this_call, this_moment| {
            if (this_call, this_moment) == (call, moment) {
                let first = ends.lock().unwrap().take();
                if let Some((reach, opened)) = first {
                    reach.send(()).unwrap();
                    opened.recv().unwrap();
                }
            }
            Ok(())
        });
        (db, Gate { reached, open })
    }

    /// Waits until a call is stopped at the gate.
    pub(crate) fn wait_until_reached(&self) {
        self.reached.recv_timeout(HANG_LIMIT).unwrap();
    }

    /// Lets the call go on.
    pub(crate) fn open(&self) {
        self.open.send(()).unwrap();
    }
}

/// A [`ManualClock`] that records every pause.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordingClock {
    pub(crate) clock: ManualClock,
    pauses: Arc<Mutex<Vec<Duration>>>,
}

impl RecordingClock {
    /// Returns the pauses since the last call of this method.
    pub(crate) fn take_pauses(&self) -> Vec<Duration> {
        std::mem::take(&mut self.pauses.lock().unwrap())
    }
}

impl Clock for RecordingClock {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn sleep(&self, duration: Duration) {
        self.pauses.lock().unwrap().push(duration);
        self.clock.sleep(duration);
    }
}

/// Asserts that each of these cases fails on a database with its fault.
pub(crate) fn assert_all_found(
    pairs: &[(Fault, &'static str)],
    fails: impl Fn(Fault, &'static str) -> bool + Sync,
) {
    // Concurrently, because some faults make a call hang until the suite gives up on it.
    let found = run_concurrently(pairs.len(), |number| {
        let (fault, name) = pairs[number];
        // A case with a race finds its fault with high probability only.
        (0..5).any(|_| fails(fault, name))
    });
    let pairs = pairs.iter().zip(found);
    let missed: Vec<_> = pairs.filter(|(_, found)| !found).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// Returns the data at `key`, read with `get`.
pub(crate) fn data<T: Clone>(db: &impl AtomicDb<Data = T>, key: Key<'_>) -> Option<T> {
    db.get(key).unwrap().and_then(|item| item.data().cloned())
}

/// Returns the sort keys of `items`, in order.
pub(crate) fn sks<T>(items: &[Item<T>]) -> Vec<&str> {
    items.iter().map(Item::sk).collect()
}

/// Returns items with the data 0, 1 and so on, in several partitions.
pub(crate) fn numbered(count: u32) -> Vec<Item<u32>> {
    let item = |number: u32| Item::new(format!("pk {}", number % 7), number.to_string(), number);
    (0..count).map(item).collect()
}

/// Returns the items of `db` by their keys.
pub(crate) fn contents<T>(db: &impl Scan<Data = T>) -> BTreeMap<(String, String), Item<T>> {
    let items = db.scan().map(Result::unwrap);
    let keyed = items.map(|item| ((item.pk().to_owned(), item.sk().to_owned()), item));
    keyed.collect()
}

/// Asserts that the text of an error does not contain that of one of its causes, so that a text of all of
/// them does not repeat itself.
#[cfg(any(feature = "postgres", feature = "redb"))]
pub(crate) fn assert_causes_are_not_repeated(error: &(dyn std::error::Error + 'static)) {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = chain.map(ToString::to_string).collect();
    for (index, cause) in texts.iter().enumerate() {
        let repeated = texts[..index].iter().any(|text| text.contains(cause));
        assert!(!repeated, "{texts:?}");
    }
}
