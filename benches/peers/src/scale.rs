//! How the time of a point read depends on the number of items and on the size of a partition.

use crate::environment;
use crate::figures::Figures;
use crate::keys::{Random, Shape};
use crate::stores::{
    DashMapStore, MemoryDbStore, MutexHashMap, PapayaStore, SccStore, Store, TxMapStore,
};
use crate::throughput::{nanos, ratios};
use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(crate) const NANOS: &str = "nanoseconds per get hit, by number of items";
pub(crate) const RATIO: &str = "time per get hit, by number of items, against MemoryDb";

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
    figures
}
