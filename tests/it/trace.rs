//! The cache against an exact cache of another make, over requests that were made in earnest.

use atomic_db::{AtomicDb, CacheStats, Item, Key, LruCache, MemoryDb};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Block numbers of a disk's reads and writes, one a line, where the file is at hand.
const TRACE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../shared/data/cloudphysics.txt"
);

/// The requests as a dense sequence of numbers, and the sort keys that these stand for.
struct Trace {
    requests: Vec<usize>,
    blocks: Vec<String>,
}

impl Trace {
    fn new<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut numbers = HashMap::new();
        let mut blocks = Vec::new();
        let requests = lines.map(|line| {
            *numbers.entry(line).or_insert_with(|| {
                blocks.push(line.to_owned());
                blocks.len() - 1
            })
        });
        Trace {
            requests: requests.collect(),
            blocks,
        }
    }

    /// A few blocks very often and most of them seldom, the same at every run.
    fn synthetic(requests: usize, blocks: u64) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        // The product of two even draws leans towards the low numbers.
        let block = |_| (random() % blocks) * (random() % blocks) / blocks;
        let lines: Vec<String> = (0..requests)
            .map(block)
            .map(|block| block.to_string())
            .collect();
        Trace::new(lines.iter().map(String::as_str))
    }

    fn real() -> Option<Self> {
        let text = std::fs::read_to_string(TRACE).ok()?;
        Some(Trace::new(text.lines()))
    }

    fn key(&self, request: usize) -> Key<'_> {
        Key::new("disk", &self.blocks[request])
    }

    /// A database that holds every block that is asked for.
    fn disk(&self) -> MemoryDb<usize> {
        let db = MemoryDb::builder().stripes(1).build();
        let items = self.blocks.iter().enumerate();
        let items: Vec<Item<usize>> = items
            .map(|(number, block)| Item::new("disk", block, number))
            .collect();
        db.set(&items).unwrap();
        db
    }

    /// Asks a new cache over `disk` for everything in turn.
    fn cached(&self, disk: &MemoryDb<usize>, capacity: usize) -> CacheStats {
        let db = LruCache::builder(disk.clone())
            .capacity(capacity)
            .shards(1)
            .build();
        for request in &self.requests {
            let item = db.get(self.key(*request)).unwrap();
            assert_eq!(item.and_then(Item::into_data), Some(*request));
        }
        db.stats()
    }

    /// Hits, evictions and entries of a cache that is a map from last use to block.
    fn modelled(&self, capacity: usize) -> (u64, u64, usize) {
        let mut by_use: BTreeMap<usize, usize> = BTreeMap::new();
        let mut last_use: HashMap<usize, usize> = HashMap::new();
        let (mut hits, mut evictions) = (0, 0);
        for (now, request) in self.requests.iter().enumerate() {
            match last_use.insert(*request, now) {
                Some(before) => {
                    hits += 1;
                    by_use.remove(&before);
                }
                None if by_use.len() == capacity => {
                    evictions += 1;
                    if let Some((_, block)) = by_use.pop_first() {
                        last_use.remove(&block);
                    }
                }
                None => {}
            }
            by_use.insert(now, *request);
        }
        (hits, evictions, by_use.len())
    }

    /// Replays everything at each capacity and compares; returns the hits.
    fn replay(&self, capacities: &[usize]) -> Vec<u64> {
        let disk = self.disk();
        let replay = |capacity: &usize| {
            let stats = self.cached(&disk, *capacity);
            assert_eq!(
                (stats.hits, stats.evictions, stats.entries),
                self.modelled(*capacity),
                "at a capacity of {capacity}"
            );
            assert_eq!(stats.hits + stats.misses, self.requests.len() as u64);
            stats.hits
        };
        capacities.iter().map(replay).collect()
    }
}

#[test]
fn the_cache_hits_what_an_exact_one_hits_on_a_made_up_trace() {
    let trace = Trace::synthetic(20_000, 2_000);
    let capacities = [1, 2, 3, 10, 100, 1_000, 2_000];
    let hits = trace.replay(&capacities);
    assert!(
        hits.is_sorted(),
        "a larger cache can only hit more: {hits:?}"
    );
    assert!(hits[0] > 0, "{hits:?}");
    let distinct: HashSet<&usize> = trace.requests.iter().collect();
    assert_eq!(hits[6], (trace.requests.len() - distinct.len()) as u64);
}

#[test]
fn the_cache_hits_what_an_exact_one_hits_on_a_real_trace() {
    // Without the file, a made-up trace with as many requests takes its place.
    let trace = Trace::real().unwrap_or_else(|| Trace::synthetic(113_872, 60_000));
    assert_eq!(trace.requests.len(), 113_872);
    let hits = trace.replay(&[1, 2, 100, 1_000, 10_000, 100_000]);
    assert!(
        hits.is_sorted(),
        "a larger cache can only hit more: {hits:?}"
    );
}
