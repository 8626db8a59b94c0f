//! What is recorded: accounts with a lock each, and shelves with one lock for all their places. On
//! every shelf there are notes too, which everybody writes without a look at any lock.

use super::{Action, Commit, History, Op, Outcome, Seen, Value, Write};
use atomic_db::{AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, ManualClock, Page, Query};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What one thread does.
pub type Job = Box<dyn FnOnce() -> Vec<Op> + Send>;

/// What every account begins with. Transfers leave the sum as it is.
pub const BALANCE: i64 = 100;

#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub accounts: usize,
    pub shelves: usize,
    /// On each shelf, where an item may be or not.
    pub places: usize,
    /// On each shelf, beside the places.
    pub notes: usize,
    pub threads: usize,
    /// By each thread, or a few more.
    pub calls: usize,
    /// Chooses what is called. What the threads meet is up to them.
    pub seed: u64,
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
    /// One thread moves the clock that `db` judges times to live by, if it is given, and writes
    /// notes that expire.
    ///
    /// Calls are stamped by the standard library's atomics, also under a model checker: the
    /// stamps are outside of what is checked, and as close to each call as can be.
    pub fn run<D>(
        self,
        db: &Arc<D>,
        time: Option<&ManualClock>,
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
            actor.time = time.filter(|_| thread == 1).cloned();
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

    pub fn sum(self) -> i64 {
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
    /// The clock of times to live, if this thread is the one that moves it.
    time: Option<ManualClock>,
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
            time: None,
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

    fn note(shelf: usize, note: usize) -> KeyBuf {
        KeyBuf::new(format!("shelf {shelf}"), format!("note {note}"))
    }

    /// In the same partition as what it guards.
    fn guard_of(key: &KeyBuf) -> KeyBuf {
        KeyBuf::new(key.pk(), "lock")
    }

    fn places(&self, shelf: usize) -> Vec<KeyBuf> {
        let places = 0..self.shape.places;
        places.map(|place| Self::place(shelf, place)).collect()
    }

    /// All that can be on a shelf, in order.
    fn shelf(&self, shelf: usize) -> Vec<KeyBuf> {
        let notes = (0..self.shape.notes).map(|note| Self::note(shelf, note));
        notes.chain(self.places(shelf)).collect()
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
            match self.random.below(24) {
                0..=3 => self.transfer(),
                4..=5 => self.look_at_one(),
                6..=7 => self.look_at_many(),
                8..=9 => {
                    let shelf = self.random.below(self.shape.shelves);
                    self.look_at_a_shelf(shelf);
                }
                10..=12 => self.restock(),
                13..=15 => self.look_in_passing(),
                16 => self.create_blindly(),
                17 => self.delete_a_lock(),
                18..=19 => self.set_notes(),
                20 => self.delete_notes(),
                21..=22 => self.commit_notes(),
                _ => self.let_time_pass(),
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

    fn look_at_a_shelf(&mut self, shelf: usize) {
        match self.random.below(4) {
            0 => self.read_pages(shelf),
            1 => self.read_stream(shelf),
            _ => drop(self.query(shelf)),
        }
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
            true => self.query(shelf).split_off(self.shape.notes),
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
        if self.random.one_in(2) {
            let note = Self::note(shelf, self.random.below(self.shape.notes));
            self.write_a_note(&mut plan, &note);
        }
        self.commit(plan);
    }

    /// Writes an account after a look at a place, whose shelf it only checks.
    fn look_in_passing(&mut self) {
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
            ttl: None,
            create: false,
        };
        plan.writes.push((write, None));
        self.commit(plan);
    }

    fn set_notes(&mut self) {
        let notes = self.some_notes();
        let writes = notes.iter().map(|key| self.blind(key, true, None));
        let (writes, items): (Vec<Write>, Vec<Option<Item<String>>>) = writes.collect();
        let items: Vec<Item<String>> = items.into_iter().flatten().collect();
        self.record_all(|db| db.set(&items).unwrap(), |()| told_each("set", &writes));
    }

    fn delete_notes(&mut self) {
        let notes = self.some_notes();
        let writes = notes.iter().map(|key| self.blind(key, false, None).0);
        let writes: Vec<Write> = writes.collect();
        let keys: Vec<Key<'_>> = notes.iter().map(KeyBuf::as_key).collect();
        self.record_all(
            |db| db.delete(&keys).unwrap(),
            |()| told_each("delete", &writes),
        );
    }

    /// Writes and deletes notes, all or nothing, without a look at any lock.
    fn commit_notes(&mut self) {
        let mut plan = Plan::default();
        for key in self.some_notes() {
            self.write_a_note(&mut plan, &key);
        }
        self.commit(plan);
    }

    fn write_a_note(&mut self, plan: &mut Plan, key: &KeyBuf) {
        let set = !self.random.one_in(3);
        plan.writes.push(self.blind(key, set, None));
    }

    /// Writes a note that expires soon or at once, and moves the clock.
    fn let_time_pass(&mut self) {
        let Some(time) = self.time.clone() else {
            return self.look_at_many();
        };
        let shelf = self.random.below(self.shape.shelves);
        let key = Self::note(shelf, self.random.below(self.shape.notes));
        let ttl = time.epoch_seconds() + self.random.below(2) as u64;
        let (write, item) = self.blind(&key, true, Some(ttl));
        let items: Vec<Item<String>> = item.into_iter().collect();
        self.record(
            |db| db.set(&items).unwrap(),
            |()| Action::Write("set", write),
        );
        let now = time.epoch_seconds() + 1;
        self.record(
            |_| time.advance(Duration::from_secs(1)),
            |()| Action::Tick(now),
        );
    }

    /// One note or two.
    fn some_notes(&mut self) -> Vec<KeyBuf> {
        let notes = self.shape.notes;
        let some = self.random.some_below(self.shape.shelves * notes, 1, 2);
        let some = some.into_iter();
        some.map(|note| Self::note(note / notes, note % notes))
            .collect()
    }

    fn any_key(&mut self) -> KeyBuf {
        let shelf = self.random.below(self.shape.shelves);
        let (places, notes) = (self.shape.places, self.shape.notes);
        match self.random.below(3) {
            0 => Self::place(shelf, self.random.below(places)),
            1 => Self::note(shelf, self.random.below(notes)),
            _ => Self::account(self.random.below(self.shape.accounts)),
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
        let value = self.new_value();
        let write = Write {
            key: key.clone(),
            guard: Some(guard),
            value: sum.map(|_| value),
            ttl: None,
            create,
        };
        let item = sum.map(|sum| Item::new(key.pk(), key.sk(), format!("{value} {sum}")));
        plan.writes.push((write, item));
    }

    /// The write of a note, or its deletion if it is not to be set.
    fn blind(
        &mut self,
        key: &KeyBuf,
        set: bool,
        ttl: Option<u64>,
    ) -> (Write, Option<Item<String>>) {
        let value = self.new_value();
        let write = Write {
            key: key.clone(),
            guard: None,
            value: set.then_some(value),
            ttl,
            create: false,
        };
        let item = set.then(|| Item::new(key.pk(), key.sk(), format!("{value} 0")));
        let item = item.map(|item| match ttl {
            Some(ttl) => item.expires_at(ttl),
            None => item,
        });
        (write, item)
    }

    fn new_value(&mut self) -> Value {
        self.written += 1;
        (self.thread as u64) << 40 | self.written
    }

    fn record<R>(&mut self, call: impl FnOnce(&D) -> R, tell: impl FnOnce(&R) -> Action) -> R {
        self.record_all(call, |result| vec![tell(result)])
    }

    /// Records a call that is not one instant, but several at any moments of it.
    fn record_all<R>(
        &mut self,
        call: impl FnOnce(&D) -> R,
        tell: impl FnOnce(&R) -> Vec<Action>,
    ) -> R {
        let invoked = self.clock.fetch_add(1, Ordering::SeqCst);
        let result = call(&self.db);
        let returned = self.clock.fetch_add(1, Ordering::SeqCst);
        let thread = self.thread;
        self.ops.extend(tell(&result).into_iter().map(|action| Op {
            thread,
            invoked,
            returned,
            action,
        }));
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
            |all: &Vec<Found>| Action::Read("get_many", seen(keys, all)),
        )
    }

    /// All that is on a shelf in order, notes and places, also where nothing is.
    fn query(&mut self, shelf: usize) -> Vec<Found> {
        let keys = self.shelf(shelf);
        let query = Query::new(keys[0].pk());
        let query = match self.random.one_in(2) {
            true => query.reverse(),
            false => query,
        };
        self.record(
            |db| found_among(&keys, &db.query(&query).unwrap()),
            |all| Action::Read("query", seen(&keys, all)),
        )
    }

    /// Reads a shelf two items at a time. Each page is one instant, and says of all keys up to
    /// where the next one begins what is there.
    fn read_pages(&mut self, shelf: usize) {
        let mut keys = self.shelf(shelf);
        let mut query = Query::new(keys[0].pk()).limit(2);
        if self.random.one_in(2) {
            query = query.reverse();
            keys.reverse();
        }
        let mut after: Option<String> = None;
        loop {
            let told = |next: Option<&String>| match next {
                None => keys.len(),
                Some(next) => keys.partition_point(|key| match query.reverse {
                    true => key.sk() >= next.as_str(),
                    false => key.sk() <= next.as_str(),
                }),
            };
            let page = self.record(
                |db| db.page(&query, after.as_deref()).unwrap(),
                |Page { items, next }| {
                    let told = &keys[..told(next.as_ref())];
                    Action::Read("page", seen(told, &found_among(told, items)))
                },
            );
            let told = told(page.next.as_ref());
            keys.drain(..told);
            after = page.next;
            if after.is_none() {
                return;
            }
        }
    }

    /// Reads a shelf as a stream, which sees each key at some moment of its own.
    fn read_stream(&mut self, shelf: usize) {
        let keys = self.shelf(shelf);
        let query = Query::new(keys[0].pk());
        self.record_all(
            |db| {
                let items: Result<Vec<Item<String>>, Error> = db.stream(query).collect();
                found_among(&keys, &items.unwrap())
            },
            |all| {
                let each = seen(&keys, all).into_iter();
                each.map(|seen| Action::Read("stream", vec![seen]))
                    .collect()
            },
        );
    }

    fn commit(&mut self, plan: Plan) {
        let plain = |write: &Write| write.value.is_some() && !write.create;
        let locked = plan.checks.is_empty() && !plan.locks.is_empty();
        let plain = locked && plan.writes.iter().all(|(write, _)| plain(write));
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
                    self.pocket.insert(key, lock.with_version(version));
                }
            }
            // Some old locks are kept, to be tried again.
            Err(_) if self.random.one_in(2) => {}
            Err(_) => held.for_each(|lock| drop(self.pocket.remove(&lock.key().to_buf()))),
        }
    }
}

/// What of `items`, all of which must be at `keys`, is at each of them.
fn found_among(keys: &[KeyBuf], items: &[Item<String>]) -> Vec<Found> {
    for item in items {
        let here = keys.iter().filter(|key| **key == item.key());
        assert_eq!(here.count(), 1, "{}", item.key());
        let same = items.iter().filter(|other| other.key() == item.key());
        assert_eq!(same.count(), 1, "{} is there twice", item.key());
    }
    let at = |key: &KeyBuf| items.iter().find(|item| *key == item.key());
    keys.iter().map(|key| found(at(key))).collect()
}

fn seen(keys: &[KeyBuf], all: &[Found]) -> Vec<Seen> {
    let values = all.iter().map(|found| found.map(|(value, _)| value));
    keys.iter().cloned().zip(values).collect()
}

fn told_each(method: &'static str, writes: &[Write]) -> Vec<Action> {
    let each = writes.iter().cloned();
    each.map(|write| Action::Write(method, write)).collect()
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
