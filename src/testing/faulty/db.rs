//! The database that injects faults.

use super::fault::{Fault, Injection};
use super::plan::{Call, Decision, Plan};
use super::rule::FaultRule;
use crate::batch::BatchRef;
use crate::query::Stream;
use crate::sync::{Arc, Mutex};
use crate::{
    AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, Observer, Operation, Page, Query,
    Result, RetryQueue, Scan, SystemClock, Version,
};
use std::fmt;

/// Injects faults into the calls of another database, to test how the code that uses it handles them.
///
/// Only outcomes that the contract of [`AtomicDb`] allows are injected, so code that relies on nothing
/// else passes with every rule and seed. [`Fault`] lists them, and a [`FaultRule`] selects the calls.
/// The rules are asked in their order. Of several that select a call, the first one decides, and
/// latencies are added. Empty input succeeds and invalid batches are refused as without faults.
///
/// [`injections`](FaultyDb::injections) returns what was injected. [`inner`](FaultyDb::inner) is the
/// database without faults, in which a test prepares data and looks at the result.
///
/// This is a handle: clones share the rules, their counts and the log.
///
/// ```
/// use atomic_db::testing::{Fault, FaultRule, FaultyDb};
/// use atomic_db::{AtomicDb, Error, Item, Key, MemoryDb, Operation};
///
/// let lost = Fault::OutcomeUnknown { applied: true };
/// let rule = FaultRule::new(lost).operations([Operation::Set]).prefix("order#").times(1);
/// let db = FaultyDb::new(MemoryDb::new(), [rule]);
///
/// let outcome = db.set(&[Item::new("order#1", "state", "paid")]);
/// assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))));
/// assert!(db.get(Key::new("order#1", "state"))?.is_some());
/// assert_eq!(db.injections()[0].fault, lost);
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// # Limits
///
/// - Which keys and sizes the inner database refuses is not known here. A fault that does not reach it
///   takes the place of such a refusal.
/// - The log and the counts of calls grow with the number of calls.
#[derive(Clone)]
pub struct FaultyDb<D> {
    inner: D,
    clock: Arc<dyn Clock>,
    plan: Arc<Plan>,
    log: Arc<Mutex<Vec<Injection>>>,
}

impl<D: AtomicDb> FaultyDb<D> {
    /// Injects the faults of `rules` into the calls on `db`, with the seed 0 and the [`SystemClock`].
    #[must_use]
    pub fn new(db: D, rules: impl IntoIterator<Item = FaultRule>) -> Self {
        FaultyDb {
            inner: db,
            clock: Arc::new(SystemClock),
            plan: Arc::new(Plan::new(0, rules.into_iter().collect())),
            log: Arc::default(),
        }
    }

    /// Sets the seed of the rules that have a rate. Counts begin again, so call this before the first
    /// call and before cloning.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.plan = Arc::new(self.plan.with_seed(seed));
        self
    }

    /// Sets the clock on which latencies pass. Use that of the inner database.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Returns the inner database. Calls on it get no faults.
    #[must_use]
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Returns the faults that were injected so far, in the order in which their calls ended.
    #[must_use]
    pub fn injections(&self) -> Vec<Injection> {
        self.log.lock().clone()
    }

    fn log(&self, call: &Call<'_>, fault: Fault, applied: bool) {
        let injection = Injection {
            operation: call.operation,
            keys: call.keys.iter().map(|key| key.to_buf()).collect(),
            fault,
            applied,
        };
        self.log.lock().push(injection);
    }

    /// Decides what `call` gets, and lets its latency pass.
    fn begin(&self, call: &Call<'_>) -> Decision {
        let decision = self.plan.decide(call);
        if let Some(latency) = decision.latency {
            self.clock.sleep(latency);
            self.log(call, Fault::Latency(latency), false);
        }
        decision
    }

    /// Runs `op`, or makes it fail as `fault` says.
    fn finish<R>(
        &self,
        call: &Call<'_>,
        fault: Option<Fault>,
        op: impl FnOnce(&D) -> Result<R>,
    ) -> Result<R> {
        let Some(fault) = fault else {
            return op(&self.inner);
        };
        let (applied, error) = match fault {
            Fault::Unavailable => (false, Error::Unavailable(source())),
            Fault::Backend => (false, Error::Backend(source())),
            Fault::OutcomeUnknown { applied } => {
                if applied {
                    op(&self.inner)?;
                }
                (applied, Error::OutcomeUnknown(source()))
            }
            Fault::Conflict | Fault::Partial | Fault::ShortPage | Fault::Latency(_) => {
                return op(&self.inner);
            }
        };
        self.log(call, fault, applied);
        Err(error)
    }

    fn read<R>(
        &self,
        operation: Operation,
        keys: &[Key<'_>],
        op: impl FnOnce(&D) -> Result<R>,
    ) -> Result<R> {
        let call = Call {
            operation,
            keys,
            locks: 0,
        };
        let decision = self.begin(&call);
        self.finish(&call, decision.fault, op)
    }

    /// Runs a `set` or `delete` of `keys`. `op` is given the positions that it applies, or `None` for
    /// all of them.
    fn write(
        &self,
        operation: Operation,
        keys: &[Key<'_>],
        op: impl FnOnce(&D, Option<&[usize]>) -> Result<()>,
    ) -> Result<()> {
        let call = Call {
            operation,
            keys,
            locks: 0,
        };
        let decision = self.begin(&call);
        if decision.fault != Some(Fault::Partial) {
            return self.finish(&call, decision.fault, |inner| op(inner, None));
        }
        let is_chosen = |position: &usize| decision.choice.rotate_right(*position as u32) & 1 == 1;
        let mut chosen: Vec<usize> = (0..keys.len()).filter(is_chosen).collect();
        if chosen.len() == keys.len() {
            chosen.pop();
        }
        op(&self.inner, Some(&chosen))?;
        self.log(&call, Fault::Partial, !chosen.is_empty());
        Err(Error::Unavailable(source()))
    }

    fn commit_as(
        &self,
        operation: Operation,
        batch: &BatchRef<'_, D::Data>,
        op: impl FnOnce(&D) -> Result<Version>,
    ) -> Result<Version> {
        // Refused by the inner database.
        if batch.validate().is_err() {
            return op(&self.inner);
        }
        let keys: Vec<Key<'_>> = batch.keys().map(KeyBuf::as_key).collect();
        let call = Call {
            operation,
            keys: &keys,
            locks: batch.locks.len() + batch.checks.len(),
        };
        let decision = self.begin(&call);
        if decision.fault == Some(Fault::Conflict) {
            let position = decision.choice as usize % call.locks;
            let mut locks = batch.locks.iter().chain(batch.checks);
            let rival = locks
                .nth(position)
                .map(|lock| Batch::new().lock(lock.clone()));
            // If it fails, the lock had changed before, or the caller gets the same error.
            if rival.is_some_and(|rival| self.inner.commit(&rival).is_ok()) {
                self.log(&call, Fault::Conflict, false);
            }
        }
        self.finish(&call, decision.fault, op)
    }
}

fn source() -> crate::BoxError {
    "injected by FaultyDb".into()
}

fn query_key(query: &Query) -> Key<'_> {
    Key::new(&query.pk, &query.prefix)
}

#[deny(clippy::missing_trait_methods)]
impl<D: AtomicDb> AtomicDb for FaultyDb<D> {
    type Data = D::Data;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        self.read(Operation::Get, &[key], |inner| inner.get(key))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        self.read(Operation::GetFresh, &[key], |inner| inner.get_fresh(key))
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        self.read(Operation::GetMany, keys, |inner| inner.get_many(keys))
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        let read = |inner: &D| inner.get_many_fresh(keys);
        self.read(Operation::GetManyFresh, keys, read)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.read(Operation::GetLock, &[key], |inner| inner.get_lock(key))
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        self.read(Operation::GetLocks, keys, |inner| inner.get_locks(keys))
    }

    fn set(&self, items: &[Item<Self::Data>]) -> Result<()> {
        let keys: Vec<Key<'_>> = items.iter().map(Item::key).collect();
        self.write(Operation::Set, &keys, |inner, chosen| match chosen {
            None => inner.set(items),
            Some(chosen) => {
                let chosen = chosen.iter().map(|position| items[*position].clone());
                inner.set(&chosen.collect::<Vec<_>>())
            }
        })
    }

    fn commit(&self, batch: &Batch<Self::Data>) -> Result<Version> {
        let commit = |inner: &D| inner.commit(batch);
        self.commit_as(Operation::Commit, &batch.as_batch_ref(), commit)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.write(Operation::Delete, keys, |inner, chosen| match chosen {
            None => inner.delete(keys),
            Some(chosen) => {
                let chosen = chosen.iter().map(|position| keys[*position]);
                inner.delete(&chosen.collect::<Vec<_>>())
            }
        })
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Self::Data>> {
        let call = Call {
            operation: Operation::Page,
            keys: &[query_key(query)],
            locks: 0,
        };
        let decision = self.begin(&call);
        let mut page = self.finish(&call, decision.fault, |inner| inner.page(query, after))?;
        if decision.fault == Some(Fault::ShortPage) && page.items.len() > 1 {
            let kept = 1 + decision.choice as usize % (page.items.len() - 1);
            page.items.truncate(kept);
            page.next = page.items.last().map(|item| item.sk().to_owned());
            self.log(&call, Fault::ShortPage, false);
        }
        Ok(page)
    }

    fn set_atomic(&self, items: &[Item<Self::Data>], locks: &[Lock]) -> Result<Version> {
        let commit = |inner: &D| inner.set_atomic(items, locks);
        match BatchRef::for_set_atomic(items, locks) {
            Ok(batch) => self.commit_as(Operation::SetAtomic, &batch, commit),
            // Refused by the inner database.
            Err(_) => commit(&self.inner),
        }
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<Self::Data>>> {
        let read = |inner: &D| inner.query(query);
        self.read(Operation::Query, &[query_key(query)], read)
    }

    /// Reads pages, each of which may get a fault.
    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>> {
        Stream::new(query, |query, after| self.page(query, after))
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.inner.retry_queue()
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        self.inner.transaction_observer()
    }
}

/// A fault ends the scan with its error, after up to seven items.
impl<D: Scan> Scan for FaultyDb<D> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<Self::Data>>> + '_> {
        let call = Call {
            operation: Operation::Scan,
            keys: &[],
            locks: 0,
        };
        let decision = self.begin(&call);
        let scan = self.inner.scan();
        match self.finish(&call, decision.fault, |_| Ok(())) {
            Ok(()) => scan,
            Err(error) => {
                let items = scan.take(decision.choice as usize % 8);
                // It ends after its first error, which may be one of the inner database.
                let mut has_failed = false;
                Box::new(items.chain([Err(error)]).take_while(move |item| {
                    let had_failed = has_failed;
                    has_failed |= item.is_err();
                    !had_failed
                }))
            }
        }
    }
}

/// Shows the inner database and the rules.
impl<D: fmt::Debug> fmt::Debug for FaultyDb<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDb")
            .field("inner", &self.inner)
            .field("plan", &self.plan)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
