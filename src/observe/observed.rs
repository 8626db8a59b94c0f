//! The wrapper that reports calls to an observer.

use super::event::{CallEvent, ConflictEvent, Operation, TransactionEvent};
use super::observer::{Observer, notify};
use crate::batch::BatchRef;
use crate::stopwatch::Stopwatch;
use crate::sync::Arc;
use crate::{
    AtomicDb, Batch, Clock, Item, Key, Lock, Page, Query, Result, RetryQueue, Scan, Version,
};
use std::fmt;
use std::iter::FusedIterator;
use std::time::Duration;

/// Reports every call on another database, and every transaction, to an [`Observer`].
///
/// Transactions on this handle are reported by themselves, without another [`Retry`](crate::Retry),
/// through trait objects and other wrappers as well
/// ([`transaction_observer`](AtomicDb::transaction_observer)). Calls on the inner database are not
/// reported.
///
/// In front of an [`LruCache`](crate::LruCache), it reports what callers experience. Between the cache
/// and its backing database, it reports the calls that miss, and the transactions on the cache. If one
/// `Observed` wraps another one, both observers receive each event.
///
/// A clone shares the observer if that is a reference, an `Arc`, or a handle such as
/// [`Counters`](crate::Counters).
///
/// ```
/// use atomic_db::{AtomicDb, AtomicDbExt, Counters, Key, MemoryDb, Observed, Operation};
///
/// let counters = Counters::new();
/// let db = Observed::new(MemoryDb::<u32>::new(), counters.clone());
/// db.get(Key::new("account#1", "balance"))?;
/// db.update(("account#1", "balance"), ("account#1", "lock"), |_| Some(10))?;
///
/// let snapshot = counters.snapshot();
/// assert_eq!(snapshot.operation(Operation::Get).calls, 1);
/// assert_eq!(snapshot.transactions.first_attempt, 1);
/// println!("{snapshot}");
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone)]
pub struct Observed<D, O> {
    link: Link<D, O>,
    /// `None` is the system's monotonic clock.
    clock: Option<Arc<dyn Clock>>,
}

/// A database and its observer, which passes transactions on to the observers of the database.
#[derive(Clone)]
struct Link<D, O> {
    inner: D,
    observer: O,
}

impl<D: AtomicDb, O: Observer> Observed<D, O> {
    /// Reports the calls on `db` to `observer`. Durations are measured on the system's monotonic clock.
    #[must_use]
    pub fn new(db: D, observer: O) -> Self {
        Observed {
            link: Link {
                inner: db,
                observer,
            },
            clock: None,
        }
    }

    /// Measures the durations of calls on `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Returns the inner database. Calls on it are not reported.
    #[must_use]
    pub fn inner(&self) -> &D {
        &self.link.inner
    }

    /// Returns the observer.
    #[must_use]
    pub fn observer(&self) -> &O {
        &self.link.observer
    }

    fn call<R>(
        &self,
        operation: Operation,
        arguments: Arguments<'_>,
        op: impl FnOnce(&D) -> Result<R>,
        count_items: impl FnOnce(&R) -> usize,
    ) -> Result<R> {
        let clock = self.clock.as_deref();
        let stopwatch = Stopwatch::start(clock);
        let result = op(&self.link.inner);
        let duration = stopwatch.elapsed(clock);
        let (items, error) = match &result {
            Ok(found) => (count_items(found), None),
            Err(error) => (0, Some(error)),
        };
        let event = CallEvent {
            operation,
            partition: arguments.partition,
            keys: arguments.keys,
            items,
            duration,
            error,
        };
        notify(|| self.link.observer.on_call(&event));
        result
    }

    /// Returns `inner`, which was created since `stopwatch` began, as an iterator that is reported.
    fn iterate<I>(
        &self,
        operation: Operation,
        partition: Option<String>,
        inner: I,
        stopwatch: Stopwatch,
    ) -> ObservedIterator<'_, I, O> {
        let clock = self.clock.as_deref();
        ObservedIterator {
            operation,
            partition,
            inner,
            observer: &self.link.observer,
            clock,
            items: 0,
            duration: stopwatch.elapsed(clock),
            is_reported: false,
        }
    }
}

/// What an event says about the arguments of a call.
#[derive(Clone, Copy)]
struct Arguments<'a> {
    partition: Option<&'a str>,
    keys: usize,
}

impl<'a> Arguments<'a> {
    fn from_keys(keys: &[Key<'a>]) -> Self {
        Arguments {
            partition: keys.first().map(|key| key.pk),
            keys: keys.len(),
        }
    }

    fn from_batch<T>(batch: &BatchRef<'a, T>) -> Self {
        Arguments {
            partition: batch.keys().next().map(|key| key.pk()),
            keys: batch.len(),
        }
    }

    fn from_query(query: &'a Query) -> Self {
        Arguments {
            partition: Some(&query.pk),
            keys: 0,
        }
    }
}

fn count_one<T>(item: &Option<Item<T>>) -> usize {
    usize::from(item.is_some())
}

fn count_found<T>(items: &[Option<Item<T>>]) -> usize {
    items.iter().flatten().count()
}

#[deny(clippy::missing_trait_methods)]
impl<D: AtomicDb, O: Observer> AtomicDb for Observed<D, O> {
    type Data = D::Data;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        let arguments = Arguments::from_keys(&[key]);
        let get = |inner: &D| inner.get(key);
        self.call(Operation::Get, arguments, get, count_one)
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        let arguments = Arguments::from_keys(&[key]);
        let get = |inner: &D| inner.get_fresh(key);
        self.call(Operation::GetFresh, arguments, get, count_one)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        let arguments = Arguments::from_keys(keys);
        let get = |inner: &D| inner.get_many(keys);
        self.call(Operation::GetMany, arguments, get, |items| {
            count_found(items)
        })
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        let arguments = Arguments::from_keys(keys);
        let get = |inner: &D| inner.get_many_fresh(keys);
        self.call(Operation::GetManyFresh, arguments, get, |items| {
            count_found(items)
        })
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let arguments = Arguments::from_keys(&[key]);
        let get = |inner: &D| inner.get_lock(key);
        self.call(Operation::GetLock, arguments, get, |_| 1)
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        let arguments = Arguments::from_keys(keys);
        let get = |inner: &D| inner.get_locks(keys);
        self.call(Operation::GetLocks, arguments, get, Vec::len)
    }

    fn set(&self, items: &[Item<Self::Data>]) -> Result<()> {
        let arguments = Arguments {
            partition: items.first().map(Item::pk),
            keys: items.len(),
        };
        let set = |inner: &D| inner.set(items);
        self.call(Operation::Set, arguments, set, |()| 0)
    }

    fn commit(&self, batch: &Batch<Self::Data>) -> Result<Version> {
        let arguments = Arguments::from_batch(&batch.as_batch_ref());
        let commit = |inner: &D| inner.commit(batch);
        self.call(Operation::Commit, arguments, commit, |_| 0)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        let arguments = Arguments::from_keys(keys);
        let delete = |inner: &D| inner.delete(keys);
        self.call(Operation::Delete, arguments, delete, |()| 0)
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Self::Data>> {
        let arguments = Arguments::from_query(query);
        let page = |inner: &D| inner.page(query, after);
        self.call(Operation::Page, arguments, page, |page| page.items.len())
    }

    fn set_atomic(&self, items: &[Item<Self::Data>], locks: &[Lock]) -> Result<Version> {
        let arguments = Arguments::from_batch(&BatchRef {
            locks,
            checks: &[],
            sets: items,
            creates: &[],
            deletes: &[],
        });
        let commit = |inner: &D| inner.set_atomic(items, locks);
        self.call(Operation::SetAtomic, arguments, commit, |_| 0)
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<Self::Data>>> {
        let arguments = Arguments::from_query(query);
        let read = |inner: &D| inner.query(query);
        self.call(Operation::Query, arguments, read, Vec::len)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>> {
        let stopwatch = Stopwatch::start(self.clock.as_deref());
        let partition = Some(query.pk.clone());
        let stream = self.link.inner.stream(query);
        self.iterate(Operation::Stream, partition, stream, stopwatch)
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.link.inner.retry_queue()
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        Some(&self.link)
    }
}

impl<D: Scan, O: Observer> Scan for Observed<D, O> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<Self::Data>>> + '_> {
        let stopwatch = Stopwatch::start(self.clock.as_deref());
        let scan = self.link.inner.scan();
        Box::new(self.iterate(Operation::Scan, None, scan, stopwatch))
    }
}

impl<D: AtomicDb, O: Observer> Observer for Link<D, O> {
    fn on_conflict(&self, conflict: &ConflictEvent<'_>) {
        notify(|| self.observer.on_conflict(conflict));
        if let Some(inner) = self.inner.transaction_observer() {
            inner.on_conflict(conflict);
        }
    }

    fn on_transaction(&self, transaction: &TransactionEvent<'_>) {
        notify(|| self.observer.on_transaction(transaction));
        if let Some(inner) = self.inner.transaction_observer() {
            inner.on_transaction(transaction);
        }
    }
}

/// A stream or scan that is reported once.
struct ObservedIterator<'a, I, O: Observer> {
    operation: Operation,
    partition: Option<String>,
    inner: I,
    observer: &'a O,
    clock: Option<&'a dyn Clock>,
    items: usize,
    /// The time spent in the iterator so far.
    duration: Duration,
    is_reported: bool,
}

impl<I, O: Observer> ObservedIterator<'_, I, O> {
    fn report(&mut self, error: Option<&crate::Error>) {
        if std::mem::replace(&mut self.is_reported, true) {
            return;
        }
        let event = CallEvent {
            operation: self.operation,
            partition: self.partition.as_deref(),
            keys: 0,
            items: self.items,
            duration: self.duration,
            error,
        };
        notify(|| self.observer.on_call(&event));
    }
}

impl<T, I: Iterator<Item = Result<Item<T>>>, O: Observer> Iterator for ObservedIterator<'_, I, O> {
    type Item = Result<Item<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        let stopwatch = Stopwatch::start(self.clock);
        let next = self.inner.next();
        self.duration += stopwatch.elapsed(self.clock);
        match &next {
            Some(Ok(_)) => self.items += 1,
            Some(Err(error)) => self.report(Some(error)),
            None => self.report(None),
        }
        next
    }
}

/// The streams and scans of all databases are fused (guarantee 6).
impl<T, I: Iterator<Item = Result<Item<T>>>, O: Observer> FusedIterator
    for ObservedIterator<'_, I, O>
{
}

impl<I, O: Observer> Drop for ObservedIterator<'_, I, O> {
    fn drop(&mut self) {
        self.report(None);
    }
}

/// Shows the inner database, and not the observer.
impl<D: fmt::Debug, O> fmt::Debug for Observed<D, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed")
            .field("inner", &self.link.inner)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
