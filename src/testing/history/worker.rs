//! One thread of the workload: its choices, and the values that it writes.

use super::keys::{account, contents, note, place};
use super::random::Random;
use super::recorder::Recorded;
use super::workload::Workload;
use crate::{AtomicDb, Item, KeyBuf, Lock, ManualClock, Query};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

pub(super) struct Worker<D: AtomicDb> {
    pub(super) db: Recorded<D>,
    /// The database's clock, if this thread is the one that moves it.
    pub(super) time: Option<ManualClock>,
    pub(super) shape: Workload,
    thread: u64,
    random: RefCell<Random>,
    written: Cell<u64>,
    /// Locks as this thread last read them. They are often used without another read.
    pub(super) known_locks: RefCell<BTreeMap<KeyBuf, Lock>>,
}

impl<D: AtomicDb<Data = String>> Worker<D> {
    pub(super) fn new(
        db: Recorded<D>,
        shape: Workload,
        thread: usize,
        time: Option<ManualClock>,
    ) -> Self {
        Worker {
            db,
            time,
            shape,
            thread: thread as u64,
            random: RefCell::new(Random::new(shape.seed ^ thread as u64)),
            written: Cell::new(0),
            known_locks: RefCell::new(BTreeMap::new()),
        }
    }

    /// Choices that can be repeated, by each run of a body.
    pub(super) fn seed(&self) -> u64 {
        self.random.borrow_mut().next()
    }

    pub(super) fn below(&self, end: usize) -> usize {
        self.random.borrow_mut().below(end)
    }

    pub(super) fn one_in(&self, times: usize) -> bool {
        self.random.borrow_mut().one_in(times)
    }

    pub(super) fn some_below(&self, end: usize, least: usize, most: usize) -> Vec<usize> {
        self.random.borrow_mut().some_below(end, least, most)
    }

    pub(super) fn any_account(&self) -> KeyBuf {
        account(self.below(self.shape.accounts))
    }

    pub(super) fn some_accounts(&self) -> Vec<KeyBuf> {
        let numbers = self.some_below(self.shape.accounts, 2, 3).into_iter();
        numbers.map(account).collect()
    }

    pub(super) fn any_shelf(&self) -> usize {
        self.below(self.shape.shelves)
    }

    pub(super) fn any_place(&self, shelf: usize) -> KeyBuf {
        place(shelf, self.below(self.shape.places))
    }

    pub(super) fn any_note(&self, shelf: usize) -> KeyBuf {
        note(shelf, self.below(self.shape.notes))
    }

    pub(super) fn any_key(&self) -> KeyBuf {
        let shelf = self.any_shelf();
        match self.below(3) {
            0 => self.any_place(shelf),
            1 => self.any_note(shelf),
            _ => self.any_account(),
        }
    }

    pub(super) fn places(&self, shelf: usize) -> Vec<KeyBuf> {
        let places = 0..self.shape.places;
        places.map(|number| place(shelf, number)).collect()
    }

    /// A query of a shelf: of all its items, of a prefix, or of a range, with any other setting.
    pub(super) fn any_query(&self, shelf: usize) -> Query {
        let query = Query::new(place(shelf, 0).pk());
        let query = match self.below(8) {
            0..=3 => query,
            4 => query.prefix("note"),
            5 => query.prefix("p"),
            _ => return self.query_of_places(shelf),
        };
        self.any_settings(query)
    }

    /// A query that selects only places.
    pub(super) fn query_of_places(&self, shelf: usize) -> Query {
        let sk = |number: usize| place(shelf, number).sk().to_owned();
        let query = Query::new(place(shelf, 0).pk());
        let (start, end) = (self.below(self.shape.places), self.below(self.shape.places));
        let query = match self.below(6) {
            0 | 1 => query.prefix("place"),
            2 => query.range(sk(start)..),
            3 => query.prefix("place").range(..sk(end)),
            4 => query.range(sk(start.min(end))..=sk(start.max(end))),
            _ => query.range((
                std::ops::Bound::Excluded(sk(start)),
                std::ops::Bound::Unbounded,
            )),
        };
        self.any_settings(query)
    }

    fn any_settings(&self, mut query: Query) -> Query {
        if self.one_in(2) {
            query = query.reverse();
        }
        if self.one_in(6) {
            query = query.limit(1 + self.below(3));
        }
        if self.one_in(8) {
            query = query.after(place(0, self.below(self.shape.places)).sk());
        }
        query
    }

    /// An item with a value that no other item has.
    pub(super) fn item(&self, key: &KeyBuf, balance: i64) -> Item<String> {
        Item::at(key, self.contents(balance))
    }

    pub(super) fn contents(&self, balance: i64) -> String {
        self.written.set(self.written.get() + 1);
        contents(self.thread << 40 | self.written.get(), balance)
    }
}
