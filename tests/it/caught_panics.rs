//! Databases after caught panics of user code (guarantee 22). No handle is wrapped in `AssertUnwindSafe`.

#[cfg(feature = "redb")]
use atomic_db::RedbDb;
use atomic_db::{
    AtomicDb, AtomicDbExt, Clock, Counters, Item, Key, LruCache, ManualClock, MemoryDb, Observed,
    Query, Result, Transaction,
};
use std::panic::{RefUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A clock that panics once when it is read after the flag was set.
#[derive(Clone, Debug)]
struct PanickingClock {
    clock: ManualClock,
    panics: Arc<AtomicBool>,
}

impl Clock for PanickingClock {
    fn now(&self) -> Duration {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "the clock");
        self.clock.now()
    }

    fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration);
    }
}

fn assert_is_used_after_panics<D>(make: impl FnOnce(PanickingClock) -> D)
where
    D: AtomicDb<Data = u32> + RefUnwindSafe,
{
    const LOCK: Key<'static> = Key::new("pk", "lock");
    let panics = Arc::new(AtomicBool::new(false));
    let db = make(PanickingClock {
        clock: ManualClock::new(2_000_000_000),
        panics: Arc::clone(&panics),
    });
    let item = Item::new("pk", "item", 1).expires_at(2_000_000_060);
    db.set(&[item.clone()]).unwrap();
    let catch = |call: &(dyn Fn() + RefUnwindSafe)| {
        panics.store(true, Ordering::SeqCst);
        catch_unwind(call).is_err()
    };
    assert!(catch(&|| drop(db.get_lock(LOCK))));
    assert!(catch(&|| drop(db.get_locks(&[LOCK]))));
    catch(&|| drop(db.set(&[item.clone()])));
    catch(&|| drop(db.get(item.key())));
    catch(&|| drop(db.query(&Query::new("pk"))));
    let body = |_: &mut Transaction<'_, D>| -> Result<()> { panic!("the body") };
    panics.store(false, Ordering::SeqCst);
    assert!(catch_unwind(|| db.transact(body)).is_err());

    assert_eq!(db.get(item.key()).unwrap(), Some(item.clone()));
    let next = db.update(&item, LOCK, |old| old.map(|old| old + 1));
    assert_eq!(next.unwrap().and_then(Item::into_data), Some(2));
    assert_eq!(db.query(&Query::new("pk")).unwrap().len(), 1);
}

#[test]
fn a_database_is_used_after_caught_panics_of_clocks_and_bodies() {
    let memory = |clock| MemoryDb::builder().clock(clock).build();
    assert_is_used_after_panics(memory);
    assert_is_used_after_panics(|clock| {
        let db = memory(clock.clone());
        let db = Observed::new(db, Counters::new()).with_clock(clock.clone());
        LruCache::builder(db).capacity(4).clock(clock).build()
    });
    #[cfg(feature = "redb")]
    assert_is_used_after_panics(|clock| RedbDb::builder().clock(clock).in_memory().unwrap());
}
