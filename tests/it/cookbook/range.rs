use super::bench::{on_each_database, on_threads, repeat};
use super::recipes::range::book;
use atomic_db::Error;

#[test]
fn bookings_of_a_room_do_not_overlap() {
    on_each_database(|bench| {
        let booked = on_threads(|thread| {
            let mut booked = Vec::new();
            for number in 0..12 {
                let start = bench.random.below(40);
                let end = start + 1 + bench.random.below(6);
                let guest = format!("{thread}.{number}");
                if repeat(|| book(&bench.db, "room#1", start, end, &guest)) {
                    booked.push((start, end, guest));
                }
            }
            booked
        });
        let mut booked = booked.concat();
        booked.sort();
        let stored: Vec<(u64, u64, String)> = bench
            .items("room#1")
            .iter()
            .map(|item| {
                let booking = item.data().unwrap();
                let start = item.sk()["booking#".len()..].parse().unwrap();
                (start, booking.end, booking.guest.clone())
            })
            .collect();
        assert_eq!(stored, booked, "{}", bench.name);
        for pair in stored.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{}: {pair:?}", bench.name);
        }
    });
}

#[test]
fn a_booking_may_touch_others_and_must_not_be_empty() {
    on_each_database(|bench| {
        let try_to_book = |start, end| repeat(|| book(&bench.db, "room#1", start, end, "Ada"));
        for (start, end, is_free) in [
            (10, 20, true),
            (20, 30, true),
            (0, 10, true),
            (5, 6, false),
            (9, 11, false),
            (29, 31, false),
            (0, 40, false),
            (30, 31, true),
        ] {
            assert_eq!(
                try_to_book(start, end),
                is_free,
                "{}: {start}..{end}",
                bench.name
            );
        }
        let empty = book(&bench.db, "room#1", 50, 50, "Ada");
        assert!(matches!(empty, Err(Error::InvalidInput(_))), "{empty:?}");
    });
}
