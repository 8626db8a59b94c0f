//! What the stores are filled with and asked for, the same for all.

use std::fmt;
use std::hash::{Hash, Hasher};

/// A key as a map owns it: the pair, never joined.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) pk: Box<str>,
    pub(crate) sk: Box<str>,
}

/// Without the byte that would mark the end of each part: a little less work, and the hasher tells
/// `("a", "bc")` from `("ab", "c")` all the same.
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

/// How many items there are, and how they are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) items: usize,
    pub(crate) partitions: usize,
}

/// How many items one query finds.
pub(crate) const QUERIED: usize = 100;

impl Shape {
    pub(crate) const fn new(items: usize, partitions: usize) -> Self {
        Shape { items, partitions }
    }

    /// The number of items in each partition.
    pub(crate) fn depth(self) -> usize {
        self.items / self.partitions
    }

    /// The key of item `number`, which may lie beyond what is stored: partitions only get longer.
    pub(crate) fn item(self, number: usize) -> Pair {
        let (partition, place) = self.place(number);
        Pair::new(&pk(partition), &format!("item#{place:07}"))
    }

    /// The key of the lock that guards item `number`.
    pub(crate) fn lock(self, number: usize) -> Pair {
        let (partition, place) = self.place(number);
        Pair::new(&pk(partition), &format!("lock#{place:07}"))
    }

    /// A key beside item `number` where nothing is.
    pub(crate) fn absent(self, number: usize) -> Pair {
        let (partition, place) = self.place(number);
        Pair::new(&pk(partition), &format!("none#{place:07}"))
    }

    /// The hundred neighbours that item `number` is one of.
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
            // What is new opens a partition of its own.
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

/// Neighbours in one partition: what has the prefix, which is what lies from `first` to before
/// `beyond`.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) pk: String,
    pub(crate) prefix: String,
    pub(crate) first: String,
    pub(crate) beyond: String,
}

/// Numbers that look random and are the same at every run.
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

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// A number from 0 to before 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `count` numbers below `end`, no two alike while that is possible.
    pub(crate) fn choose(&mut self, count: usize, end: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..end).collect();
        for place in 0..count.min(end) {
            let other = place + self.below(end - place);
            numbers.swap(place, other);
        }
        numbers.into_iter().cycle().take(count).collect()
    }
}
