use crate::sync::Arc;
use crate::version::random_u64;
use crate::{AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, Result, SystemClock};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::time::Duration;

mod private {
    pub trait Sealed {}
    impl<D: crate::AtomicDb + ?Sized> Sealed for D {}
}

/// What every [`AtomicDb`] can do besides: transactions that run again after a race, and the
/// single-item forms of calls that take many.
///
/// It is there for every database, trait objects included, and is implemented by this crate alone.
pub trait AtomicDbExt: AtomicDb + private::Sealed {
    /// Runs `body` and commits what it asked for, again after each race, as the default
    /// [`Retry`] says.
    ///
    /// The [`Transaction`] keeps the order *locks first, then fresh reads, then the commit*. The
    /// body may run several times, so it should do nothing that must be done once; none of its
    /// writes is seen before the commit. No mutex is held while it runs.
    ///
    /// Each read of the body is fresh, but two of them are not one instant: where somebody commits
    /// between them, this run will lose its race, and has seen both states by then. So the body
    /// must not panic or loop for ever over data that cannot be, and an error that rests on two
    /// reads may be about a state that never was.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, MemoryDb};
    ///
    /// let db = MemoryDb::new();
    /// let balance = db.transact(|tx| {
    ///     tx.lock(("account#1", "lock"))?;
    ///     let item = tx.get(("account#1", "balance"))?;
    ///     let balance = item.and_then(|item| item.data().copied()).unwrap_or(0) + 10;
    ///     tx.set(Item::new("account#1", "balance", balance))?;
    ///     Ok(balance)
    /// })?;
    /// assert_eq!(balance, 10);
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - Whatever `body` returns, at once and as it is. Nothing was written.
    /// - [`Exhausted`](Error::Exhausted): every attempt lost a race. Nothing was written.
    /// - What [`commit`](AtomicDb::commit) returns, but for a race.
    fn transact<R>(&self, body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R>) -> Result<R> {
        self.try_transact(body)
    }

    /// [`transact`](AtomicDbExt::transact) for a body with an error type of its own, which comes
    /// back as it is.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, AtomicDbExt, Error, Item, MemoryDb};
    ///
    /// #[derive(Debug)]
    /// enum Refusal {
    ///     Poor { balance: u32 },
    ///     Db(Error),
    /// }
    ///
    /// impl From<Error> for Refusal {
    ///     fn from(error: Error) -> Self {
    ///         Refusal::Db(error)
    ///     }
    /// }
    ///
    /// let db = MemoryDb::new();
    /// db.set(&[Item::new("account#1", "balance", 5_u32)])?;
    /// let refused = db.try_transact(|tx| {
    ///     tx.lock(("account#1", "lock"))?;
    ///     let item = tx.get(("account#1", "balance"))?;
    ///     let balance = item.and_then(|item| item.data().copied()).unwrap_or(0);
    ///     let rest = balance.checked_sub(10).ok_or(Refusal::Poor { balance })?;
    ///     tx.set(Item::new("account#1", "balance", rest))?;
    ///     Ok(())
    /// });
    /// assert!(matches!(refused, Err(Refusal::Poor { balance: 5 })));
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`transact`](AtomicDbExt::transact).
    fn try_transact<R, E: From<Error>>(
        &self,
        body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.try_transact_with(&Retry::default(), body)
    }

    /// [`transact`](AtomicDbExt::transact) with attempts, deadline, back-off and clock of your own.
    ///
    /// # Errors
    ///
    /// Those of [`transact`](AtomicDbExt::transact).
    fn transact_with<R>(
        &self,
        retry: &Retry,
        body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R>,
    ) -> Result<R> {
        self.try_transact_with(retry, body)
    }

    /// [`try_transact`](AtomicDbExt::try_transact) with attempts, deadline, back-off and clock of
    /// your own.
    ///
    /// # Errors
    ///
    /// Those of [`transact`](AtomicDbExt::transact).
    fn try_transact_with<R, E: From<Error>>(
        &self,
        retry: &Retry,
        mut body: impl FnMut(&mut Transaction<'_, Self>) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut attempts = Attempts::new(retry);
        loop {
            let mut transaction = Transaction::new(self);
            let result = body(&mut transaction)?;
            match transaction.commit() {
                Ok(()) => return Ok(result),
                Err(race) if race.is_race_condition() => attempts.pause_after(race)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes one item: [`set`](AtomicDb::set) of a single one.
    ///
    /// # Errors
    ///
    /// Those of [`set`](AtomicDb::set).
    fn set_one(&self, item: Item<Self::Data>) -> Result<()> {
        self.set(&[item])
    }

    /// Writes `item` if no live item is at its key: a [`commit`](AtomicDb::commit) that only
    /// creates it. Of any number of callers at once, one succeeds.
    ///
    /// ```
    /// use atomic_db::{AtomicDbExt, Error, Item, MemoryDb};
    ///
    /// let db = MemoryDb::new();
    /// db.create(Item::new("user#1", "name", "Ada"))?;
    /// let again = db.create(Item::new("user#1", "name", "Bob"));
    /// assert!(matches!(again, Err(Error::AlreadyExists { key }) if key.sk() == "name"));
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`commit`](AtomicDb::commit), of which
    /// [`AlreadyExists`](Error::AlreadyExists) is the ordinary one.
    fn create(&self, item: Item<Self::Data>) -> Result<()> {
        self.commit(&Batch::new().create(item)).map(drop)
    }

    /// Removes what is at one key, item or lock: [`delete`](AtomicDb::delete) of a single one.
    ///
    /// # Errors
    ///
    /// Those of [`delete`](AtomicDb::delete).
    fn delete_one<'k>(&self, key: impl Into<Key<'k>>) -> Result<()> {
        self.delete(&[key.into()])
    }

    /// Whether a live item is at `key`, as [`get`](AtomicDb::get) sees it.
    ///
    /// # Errors
    ///
    /// Those of [`get`](AtomicDb::get).
    fn contains<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        Ok(self.get(key.into())?.is_some())
    }
}

impl<D: AtomicDb + ?Sized> AtomicDbExt for D {}

/// What one run of a [`transact`](AtomicDbExt::transact) body reads and asks to write.
///
/// Locks come first, then reads, which are always [fresh](AtomicDb::get_fresh); the writes are
/// committed when the body has returned, if every lock is still as it was read. A read sees the
/// transaction's own writes.
pub struct Transaction<'a, D: AtomicDb + ?Sized> {
    db: &'a D,
    locks: BTreeMap<KeyBuf, Guard>,
    writes: BTreeMap<KeyBuf, Write<D::Data>>,
    has_read: bool,
}

struct Guard {
    lock: Lock,
    renew: bool,
}

enum Write<T> {
    Set(Item<T>),
    Create(Item<T>),
    Delete,
}

impl<'a, D: AtomicDb + ?Sized> Transaction<'a, D> {
    fn new(db: &'a D) -> Self {
        Transaction {
            db,
            locks: BTreeMap::new(),
            writes: BTreeMap::new(),
            has_read: false,
        }
    }

    /// Reads the lock at `key`. The commit demands that it is unchanged and renews it, so everybody
    /// else who holds it loses. Locking a key again changes nothing.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](Error::InvalidInput): something was read already, and a lock that is read
    ///   after the data proves nothing about it; or this transaction writes at `key`.
    /// - Those of [`get_lock`](AtomicDb::get_lock).
    pub fn lock<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Lock> {
        self.guard(key.into(), true)
    }

    /// Reads the lock at `key`. The commit demands that it is unchanged and leaves it as it is, so
    /// others who check it do not lose. A key that is locked and checked is locked.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Transaction::lock).
    pub fn check<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Lock> {
        self.guard(key.into(), false)
    }

    fn guard(&mut self, key: Key<'_>, renew: bool) -> Result<Lock> {
        if self.writes.contains_key(&key.to_buf()) {
            return Err(locked_and_written(key));
        }
        let guard = match self.locks.entry(key.to_buf()) {
            Entry::Occupied(guard) => guard.into_mut(),
            Entry::Vacant(_) if self.has_read => {
                return Err(Error::InvalidInput(format!(
                    "the lock {key} is asked for after a get: in a transaction all locks come first, for a lock that is read after the data proves nothing about it"
                )));
            }
            Entry::Vacant(place) => place.insert(Guard {
                lock: self.db.get_lock(key)?,
                renew,
            }),
        };
        guard.renew |= renew;
        Ok(guard.lock.clone())
    }

    /// Reads the live item at `key`: what this transaction writes there, or else what the database
    /// holds, never what a cache holds.
    ///
    /// # Errors
    ///
    /// Those of [`get_fresh`](AtomicDb::get_fresh).
    pub fn get<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<Option<Item<D::Data>>> {
        let key = key.into();
        self.has_read = true;
        match self.writes.get(&key.to_buf()) {
            Some(Write::Set(item) | Write::Create(item)) => Ok(Some(item.clone())),
            Some(Write::Delete) => Ok(None),
            None => self.db.get_fresh(key),
        }
    }

    /// Writes `item` at the commit, whatever is there. Of several writes to one key the last one
    /// stands.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](Error::InvalidInput): the key is one of this transaction's locks.
    pub fn set(&mut self, item: Item<D::Data>) -> Result<()> {
        let key = self.writable(item.key())?;
        let write = match self.writes.get(&key) {
            // That nothing was there is still demanded.
            Some(Write::Create(_)) => Write::Create(item),
            _ => Write::Set(item),
        };
        self.writes.insert(key, write);
        Ok(())
    }

    /// Writes `item` at the commit, and demands that no live item is there: otherwise the
    /// transaction ends with [`AlreadyExists`](Error::AlreadyExists).
    ///
    /// # Errors
    ///
    /// - [`AlreadyExists`](Error::AlreadyExists): this transaction writes an item there itself.
    /// - [`InvalidInput`](Error::InvalidInput): the key is one of this transaction's locks.
    pub fn create(&mut self, item: Item<D::Data>) -> Result<()> {
        let key = self.writable(item.key())?;
        let write = match self.writes.get(&key) {
            None => Write::Create(item),
            Some(Write::Delete) => Write::Set(item),
            Some(Write::Set(_) | Write::Create(_)) => return Err(Error::AlreadyExists { key }),
        };
        self.writes.insert(key, write);
        Ok(())
    }

    /// Removes what is at `key` at the commit, item or lock.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](Error::InvalidInput): the key is one of this transaction's locks, or an item
    /// that it creates: a commit cannot demand that nothing is there and leave it so.
    pub fn delete<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<()> {
        let key = self.writable(key.into())?;
        if let Some(Write::Create(_)) = self.writes.get(&key) {
            return Err(Error::InvalidInput(format!(
                "{key} is created and deleted in one transaction"
            )));
        }
        self.writes.insert(key, Write::Delete);
        Ok(())
    }

    fn writable(&self, key: Key<'_>) -> Result<KeyBuf> {
        let key = key.to_buf();
        if self.locks.contains_key(&key) {
            return Err(locked_and_written(key.as_key()));
        }
        Ok(key)
    }

    fn commit(self) -> Result<()> {
        let mut batch = Batch::new();
        for guard in self.locks.into_values() {
            batch = match guard.renew {
                true => batch.lock(guard.lock),
                false => batch.check(guard.lock),
            };
        }
        for (key, write) in self.writes {
            batch = match write {
                Write::Set(item) => batch.set(item),
                Write::Create(item) => batch.create(item),
                Write::Delete => batch.delete(key),
            };
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.db.commit(&batch).map(drop)
    }
}

fn locked_and_written(key: Key<'_>) -> Error {
    Error::InvalidInput(format!(
        "{key} is locked and written in one transaction: a lock lives beside the data, under a key of its own"
    ))
}

impl<D: AtomicDb + ?Sized> fmt::Debug for Transaction<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("locks", &self.locks.keys())
            .field("writes", &self.writes.keys())
            .finish_non_exhaustive()
    }
}

/// How often, how long and how fast a transaction is tried again after it lost a race.
///
/// The pause before each further attempt is drawn evenly between nothing and a ceiling that
/// doubles each time ("full jitter"), so that those who collided once do not collide again in step.
///
/// # Defaults
///
/// 32 attempts, no deadline, a first ceiling of 200 microseconds and a last one of 250
/// milliseconds, on the [`SystemClock`]. That is a mean of some 3 seconds if every attempt loses.
///
/// ```
/// use atomic_db::{AtomicDbExt, MemoryDb, Retry};
/// use std::time::Duration;
///
/// let retry = Retry::new()
///     .attempts(10)
///     .deadline(Duration::from_secs(2))
///     .backoff(Duration::from_millis(5), Duration::from_millis(500));
/// let db = MemoryDb::<u32>::new();
/// db.transact_with(&retry, |tx| tx.lock(("account#1", "lock")).map(drop))?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Retry {
    attempts: u32,
    deadline: Option<Duration>,
    first: Duration,
    ceiling: Duration,
    clock: Arc<dyn Clock>,
}

impl Retry {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Retry {
            attempts: 32,
            deadline: None,
            first: Duration::from_micros(200),
            ceiling: Duration::from_millis(250),
            clock: Arc::new(SystemClock),
        }
    }

    /// How often the body is run at most; zero counts as one.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// How long after the beginning of the first attempt another one may begin. A pause is cut
    /// short where it would pass the deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The ceiling of the first pause, which doubles with each further one, and the ceiling that it
    /// grows to.
    #[must_use]
    pub fn backoff(mut self, first: Duration, ceiling: Duration) -> Self {
        self.first = first;
        self.ceiling = ceiling;
        self
    }

    /// The clock that pauses and deadline are measured on.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry::new()
    }
}

/// The attempts that one transaction has made.
struct Attempts<'a> {
    retry: &'a Retry,
    made: u32,
    began: Option<Duration>,
}

impl<'a> Attempts<'a> {
    fn new(retry: &'a Retry) -> Self {
        Attempts {
            retry,
            made: 0,
            // A transaction without a deadline asks no clock.
            began: retry.deadline.map(|_| retry.clock.now()),
        }
    }

    /// Counts an attempt that ended in `race`, and pauses before the next one.
    ///
    /// # Errors
    ///
    /// [`Error::Exhausted`] if there is to be no next one.
    fn pause_after(&mut self, race: Error) -> Result<()> {
        self.made += 1;
        let left = self.time_left();
        if self.made >= self.retry.attempts || left == Some(Duration::ZERO) {
            return Err(Error::Exhausted {
                attempts: self.made,
                source: Box::new(race),
            });
        }
        let doubled = 2_u32.checked_pow(self.made - 1).unwrap_or(u32::MAX);
        let ceiling = self
            .retry
            .first
            .saturating_mul(doubled)
            .min(self.retry.ceiling);
        let pause = random_below(ceiling);
        self.retry
            .clock
            .sleep(left.map_or(pause, |left| pause.min(left)));
        Ok(())
    }

    fn time_left(&self) -> Option<Duration> {
        let deadline = self.began?.saturating_add(self.retry.deadline?);
        Some(deadline.saturating_sub(self.retry.clock.now()))
    }
}

/// A duration between nothing and `ceiling`, both included.
fn random_below(ceiling: Duration) -> Duration {
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(match nanos.checked_add(1) {
        Some(choices) => random_u64() % choices,
        None => random_u64(),
    })
}
