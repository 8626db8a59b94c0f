use super::bench::{is_injected, on_each_database, on_threads, repeat};
use super::recipes::secondary_index::{set_city, users_of};
use atomic_db::{AtomicDb, Item};
use std::collections::BTreeSet;

const CITIES: [&str; 3] = ["Rome", "Oslo", "Lima"];

#[test]
fn the_index_lists_each_user_under_its_city_only() {
    on_each_database::<String>(|bench| {
        on_threads(|_| {
            for _ in 0..25 {
                let user = format!("user#{}", bench.random.below(4));
                let city = CITIES[bench.random.below(3) as usize];
                // Some clients give up after an error.
                if bench.random.one_in(2) {
                    repeat(|| set_city(&bench.db, &user, city));
                } else if let Err(error) = set_city(&bench.db, &user, city) {
                    assert!(is_injected(&error), "{}: {error:?}", bench.name);
                }
                for user in repeat(|| users_of(&bench.db, city)) {
                    assert!(user.starts_with("user#"), "{}: {user}", bench.name);
                }
            }
        });
        let entry = |city: &str, user: &str| (city.to_owned(), user.to_owned());
        let users = bench.items("user#");
        let users: BTreeSet<(String, String)> = users
            .iter()
            .map(|item| entry(item.data().unwrap(), item.pk()))
            .collect();
        let index = bench.items("city#");
        let index: BTreeSet<(String, String)> = index
            .iter()
            .map(|item| entry(&item.pk()["city#".len()..], item.sk()))
            .collect();
        assert_eq!(users, index, "{}", bench.name);
        for city in CITIES {
            let listed = users_of(bench.plain(), city).unwrap();
            let listed: BTreeSet<_> = listed.iter().map(|user| entry(city, user)).collect();
            let expected = users.iter().filter(|(of, _)| of == city).cloned().collect();
            assert_eq!(listed, expected, "{}", bench.name);
        }
    });
}

#[test]
fn a_user_who_moves_between_the_two_reads_is_not_listed() {
    on_each_database::<String>(|bench| {
        repeat(|| set_city(&bench.db, "user#1", "Rome"));
        // What a query that was read before the move still shows.
        let moved = Item::without_data("city#Oslo", "user#1");
        bench.plain().set(&[moved]).unwrap();
        assert_eq!(
            repeat(|| users_of(&bench.db, "Oslo")),
            [""; 0],
            "{}",
            bench.name
        );
    });
}
