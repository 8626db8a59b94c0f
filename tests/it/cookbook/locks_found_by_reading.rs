use super::bench::{on_each_database, on_threads, repeat};
use super::recipes::locks_found_by_reading::give;
use std::collections::BTreeMap;

#[test]
fn the_numbers_of_devices_agree_with_their_owners() {
    on_each_database::<i64>(|bench| {
        on_threads(|_| {
            for _ in 0..12 {
                let device = format!("device#{}", bench.random.below(3));
                repeat(|| give(&bench.db, &device, bench.random.below(3) as i64));
            }
        });
        let mut owned: BTreeMap<String, i64> = BTreeMap::new();
        for owner in bench.items("device#") {
            *owned
                .entry(format!("user#{}", owner.data().unwrap()))
                .or_default() += 1;
        }
        let mut counted: BTreeMap<String, i64> = bench
            .items("user#")
            .iter()
            .map(|item| (item.pk().to_owned(), *item.data().unwrap()))
            .collect();
        counted.retain(|_, count| *count != 0);
        assert_eq!(counted, owned, "{}", bench.name);
    });
}
