use super::bench::{on_each_database, on_threads, repeat};
use super::recipes::unique_value::set_address;
use std::collections::BTreeMap;

#[test]
fn an_address_has_one_owner_and_a_user_one_address() {
    on_each_database::<String>(|bench| {
        // Two threads change the address of each user.
        on_threads(|thread| {
            let user = format!("user#{}", thread / 2);
            for _ in 0..12 {
                let address = format!("a{}@example.org", bench.random.below(3));
                repeat(|| set_address(&bench.db, &user, &address));
            }
        });
        let addresses: BTreeMap<String, String> = bench
            .items("user#")
            .iter()
            .map(|item| (item.pk().to_owned(), item.data().unwrap().clone()))
            .collect();
        let owners: BTreeMap<String, String> = bench
            .items("address#")
            .iter()
            .map(|item| {
                (
                    item.data().unwrap().clone(),
                    item.pk()["address#".len()..].to_owned(),
                )
            })
            .collect();
        assert_eq!(addresses, owners, "{}", bench.name);
        assert_eq!(
            bench.items("address#").len(),
            owners.len(),
            "{}",
            bench.name
        );
    });
}

#[test]
fn addresses_that_differ_in_case_are_the_same() {
    on_each_database::<String>(|bench| {
        let set = |user, address| repeat(|| set_address(&bench.db, user, address));
        assert!(set("user#1", "Ada@example.org"));
        assert!(!set("user#2", "ada@EXAMPLE.org"));
        assert!(set("user#1", "ADA@example.org"));
        assert!(set("user#1", "other@example.org"));
        assert!(set("user#2", "ada@EXAMPLE.org"), "{}", bench.name);
    });
}
