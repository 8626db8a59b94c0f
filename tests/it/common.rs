//! What the other modules look into a database with.

use atomic_db::{
    AtomicDb, Batch, Clock, Item, Key, Lock, ManualClock, Page, Query, Result, Version,
};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a call may make no progress before a test fails instead of hanging.
pub(crate) const HANG_LIMIT: Duration = Duration::from_secs(60);

/// The methods of a database, by what the database itself is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Get,
    GetFresh,
    GetMany,
    GetLock,
    Set,
    Commit,
    Delete,
    Page,
    Query,
}

/// On which side of the call into the database within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

type Hook = dyn Fn(Call, Moment) -> Result<()> + Send + Sync;

/// A database that runs a hook before and after every call to the one within. The hook may count,
/// pause, panic, call the database, or fail: before the call nothing has happened then, after it the
/// answer is lost.
#[derive(Clone)]
pub(crate) struct Hooked<D> {
    pub(crate) inner: D,
    hook: Arc<Hook>,
}

impl<D> Hooked<D> {
    pub(crate) fn new(
        inner: D,
        hook: impl Fn(Call, Moment) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Hooked {
            inner,
            hook: Arc::new(hook),
        }
    }

    fn around<R>(&self, call: Call, act: impl FnOnce(&D) -> Result<R>) -> Result<R> {
        (self.hook)(call, Moment::Before)?;
        let result = act(&self.inner)?;
        (self.hook)(call, Moment::After)?;
        Ok(result)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: AtomicDb> AtomicDb for Hooked<D> {
    type Data = D::Data;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        self.around(Call::Get, |inner| inner.get(key))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        self.around(Call::GetFresh, |inner| inner.get_fresh(key))
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        self.around(Call::GetMany, |inner| inner.get_many(keys))
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.around(Call::GetLock, |inner| inner.get_lock(key))
    }

    fn set(&self, items: &[Item<Self::Data>]) -> Result<()> {
        self.around(Call::Set, |inner| inner.set(items))
    }

    fn commit(&self, batch: &Batch<Self::Data>) -> Result<Version> {
        self.around(Call::Commit, |inner| inner.commit(batch))
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.around(Call::Delete, |inner| inner.delete(keys))
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Self::Data>> {
        self.around(Call::Page, |inner| inner.page(query, after))
    }

    fn set_atomic(&self, items: &[Item<Self::Data>], locks: &[Lock]) -> Result<Version> {
        self.around(Call::Commit, |inner| inner.set_atomic(items, locks))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<Self::Data>>> {
        self.around(Call::Query, |inner| inner.query(query))
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>> {
        self.inner.stream(query)
    }
}

/// Where a thread stops at a chosen moment until it is let go.
pub(crate) struct Gate {
    /// Says that somebody has come.
    pub(crate) arrived: mpsc::Receiver<()>,
    /// Lets whoever has come go on.
    pub(crate) go_on: mpsc::Sender<()>,
}

impl Gate {
    /// A database that stops the first `call` at `moment`, and the gate that it stops at.
    pub(crate) fn before_or_after<D>(inner: D, call: Call, moment: Moment) -> (Hooked<D>, Gate) {
        let (arrive, arrived) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let stop = Mutex::new(Some((arrive, may_go_on)));
        let hooked = Hooked::new(inner, move |called, at| {
            if (called, at) == (call, moment) {
                let first = stop.lock().unwrap().take();
                if let Some((arrive, may_go_on)) = first {
                    arrive.send(()).unwrap();
                    may_go_on.recv().unwrap();
                }
            }
            Ok(())
        });
        (hooked, Gate { arrived, go_on })
    }
}

/// A [`ManualClock`] that keeps every pause that was made on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pauses {
    pub(crate) clock: ManualClock,
    made: Arc<Mutex<Vec<Duration>>>,
}

impl Pauses {
    /// The pauses since this was last asked.
    pub(crate) fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut self.made.lock().unwrap())
    }
}

impl Clock for Pauses {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn sleep(&self, duration: Duration) {
        self.made.lock().unwrap().push(duration);
        self.clock.sleep(duration);
    }
}

/// The data at `key`, as `get` sees it.
pub(crate) fn data<T: Clone>(db: &impl AtomicDb<Data = T>, key: Key<'_>) -> Option<T> {
    db.get(key).unwrap().and_then(|item| item.data().cloned())
}

/// The sort keys of `items`, in order.
pub(crate) fn sks<T>(items: &[Item<T>]) -> Vec<&str> {
    items.iter().map(Item::sk).collect()
}
