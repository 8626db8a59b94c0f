//! How keys are hashed.

use crate::Key;
use std::hash::{BuildHasher, Hasher};

/// Seeded at random, so that keys from outside cannot be chosen to meet in one stripe or bucket.
#[cfg(not(any(loom, shuttle)))]
type Seed = hashbrown::DefaultHashBuilder;

/// Fixed under a model checker, which must be able to replay a schedule.
#[cfg(any(loom, shuttle))]
type Seed = std::hash::BuildHasherDefault<std::collections::hash_map::DefaultHasher>;

/// Hashes a key in one pass over its two parts, so that what is looked up by partition and what is
/// looked up by the whole key share the work on the first. Clones hash alike.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyHasher(Seed);

impl KeyHasher {
    /// The hash of a partition key.
    #[inline]
    pub(crate) fn partition(&self, pk: &str) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(pk.as_bytes());
        hasher.finish()
    }

    /// The hash of a key's partition, and that of the whole key, from the bytes of its parts.
    #[inline(always)]
    pub(crate) fn both(&self, (pk, sk): (&[u8], &[u8])) -> (u64, u64) {
        let mut hasher = self.0.build_hasher();
        hasher.write(pk);
        let partition = hasher.finish();
        // Two writes are not one of the joined text: `("a", "bc")` and `("ab", "c")` are apart.
        hasher.write(sk);
        (partition, hasher.finish())
    }

    /// The hash of a whole key.
    #[inline]
    pub(crate) fn key(&self, key: Key<'_>) -> u64 {
        self.both(key.bytes()).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_of_the_same_parts_are_hashed_apart() {
        let hasher = KeyHasher::default();
        let parts: Vec<String> = (0..100).map(|number| format!("part {number}")).collect();
        let mut hashes = HashSet::new();
        for pk in &parts {
            for sk in &parts {
                let hash = hasher.key(Key::new(pk, sk));
                assert!(hashes.insert(hash), "({pk}, {sk}) shares its hash");
            }
        }
        let equal = parts.iter().map(|part| hasher.key(Key::new(part, part)));
        let halves: HashSet<u32> = equal.map(|hash| hash as u32).collect();
        assert_eq!(
            halves.len(),
            parts.len(),
            "keys of equal parts share hashes"
        );
    }

    #[test]
    fn two_databases_hash_differently_and_clones_alike() {
        let (one, two) = (KeyHasher::default(), KeyHasher::default());
        let key = Key::new("pk", "sk");
        assert_ne!(one.key(key), two.key(key));
        assert_eq!(one.clone().key(key), one.key(key));
    }
}
