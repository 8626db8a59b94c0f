//! Caches on requests that were made in earnest: how many they answer, and how fast.

use crate::caches::{Cache, Moka, MutexLru, Ours, Quick, Source};
use crate::figures::Figures;
use crate::keys::{Pair, Random};
use crate::report::grouped;
use crate::zipf::Zipf;
use atomic_db::{AtomicDb, Item};
use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

pub(crate) const HITS: &str = "hits per 100 requests";
pub(crate) const TIME: &str = "time to answer all requests, against LruCache";

/// Block numbers of a disk's reads and writes, one a line, where the file is at hand.
const TRACE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../shared/data/cloudphysics.txt"
);

const CAPACITIES: [usize; 6] = [100, 1_000, 5_000, 10_000, 20_000, 40_000];

struct Trace {
    /// Each a place in `blocks`.
    requests: Vec<usize>,
    blocks: Vec<Pair>,
}

impl Trace {
    fn new(lines: impl Iterator<Item = String>) -> Self {
        let mut numbers = HashMap::new();
        let mut blocks = Vec::new();
        let requests = lines.map(|line| {
            *numbers.entry(line).or_insert_with_key(|line| {
                blocks.push(Pair::new("disk", line));
                blocks.len() - 1
            })
        });
        Trace {
            requests: requests.collect(),
            blocks,
        }
    }

    fn source(&self) -> Source {
        let source = Source::new();
        let item = |pair: &Pair| Item::new(&pair.pk, &pair.sk, 1);
        let items: Vec<Item<u64>> = self.blocks.iter().map(item).collect();
        source.set(&items).expect("a write succeeds");
        source
    }

    /// Seconds and misses of a new cache that is asked for everything in turn.
    fn replay<C: Cache>(&self, source: &Source, capacity: usize) -> (f64, u64) {
        let cache = C::new(source.clone(), capacity);
        let began = Instant::now();
        for request in &self.requests {
            black_box(cache.get(&self.blocks[*request]));
        }
        (began.elapsed().as_secs_f64(), cache.misses())
    }
}

pub(crate) fn measure(rounds: usize) -> Figures {
    let mut figures = Figures::default();
    let trace = match std::fs::read_to_string(TRACE) {
        Ok(text) => {
            let trace = Trace::new(text.lines().map(str::to_owned));
            figures.note(format!(
                "The trace: {} requests of a virtual machine's disk for {} blocks (CloudPhysics).",
                grouped(&trace.requests.len().to_string()),
                grouped(&trace.blocks.len().to_string())
            ));
            trace
        }
        Err(_) => {
            let mut random = Random::new(3);
            let zipf = Zipf::new(60_000, 0.99);
            let lines = (0..113_872).map(|_| zipf.draw(&mut random).to_string());
            figures.note(
                "**The real trace was not at hand: a made-up one stands in**, of 113,872 requests by Zipf(0.99) for up to 60,000 blocks, the same at every run.",
            );
            Trace::new(lines)
        }
    };
    let source = trace.source();
    for capacity in CAPACITIES {
        let row = format!("capacity {}", grouped(&capacity.to_string()));
        let replays: [(&str, Replay<'_>); 4] = [
            (Ours::NAME, &|| trace.replay::<Ours>(&source, capacity)),
            (MutexLru::NAME, &|| {
                trace.replay::<MutexLru>(&source, capacity)
            }),
            (Quick::NAME, &|| trace.replay::<Quick>(&source, capacity)),
            (Moka::NAME, &|| trace.replay::<Moka>(&source, capacity)),
        ];
        let mut times = vec![Vec::new(); replays.len()];
        let mut hits = vec![Vec::new(); replays.len()];
        for _ in 0..rounds {
            for (place, (_, replay)) in replays.iter().enumerate() {
                let (seconds, misses) = replay();
                times[place].push(seconds);
                let part = 1.0 - misses as f64 / trace.requests.len() as f64;
                hits[place].push(100.0 * part);
            }
        }
        for (place, (name, _)) in replays.iter().enumerate() {
            figures.add_samples(HITS, &row, name, &hits[place]);
            let ratios: Vec<f64> = times[place]
                .iter()
                .zip(&times[0])
                .map(|(peer, ours)| peer / ours)
                .collect();
            figures.add_samples(TIME, &row, name, &ratios);
        }
        eprintln!("{row}: done");
    }
    figures
}

type Replay<'a> = &'a dyn Fn() -> (f64, u64);
