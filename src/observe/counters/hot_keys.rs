//! The keys that occur most often, in bounded memory.

use super::snapshot::HotLock;
use crate::KeyBuf;

/// The number of keys that are counted at the same time.
const CAPACITY: usize = 64;

/// The Space-Saving algorithm (Metwally, Agrawal and El Abbadi, 2005): a key that is not counted yet
/// takes the place of the one with the smallest count, and inherits that count. So a count may be too
/// high by the inherited part, is never too low, and a key with more than 1 of `CAPACITY` occurrences
/// is always among those counted.
#[derive(Default)]
pub(super) struct HotKeys {
    counted: Vec<HotLock>,
}

impl HotKeys {
    pub(super) fn add(&mut self, keys: &[KeyBuf]) {
        keys.iter().for_each(|key| self.add_one(key));
    }

    fn add_one(&mut self, key: &KeyBuf) {
        if let Some(lock) = self.counted.iter_mut().find(|lock| lock.key == *key) {
            lock.count += 1;
        } else if self.counted.len() < CAPACITY {
            self.counted.push(HotLock {
                key: key.clone(),
                count: 1,
                overcount: 0,
            });
        } else if let Some(least) = self.counted.iter_mut().min_by_key(|lock| lock.count) {
            *least = HotLock {
                key: key.clone(),
                count: least.count + 1,
                overcount: least.count,
            };
        }
    }

    /// Returns the counted keys, the most frequent first.
    pub(super) fn most_frequent(&self) -> Vec<HotLock> {
        let mut sorted = self.counted.clone();
        sorted.sort_by(|one, other| other.count.cmp(&one.count).then(one.key.cmp(&other.key)));
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn key(number: u64) -> KeyBuf {
        KeyBuf::new("pk", number.to_string())
    }

    #[test]
    fn few_keys_are_counted_exactly_and_sorted_by_their_count() {
        let mut keys = HotKeys::default();
        for number in 0..10 {
            for _ in 0..=number {
                keys.add(&[key(number)]);
            }
        }
        let counts: Vec<_> = keys
            .most_frequent()
            .into_iter()
            .map(|lock| (lock.key, lock.count, lock.overcount))
            .collect();
        let expected: Vec<_> = (0..10)
            .rev()
            .map(|number| (key(number), number + 1, 0))
            .collect();
        assert_eq!(counts, expected);
    }

    #[test]
    fn hot_keys_stay_counted_among_many_others_and_memory_is_bounded() {
        let mut keys = HotKeys::default();
        let mut exact: HashMap<KeyBuf, u64> = HashMap::new();
        let mut add = |number| {
            *exact.entry(key(number)).or_default() += 1;
            keys.add(&[key(number)]);
        };
        for round in 0..20_000 {
            add(1_000 + round);
            if round % 10 == 0 {
                add(1);
            }
            if round % 16 == 0 {
                add(2);
            }
        }
        let found = keys.most_frequent();
        assert_eq!(found.len(), CAPACITY);
        assert_eq!(
            found[..2].iter().map(|lock| &lock.key).collect::<Vec<_>>(),
            [&key(1), &key(2)]
        );
        for lock in found {
            let exact = exact[&lock.key];
            assert!(lock.count >= exact, "{lock:?}, exactly {exact}");
            assert!(
                lock.count - lock.overcount <= exact,
                "{lock:?}, exactly {exact}"
            );
        }
    }
}
