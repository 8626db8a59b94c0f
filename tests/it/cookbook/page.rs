//! The page shows the code that is tested, and the calls that it makes.

use super::recipes::{
    counter, data_type, idempotency_key, leader, locks_found_by_reading, moving, outbox,
    pagination, range, secondary_index, session, unique_value, unknown_outcome, work_queue,
};
use atomic_db::{
    AtomicDb, CallEvent, Clock, Item, Key, ManualClock, MemoryDb, Observed, Observer, Operation,
    Result,
};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

const PAGE: &str = include_str!("../../../docs/cookbook.md");

macro_rules! recipes {
    ($($heading:literal: $file:literal,)*) => {
        /// The heading of each recipe, and its code.
        const RECIPES: &[(&str, &str)] = &[$((
            $heading,
            include_str!(concat!("../../../examples/cookbook/", $file, ".rs")),
        )),*];
    };
}

recipes! {
    "A unique value": "unique_value",
    "An idempotency key": "idempotency_key",
    "An outbox and its worker": "outbox",
    "A work queue": "work_queue",
    "A counter": "counter",
    "A secondary index": "secondary_index",
    "A range guarded by one lock": "range",
    "Locks that are found by reading": "locks_found_by_reading",
    "A leader with a fencing version": "leader",
    "Sessions that expire and slide": "session",
    "Pages and ETags for a web API": "pagination",
    "Moving to another database": "moving",
    "Changing a data type": "data_type",
    "After an unknown outcome": "unknown_outcome",
}

/// Returns the text below a heading.
pub(super) fn section(heading: &str) -> &'static str {
    let (_, after) = PAGE
        .split_once(&format!("\n## {heading}\n"))
        .expect(heading);
    after.split("\n## ").next().unwrap()
}

#[test]
fn the_page_shows_the_code_of_the_example() {
    for (heading, code) in RECIPES {
        let shown = section(heading).contains(&format!("\n```rust\n{code}```\n"));
        assert!(
            shown,
            "the code of {heading:?} is not that of examples/cookbook"
        );
    }
    assert_eq!(PAGE.matches("\n```rust").count(), RECIPES.len());
}

/// Without comments and blank lines.
#[test]
fn the_code_of_a_recipe_is_at_most_a_screen() {
    for (heading, code) in RECIPES {
        let lines = code.lines().map(str::trim_start);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
        let count = lines.count();
        assert!(count <= 55, "{heading:?} has {count} lines of code");
    }
}

#[test]
fn every_recipe_has_the_same_parts_and_is_listed() {
    for (heading, _) in RECIPES {
        let section = section(heading);
        for part in ["\n**Guarantee.** ", "\n**Cost.** ", "\n**Limits.** "] {
            assert!(section.contains(part), "{heading:?} has no {}", part.trim());
        }
        let anchor = heading.to_lowercase().replace(' ', "-");
        assert!(
            PAGE.contains(&format!(". [{heading}](#{anchor})\n")),
            "{heading:?} is not listed"
        );
    }
}

/// The names of the calls of a database, in their order.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Observer for Calls {
    fn on_call(&self, call: &CallEvent<'_>) {
        // A scan is named in the text.
        let name = match call.operation {
            Operation::Scan => return,
            // It is implemented by a commit.
            Operation::SetAtomic => Operation::Commit,
            operation => operation,
        };
        self.0.lock().unwrap().push(format!("`{name}`"));
    }
}

type RecordedDb<T> = Observed<MemoryDb<T>, Calls>;

/// A database that records its calls.
struct Recorder<T> {
    db: RecordedDb<T>,
    clock: ManualClock,
    calls: Calls,
}

impl<T: 'static> Recorder<T> {
    fn new() -> Self {
        let (clock, calls) = (ManualClock::new(2_000_000_000), Calls::default());
        let db = MemoryDb::builder().clock(clock.clone()).build();
        let db = Observed::new(db, calls.clone());
        Recorder { db, clock, calls }
    }

    /// Asserts that the page names exactly the calls that `call` makes.
    fn assert_cost<R, E: Debug>(
        &self,
        heading: &str,
        name: &str,
        call: impl FnOnce(&RecordedDb<T>, &dyn Clock) -> Result<R, E>,
    ) -> R {
        self.calls.0.lock().unwrap().clear();
        let result = call(&self.db, &self.clock).unwrap();
        let calls = self.calls.0.lock().unwrap().join(", ");
        let cost = section(heading).split("\n**Cost.** ").nth(1).unwrap();
        let cost = cost.split("\n\n").next().unwrap().replace('\n', " ");
        let is_named = cost.contains(&format!("{name}: {calls}."));
        assert!(
            is_named,
            "{heading:?} does not state {name}: {calls}. but: {cost}"
        );
        result
    }
}

#[test]
fn the_page_states_the_calls_of_recipes_that_write_items() {
    let text = Recorder::<String>::new();
    let heading = "A unique value";
    text.assert_cost(heading, "`set_address`", |db, _| {
        unique_value::set_address(db, "user#1", "a")
    });
    text.assert_cost(heading, "`set_address`", |db, _| {
        unique_value::set_address(db, "user#1", "b")
    });

    let number = Recorder::<i64>::new();
    let heading = "An idempotency key";
    for _ in 0..2 {
        number.assert_cost(heading, "`deposit`", |db, clock| {
            idempotency_key::deposit(db, clock, "account#1", "a", 5)
        });
    }

    let heading = "An outbox and its worker";
    text.assert_cost(heading, "`place`", |db, _| {
        outbox::place(db, "order#1", "tea")
    });
    text.assert_cost(heading, "`deliver`", |db, _| {
        outbox::deliver(db, |_| Ok(()))
    });

    let heading = "A work queue";
    text.assert_cost(heading, "`push`", |db, clock| {
        work_queue::push(db, clock.epoch_seconds(), "job#1", "task")
    });
    let claim = text.assert_cost(heading, "`claim`", |db, clock| {
        work_queue::claim(db, clock.epoch_seconds())
    });
    text.assert_cost(heading, "`finish`", |db, _| {
        work_queue::finish(db, &claim.unwrap(), "done")
    });

    let count = Recorder::<u64>::new();
    let heading = "A counter";
    count.assert_cost(heading, "`increment`", |db, _| {
        counter::increment(db, "page#1")
    });
    count.assert_cost(heading, "`increment_shard`", |db, _| {
        counter::increment_shard(db, "page#1", 3)
    });
    count.assert_cost(heading, "`total`", |db, _| counter::total(db, "page#1"));

    let heading = "A secondary index";
    text.assert_cost(heading, "`set_city`", |db, _| {
        secondary_index::set_city(db, "user#9", "Rome")
    });
    text.assert_cost(heading, "`users_of`", |db, _| {
        secondary_index::users_of(db, "Rome")
    });

    let booking = Recorder::new();
    let heading = "A range guarded by one lock";
    booking.assert_cost(heading, "`book`", |db, _| {
        range::book(db, "room#1", 1, 2, "Ada")
    });

    let heading = "Locks that are found by reading";
    locks_found_by_reading::give(&number.db, "device#1", 1).unwrap();
    number.assert_cost(heading, "`give`", |db, _| {
        locks_found_by_reading::give(db, "device#1", 2)
    });
}

#[test]
fn the_page_states_the_calls_of_the_other_recipes() {
    let text = Recorder::<String>::new();
    let heading = "A leader with a fencing version";
    let leader = text.assert_cost(heading, "`campaign`", |db, clock| {
        leader::campaign(db, clock, "ada")
    });
    let plan = Item::new("plan", "1", String::new());
    text.assert_cost(heading, "`write`", |db, _| {
        leader::write(db, &leader.unwrap(), plan)
    });

    let heading = "Sessions that expire and slide";
    let visit = |db: &_, clock: &dyn Clock| session::visit(db, clock, "session#1");
    text.assert_cost(heading, "`log_in`", |db, clock| {
        session::log_in(db, clock, "session#1", "Ada")
    });
    text.assert_cost(heading, "`visit`", visit);
    text.clock.advance(session::LIFE / 2);
    text.assert_cost(heading, "`visit`", visit);
    text.assert_cost(heading, "`log_out`", |db, _| {
        session::log_out(db, "session#1")
    });

    let heading = "Pages and ETags for a web API";
    let listed = text.assert_cost(heading, "`list`", |db, _| {
        pagination::list(db, 5, None, None)
    });
    let version = listed.map(|(version, _)| version);
    let again = |db: &_, _: &dyn Clock| pagination::list(db, 5, None, version);
    assert!(text.assert_cost(heading, "Not modified", again).is_none());
    let put = |db: &_, _: &dyn Clock| pagination::put(db, "1", "tea", version.unwrap());
    text.assert_cost(heading, "`put`", put);

    let heading = "Moving to another database";
    let item = Item::new("a", "b", String::new());
    text.assert_cost(heading, "`write`", |db, _| moving::write(db, &item));

    let users = Recorder::new();
    let heading = "Changing a data type";
    let name = data_type::Stored::Old("Ada".to_owned());
    let old = Item::new("user#1", "profile", name);
    users.db.set(&[old.clone()]).unwrap();
    users.assert_cost(heading, "`visit`", |db, _| data_type::visit(db, "user#1"));
    users.db.set(&[old]).unwrap();
    users.assert_cost(
        heading,
        "`upgrade_all`, for each item in the old format",
        |db, _| data_type::upgrade_all(db),
    );

    let money = Recorder::<i64>::new();
    let heading = "After an unknown outcome";
    let balance = Item::new("account#1", "balance", 10);
    let mark = Key::new("account#1", "a");
    money.db.set(&[balance]).unwrap();
    money.assert_cost(heading, "`withdraw`", |db, clock| {
        unknown_outcome::withdraw(db, clock, mark, 5)
    });
    money.assert_cost(heading, "`settle`", |db, clock| {
        unknown_outcome::settle(db, clock, mark)
    });
}
