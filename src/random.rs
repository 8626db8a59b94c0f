//! Random numbers, without a dependency.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Returns 64 unpredictable bits: the standard library seeds each `RandomState` from the operating
/// system's random numbers, with different keys for each instance.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Returns a random duration between zero and `ceiling`, both included: a pause with full jitter.
pub(crate) fn jitter(ceiling: Duration) -> Duration {
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(match nanos.checked_add(1) {
        Some(choices) => random_u64() % choices,
        None => random_u64(),
    })
}
