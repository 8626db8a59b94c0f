use super::*;
use crate::ManualClock;

fn with_room_for(rows: usize) -> MemoryDb<u32> {
    let hasher = KeyHasher::default();
    let stripe = Stripe::new(hasher.clone(), 0, rows);
    MemoryDb {
        shared: Arc::new(Shared {
            stripes: Box::new([Line(Mutex::new(stripe))]),
            versions: VersionGenerator::new(),
            clock: Arc::new(ManualClock::new(1_000)),
            hasher,
        }),
    }
}

#[test]
fn there_are_eight_stripes_per_core_unless_told_otherwise() {
    let cores = available_cores();
    let db = MemoryDb::<u32>::new();
    assert_eq!(db.shared.stripes.len(), (8 * cores).next_power_of_two());
    for (asked, stripes) in [(0, 1), (1, 1), (5, 8), (64, 64), (usize::MAX, 1 << 16)] {
        let db = MemoryDb::<u32>::builder().stripes(asked).build();
        assert_eq!(db.shared.stripes.len(), stripes, "{asked} asked for");
    }
}

#[test]
fn what_a_stripe_has_no_room_for_is_refused_whole() {
    let db = with_room_for(4);
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    db.set(&[Item::new("pk", "a", 1)]).unwrap();
    let new = |sk: &str| Item::new("pk", sk, 2);
    let batch = || Batch::new().lock(lock.clone()).delete(("pk", "a"));
    for too_much in [
        batch().set(new("b")).set(new("c")).set(new("d")),
        batch().set(new("b")).create(new("c")).create(new("d")),
        batch().create(new("b")).create(new("c")).create(new("d")),
    ] {
        let refused = db.commit(&too_much);
        assert!(matches!(refused, Err(Error::Backend(_))), "{refused:?}");
        let items = db.query(&Query::new("pk")).unwrap();
        assert_eq!(items, [Item::new("pk", "a", 1)]);
    }

    // The lock is as it was, and what there is room for goes in.
    let batch = Batch::new().lock(lock.clone());
    db.commit(&batch.create(new("b")).set(new("c"))).unwrap();
    assert_eq!(db.len(), 3);
    let refused = db.set(&[new("d")]);
    assert!(matches!(refused, Err(Error::Backend(_))), "{refused:?}");
    let refused = db.get_lock(Key::new("pk", "other"));
    assert!(matches!(refused, Err(Error::Backend(_))), "{refused:?}");
    db.delete(&[Key::new("pk", "a")]).unwrap();
    db.set(&[new("d")]).unwrap();
}
