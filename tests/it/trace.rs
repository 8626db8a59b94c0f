//! Compares the cache with an independent strict LRU on traces of requests for blocks: generated
//! ones, and the one in the file that `ATOMIC_DB_TRACE` names, if it is set. That file has one block
//! number a line.

use atomic_db::{AtomicDb, CacheStats, Item, Key, LruCache, MemoryDb};
use std::collections::{BTreeMap, HashMap};

const TRACE_VARIABLE: &str = "ATOMIC_DB_TRACE";

/// Steele, Lea and Flood's SplitMix64.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// Returns a number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Returns a number from zero up to and not including one.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Generates `count` requests. Most are Zipf draws from a working set of 1,000 blocks, which moves
/// on by 200 blocks every 4,000 requests. About once in 1,000 requests a sequential scan of up to 500
/// other blocks begins.
fn generate(seed: u64, count: usize) -> Vec<u64> {
    const WORKING_SET: u64 = 1_000;
    const EXPONENT: f64 = 0.9;
    const SCANNED: u64 = 1_000_000;
    let mut cumulative = Vec::new();
    let mut total = 0.0;
    for rank in 1..=WORKING_SET {
        total += (rank as f64).powf(-EXPONENT);
        cumulative.push(total);
    }
    let mut random = SplitMix64(seed);
    let mut requests = Vec::with_capacity(count);
    while requests.len() < count {
        if random.below(1_000) == 0 {
            let start = SCANNED + random.below(5_000);
            let length = 1 + random.below(500);
            requests.extend(start..start + length);
        } else {
            let draw = random.unit() * total;
            let rank = cumulative.partition_point(|sum| *sum <= draw) as u64;
            let moved = 200 * (requests.len() as u64 / 4_000);
            // 389 and 1,000 have no common divisor, so this scatters the ranks over the set.
            requests.push(moved + rank * 389 % WORKING_SET);
        }
    }
    requests.truncate(count);
    requests
}

/// A strict LRU that finds the least recently used block by the time of its last use.
struct ReferenceLru {
    capacity: usize,
    blocks_by_use: BTreeMap<usize, u64>,
    last_use: HashMap<u64, usize>,
    now: usize,
    hits: u64,
    evictions: u64,
}

impl ReferenceLru {
    fn new(capacity: usize) -> Self {
        ReferenceLru {
            capacity,
            blocks_by_use: BTreeMap::new(),
            last_use: HashMap::new(),
            now: 0,
            hits: 0,
            evictions: 0,
        }
    }

    fn request(&mut self, block: u64) {
        self.now += 1;
        if let Some(before) = self.last_use.insert(block, self.now) {
            self.hits += 1;
            self.blocks_by_use.remove(&before);
        }
        self.blocks_by_use.insert(self.now, block);
        if self.blocks_by_use.len() > self.capacity {
            self.evictions += 1;
            let (_, evicted) = self.blocks_by_use.pop_first().unwrap();
            self.last_use.remove(&evicted);
        }
    }
}

struct Trace {
    name: String,
    requests: Vec<u64>,
    /// The sort key of every block.
    sks: HashMap<u64, String>,
}

impl Trace {
    fn new(name: String, requests: Vec<u64>) -> Self {
        let sks = requests.iter().map(|block| (*block, block.to_string()));
        Trace {
            name,
            sks: sks.collect(),
            requests,
        }
    }

    fn generated(seed: u64, count: usize) -> Self {
        let name = format!("generated from seed {seed}");
        Trace::new(name, generate(seed, count))
    }

    fn from_file(path: &str) -> Self {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{TRACE_VARIABLE}: {path} cannot be read: {error}"));
        let lines = text.lines().enumerate();
        let requests = lines.map(|(index, line)| {
            line.trim().parse().unwrap_or_else(|_| {
                panic!("{path}, line {}: {line:?} is not a block number", index + 1)
            })
        });
        let requests: Vec<u64> = requests.collect();
        assert!(!requests.is_empty(), "{TRACE_VARIABLE}: {path} is empty");
        Trace::new(path.to_owned(), requests)
    }

    /// Replays the trace at several capacities, from one block to all of them.
    fn compare(&self) {
        let blocks = self.sks.len();
        let source = MemoryDb::new();
        for (block, sk) in &self.sks {
            source.set(&[Item::new("disk", sk, *block)]).unwrap();
        }
        let mut capacities = vec![1, 2, 3];
        capacities.extend([100, 20, 10, 5, 2, 1].map(|divisor| blocks / divisor));
        capacities.retain(|capacity| *capacity > 0);
        capacities.sort_unstable();
        capacities.dedup();
        let hits: Vec<u64> = capacities
            .iter()
            .map(|capacity| self.compare_at(&source, *capacity))
            .collect();
        println!(
            "trace {}: {} requests, {blocks} blocks, capacities {capacities:?}, hits {hits:?}",
            self.name,
            self.requests.len()
        );
        // LRU has the inclusion property.
        assert!(hits.is_sorted(), "trace {}: {hits:?}", self.name);
        let misses = self.requests.len() as u64 - hits[hits.len() - 1];
        assert_eq!(misses, blocks as u64, "trace {}", self.name);
    }

    /// Replays the trace at one capacity, and returns the hits.
    fn compare_at(&self, source: &MemoryDb<u64>, capacity: usize) -> u64 {
        let cache = LruCache::builder(source.clone())
            .capacity(capacity)
            .shards(1)
            .build();
        let mut reference = ReferenceLru::new(capacity);
        for (index, block) in self.requests.iter().enumerate() {
            let item = cache.get(Key::new("disk", &self.sks[block])).unwrap();
            assert_eq!(item.and_then(Item::into_data), Some(*block));
            reference.request(*block);
            let CacheStats {
                hits,
                evictions,
                entries,
                ..
            } = cache.stats();
            assert_eq!(
                (hits, evictions, entries),
                (
                    reference.hits,
                    reference.evictions,
                    reference.last_use.len()
                ),
                "trace {}, request {}, capacity {capacity}",
                self.name,
                index + 1
            );
        }
        let stats = cache.stats();
        assert_eq!(stats.hits + stats.misses, self.requests.len() as u64);
        stats.hits
    }
}

#[test]
fn hits_and_evictions_match_a_strict_lru() {
    for seed in 1..=3 {
        Trace::generated(seed, 20_000).compare();
    }
    if let Some(path) = std::env::var_os(TRACE_VARIABLE) {
        let path = path.to_str().expect("ATOMIC_DB_TRACE is not UTF-8");
        Trace::from_file(path).compare();
    }
}

#[test]
fn the_generator_makes_hot_blocks_scans_and_a_shifting_working_set() {
    let requests = generate(1, 20_000);
    assert_eq!(
        requests,
        generate(1, 20_000),
        "the trace depends on its seed only"
    );
    assert_ne!(requests, generate(2, 20_000));
    let scanned = requests.iter().filter(|block| **block >= 1_000_000).count();
    assert!(
        (500..15_000).contains(&scanned),
        "{scanned} requests are scans"
    );
    let drawn = |part: &[u64]| {
        let mut counts = HashMap::new();
        for block in part.iter().filter(|block| **block < 1_000_000) {
            *counts.entry(*block).or_insert(0_u32) += 1;
        }
        counts
    };
    let (first, last) = (drawn(&requests[..4_000]), drawn(&requests[16_000..]));
    let most = first.values().max().copied().unwrap();
    assert!(most > 100, "the hottest block is requested {most} times");
    let only_first = first
        .keys()
        .filter(|block| !last.contains_key(*block))
        .count();
    assert!(only_first > 100, "{only_first} blocks left the working set");
    assert!(
        last.keys().any(|block| *block >= 1_000),
        "no block entered the working set"
    );
}
