//! Keys and random numbers, the same for all stores.

use std::fmt;
use std::hash::{Hash, Hasher};

/// An owned key of a map: the pair, never joined.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) pk: Box<str>,
    pub(crate) sk: Box<str>,
}

/// Without the byte that would mark the end of each part, which is a little less work. The hasher
/// still distinguishes `("a", "bc")` from `("ab", "c")`.
impl Hash for Pair {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.pk.as_bytes());
        state.write(self.sk.as_bytes());
    }
}

impl Pair {
    pub(crate) fn new(pk: &str, sk: &str) -> Self {
        Pair {
            pk: pk.into(),
            sk: sk.into(),
        }
    }
}

/// The number of items and of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) items: usize,
    pub(crate) partitions: usize,
}

/// The number of items that one query returns.
pub(crate) const QUERIED: usize = 100;

impl Shape {
    pub(crate) const fn new(items: usize, partitions: usize) -> Self {
        Shape { items, partitions }
    }

    /// Returns the number of items in each partition.
    pub(crate) fn depth(self) -> usize {
        self.items / self.partitions
    }

    /// Returns the key of item `number`, which may be beyond the stored ones: partitions only grow.
    pub(crate) fn item(self, number: usize) -> Pair {
        let (partition, place) = self.place(number);
        Pair::new(&pk(partition), &format!("item#{place:07}"))
    }

    /// Returns the key of the lock that guards item `number`.
    pub(crate) fn lock(self, number: usize) -> Pair {
        let (partition, place) = self.place(number);
        Pair::new(&pk(partition), &format!("lock#{place:07}"))
    }

    /// Returns a key next to item `number` where nothing is stored.
    pub(crate) fn absent(self, number: usize) -> Pair {
        let (partition, place) = self.place(number);
        Pair::new(&pk(partition), &format!("none#{place:07}"))
    }

    /// Returns the range of a hundred neighbours that contains item `number`.
    pub(crate) fn span(self, number: usize) -> Span {
        let (partition, place) = self.place(number);
        let hundred = place / QUERIED;
        Span {
            pk: pk(partition),
            prefix: format!("item#{hundred:05}"),
            first: format!("item#{hundred:05}00"),
            beyond: format!("item#{:05}00", hundred + 1),
        }
    }

    fn place(self, number: usize) -> (usize, usize) {
        match self.depth() {
            // A new item gets a partition of its own.
            1 => (number, 0),
            depth if number < self.items => (number / depth, number % depth),
            depth => (
                number % self.partitions,
                depth + (number - self.items) / self.partitions,
            ),
        }
    }
}

fn pk(partition: usize) -> String {
    format!("user#{partition:07}")
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = short(self.items);
        match (self.partitions, self.depth()) {
            (1, _) => write!(f, "{items} in one partition"),
            (_, 1) => write!(f, "{items} partitions of one item"),
            (partitions, _) => write!(f, "{items} in {} partitions", short(partitions)),
        }
    }
}

fn short(number: usize) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{} k", number / 1_000),
        _ => format!("{} M", number / 1_000_000),
    }
}

/// Neighbours in one partition: the sort keys with the prefix, which are those from `first` up to
/// `beyond`, exclusive.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) pk: String,
    pub(crate) prefix: String,
    pub(crate) first: String,
    pub(crate) beyond: String,
}

/// Pseudo-random numbers, the same at every run.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random {
            state: seed ^ 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// Returns a number from 0 up to 1, exclusive.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns `count` numbers below `end`, without repeats as far as possible.
    pub(crate) fn choose(&mut self, count: usize, end: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..end).collect();
        for place in 0..count.min(end) {
            let other = place + self.below(end - place);
            numbers.swap(place, other);
        }
        numbers.into_iter().cycle().take(count).collect()
    }
}
