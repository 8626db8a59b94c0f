//! Caches on a trace of requests: how many they answer, and how fast.

use crate::caches::{Cache, Lru, Moka, MutexLru, QuickCache, Source};
use crate::figures::{Figures, grouped};
use crate::keys::{Pair, Random};
use crate::zipf::Zipf;
use atomic_db::{AtomicDb, Item};
use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;
use std::{fs, io};

pub(crate) const HITS: &str = "hits per 100 requests";
pub(crate) const TIME: &str = "time to answer all requests, against LruCache";

const CAPACITIES: [usize; 6] = [100, 1_000, 5_000, 10_000, 20_000, 40_000];

struct Trace {
    name: String,
    /// Each an index into `blocks`.
    requests: Vec<usize>,
    blocks: Vec<Pair>,
}

impl Trace {
    fn new(name: &str, lines: impl Iterator<Item = String>) -> Self {
        let mut numbers = HashMap::new();
        let mut blocks = Vec::new();
        let requests = lines.map(|line| {
            *numbers.entry(line).or_insert_with_key(|line| {
                blocks.push(Pair::new("disk", line));
                blocks.len() - 1
            })
        });
        Trace {
            name: name.to_owned(),
            requests: requests.collect(),
            blocks,
        }
    }

    /// Generates requests that are the same at every run: draws by Zipf(0.99) from 30,000 blocks,
    /// interrupted by sequential scans. Every 20,000 requests, the working set moves by a third.
    fn generated() -> Self {
        const BLOCKS: usize = 30_000;
        const REQUESTS: usize = 120_000;
        let mut random = Random::new(3);
        let zipf = Zipf::new(BLOCKS, 0.99);
        let mut requests = Vec::with_capacity(REQUESTS);
        let mut scanned = 1_000_000;
        while requests.len() < REQUESTS {
            if random.below(4_000) == 0 {
                let length = 500 + random.below(2_000);
                requests.extend((scanned..scanned + length).map(|block| block.to_string()));
                // Half of the scans read the same blocks again.
                scanned += length * random.below(2);
            }
            let shift = requests.len() / 20_000 * (BLOCKS / 3);
            requests.push((zipf.draw(&mut random) + shift).to_string());
        }
        requests.truncate(REQUESTS);
        Trace::new(
            "generated, Zipf(0.99) with scans and a shifting working set",
            requests.into_iter(),
        )
    }

    fn source(&self) -> Source {
        let source = Source::new();
        let item = |pair: &Pair| Item::new(&pair.pk, &pair.sk, 1);
        let items: Vec<Item<u64>> = self.blocks.iter().map(item).collect();
        source.set(&items).expect("a write succeeds");
        source
    }

    /// Requests every block of the trace from a new cache. Returns the seconds and the misses.
    fn replay<C: Cache>(&self, source: &Source, capacity: usize) -> (f64, u64) {
        let cache = C::new(source.clone(), capacity);
        let began = Instant::now();
        for request in &self.requests {
            black_box(cache.get(&self.blocks[*request]));
        }
        (began.elapsed().as_secs_f64(), cache.misses())
    }
}

/// Measures all caches on the trace in `file`, or on the generated one.
///
/// # Errors
///
/// Those of reading the file.
pub(crate) fn measure(rounds: usize, file: Option<&Path>) -> io::Result<Figures> {
    let mut figures = Figures::default();
    let trace = match file {
        Some(file) => {
            let text = fs::read_to_string(file)?;
            let name = file.file_name().unwrap_or(file.as_os_str());
            Trace::new(&name.to_string_lossy(), text.lines().map(str::to_owned))
        }
        None => Trace::generated(),
    };
    figures.note(format!(
        "Trace: {}; {} requests for {} blocks.",
        trace.name,
        grouped(&trace.requests.len().to_string()),
        grouped(&trace.blocks.len().to_string())
    ));
    let source = trace.source();
    for capacity in CAPACITIES {
        let row = format!("capacity {}", grouped(&capacity.to_string()));
        let replays: [(&str, Replay<'_>); 4] = [
            (Lru::NAME, &|| trace.replay::<Lru>(&source, capacity)),
            (MutexLru::NAME, &|| {
                trace.replay::<MutexLru>(&source, capacity)
            }),
            (QuickCache::NAME, &|| {
                trace.replay::<QuickCache>(&source, capacity)
            }),
            (Moka::NAME, &|| trace.replay::<Moka>(&source, capacity)),
        ];
        let mut times = vec![Vec::new(); replays.len()];
        let mut hits = vec![Vec::new(); replays.len()];
        for _ in 0..rounds {
            for (index, (_, replay)) in replays.iter().enumerate() {
                let (seconds, misses) = replay();
                times[index].push(seconds);
                let part = 1.0 - misses as f64 / trace.requests.len() as f64;
                hits[index].push(100.0 * part);
            }
        }
        for (index, (name, _)) in replays.iter().enumerate() {
            figures.add_samples(HITS, &row, name, &hits[index]);
            let ratios: Vec<f64> = times[index]
                .iter()
                .zip(&times[0])
                .map(|(peer, ours)| peer / ours)
                .collect();
            figures.add_samples(TIME, &row, name, &ratios);
        }
        eprintln!("{row}: done");
    }
    Ok(figures)
}

type Replay<'a> = &'a dyn Fn() -> (f64, u64);
