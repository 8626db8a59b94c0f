//! What is recorded: accounts with a lock each, and shelves with one lock for all their places.

use super::{Action, Commit, History, Op, Outcome, Seen, Value, Write};
use atomic_db::{AtomicDb, Batch, Error, Item, Key, KeyBuf, Lock, Query};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one thread does.
pub(crate) type Job = Box<dyn FnOnce() -> Vec<Op> + Send>;

/// What every account begins with. Transfers leave the sum as it is.
pub(crate) const BALANCE: i64 = 100;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) accounts: usize,
    pub(crate) shelves: usize,
    /// On each shelf, where an item may be or not.
    pub(crate) places: usize,
    pub(crate) threads: usize,
    /// By each thread, or a few more.
    pub(crate) calls: usize,
    /// Chooses what is called. What the threads meet is up to them.
    pub(crate) seed: u64,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Workload {
    /// Opens the accounts, has the threads do their work as `together` runs them, and reads
    /// everything at the end. Returns the history and the sum of the accounts.
    ///
    /// Calls are stamped by the standard library's atomics, also under a model checker: the
    /// stamps are outside of what is checked, and as close to each call as can be.
    pub(crate) fn run<D>(
        self,
        db: &Arc<D>,
        together: impl FnOnce(Vec<Job>) -> Vec<Vec<Op>>,
    ) -> (History, i64)
    where
        D: AtomicDb<Data = String> + Send + Sync + 'static,
    {
        let clock = Arc::new(AtomicU64::new(0));
        let mut first = Actor::new(db, &clock, self, 0);
        first.open_accounts();
        let jobs = (1..=self.threads).map(|thread| {
            let mut actor = Actor::new(db, &clock, self, thread);
            Box::new(move || {
                actor.work();
                actor.ops
            }) as Job
        });
        let by_thread = together(jobs.collect());
        let sum = first.read_everything();
        let mut ops = first.ops;
        ops.extend(by_thread.into_iter().flatten());
        (History { ops }, sum)
    }

    pub(crate) fn sum(self) -> i64 {
        BALANCE * self.accounts as i64
    }
}

/// Steele, Lea and Flood's splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 32) as usize % end.max(1)
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Between `least` and `most` different numbers below `end`.
    fn some_below(&mut self, end: usize, least: usize, most: usize) -> Vec<usize> {
        let wanted = (least + self.below(most - least + 1)).min(end);
        let mut numbers: Vec<usize> = (0..end).collect();
        for place in 0..wanted {
            let other = place + self.below(end - place);
            numbers.swap(place, other);
        }
        numbers.truncate(wanted);
        numbers
    }
}

/// An item as the workload knows it: what names its value, and what is in it.
type Found = Option<(Value, i64)>;

fn found<T: AsRef<str>>(item: Option<&Item<T>>) -> Found {
    item.map(|item| {
        let text = item.data().map_or("", |data| data.as_ref());
        let parts = text.split_once(' ');
        let parsed = parts.and_then(|(value, sum)| value.parse().ok().zip(sum.parse().ok()));
        parsed.unwrap_or_else(|| panic!("{} holds {text:?}", item.key()))
    })
}

/// A commit in the making.
#[derive(Default)]
struct Plan {
    locks: Vec<Lock>,
    checks: Vec<Lock>,
    rests_on: Vec<Seen>,
    writes: Vec<(Write, Option<Item<String>>)>,
}

/// One thread, and what it has done so far.
struct Actor<D> {
    db: Arc<D>,
    clock: Arc<AtomicU64>,
    shape: Workload,
    thread: usize,
    random: Random,
    written: u64,
    /// Locks as this thread last knew them. It often goes on with one without reading it again.
    pocket: BTreeMap<KeyBuf, Lock>,
    ops: Vec<Op>,
}

impl<D: AtomicDb<Data = String>> Actor<D> {
    fn new(db: &Arc<D>, clock: &Arc<AtomicU64>, shape: Workload, thread: usize) -> Self {
        let mut seeds = Random(shape.seed ^ thread as u64);
        Actor {
            db: Arc::clone(db),
            clock: Arc::clone(clock),
            shape,
            thread,
            random: Random(seeds.next()),
            written: 0,
            pocket: BTreeMap::new(),
            ops: Vec::new(),
        }
    }

    fn account(number: usize) -> KeyBuf {
        KeyBuf::new(format!("account {number}"), "balance")
    }

    fn place(shelf: usize, place: usize) -> KeyBuf {
        KeyBuf::new(format!("shelf {shelf}"), format!("place {place}"))
    }

    /// In the same partition as what it guards.
    fn guard_of(key: &KeyBuf) -> KeyBuf {
        KeyBuf::new(key.pk(), "lock")
    }

    fn places(&self, shelf: usize) -> Vec<KeyBuf> {
        let places = 0..self.shape.places;
        places.map(|place| Self::place(shelf, place)).collect()
    }

    fn open_accounts(&mut self) {
        for number in 0..self.shape.accounts {
            let key = Self::account(number);
            let mut plan = Plan::default();
            plan.locks.push(self.read_lock(&Self::guard_of(&key)));
            self.write(&mut plan, &key, 0, Some(BALANCE), true);
            self.commit(plan);
        }
    }

    fn read_everything(&mut self) -> i64 {
        let accounts: Vec<KeyBuf> = (0..self.shape.accounts).map(Self::account).collect();
        let balances = self.read_many(&accounts);
        for key in &accounts {
            self.read_fresh(key);
            self.read_lock(&Self::guard_of(key));
        }
        for shelf in 0..self.shape.shelves {
            self.query(shelf);
            self.read_lock(&Self::guard_of(&Self::place(shelf, 0)));
        }
        let held = balances.into_iter().flatten();
        held.map(|(_, balance)| balance).sum()
    }

    fn work(&mut self) {
        while self.ops.len() < self.shape.calls {
            match self.random.below(16) {
                0..=3 => self.transfer(),
                4 => self.look_at_one(),
                5..=6 => self.look_at_many(),
                7 => {
                    let shelf = self.random.below(self.shape.shelves);
                    self.query(shelf);
                }
                8..=10 => self.restock(),
                11..=13 => self.note_in_passing(),
                14 => self.create_blindly(),
                _ => self.delete_a_lock(),
            }
        }
    }

    /// Moves money between two or three accounts.
    fn transfer(&mut self) {
        let accounts = self.random.some_below(self.shape.accounts, 2, 3);
        let keys: Vec<KeyBuf> = accounts.into_iter().map(Self::account).collect();
        let mut plan = Plan::default();
        for key in &keys {
            plan.locks.push(self.lock(&Self::guard_of(key)));
        }
        let balances = match self.random.one_in(3) {
            true => self.read_many(&keys),
            false => keys.iter().map(|key| self.read_fresh(key)).collect(),
        };
        let amount = self.random.below(20) as i64;
        for (place, (key, balance)) in keys.iter().zip(&balances).enumerate() {
            let change = match place {
                0 => -amount,
                1 => amount,
                _ => 0,
            };
            let after = balance.map_or(0, |(_, balance)| balance) + change;
            self.rest_on(&mut plan, key, *balance);
            self.write(&mut plan, key, place, Some(after), false);
        }
        self.commit(plan);
    }

    fn look_at_one(&mut self) {
        let key = self.any_key();
        match self.random.one_in(4) {
            true => self.read_fresh(&key),
            false => self.read(&key),
        };
    }

    /// Also the same key twice.
    fn look_at_many(&mut self) {
        let many = 2 + self.random.below(4);
        let keys: Vec<KeyBuf> = (0..many).map(|_| self.any_key()).collect();
        self.read_many(&keys);
    }

    /// Reads a shelf under its lock, and changes some of its places. Now and then it rests on
    /// an account too, which it only checks.
    fn restock(&mut self) {
        let shelf = self.random.below(self.shape.shelves);
        let guard = Self::guard_of(&Self::place(shelf, 0));
        let mut plan = Plan::default();
        plan.locks.push(self.lock(&guard));
        if self.random.one_in(2) {
            let account = Self::account(self.random.below(self.shape.accounts));
            plan.checks.push(self.lock(&Self::guard_of(&account)));
            let balance = self.read_fresh(&account);
            self.rest_on(&mut plan, &account, balance);
        }
        let keys = self.places(shelf);
        let there = match self.random.one_in(2) {
            true => self.query(shelf),
            false => self.read_many(&keys),
        };
        for (key, found) in keys.iter().zip(&there) {
            self.rest_on(&mut plan, key, *found);
        }
        for place in self.random.some_below(self.shape.places, 1, 3) {
            let create = there[place].is_none() && self.random.one_in(2);
            let delete = there[place].is_some() && self.random.one_in(2);
            let sum = (!delete).then_some(1);
            self.write(&mut plan, &keys[place], 0, sum, create);
        }
        self.commit(plan);
    }

    /// Writes an account after a look at a place, whose shelf it only checks.
    fn note_in_passing(&mut self) {
        let shelf = self.random.below(self.shape.shelves);
        let place = Self::place(shelf, self.random.below(self.shape.places));
        let account = Self::account(self.random.below(self.shape.accounts));
        let mut plan = Plan::default();
        plan.checks.push(self.lock(&Self::guard_of(&place)));
        let found = self.read(&place);
        self.rest_on(&mut plan, &place, found);
        plan.locks.push(self.lock(&Self::guard_of(&account)));
        let balance = self.read_fresh(&account);
        self.rest_on(&mut plan, &account, balance);
        let after = balance.map_or(0, |(_, balance)| balance);
        self.write(&mut plan, &account, 0, Some(after), false);
        self.commit(plan);
    }

    /// Creates what may be there.
    fn create_blindly(&mut self) {
        let shelf = self.random.below(self.shape.shelves);
        let mut plan = Plan::default();
        plan.locks
            .push(self.lock(&Self::guard_of(&Self::place(shelf, 0))));
        for place in self.random.some_below(self.shape.places, 1, 2) {
            self.write(&mut plan, &Self::place(shelf, place), 0, Some(1), true);
        }
        self.commit(plan);
    }

    /// Deletes a lock that it does not hold, alone or with a write that another lock guards.
    /// Who holds it has lost then, also when it is made again.
    fn delete_a_lock(&mut self) {
        let gone = Self::guard_of(&self.any_key());
        let mut plan = Plan::default();
        let shelf = self.random.below(self.shape.shelves);
        let place = Self::place(shelf, self.random.below(self.shape.places));
        let guard = Self::guard_of(&place);
        if guard != gone && self.random.one_in(2) {
            plan.locks.push(self.lock(&guard));
            self.write(&mut plan, &place, 0, Some(1), false);
        }
        let write = Write {
            key: gone,
            guard: None,
            value: None,
            create: false,
        };
        plan.writes.push((write, None));
        self.commit(plan);
    }

    fn any_key(&mut self) -> KeyBuf {
        let places = self.shape.shelves * self.shape.places;
        match self.random.below(self.shape.accounts + places) {
            place if place < places => {
                Self::place(place / self.shape.places, place % self.shape.places)
            }
            other => Self::account(other - places),
        }
    }

    fn rest_on(&self, plan: &mut Plan, key: &KeyBuf, found: Found) {
        let value = found.map(|(value, _)| value);
        plan.rests_on.push((key.clone(), value));
    }

    /// Adds the write of a value that nobody else writes, or a deletion.
    fn write(
        &mut self,
        plan: &mut Plan,
        key: &KeyBuf,
        guard: usize,
        sum: Option<i64>,
        create: bool,
    ) {
        self.written += 1;
        let value = (self.thread as u64) << 40 | self.written;
        let write = Write {
            key: key.clone(),
            guard: Some(guard),
            value: sum.map(|_| value),
            create,
        };
        let item = sum.map(|sum| Item::new(key.pk(), key.sk(), format!("{value} {sum}")));
        plan.writes.push((write, item));
    }

    fn record<R>(&mut self, call: impl FnOnce(&D) -> R, tell: impl FnOnce(&R) -> Action) -> R {
        let invoked = self.clock.fetch_add(1, Ordering::SeqCst);
        let result = call(&self.db);
        let returned = self.clock.fetch_add(1, Ordering::SeqCst);
        self.ops.push(Op {
            thread: self.thread,
            invoked,
            returned,
            action: tell(&result),
        });
        result
    }

    /// The lock, as this thread remembers it or as it is.
    fn lock(&mut self, key: &KeyBuf) -> Lock {
        match self.pocket.get(key) {
            Some(lock) if self.random.one_in(3) => lock.clone(),
            _ => self.read_lock(key),
        }
    }

    fn read_lock(&mut self, key: &KeyBuf) -> Lock {
        let lock = self.record(
            |db| db.get_lock(key.as_key()).unwrap(),
            |lock| Action::ReadLock(key.clone(), lock.version()),
        );
        self.pocket.insert(key.clone(), lock.clone());
        lock
    }

    fn read(&mut self, key: &KeyBuf) -> Found {
        self.record(
            |db| found(db.get(key.as_key()).unwrap().as_ref()),
            |found| Action::Read("get", vec![(key.clone(), found.map(|(value, _)| value))]),
        )
    }

    fn read_fresh(&mut self, key: &KeyBuf) -> Found {
        self.record(
            |db| found(db.get_fresh(key.as_key()).unwrap().as_ref()),
            |found| {
                let seen = vec![(key.clone(), found.map(|(value, _)| value))];
                Action::Read("get_fresh", seen)
            },
        )
    }

    fn read_many(&mut self, keys: &[KeyBuf]) -> Vec<Found> {
        let borrowed: Vec<Key<'_>> = keys.iter().map(KeyBuf::as_key).collect();
        self.record(
            |db| {
                let items = db.get_many(&borrowed).unwrap();
                assert_eq!(items.len(), keys.len());
                items.iter().map(|item| found(item.as_ref())).collect()
            },
            |all: &Vec<Found>| {
                let values = all.iter().map(|found| found.map(|(value, _)| value));
                Action::Read("get_many", keys.iter().cloned().zip(values).collect())
            },
        )
    }

    /// All places of a shelf, also where nothing is.
    fn query(&mut self, shelf: usize) -> Vec<Found> {
        let keys = self.places(shelf);
        let query = Query::new(keys[0].pk());
        let query = match self.random.below(3) {
            0 => query,
            1 => query.prefix("place"),
            _ => query.reverse(),
        };
        self.record(
            |db| {
                let items = db.query(&query).unwrap();
                for item in &items {
                    assert!(keys.iter().any(|key| *key == item.key()), "{}", item.key());
                }
                let at = |key: &KeyBuf| items.iter().find(|item| *key == item.key());
                keys.iter().map(|key| found(at(key))).collect()
            },
            |all: &Vec<Found>| {
                let values = all.iter().map(|found| found.map(|(value, _)| value));
                Action::Read("query", keys.iter().cloned().zip(values).collect())
            },
        )
    }

    fn commit(&mut self, plan: Plan) {
        let plain = |write: &Write| write.value.is_some() && !write.create;
        let plain = plan.checks.is_empty() && plan.writes.iter().all(|(write, _)| plain(write));
        let result = match plain && self.random.one_in(2) {
            true => {
                let items: Vec<Item<String>> = plan
                    .writes
                    .iter()
                    .filter_map(|(_, item)| item.clone())
                    .collect();
                let call = |db: &D| db.set_atomic(&items, &plan.locks);
                self.record(call, |result| told(&plan, result))
            }
            false => {
                let mut batch = Batch::new();
                for lock in &plan.locks {
                    batch = batch.lock(lock.clone());
                }
                for lock in &plan.checks {
                    batch = batch.check(lock.clone());
                }
                for (write, item) in &plan.writes {
                    batch = match item.clone() {
                        Some(item) if write.create => batch.create(item),
                        Some(item) => batch.set(item),
                        None => batch.delete(&write.key),
                    };
                }
                self.record(|db| db.commit(&batch), |result| told(&plan, result))
            }
        };
        let held = plan.locks.into_iter();
        match result {
            Ok(version) => {
                for lock in held {
                    let key = lock.key().to_buf();
                    self.pocket.insert(key, lock.renewed(version));
                }
            }
            // Some old locks are kept, to be tried again.
            Err(_) if self.random.one_in(2) => {}
            Err(_) => held.for_each(|lock| drop(self.pocket.remove(&lock.key().to_buf()))),
        }
    }
}

fn told(plan: &Plan, result: &atomic_db::Result<atomic_db::Version>) -> Action {
    let known = |lock: &Lock| (lock.key().to_buf(), lock.version());
    Action::Commit(Commit {
        locks: plan.locks.iter().map(known).collect(),
        checks: plan.checks.iter().map(known).collect(),
        rests_on: plan.rests_on.clone(),
        writes: plan.writes.iter().map(|(write, _)| write.clone()).collect(),
        outcome: match result {
            Ok(version) => Outcome::Committed(*version),
            Err(Error::RaceCondition { keys }) => Outcome::Raced(keys.clone()),
            Err(Error::AlreadyExists { key }) => Outcome::Exists(key.clone()),
            Err(error) => panic!("a commit may not end with {error:?}"),
        },
    })
}
