//! How keys are hashed.

use crate::Key;
use std::hash::{BuildHasher, Hasher};

/// Randomly seeded, to prevent hash flooding with keys that an attacker chooses.
#[cfg(not(any(loom, shuttle)))]
type HashBuilder = hashbrown::DefaultHashBuilder;

/// Not seeded under a model checker, which must be able to replay a schedule.
#[cfg(any(loom, shuttle))]
type HashBuilder = std::hash::BuildHasherDefault<std::collections::hash_map::DefaultHasher>;

/// Hashes a key in one pass over its two parts, so that the hash of the partition key is a
/// by-product of the hash of the whole key. Clones return equal hashes.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyHasher(HashBuilder);

impl KeyHasher {
    /// Returns the hash of a partition key, given its bytes.
    #[inline]
    pub(crate) fn hash_partition(&self, pk: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(pk);
        hasher.finish()
    }

    /// Returns the hash of a key's partition key and that of the whole key, given the bytes of both
    /// parts.
    #[inline(always)]
    pub(crate) fn hash_parts(&self, (pk, sk): (&[u8], &[u8])) -> (u64, u64) {
        let mut hasher = self.0.build_hasher();
        hasher.write(pk);
        let partition = hasher.finish();
        // Two writes differ from one of the joined text: `("a", "bc")` and `("ab", "c")` have
        // different hashes.
        hasher.write(sk);
        (partition, hasher.finish())
    }

    /// Returns the hash of a whole key.
    #[inline]
    pub(crate) fn hash_key(&self, key: Key<'_>) -> u64 {
        self.hash_parts(key.bytes()).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_that_share_parts_have_different_hashes() {
        let hasher = KeyHasher::default();
        let parts: Vec<String> = (0..100).map(|number| format!("part {number}")).collect();
        let mut hashes = HashSet::new();
        for pk in &parts {
            for sk in &parts {
                let hash = hasher.hash_key(Key::new(pk, sk));
                assert!(hashes.insert(hash), "({pk}, {sk}) shares its hash");
            }
        }
        let equal = parts
            .iter()
            .map(|part| hasher.hash_key(Key::new(part, part)));
        let halves: HashSet<u32> = equal.map(|hash| hash as u32).collect();
        assert_eq!(halves.len(), parts.len(), "keys with pk == sk share hashes");
    }

    #[test]
    fn two_hashers_differ_and_clones_agree() {
        let (one, two) = (KeyHasher::default(), KeyHasher::default());
        let key = Key::new("pk", "sk");
        assert_ne!(one.hash_key(key), two.hash_key(key));
        assert_eq!(one.clone().hash_key(key), one.hash_key(key));
    }
}
