//! The recorded workload. There are accounts with a lock each, and shelves with one lock for all
//! their places. Every shelf also has notes, which all threads write without a lock.

use super::recording::{Action, Commit, History, Observation, Op, Outcome, Value, Write};
use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, ManualClock, Page, Query, Result,
    Version,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The work of the thread of this number, counted from zero. Returns its calls.
pub type Job = Arc<dyn Fn(usize) -> Vec<Op> + Send + Sync>;

/// The initial balance of every account. Transfers keep the sum.
pub const BALANCE: i64 = 100;

#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub accounts: usize,
    pub shelves: usize,
    /// The number of places on each shelf. A place may be empty.
    pub places: usize,
    /// The number of notes on each shelf.
    pub notes: usize,
    pub threads: usize,
    /// The minimum number of calls of each thread.
    pub calls: usize,
    /// Chooses the calls. Their interleaving depends on the threads.
    pub seed: u64,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Workload {
    /// Opens the accounts, has `run` run the job on the given number of threads, and reads
    /// everything at the end. Returns the history and the sum of the accounts.
    ///
    /// If the clock of `db` is given, one thread moves it and writes notes that expire.
    ///
    /// Calls are stamped by the standard library's atomics even under a model checker. The stamps
    /// are not part of what it explores, and are as close to each call as possible.
    pub fn run<D>(
        self,
        db: &Arc<D>,
        time: Option<&ManualClock>,
        run: impl FnOnce(usize, Job) -> Vec<Vec<Op>>,
    ) -> (History, i64)
    where
        D: AtomicDb<Data = String> + Send + Sync + 'static,
    {
        let stamps = Arc::new(AtomicU64::new(0));
        let mut first = Worker::new(db, &stamps, self, 0);
        first.open_accounts();
        let (db, time) = (Arc::clone(db), time.cloned());
        let job: Job = Arc::new(move |thread| {
            let mut worker = Worker::new(&db, &stamps, self, thread + 1);
            worker.time = time.clone().filter(|_| thread == 0);
            worker.work();
            worker.ops
        });
        let by_thread = run(self.threads, job);
        let sum = first.read_everything();
        let mut ops = first.ops;
        ops.extend(by_thread.into_iter().flatten());
        (History { ops }, sum)
    }

    /// The sum of the accounts, at any time.
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

    /// Returns between `least` and `most` distinct numbers below `end`.
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

/// The contents of an item: its unique value, and a balance.
type Found = Option<(Value, i64)>;

fn found<T: AsRef<str>>(item: Option<&Item<T>>) -> Found {
    item.map(|item| {
        let text = item.data().map_or("", |data| data.as_ref());
        let parts = text.split_once(' ');
        let parsed = parts.and_then(|(value, sum)| value.parse().ok().zip(sum.parse().ok()));
        parsed.unwrap_or_else(|| panic!("{} holds {text:?}", item.key()))
    })
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

/// The lock of an item, in the same partition.
fn guard_of(key: &KeyBuf) -> KeyBuf {
    KeyBuf::new(key.pk(), "lock")
}

/// A write, and its item unless it deletes.
type PlannedWrite = (Write, Option<Item<String>>);

/// A commit that is being prepared.
#[derive(Default)]
struct Plan {
    locks: Vec<Lock>,
    checks: Vec<Lock>,
    read_set: Vec<Observation>,
    writes: Vec<PlannedWrite>,
}

impl Plan {
    fn depend_on(&mut self, key: &KeyBuf, found: Found) {
        self.read_set.push(observation(key, found));
    }

    fn batch(&self) -> Batch<String> {
        let mut batch = Batch::new();
        for lock in &self.locks {
            batch = batch.lock(lock.clone());
        }
        for lock in &self.checks {
            batch = batch.check(lock.clone());
        }
        for (write, item) in &self.writes {
            batch = match item.clone() {
                Some(item) if write.create => batch.create(item),
                Some(item) => batch.set(item),
                None => batch.delete(&write.key),
            };
        }
        batch
    }

    /// The action to record for a commit with this result.
    fn action(&self, result: &Result<Version>) -> Action {
        let known = |lock: &Lock| (lock.key().to_buf(), lock.version());
        Action::Commit(Commit {
            locks: self.locks.iter().map(known).collect(),
            checks: self.checks.iter().map(known).collect(),
            read_set: self.read_set.clone(),
            writes: self.writes.iter().map(|(write, _)| write.clone()).collect(),
            outcome: match result {
                Ok(version) => Outcome::Committed(*version),
                Err(Error::RaceCondition { keys }) => Outcome::Conflict(keys.clone()),
                Err(Error::AlreadyExists { key }) => Outcome::AlreadyExists(key.clone()),
                Err(error) => panic!("a commit failed with {error:?}"),
            },
        })
    }
}

/// One thread and its recorded calls.
struct Worker<D> {
    db: Arc<D>,
    stamps: Arc<AtomicU64>,
    /// The database's clock, if this thread is the one that moves it.
    time: Option<ManualClock>,
    shape: Workload,
    thread: usize,
    random: Random,
    written: u64,
    /// Locks as this thread last read them. They are often used without another read.
    cached_locks: BTreeMap<KeyBuf, Lock>,
    ops: Vec<Op>,
}

impl<D: AtomicDb<Data = String>> Worker<D> {
    fn new(db: &Arc<D>, stamps: &Arc<AtomicU64>, shape: Workload, thread: usize) -> Self {
        let mut seeds = Random(shape.seed ^ thread as u64);
        Worker {
            db: Arc::clone(db),
            stamps: Arc::clone(stamps),
            time: None,
            shape,
            thread,
            random: Random(seeds.next()),
            written: 0,
            cached_locks: BTreeMap::new(),
            ops: Vec::new(),
        }
    }

    fn any_account(&mut self) -> KeyBuf {
        account(self.random.below(self.shape.accounts))
    }

    fn any_shelf(&mut self) -> usize {
        self.random.below(self.shape.shelves)
    }

    fn any_place(&mut self, shelf: usize) -> KeyBuf {
        place(shelf, self.random.below(self.shape.places))
    }

    fn any_note(&mut self, shelf: usize) -> KeyBuf {
        note(shelf, self.random.below(self.shape.notes))
    }

    fn any_key(&mut self) -> KeyBuf {
        let shelf = self.any_shelf();
        match self.random.below(3) {
            0 => self.any_place(shelf),
            1 => self.any_note(shelf),
            _ => self.any_account(),
        }
    }

    /// One note or two.
    fn some_notes(&mut self) -> Vec<KeyBuf> {
        let notes = self.shape.notes;
        let some = self.random.some_below(self.shape.shelves * notes, 1, 2);
        let keys = some
            .into_iter()
            .map(|number| note(number / notes, number % notes));
        keys.collect()
    }

    fn places(&self, shelf: usize) -> Vec<KeyBuf> {
        let places = 0..self.shape.places;
        places.map(|number| place(shelf, number)).collect()
    }

    /// The notes and places of a shelf, in order.
    fn shelf(&self, shelf: usize) -> Vec<KeyBuf> {
        let notes = (0..self.shape.notes).map(|number| note(shelf, number));
        notes.chain(self.places(shelf)).collect()
    }

    fn open_accounts(&mut self) {
        for key in (0..self.shape.accounts).map(account) {
            let mut plan = Plan::default();
            plan.locks.push(self.get_lock(&guard_of(&key)));
            self.plan_write(&mut plan, &key, 0, Some(BALANCE), true);
            self.commit(plan);
        }
    }

    fn read_everything(&mut self) -> i64 {
        let accounts: Vec<KeyBuf> = (0..self.shape.accounts).map(account).collect();
        let balances = self.get_many(&accounts);
        for key in &accounts {
            self.get_fresh(key);
            self.get_lock(&guard_of(key));
        }
        for shelf in 0..self.shape.shelves {
            self.query(shelf);
            self.get_lock(&guard_of(&place(shelf, 0)));
        }
        let balances = balances.into_iter().flatten();
        balances.map(|(_, balance)| balance).sum()
    }

    fn work(&mut self) {
        while self.ops.len() < self.shape.calls {
            match self.random.below(24) {
                0..=3 => self.transfer(),
                4..=5 => self.read_one(),
                6..=7 => self.read_several(),
                8..=9 => self.read_shelf(),
                10..=12 => self.restock(),
                13..=15 => self.check_shelf_and_write_account(),
                16 => self.create_without_reading(),
                17 => self.delete_lock(),
                18..=19 => self.set_notes(),
                20 => self.delete_notes(),
                21..=22 => self.commit_notes(),
                _ => self.expire(),
            }
        }
    }

    /// Moves money between two or three accounts.
    fn transfer(&mut self) {
        let accounts = self.random.some_below(self.shape.accounts, 2, 3);
        let keys: Vec<KeyBuf> = accounts.into_iter().map(account).collect();
        let mut plan = Plan::default();
        for key in &keys {
            plan.locks.push(self.lock(&guard_of(key)));
        }
        let balances = if self.random.one_in(3) {
            self.get_many(&keys)
        } else {
            keys.iter().map(|key| self.get_fresh(key)).collect()
        };
        let amount = self.random.below(20) as i64;
        let changes = [-amount, amount, 0];
        for (guard, (key, balance)) in keys.iter().zip(&balances).enumerate() {
            let after = balance.map_or(0, |(_, balance)| balance) + changes[guard];
            plan.depend_on(key, *balance);
            self.plan_write(&mut plan, key, guard, Some(after), false);
        }
        self.commit(plan);
    }

    fn read_one(&mut self) {
        let key = self.any_key();
        if self.random.one_in(4) {
            self.get_fresh(&key);
        } else {
            self.get(&key);
        }
    }

    fn read_shelf(&mut self) {
        let shelf = self.any_shelf();
        match self.random.below(4) {
            0 => self.page(shelf),
            1 => self.stream(shelf),
            _ => drop(self.query(shelf)),
        }
    }

    /// Reads several keys, possibly one of them twice.
    fn read_several(&mut self) {
        let many = 2 + self.random.below(4);
        let keys: Vec<KeyBuf> = (0..many).map(|_| self.any_key()).collect();
        self.get_many(&keys);
    }

    /// Reads a shelf under its lock and changes some of its places. Sometimes it also depends on an
    /// account that it only checks.
    fn restock(&mut self) {
        let shelf = self.any_shelf();
        let mut plan = Plan::default();
        plan.locks.push(self.lock(&guard_of(&place(shelf, 0))));
        if self.random.one_in(2) {
            let account = self.any_account();
            plan.checks.push(self.lock(&guard_of(&account)));
            plan.depend_on(&account, self.get_fresh(&account));
        }
        let keys = self.places(shelf);
        let contents = if self.random.one_in(2) {
            self.query(shelf).split_off(self.shape.notes)
        } else {
            self.get_many(&keys)
        };
        for (key, found) in keys.iter().zip(&contents) {
            plan.depend_on(key, *found);
        }
        for place in self.random.some_below(self.shape.places, 1, 3) {
            let create = contents[place].is_none() && self.random.one_in(2);
            let delete = contents[place].is_some() && self.random.one_in(2);
            let sum = (!delete).then_some(1);
            self.plan_write(&mut plan, &keys[place], 0, sum, create);
        }
        if self.random.one_in(2) {
            let note = self.any_note(shelf);
            self.plan_note(&mut plan, &note);
        }
        self.commit(plan);
    }

    /// Writes an account after a read of a place, whose shelf it only checks.
    fn check_shelf_and_write_account(&mut self) {
        let shelf = self.any_shelf();
        let place = self.any_place(shelf);
        let account = self.any_account();
        let mut plan = Plan::default();
        plan.checks.push(self.lock(&guard_of(&place)));
        plan.depend_on(&place, self.get(&place));
        plan.locks.push(self.lock(&guard_of(&account)));
        let balance = self.get_fresh(&account);
        plan.depend_on(&account, balance);
        let after = balance.map_or(0, |(_, balance)| balance);
        self.plan_write(&mut plan, &account, 0, Some(after), false);
        self.commit(plan);
    }

    /// Creates items that may exist.
    fn create_without_reading(&mut self) {
        let shelf = self.any_shelf();
        let mut plan = Plan::default();
        plan.locks.push(self.lock(&guard_of(&place(shelf, 0))));
        for number in self.random.some_below(self.shape.places, 1, 2) {
            self.plan_write(&mut plan, &place(shelf, number), 0, Some(1), true);
        }
        self.commit(plan);
    }

    /// Deletes a lock that the commit does not name, alone or with a write under another lock. A
    /// commit under the deleted lock conflicts from then on, even after it is created again.
    fn delete_lock(&mut self) {
        let key = guard_of(&self.any_key());
        let mut plan = Plan::default();
        let shelf = self.any_shelf();
        let place = self.any_place(shelf);
        let guard = guard_of(&place);
        if guard != key && self.random.one_in(2) {
            plan.locks.push(self.lock(&guard));
            self.plan_write(&mut plan, &place, 0, Some(1), false);
        }
        let write = Write {
            key,
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
        let writes = notes.iter().map(|key| self.unguarded(key, true, None));
        let (writes, items): (Vec<Write>, Vec<Option<Item<String>>>) = writes.collect();
        let items: Vec<Item<String>> = items.into_iter().flatten().collect();
        self.record_all(
            |db| db.set(&items).unwrap(),
            |()| each_write("set", &writes),
        );
    }

    fn delete_notes(&mut self) {
        let notes = self.some_notes();
        let writes = notes.iter().map(|key| self.unguarded(key, false, None).0);
        let writes: Vec<Write> = writes.collect();
        let keys: Vec<Key<'_>> = notes.iter().map(KeyBuf::as_key).collect();
        let delete = |db: &D| db.delete(&keys).unwrap();
        self.record_all(delete, |()| each_write("delete", &writes));
    }

    /// Writes and deletes notes in one commit without locks.
    fn commit_notes(&mut self) {
        let mut plan = Plan::default();
        for key in self.some_notes() {
            self.plan_note(&mut plan, &key);
        }
        self.commit(plan);
    }

    fn plan_note(&mut self, plan: &mut Plan, key: &KeyBuf) {
        let set = !self.random.one_in(3);
        plan.writes.push(self.unguarded(key, set, None));
    }

    /// Writes a note that expires this second or the next one, and moves the clock.
    fn expire(&mut self) {
        let Some(time) = self.time.clone() else {
            return self.read_several();
        };
        let shelf = self.any_shelf();
        let key = self.any_note(shelf);
        let ttl = time.epoch_seconds() + self.random.below(2) as u64;
        let (write, item) = self.unguarded(&key, true, Some(ttl));
        let items: Vec<Item<String>> = item.into_iter().collect();
        self.record(
            |db| db.set(&items).unwrap(),
            |()| Action::Write("set", write),
        );
        let now = time.epoch_seconds() + 1;
        let advance = |_: &D| time.advance(Duration::from_secs(1));
        self.record(advance, |()| Action::AdvanceClock(now));
    }

    /// Adds the write of a unique value under a lock of the plan, or a deletion.
    fn plan_write(
        &mut self,
        plan: &mut Plan,
        key: &KeyBuf,
        guard: usize,
        sum: Option<i64>,
        create: bool,
    ) {
        let (mut write, item) = self.new_write(key, sum, None);
        write.guard = Some(guard);
        write.create = create;
        plan.writes.push((write, item));
    }

    /// The write of a note, or its deletion.
    fn unguarded(&mut self, key: &KeyBuf, set: bool, ttl: Option<u64>) -> PlannedWrite {
        self.new_write(key, set.then_some(0), ttl)
    }

    fn new_write(&mut self, key: &KeyBuf, sum: Option<i64>, ttl: Option<u64>) -> PlannedWrite {
        self.written += 1;
        let value = (self.thread as u64) << 40 | self.written;
        let item = sum.map(|sum| Item::new(key.pk(), key.sk(), format!("{value} {sum}")));
        let item = item.map(|item| match ttl {
            Some(ttl) => item.expires_at(ttl),
            None => item,
        });
        let write = Write {
            key: key.clone(),
            guard: None,
            value: sum.map(|_| value),
            ttl,
            create: false,
        };
        (write, item)
    }

    fn record<R>(&mut self, call: impl FnOnce(&D) -> R, action: impl FnOnce(&R) -> Action) -> R {
        self.record_all(call, |result| vec![action(result)])
    }

    /// Records a call that is not atomic as several concurrent actions.
    fn record_all<R>(
        &mut self,
        call: impl FnOnce(&D) -> R,
        actions: impl FnOnce(&R) -> Vec<Action>,
    ) -> R {
        let invoked = self.stamps.fetch_add(1, Ordering::SeqCst);
        let result = call(&self.db);
        let returned = self.stamps.fetch_add(1, Ordering::SeqCst);
        let thread = self.thread;
        self.ops
            .extend(actions(&result).into_iter().map(|action| Op {
                thread,
                invoked,
                returned,
                action,
            }));
        result
    }

    /// The lock, sometimes as this thread last read it.
    fn lock(&mut self, key: &KeyBuf) -> Lock {
        match self.cached_locks.get(key) {
            Some(lock) if self.random.one_in(3) => lock.clone(),
            _ => self.get_lock(key),
        }
    }

    fn get_lock(&mut self, key: &KeyBuf) -> Lock {
        let lock = self.record(
            |db| db.get_lock(key.as_key()).unwrap(),
            |lock| Action::GetLock((key.clone(), lock.version())),
        );
        self.cached_locks.insert(key.clone(), lock.clone());
        lock
    }

    fn get(&mut self, key: &KeyBuf) -> Found {
        self.record(
            |db| found(db.get(key.as_key()).unwrap().as_ref()),
            |found| Action::Read("get", vec![observation(key, *found)]),
        )
    }

    fn get_fresh(&mut self, key: &KeyBuf) -> Found {
        self.record(
            |db| found(db.get_fresh(key.as_key()).unwrap().as_ref()),
            |found| Action::Read("get_fresh", vec![observation(key, *found)]),
        )
    }

    fn get_many(&mut self, keys: &[KeyBuf]) -> Vec<Found> {
        let borrowed: Vec<Key<'_>> = keys.iter().map(KeyBuf::as_key).collect();
        self.record(
            |db| {
                let items = db.get_many(&borrowed).unwrap();
                assert_eq!(items.len(), keys.len());
                items.iter().map(|item| found(item.as_ref())).collect()
            },
            |all: &Vec<Found>| Action::Read("get_many", observations(keys, all)),
        )
    }

    /// Queries a shelf, in either direction. Returns its notes and places in order, present or not.
    fn query(&mut self, shelf: usize) -> Vec<Found> {
        let keys = self.shelf(shelf);
        let mut query = Query::new(keys[0].pk());
        if self.random.one_in(2) {
            query = query.reverse();
        }
        self.record(
            |db| found_among(&keys, &db.query(&query).unwrap()),
            |all| Action::Read("query", observations(&keys, all)),
        )
    }

    /// Reads a shelf in pages of two items. Each page is a snapshot of all keys up to where the
    /// next page begins.
    fn page(&mut self, shelf: usize) {
        let mut keys = self.shelf(shelf);
        let mut query = Query::new(keys[0].pk()).limit(2);
        if self.random.one_in(2) {
            query = query.reverse();
            keys.reverse();
        }
        let mut after: Option<String> = None;
        loop {
            let covered = |next: Option<&String>| match next {
                None => keys.len(),
                Some(next) if query.reverse => {
                    keys.partition_point(|key| key.sk() >= next.as_str())
                }
                Some(next) => keys.partition_point(|key| key.sk() <= next.as_str()),
            };
            let page = self.record(
                |db| db.page(&query, after.as_deref()).unwrap(),
                |Page { items, next }| {
                    let keys = &keys[..covered(next.as_ref())];
                    Action::Read("page", observations(keys, &found_among(keys, items)))
                },
            );
            let covered = covered(page.next.as_ref());
            keys.drain(..covered);
            after = page.next;
            if after.is_none() {
                return;
            }
        }
    }

    /// Reads a shelf as a stream, which reads each key at its own point in time.
    fn stream(&mut self, shelf: usize) {
        let keys = self.shelf(shelf);
        let query = Query::new(keys[0].pk());
        self.record_all(
            |db| {
                let items: Result<Vec<Item<String>>> = db.stream(query).collect();
                found_among(&keys, &items.unwrap())
            },
            |all| {
                let each = observations(&keys, all).into_iter();
                let each = each.map(|observation| Action::Read("stream", vec![observation]));
                each.collect()
            },
        );
    }

    /// Commits with `commit`, or with `set_atomic` where that can express the plan.
    fn commit(&mut self, plan: Plan) {
        let is_set = |(write, _): &PlannedWrite| write.value.is_some() && !write.create;
        let can_set =
            plan.checks.is_empty() && !plan.locks.is_empty() && plan.writes.iter().all(is_set);
        let result = if can_set && self.random.one_in(2) {
            let items = plan.writes.iter().filter_map(|(_, item)| item.clone());
            let items: Vec<Item<String>> = items.collect();
            let call = |db: &D| db.set_atomic(&items, &plan.locks);
            self.record(call, |result| plan.action(result))
        } else {
            let batch = plan.batch();
            self.record(|db| db.commit(&batch), |result| plan.action(result))
        };
        let locks = plan.locks.into_iter();
        match result {
            Ok(version) => {
                for lock in locks {
                    let key = lock.key().to_buf();
                    self.cached_locks.insert(key, lock.with_version(version));
                }
            }
            // Some old locks are kept, to be tried again.
            Err(_) if self.random.one_in(2) => {}
            Err(_) => locks.for_each(|lock| drop(self.cached_locks.remove(&lock.key().to_buf()))),
        }
    }
}

/// The contents of each of `keys`. Each of `items` must be at one of them, and none twice.
fn found_among(keys: &[KeyBuf], items: &[Item<String>]) -> Vec<Found> {
    for item in items {
        let here = keys.iter().filter(|key| **key == item.key());
        assert_eq!(here.count(), 1, "{}", item.key());
        let same = items.iter().filter(|other| other.key() == item.key());
        assert_eq!(same.count(), 1, "{} was returned twice", item.key());
    }
    let at = |key: &KeyBuf| items.iter().find(|item| *key == item.key());
    keys.iter().map(|key| found(at(key))).collect()
}

fn observation(key: &KeyBuf, found: Found) -> Observation {
    (key.clone(), found.map(|(value, _)| value))
}

fn observations(keys: &[KeyBuf], all: &[Found]) -> Vec<Observation> {
    let pairs = keys.iter().zip(all);
    pairs.map(|(key, found)| observation(key, *found)).collect()
}

fn each_write(method: &'static str, writes: &[Write]) -> Vec<Action> {
    let each = writes.iter().cloned();
    each.map(|write| Action::Write(method, write)).collect()
}
