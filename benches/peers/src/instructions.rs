//! Instructions per operation, counted by callgrind. They are nearly the same at every run on machines
//! of one kind, even on a busy machine.
//!
//! For each store and shape the program runs itself once under valgrind. That run fills the store,
//! then counts each operation in a loop of its own, at two lengths. The difference of the two
//! counts, divided by the difference of the lengths, is the cost of one operation; the cost of an
//! empty loop is subtracted.

use crate::caches::{Cache, Lru, Moka, MutexLru, QuickCache, Source};
use crate::callgrind::{self, Dump};
use crate::figures::Figures;
use crate::keys::{Pair, QUERIED, Random, Shape};
use crate::stores::{
    Account, DashMapStore, MemoryDbStore, MutexBTreeMap, MutexHashMap, Operation, PapayaStore,
    RedbInMemory, SccStore, SqliteInMemory, Store, SurrealStore, TreeIndexStore, TxMapStore,
};
use atomic_db::{AtomicDb, Item, ManualClock, MemoryDb};
use std::hint::black_box;
use std::path::PathBuf;
use std::{fs, io};

/// The number of uncounted calls, which take the cost of first calls (of a thread or a statement), of
/// calls in the shorter loop, and of calls in the longer one.
const WARM: usize = 100;
const SHORT: usize = 500;
const LONG: usize = 2_000;
const DONE: usize = WARM + SHORT + LONG;

pub(crate) const SHAPES: [Shape; 4] = [
    Shape::new(1_000, 1),
    Shape::new(100_000, 1),
    Shape::new(1_000_000, 1),
    Shape::new(1_000_000, 1_000_000),
];

pub(crate) const PURGE: &str = "instructions of a purge";
/// The rows of that table, with the number of live items.
pub(crate) const PURGED: [(&str, usize); 2] = [
    ("100 expired among 1 k live", 1_000),
    ("100 expired among 1 M live", 1_000_000),
];

pub(crate) const HIT: &str = "cache hit";
pub(crate) const MISS: &str = "cache miss with eviction";
const NOTHING: &str = "nothing";

/// The first argument of a run under valgrind, followed by a name and a shape.
pub(crate) const CHILD: &str = "--child";
const CHILD_PURGE: &str = "purge";

const EXPIRED: usize = 100;

const STORES: [&str; 11] = [
    MemoryDbStore::NAME,
    DashMapStore::NAME,
    PapayaStore::NAME,
    SccStore::NAME,
    MutexHashMap::NAME,
    MutexBTreeMap::NAME,
    TreeIndexStore::NAME,
    TxMapStore::NAME,
    SurrealStore::NAME,
    RedbInMemory::NAME,
    SqliteInMemory::NAME,
];
const CACHES: [&str; 4] = [Lru::NAME, MutexLru::NAME, QuickCache::NAME, Moka::NAME];

/// Runs under valgrind: counts the operations of one store or cache.
pub(crate) fn child(name: &str, shape: Shape) {
    match name {
        MemoryDbStore::NAME => count_store::<MemoryDbStore>(shape),
        DashMapStore::NAME => count_store::<DashMapStore>(shape),
        PapayaStore::NAME => count_store::<PapayaStore>(shape),
        SccStore::NAME => count_store::<SccStore>(shape),
        MutexHashMap::NAME => count_store::<MutexHashMap>(shape),
        MutexBTreeMap::NAME => count_store::<MutexBTreeMap>(shape),
        TreeIndexStore::NAME => count_store::<TreeIndexStore>(shape),
        TxMapStore::NAME => count_store::<TxMapStore>(shape),
        SurrealStore::NAME => count_store::<SurrealStore>(shape),
        RedbInMemory::NAME => count_store::<RedbInMemory>(shape),
        SqliteInMemory::NAME => count_store::<SqliteInMemory>(shape),
        Lru::NAME => count_cache::<Lru>(shape),
        MutexLru::NAME => count_cache::<MutexLru>(shape),
        QuickCache::NAME => count_cache::<QuickCache>(shape),
        Moka::NAME => count_cache::<Moka>(shape),
        CHILD_PURGE => count_purge(shape.items),
        _ => panic!("unknown store or cache {name:?}"),
    }
}

/// The two accounts of a transfer.
type Two<K> = (Account<K>, Account<K>);

/// Counts `operation` over the arguments, each of which is used once.
fn count<A>(name: &str, arguments: &[A], mut operation: impl FnMut(&A)) {
    let (warm, rest) = arguments.split_at(WARM);
    let (short, long) = rest.split_at(SHORT);
    warm.iter().for_each(&mut operation);
    for part in [short, long] {
        let name = format!("{name}/{}", part.len());
        callgrind::count(&name, || part.iter().for_each(&mut operation));
    }
}

fn count_store<S: Store>(shape: Shape) {
    let store = S::new();
    let key = |pair: Pair| S::key(&pair.pk, &pair.sk);
    {
        let items: Vec<(S::Key, u64)> = (0..shape.items)
            .map(|number| (key(shape.item(number)), 1))
            .collect();
        store.load(&items);
    }
    let chosen = Random::new(1).choose(DONE, shape.items);
    let keys = |of: &dyn Fn(usize) -> Pair| -> Vec<S::Key> {
        chosen.iter().map(|number| key(of(*number))).collect()
    };
    let present = keys(&|number| shape.item(number));
    let absent = keys(&|number| shape.absent(number));
    let new: Vec<S::Key> = (shape.items..shape.items + DONE)
        .map(|number| key(shape.item(number)))
        .collect();
    let accounts = || -> Vec<Account<S::Key>> {
        let account = |number: &usize| Account {
            balance: key(shape.item(*number)),
            lock: key(shape.lock(*number)),
        };
        chosen.iter().map(account).collect()
    };
    let pairs = || -> Vec<Two<S::Key>> {
        let (from, mut to) = (accounts(), accounts());
        to.rotate_left(1);
        from.into_iter().zip(to).collect()
    };

    count(NOTHING, &present, |key| {
        black_box(key);
    });
    for operation in S::OPERATIONS {
        let name = operation.name();
        match operation {
            Operation::Get => count(name, &present, |key| {
                assert!(black_box(store.get(black_box(key))).is_some());
            }),
            Operation::GetInPlace => count(name, &present, |key| {
                assert!(black_box(store.get_in_place(black_box(key))).is_some());
            }),
            Operation::GetMiss => count(name, &absent, |key| {
                assert!(black_box(store.get(black_box(key))).is_none());
            }),
            Operation::Set => count(name, &present, |key| store.set(black_box(key), 2)),
            Operation::SetInPlace => {
                count(name, &present, |key| store.set_in_place(black_box(key), 3));
            }
            Operation::Insert => count(name, &new, |key| store.set(black_box(key), 4)),
            Operation::Delete => count(name, &new, |key| store.delete(black_box(key))),
            Operation::GetLock => {
                let accounts = accounts();
                for account in &accounts {
                    store.get_lock(account);
                }
                count(name, &accounts, |account| {
                    black_box(store.get_lock(black_box(account)));
                });
            }
            Operation::SetAtomic => {
                // One account, whose lock is passed on from write to write.
                let accounts = accounts();
                let mut lock = store.get_lock(&accounts[0]);
                let values: Vec<u64> = (0..DONE as u64).collect();
                count(name, &values, |value| {
                    store.set_atomic(black_box(&accounts[0]), &mut lock, *value);
                });
            }
            Operation::Transfer | Operation::Transact => {
                let pairs = pairs();
                for (from, _) in &pairs {
                    store.get_lock(from);
                }
                count(name, &pairs, |(from, to)| match operation {
                    Operation::Transfer => store.transfer(black_box(from), black_box(to)),
                    _ => store.transact(black_box(from), black_box(to)),
                });
            }
            Operation::AddByHand | Operation::AddByTransact | Operation::AddByUpdate => {
                count(name, &accounts(), |account| {
                    store.add(black_box(account), *operation);
                });
            }
            Operation::Query if shape.depth() < QUERIED => {}
            Operation::Query => {
                let range = |number: &usize| S::range(&shape.span(*number));
                let ranges: Vec<S::Range> = chosen.iter().map(range).collect();
                count(name, &ranges, |range| {
                    assert_eq!(black_box(store.query(black_box(range))), QUERIED);
                });
            }
        }
    }
}

fn count_cache<C: Cache>(shape: Shape) {
    let source = Source::new();
    let pairs: Vec<Pair> = (0..shape.items + DONE)
        .map(|number| shape.item(number))
        .collect();
    let items: Vec<Item<u64>> = pairs
        .iter()
        .map(|pair| Item::new(&pair.pk, &pair.sk, 1))
        .collect();
    source.set(&items).expect("a write succeeds");
    drop(items);
    let (held, new) = pairs.split_at(shape.items);
    let chosen: Vec<&Pair> = Random::new(1)
        .choose(DONE, held.len())
        .into_iter()
        .map(|number| &held[number])
        .collect();
    count(NOTHING, &chosen, |pair| {
        black_box(pair);
    });

    // Capacity for twice as many, so that no cache evicts.
    let cache = C::new(source.clone(), 2 * held.len());
    for pair in held {
        cache.get(pair);
    }
    let before = cache.misses();
    count(HIT, &chosen, |pair| {
        black_box(cache.get(black_box(pair)));
    });
    assert_eq!(cache.misses(), before, "{} keeps what fits", C::NAME);
    drop(cache);

    let full = C::new(source, held.len());
    for pair in held {
        full.get(pair);
    }
    let before = full.misses();
    count(MISS, new, |pair| {
        black_box(full.get(black_box(pair)));
    });
    assert_eq!(
        full.misses() - before,
        DONE as u64,
        "each is new to {}",
        C::NAME
    );
}

/// Counts one whole purge, which cannot be repeated in a loop.
fn count_purge(live: usize) {
    let clock = ManualClock::new(1_000);
    let db = MemoryDb::builder().clock(clock.clone()).build();
    let shape = Shape::new(live + EXPIRED, 1);
    for number in 0..shape.items {
        let pair = shape.item(number);
        // Expired items are spread over the partition.
        let expires =
            number % (shape.items / EXPIRED) == 0 && number / (shape.items / EXPIRED) < EXPIRED;
        let ttl = if expires { 2_000 } else { 1_000_000 };
        let item = Item::new(&pair.pk, &pair.sk, 1_u64).expires_at(ttl);
        db.set(&[item]).expect("a write succeeds");
    }
    clock.set(3_000);
    callgrind::count("purge", || {
        assert_eq!(black_box(&db).purge_expired(), EXPIRED);
    });
}

/// Returns the title of the table of one shape.
pub(crate) fn table(shape: Shape) -> String {
    format!("instructions per operation, {shape}")
}

/// Counts all stores and caches; `quick` skips the shapes with a million items.
///
/// # Errors
///
/// Those of [`callgrind::run`].
pub(crate) fn measure(quick: bool, version: &str) -> io::Result<Figures> {
    let mut figures = Figures::default();
    figures.note(format!("Counted by callgrind of {version}."));
    let most = if quick { 100_000 } else { usize::MAX };
    for shape in SHAPES.into_iter().filter(|shape| shape.items <= most) {
        for name in STORES {
            measure_one(name, shape, &mut figures)?;
        }
        if shape.partitions == 1 {
            for name in CACHES {
                measure_one(name, shape, &mut figures)?;
            }
        }
    }
    for (row, live) in PURGED.into_iter().filter(|(_, live)| *live <= most) {
        for dump in run(CHILD_PURGE, Shape::new(live, 1))? {
            figures.add(PURGE, row, MemoryDbStore::NAME, dump.instructions as f64);
        }
    }
    Ok(figures)
}

/// Counts the operations of one store or cache with one shape.
fn measure_one(name: &str, shape: Shape, figures: &mut Figures) -> io::Result<()> {
    let dumps = run(name, shape)?;
    let mut nothing = 0.0;
    for two in dumps.chunks_exact(2) {
        let [short, long] = two else {
            continue;
        };
        let operation = short.name.split('/').next().unwrap_or_default();
        let difference = long.instructions.saturating_sub(short.instructions);
        let each = difference as f64 / (LONG - SHORT) as f64;
        match operation {
            NOTHING => nothing = each,
            _ => figures.add(&table(shape), operation, name, each - nothing),
        }
    }
    eprintln!("{}: {name}", table(shape));
    Ok(())
}

/// Returns the output of callgrind_annotate for one operation: the functions that its instructions
/// belong to.
///
/// # Errors
///
/// Those of [`callgrind::run`], and an unknown operation.
pub(crate) fn profile(name: &str, operation: &str) -> io::Result<String> {
    let folder = Folder::new();
    let dumps = run_in(&folder, name, SHAPES[0])?;
    let wanted = format!("{operation}/{LONG}");
    let dump = dumps.iter().find(|dump| dump.name == wanted);
    let dump = dump.ok_or_else(|| io::Error::other(format!("{name} has no {operation:?}")))?;
    callgrind::annotate(dump)
}

fn run(name: &str, shape: Shape) -> io::Result<Vec<Dump>> {
    run_in(&Folder::new(), name, shape)
}

fn run_in(folder: &Folder, name: &str, shape: Shape) -> io::Result<Vec<Dump>> {
    let (items, partitions) = (shape.items.to_string(), shape.partitions.to_string());
    callgrind::run(&folder.0, &[CHILD, name, &items, &partitions])
}

/// A temporary folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("atomic-db-peers-{}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
