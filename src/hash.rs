//! How keys are hashed.

use crate::Key;
use std::hash::{BuildHasher, Hasher};

/// Seeded at random, so that keys from outside cannot be chosen to meet in one stripe or bucket.
#[cfg(not(any(loom, shuttle)))]
type Seed = hashbrown::DefaultHashBuilder;

/// Fixed under a model checker, which must be able to replay a schedule.
#[cfg(any(loom, shuttle))]
type Seed = std::hash::BuildHasherDefault<std::collections::hash_map::DefaultHasher>;

/// Hashes a key in two steps, so that what is looked up by partition and what is looked up by the
/// whole key share the first one. Clones hash alike.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyHasher {
    seed: Seed,
}

impl KeyHasher {
    /// The hash of a partition key.
    pub(crate) fn partition(&self, pk: &str) -> u64 {
        let mut hasher = self.seed.build_hasher();
        hasher.write(pk.as_bytes());
        hasher.finish()
    }

    /// The hash of the key `sk` in the partition whose own hash is `partition`. Hashing the pair
    /// and not the joined text keeps `("a", "bc")` and `("ab", "c")` apart.
    pub(crate) fn row(&self, partition: u64, sk: &str) -> u64 {
        let mut hasher = self.seed.build_hasher();
        hasher.write_u64(partition);
        hasher.write(sk.as_bytes());
        hasher.finish()
    }

    /// The hash of a whole key.
    pub(crate) fn key(&self, key: Key<'_>) -> u64 {
        self.row(self.partition(key.pk), key.sk)
    }
}
