use super::bench::{Ending, Tally, on_each_database, repeat};
use super::recipes::data_type::{Stored, upgrade_all, visit};
use crate::common::{Call, Gate, Moment};
use atomic_db::{AtomicDb, Item, MemoryDb};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const USERS: usize = 12;

#[test]
fn an_upgrade_loses_no_change_that_is_made_at_the_same_time() {
    on_each_database::<Stored>(|bench| {
        let old = |number: usize| {
            let old = Stored::Old(format!("name {number}"));
            let item = Item::new(format!("user#{number}"), "profile", old);
            if number == 0 {
                item.expires_at(3_000_000_000)
            } else {
                item
            }
        };
        let items: Vec<Item<Stored>> = (0..USERS).map(old).collect();
        bench.plain().set(&items).unwrap();
        let is_over = AtomicBool::new(false);
        let tallies = thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                let mut tallies = vec![Tally::default(); USERS];
                for number in 0.. {
                    if number >= 2 * USERS && is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    let number = number % USERS;
                    tallies[number].count(visit(&bench.db, &format!("user#{number}")));
                }
                tallies
            });
            let ending = Ending(&is_over);
            repeat(|| upgrade_all(&bench.db));
            drop(ending);
            visitor.join().unwrap()
        });
        let items = bench.items("user#");
        assert_eq!(items.len(), USERS, "{}", bench.name);
        for (number, tally) in tallies.into_iter().enumerate() {
            let pk = format!("user#{number}");
            let item = items.iter().find(|item| item.pk() == pk).unwrap();
            let Some(Stored::New(user)) = item.data() else {
                panic!("{}: {item:?}", bench.name);
            };
            assert_eq!(user.name, format!("name {number}"), "{}", bench.name);
            tally.assert_possible(user.visits, &bench.name);
            assert_eq!(
                item.ttl(),
                (number == 0).then_some(3_000_000_000),
                "{}",
                bench.name
            );
        }
    });
}

#[test]
fn a_visit_between_the_read_and_the_commit_of_an_upgrade_is_kept() {
    let db = MemoryDb::new();
    let old = Item::new("user#1", "profile", Stored::Old("Ada".to_owned()));
    db.set(&[old.clone()]).unwrap();
    let (paused, gate) = Gate::new(db.clone(), Call::Commit, Moment::Before);
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| upgrade_all(&paused).unwrap());
        gate.wait_until_reached();
        visit(&db, "user#1").unwrap();
        gate.open();
        upgrade.join().unwrap();
    });
    let user = db.get(old.key()).unwrap().and_then(Item::into_data);
    assert_eq!(user.unwrap().to_user().visits, 1);
}
