//! Time per operation, as ratios within one run. In each round, the contenders do the same work one
//! after another, so that other load on the machine affects all of them.

use crate::environment;
use crate::figures::Figures;
use crate::keys::{Pair, Random, Shape};
use crate::stores::{
    Account, DashMapStore, MemoryDbStore, MutexBTreeMap, MutexHashMap, Operation, PapayaStore,
    RedbInMemory, SccStore, SqliteInMemory, Store, SurrealStore, TreeIndexStore, TxMapStore,
};
use crate::zipf::Zipf;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const RATIO: &str = "time per operation, against MemoryDb";
pub(crate) const NANOS: &str = "nanoseconds per operation";
pub(crate) const SPEEDUP: &str = "operations per second, against one thread";

pub(crate) const UNIFORM_READS: &str = "95 % reads, uniform";
pub(crate) const HOT: &str = "one hot partition, reads only";
pub(crate) const TRANSFER: &str = "transfer";

const SHAPE: Shape = Shape::new(100_000, 1_000);
const HOT_SHAPE: Shape = Shape::new(1_000, 1);

/// The time for which one contender runs one workload in one round.
const SLICE: Duration = Duration::from_millis(20);

/// The number of choices made beforehand for each thread, which repeats them.
const CHOICES: usize = 1 << 16;

/// Operations, chosen before any time is measured.
struct Workload {
    name: &'static str,
    op: Op,
    /// For each thread, indices of keys.
    choices: Vec<Vec<Choice>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Points,
    Transfers,
}

#[derive(Clone, Copy)]
struct Choice {
    index: u32,
    writes: bool,
}

impl Workload {
    /// Makes choices for each of `threads`. `draw` returns the index of a key.
    fn new(
        name: &'static str,
        op: Op,
        threads: usize,
        writes: f64,
        draw: impl Fn(&mut Random) -> usize,
    ) -> Self {
        let thread = |number: usize| {
            let mut random = Random::new(10 + number as u64);
            let choice = |_| Choice {
                index: draw(&mut random) as u32,
                writes: random.unit() < writes,
            };
            (0..CHOICES).map(choice).collect()
        };
        Workload {
            name,
            op,
            choices: (0..threads).map(thread).collect(),
        }
    }
}

/// A filled store, and the keys that it is asked for.
struct Contender<S: Store> {
    store: S,
    keys: Vec<S::Key>,
    /// The first item of each partition, and its lock.
    accounts: Vec<Account<S::Key>>,
}

trait DynContender {
    fn name(&self) -> &'static str;

    fn supports(&self, op: Op) -> bool;

    /// Returns the sum of all accounts, which transfers preserve.
    fn total(&self) -> u64;

    /// Returns the nanoseconds per operation of `threads` threads together.
    fn nanos(&self, work: &Workload, threads: usize) -> f64;
}

impl<S: Store> Contender<S> {
    fn filled(shape: Shape) -> Box<dyn DynContender>
    where
        S: 'static,
    {
        let key = |pair: Pair| S::key(&pair.pk, &pair.sk);
        let store = S::new();
        let items: Vec<(S::Key, u64)> = (0..shape.items)
            .map(|number| (key(shape.item(number)), 1))
            .collect();
        store.load(&items);
        let account = |partition: usize| {
            let number = partition * shape.depth();
            Account {
                balance: key(shape.item(number)),
                lock: key(shape.lock(number)),
            }
        };
        Box::new(Contender {
            store,
            keys: items.into_iter().map(|(key, _)| key).collect(),
            accounts: (0..shape.partitions).map(account).collect(),
        })
    }

    fn run(&self, op: Op, choice: Choice) {
        let place = choice.index as usize;
        match op {
            Op::Points if choice.writes => self.store.set(&self.keys[place], 2),
            Op::Points => {
                black_box(self.store.get(&self.keys[place]));
            }
            Op::Transfers => {
                // Never the same account.
                let count = self.accounts.len();
                let other = (place + 1 + place % (count - 1)) % count;
                let (from, to) = (&self.accounts[place], &self.accounts[other]);
                self.store.transfer(from, to);
            }
        }
    }
}

impl<S: Store> DynContender for Contender<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn supports(&self, op: Op) -> bool {
        op == Op::Points || S::OPERATIONS.contains(&Operation::Transfer)
    }

    fn total(&self) -> u64 {
        let balances = self.accounts.iter();
        balances
            .filter_map(|account| self.store.get(&account.balance))
            .fold(0, u64::wrapping_add)
    }

    fn nanos(&self, work: &Workload, threads: usize) -> f64 {
        nanos(threads, SLICE, |number, stop| {
            let mut done = 0;
            for some in work.choices[number].chunks(16).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                for choice in some {
                    self.run(work.op, *choice);
                }
                done += some.len() as u64;
            }
            done
        })
    }
}

/// Returns the nanoseconds per operation of `threads` threads together. Each thread runs `work` with
/// its number until the flag is set; `work` returns the number of its operations.
pub(crate) fn nanos(
    threads: usize,
    slice: Duration,
    work: impl Fn(usize, &AtomicBool) -> u64 + Sync,
) -> f64 {
    let (ready, stop) = (Barrier::new(threads + 1), AtomicBool::new(false));
    thread::scope(|scope| {
        let worker = |number: usize| {
            let (ready, stop, work) = (&ready, &stop, &work);
            scope.spawn(move || {
                ready.wait();
                work(number, stop)
            })
        };
        let workers: Vec<_> = (0..threads).map(worker).collect();
        ready.wait();
        let began = Instant::now();
        thread::sleep(slice);
        stop.store(true, Ordering::Relaxed);
        let done: u64 = workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker ends"))
            .sum();
        began.elapsed().as_nanos() as f64 / done.max(1) as f64
    })
}

fn contenders(shape: Shape) -> Vec<Box<dyn DynContender>> {
    vec![
        Contender::<MemoryDbStore>::filled(shape),
        Contender::<DashMapStore>::filled(shape),
        Contender::<PapayaStore>::filled(shape),
        Contender::<SccStore>::filled(shape),
        Contender::<MutexHashMap>::filled(shape),
        Contender::<MutexBTreeMap>::filled(shape),
        Contender::<TreeIndexStore>::filled(shape),
        Contender::<TxMapStore>::filled(shape),
        Contender::<SurrealStore>::filled(shape),
        Contender::<RedbInMemory>::filled(shape),
        Contender::<SqliteInMemory>::filled(shape),
    ]
}

pub(crate) fn at(name: &str, threads: usize) -> String {
    match threads {
        1 => format!("{name}, 1 thread"),
        _ => format!("{name}, {threads} threads"),
    }
}

/// Returns the ratios of two series, round by round.
pub(crate) fn ratios(above: &[f64], below: &[f64]) -> Vec<f64> {
    let pairs = above.iter().zip(below);
    pairs.map(|(above, below)| above / below).collect()
}

pub(crate) fn measure(rounds: usize) -> Figures {
    let mut figures = Figures::default();
    let most = thread::available_parallelism().map_or(2, usize::from);
    let mut counts = vec![1, 2, most.max(2)];
    counts.dedup();
    figures.note(format!(
        "{rounds} rounds of {} ms for each number; medians, with the quartiles in brackets; load average {}.",
        SLICE.as_millis(),
        environment::load()
    ));

    let threads = most.max(2);
    let zipf = Zipf::new(SHAPE.items, 0.99);
    // Frequent keys are spread over all partitions.
    let places = Random::new(4).choose(SHAPE.items, SHAPE.items);
    let uniform = |random: &mut Random| random.below(SHAPE.items);
    let skewed = |random: &mut Random| places[zipf.draw(random)];
    let spread = [
        Workload::new(UNIFORM_READS, Op::Points, threads, 0.05, uniform),
        Workload::new("95 % reads, Zipf(0.99)", Op::Points, threads, 0.05, skewed),
        Workload::new("50 % writes, uniform", Op::Points, threads, 0.5, uniform),
        Workload::new("50 % writes, Zipf(0.99)", Op::Points, threads, 0.5, skewed),
        Workload::new(TRANSFER, Op::Transfers, threads, 1.0, |random| {
            random.below(SHAPE.partitions)
        }),
    ];
    compare(&contenders(SHAPE), &spread, &counts, rounds, &mut figures);

    let hot = [Workload::new(HOT, Op::Points, threads, 0.0, |random| {
        random.below(HOT_SHAPE.items)
    })];
    compare(&contenders(HOT_SHAPE), &hot, &counts, rounds, &mut figures);
    figures
}

/// Runs all workloads on all contenders, and adds the results to `figures`.
fn compare(
    contenders: &[Box<dyn DynContender>],
    workloads: &[Workload],
    counts: &[usize],
    rounds: usize,
    figures: &mut Figures,
) {
    for work in workloads {
        let able: Vec<_> = contenders
            .iter()
            .filter(|contender| contender.supports(work.op))
            .collect();
        let totals: Vec<u64> = able.iter().map(|contender| contender.total()).collect();
        // Indexed by number of threads, contender and round.
        let mut nanos = vec![vec![Vec::new(); able.len()]; counts.len()];
        for _ in 0..rounds {
            for (by_contender, threads) in nanos.iter_mut().zip(counts) {
                for (by_round, contender) in by_contender.iter_mut().zip(&able) {
                    by_round.push(contender.nanos(work, *threads));
                }
            }
        }
        for (contender, total) in able.iter().zip(totals) {
            let is_whole = work.op == Op::Points || contender.total() == total;
            assert!(
                is_whole,
                "transfers of {} do not preserve the total",
                contender.name()
            );
        }
        for (by_contender, threads) in nanos.iter().zip(counts) {
            let row = at(work.name, *threads);
            for (samples, contender) in by_contender.iter().zip(&able) {
                let name = contender.name();
                figures.add_samples(NANOS, &row, name, samples);
                let ratios = ratios(samples, &by_contender[0]);
                figures.add_samples(RATIO, &row, name, &ratios);
            }
        }
        for (by_contender, threads) in nanos.iter().zip(counts).skip(1) {
            let row = at(work.name, *threads);
            for (place, contender) in able.iter().enumerate() {
                let gains = ratios(&nanos[0][place], &by_contender[place]);
                figures.add_samples(SPEEDUP, &row, contender.name(), &gains);
            }
        }
        eprintln!("{}: done", work.name);
    }
}
