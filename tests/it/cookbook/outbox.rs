use super::bench::{Ending, is_injected, on_each_database, repeat};
use super::recipes::outbox::{deliver, place};
use atomic_db::{Error, Item, Result};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const ORDERS: u64 = 30;

#[test]
fn the_messages_of_all_orders_are_sent_and_no_other_message() {
    on_each_database::<String>(|bench| {
        let sent = Mutex::new(BTreeSet::new());
        let is_placed = AtomicBool::new(false);
        // The receiver is sometimes unavailable.
        let send = |message: &Item<String>| -> Result<()> {
            if bench.random.one_in(3) {
                return Err(Error::Unavailable("the receiver".into()));
            }
            sent.lock().unwrap().insert(message.sk().to_owned());
            Ok(())
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let is_last = is_placed.load(Ordering::SeqCst);
                        if repeat(|| deliver(&bench.db, send)) == 0 && is_last {
                            return;
                        }
                    }
                });
            }
            let _ending = Ending(&is_placed);
            for order in 0..ORDERS {
                let place = || place(&bench.db, &format!("order#{order}"), "tea");
                // Some clients give up after an error, and have an order or none.
                if order % 2 == 0 {
                    repeat(place);
                } else {
                    let _ = place();
                }
            }
        });
        let orders: BTreeSet<String> = bench
            .items("order#")
            .iter()
            .map(|item| item.pk().to_owned())
            .collect();
        assert!(orders.len() >= ORDERS as usize / 2, "{}", bench.name);
        assert_eq!(*sent.lock().unwrap(), orders, "{}", bench.name);
        assert!(bench.items("outbox").is_empty(), "{}", bench.name);
    });
}

#[test]
fn another_order_under_the_same_key_is_refused() {
    on_each_database::<String>(|bench| {
        repeat(|| place(&bench.db, "order#1", "tea"));
        let other = loop {
            match place(&bench.db, "order#1", "coffee") {
                Err(Error::AlreadyExists { key }) => break key,
                Err(error) if is_injected(&error) => {}
                outcome => panic!("{}: {outcome:?}", bench.name),
            }
        };
        assert_eq!(other.pk(), "order#1");
        assert_eq!(
            bench.items("order#1")[0].data().map(String::as_str),
            Some("tea")
        );
    });
}
