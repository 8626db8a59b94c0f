//! Time, as ratios within one run: every contender does the same work in turn, round after round, so
//! that what else the machine does meets all of them alike.

use crate::figures::Figures;
use crate::keys::{Pair, Random, Shape};
use crate::machine;
use crate::stores::{
    Account, Dash, Hashed, Memory, Operation, Ordered, Papaya, Redb, Scc, Sqlite, Store, Surreal,
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

/// How long one contender works at one thing in one round.
const SLICE: Duration = Duration::from_millis(20);

/// How many choices are made beforehand; a thread goes round them.
const CHOICES: usize = 1 << 16;

/// What is to be done, chosen before any time is taken.
struct Work {
    name: &'static str,
    what: What,
    /// For each thread, places among the keys.
    choices: Vec<Vec<Choice>>,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Points,
    Transfers,
}

#[derive(Clone, Copy)]
struct Choice {
    place: u32,
    writes: bool,
}

impl Work {
    /// Choices for each of `threads`; `draw` picks a place.
    fn new(
        name: &'static str,
        what: What,
        threads: usize,
        writes: f64,
        draw: impl Fn(&mut Random) -> usize,
    ) -> Self {
        let thread = |number: usize| {
            let mut random = Random::new(10 + number as u64);
            let choice = |_| Choice {
                place: draw(&mut random) as u32,
                writes: random.unit() < writes,
            };
            (0..CHOICES).map(choice).collect()
        };
        Work {
            name,
            what,
            choices: (0..threads).map(thread).collect(),
        }
    }
}

/// A store that is filled, and the keys it is asked for.
struct Contender<S: Store> {
    store: S,
    keys: Vec<S::Key>,
    /// The first item of each partition, and its lock.
    accounts: Vec<Account<S::Key>>,
}

trait Contends {
    fn name(&self) -> &'static str;

    fn can(&self, what: What) -> bool;

    /// The sum of all accounts, which transfers leave as it is.
    fn total(&self) -> u64;

    /// Nanoseconds for each operation, of `threads` together.
    fn nanos(&self, work: &Work, threads: usize) -> f64;
}

impl<S: Store> Contender<S> {
    fn filled(shape: Shape) -> Box<dyn Contends>
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

    fn act(&self, what: What, choice: Choice) {
        let place = choice.place as usize;
        match what {
            What::Points if choice.writes => self.store.set(&self.keys[place], 2),
            What::Points => {
                black_box(self.store.get(&self.keys[place]));
            }
            What::Transfers => {
                // Another account, and never the same one.
                let count = self.accounts.len();
                let other = (place + 1 + place % (count - 1)) % count;
                let (from, to) = (&self.accounts[place], &self.accounts[other]);
                self.store.transfer(from, to);
            }
        }
    }
}

impl<S: Store> Contends for Contender<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn can(&self, what: What) -> bool {
        what == What::Points || S::OPERATIONS.contains(&Operation::Transfer)
    }

    fn total(&self) -> u64 {
        let balances = self.accounts.iter();
        balances
            .filter_map(|account| self.store.get(&account.balance))
            .fold(0, u64::wrapping_add)
    }

    fn nanos(&self, work: &Work, threads: usize) -> f64 {
        nanos(threads, SLICE, |number, stop| {
            let mut done = 0;
            for some in work.choices[number].chunks(16).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                for choice in some {
                    self.act(work.what, *choice);
                }
                done += some.len() as u64;
            }
            done
        })
    }
}

/// Nanoseconds for each operation, of `threads` together. Each does `work`, which is given its
/// number, until it is told to stop, and returns how many operations that was.
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

fn contenders(shape: Shape) -> Vec<Box<dyn Contends>> {
    vec![
        Contender::<Memory>::filled(shape),
        Contender::<Dash>::filled(shape),
        Contender::<Papaya>::filled(shape),
        Contender::<Scc>::filled(shape),
        Contender::<Hashed>::filled(shape),
        Contender::<Ordered>::filled(shape),
        Contender::<Surreal>::filled(shape),
        Contender::<Redb>::filled(shape),
        Contender::<Sqlite>::filled(shape),
    ]
}

pub(crate) fn at(name: &str, threads: usize) -> String {
    match threads {
        1 => format!("{name}, 1 thread"),
        _ => format!("{name}, {threads} threads"),
    }
}

/// Ratios of what was measured in the same rounds.
pub(crate) fn divided(above: &[f64], below: &[f64]) -> Vec<f64> {
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
        machine::load()
    ));

    let threads = most.max(2);
    let zipf = Zipf::new(SHAPE.items, 0.99);
    // The favourites lie in no order.
    let places = Random::new(4).choose(SHAPE.items, SHAPE.items);
    let uniform = |random: &mut Random| random.below(SHAPE.items);
    let skewed = |random: &mut Random| places[zipf.draw(random)];
    let spread = [
        Work::new(UNIFORM_READS, What::Points, threads, 0.05, uniform),
        Work::new(
            "95 % reads, Zipf(0.99)",
            What::Points,
            threads,
            0.05,
            skewed,
        ),
        Work::new("50 % writes, uniform", What::Points, threads, 0.5, uniform),
        Work::new(
            "50 % writes, Zipf(0.99)",
            What::Points,
            threads,
            0.5,
            skewed,
        ),
        Work::new(TRANSFER, What::Transfers, threads, 1.0, |random| {
            random.below(SHAPE.partitions)
        }),
    ];
    compare(&contenders(SHAPE), &spread, &counts, rounds, &mut figures);

    let hot = [Work::new(HOT, What::Points, threads, 0.0, |random| {
        random.below(HOT_SHAPE.items)
    })];
    compare(&contenders(HOT_SHAPE), &hot, &counts, rounds, &mut figures);
    figures
}

/// Has all contenders do all works, in turn, and adds what comes of it.
fn compare(
    contenders: &[Box<dyn Contends>],
    works: &[Work],
    counts: &[usize],
    rounds: usize,
    figures: &mut Figures,
) {
    for work in works {
        let able: Vec<_> = contenders
            .iter()
            .filter(|contender| contender.can(work.what))
            .collect();
        let totals: Vec<u64> = able.iter().map(|contender| contender.total()).collect();
        // By number of threads, contender and round.
        let mut nanos = vec![vec![Vec::new(); able.len()]; counts.len()];
        for _ in 0..rounds {
            for (by_contender, threads) in nanos.iter_mut().zip(counts) {
                for (by_round, contender) in by_contender.iter_mut().zip(&able) {
                    by_round.push(contender.nanos(work, *threads));
                }
            }
        }
        for (contender, total) in able.iter().zip(totals) {
            let is_whole = work.what == What::Points || contender.total() == total;
            assert!(is_whole, "{} loses what it moves", contender.name());
        }
        for (by_contender, threads) in nanos.iter().zip(counts) {
            let row = at(work.name, *threads);
            for (samples, contender) in by_contender.iter().zip(&able) {
                let name = contender.name();
                figures.add_samples(NANOS, &row, name, samples);
                let ratios = divided(samples, &by_contender[0]);
                figures.add_samples(RATIO, &row, name, &ratios);
            }
        }
        for (by_contender, threads) in nanos.iter().zip(counts).skip(1) {
            let row = at(work.name, *threads);
            for (place, contender) in able.iter().enumerate() {
                let gains = divided(&nanos[0][place], &by_contender[place]);
                figures.add_samples(SPEEDUP, &row, contender.name(), &gains);
            }
        }
        eprintln!("{}: done", work.name);
    }
}
