//! How the time of a point read depends on the number of items and on the size of a partition, and
//! what calls on a large partition take.

use crate::environment;
use crate::figures::Figures;
use crate::keys::{QUERIED, Random, Shape};
use crate::stores::{
    DashMapStore, MemoryDbStore, MutexBTreeMap, MutexHashMap, Operation, PapayaStore, SccStore,
    Store, TreeIndexStore, TxMapStore,
};
use crate::throughput::{nanos, ratios};
use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub(crate) const NANOS: &str = "nanoseconds per get hit, by number of items";
pub(crate) const RATIO: &str = "time per get hit, by number of items, against MemoryDb";

pub(crate) const LARGE_NANOS: &str = "nanoseconds per call, one partition of 1 M items";
pub(crate) const LARGE_RATIO: &str = "time per call, one partition of 1 M items, against MemoryDb";

const LARGE: Shape = Shape::new(1_000_000, 1);

/// Each round fills every store.
const LARGE_ROUNDS_MAX: usize = 5;

const SHAPES: [Shape; 5] = [
    Shape::new(1_000, 1),
    Shape::new(100_000, 1),
    Shape::new(1_000_000, 1),
    Shape::new(10_000_000, 1),
    Shape::new(10_000_000, 10_000_000),
];

const SLICE: Duration = Duration::from_millis(20);

/// The number of keys that are read. So many that no cache of a processor holds their items.
const KEYS: usize = 1 << 18;

/// A filled store, and some of its keys in random order.
struct Sample<S: Store> {
    store: S,
    keys: Vec<S::Key>,
}

trait DynSample {
    fn name(&self) -> &'static str;

    /// Returns the nanoseconds of a read, by one thread.
    fn nanos(&self) -> f64;
}

impl<S: Store + 'static> Sample<S> {
    fn filled(shape: Shape) -> Box<dyn DynSample> {
        let store = S::new();
        let key = |number: usize| {
            let pair = shape.item(number);
            S::key(&pair.pk, &pair.sk)
        };
        let numbers: Vec<usize> = (0..shape.items).collect();
        for some in numbers.chunks(1_000) {
            let items: Vec<(S::Key, u64)> = some.iter().map(|number| (key(*number), 1)).collect();
            store.load(&items);
        }
        let mut random = Random::new(7);
        let keys = (0..KEYS).map(|_| key(random.below(shape.items))).collect();
        Box::new(Sample { store, keys })
    }
}

impl<S: Store> DynSample for Sample<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn nanos(&self) -> f64 {
        nanos(1, SLICE, |_, stop| {
            let mut done = 0;
            for some in self.keys.chunks(16).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                for key in some {
                    assert!(black_box(self.store.get(black_box(key))).is_some());
                }
                done += some.len() as u64;
            }
            done
        })
    }
}

pub(crate) fn measure(rounds: usize) -> Figures {
    let mut figures = Figures::default();
    figures.note(format!(
        "{rounds} rounds of {} ms for each number; medians, with the quartiles in brackets; load average {}.",
        SLICE.as_millis(),
        environment::load()
    ));
    for shape in SHAPES {
        let samples = [
            Sample::<MemoryDbStore>::filled(shape),
            Sample::<DashMapStore>::filled(shape),
            Sample::<PapayaStore>::filled(shape),
            Sample::<SccStore>::filled(shape),
            Sample::<MutexHashMap>::filled(shape),
            Sample::<TxMapStore>::filled(shape),
        ];
        let mut nanos = vec![Vec::new(); samples.len()];
        for _ in 0..rounds {
            for (by_round, sample) in nanos.iter_mut().zip(&samples) {
                by_round.push(sample.nanos());
            }
        }
        let row = shape.to_string();
        for (by_round, sample) in nanos.iter().zip(&samples) {
            figures.add_samples(NANOS, &row, sample.name(), by_round);
            figures.add_samples(RATIO, &row, sample.name(), &ratios(by_round, &nanos[0]));
        }
        eprintln!("{NANOS}, {row}: done");
    }
    measure_large(rounds.min(LARGE_ROUNDS_MAX), &mut figures);
    figures
}

/// The calls on a large partition, in the order in which they are made.
const CALLS: [&str; 3] = [
    "insert in random order",
    "query of 100 items",
    "delete in random order",
];

fn measure_large(rounds: usize, figures: &mut Figures) {
    type Large = (&'static str, fn() -> [f64; 3]);
    let contenders: [Large; 4] = [
        (MemoryDbStore::NAME, time_large::<MemoryDbStore>),
        (MutexBTreeMap::NAME, time_large::<MutexBTreeMap>),
        (TreeIndexStore::NAME, time_large::<TreeIndexStore>),
        (MutexHashMap::NAME, time_large::<MutexHashMap>),
    ];
    // Indexed by call, contender and round.
    let mut nanos = vec![vec![Vec::new(); contenders.len()]; CALLS.len()];
    for _ in 0..rounds {
        for (contender, (_, time)) in contenders.iter().enumerate() {
            for (call, each) in time().into_iter().enumerate() {
                nanos[call][contender].push(each);
            }
        }
    }
    for (call, by_contender) in CALLS.into_iter().zip(&nanos) {
        for ((name, _), by_round) in contenders.iter().zip(by_contender) {
            // A store without queries has no time for them.
            if by_round.iter().all(|each| *each > 0.0) {
                figures.add_samples(LARGE_NANOS, call, name, by_round);
                figures.add_samples(LARGE_RATIO, call, name, &ratios(by_round, &by_contender[0]));
            }
        }
    }
    eprintln!("{LARGE_NANOS}: done");
}

/// Returns the nanoseconds of each of the [`CALLS`], or zero where there is none.
fn time_large<S: Store>() -> [f64; 3] {
    let store = S::new();
    let key = |number: usize| {
        let pair = LARGE.item(number);
        S::key(&pair.pk, &pair.sk)
    };
    let keys: Vec<S::Key> = (0..LARGE.items).map(key).collect();
    let order = Random::new(8).choose(LARGE.items, LARGE.items);
    let insert = each(order.len(), || {
        order.iter().for_each(|number| store.set(&keys[*number], 1));
    });
    let order = Random::new(9).choose(LARGE.items / 10, LARGE.items);
    let ranges = order.iter().take(LARGE.items / 100);
    let ranges: Vec<S::Range> = ranges
        .map(|number| S::range(&LARGE.span(*number)))
        .collect();
    let query = if S::OPERATIONS.contains(&Operation::Query) {
        each(ranges.len(), || {
            for range in &ranges {
                assert_eq!(black_box(store.query(black_box(range))), QUERIED);
            }
        })
    } else {
        0.0
    };
    let delete = each(order.len(), || {
        order.iter().for_each(|number| store.delete(&keys[*number]));
    });
    [insert, query, delete]
}

/// Returns the nanoseconds of each of the `count` calls that `work` makes.
fn each(count: usize, work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_nanos() as f64 / count as f64
}
