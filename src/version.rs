use crate::random::random_u64;
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The state of a lock: a globally unique token.
///
/// A version is never reused, even after its lock was deleted, expired or was recreated, or after a
/// restart (guarantee 17). It has 128 bits: 48 bits of milliseconds since the Unix epoch, then an
/// 80-bit sequence number that begins at a random offset.
///
/// # Order
///
/// To find out whether a lock has changed, compare two versions for equality. Their order says less:
///
/// - In `MemoryDb` and `RedbDb`, a later version of a lock is greater than all earlier ones.
/// - In `PostgresDb` and `DynamoDb`, a version is generated before the request that writes it. The
///   version of a commit is greater than those that it replaces if the same handle or a clone of it
///   generated them, or if its clock shows a later millisecond. A recreated lock may get a smaller
///   version than its predecessor had if calls complete out of order.
///
/// # Text
///
/// The text form is a ULID: 26 characters of Crockford's base 32, in the order of the versions.
/// Parsing accepts lower case too.
///
/// ```
/// use atomic_db::Version;
///
/// let version: Version = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse()?;
/// assert_eq!(version.to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
/// assert_eq!(Version::from_u128(version.as_u128()), version);
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u128);

/// Crockford's base 32: the digits, and the letters except I, L, O and U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The number of bits below the milliseconds.
const SEQUENCE_BITS: u32 = 80;

/// The latest time that a version can have, in milliseconds since the Unix epoch.
const MILLIS_MAX: u64 = (1 << 48) - 1;

/// 26 digits of 5 bits hold 130 bits, so the first digit is at most 7.
const TEXT_LENGTH: usize = 26;

impl Version {
    /// Creates the version with these 128 bits, for implementors that store versions as numbers. New
    /// versions come from a [`VersionGenerator`].
    #[must_use]
    pub const fn from_u128(bits: u128) -> Self {
        Version(bits)
    }

    /// Returns the 128 bits of this version.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; TEXT_LENGTH];
        for (index, digit) in text.iter_mut().rev().enumerate() {
            *digit = DIGITS[(self.0 >> (5 * index)) as usize & 31];
        }
        f.pad(&String::from_utf8_lossy(&text))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

impl FromStr for Version {
    type Err = Error;

    /// # Errors
    ///
    /// [`Error::InvalidInput`] if `text` is not 26 characters of Crockford's base 32, or encodes more
    /// than 128 bits.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::InvalidInput(format!(
                "{text:?} is not a version: a ULID has 26 characters of Crockford's base 32, the first at most 7"
            ))
        };
        if text.len() != TEXT_LENGTH {
            return Err(invalid());
        }
        let mut bits: u128 = 0;
        for (index, byte) in text.bytes().enumerate() {
            let byte = byte.to_ascii_uppercase();
            let value = DIGITS.iter().position(|digit| *digit == byte);
            match value {
                Some(value) if index > 0 || value < 8 => bits = bits << 5 | value as u128,
                _ => return Err(invalid()),
            }
        }
        Ok(Version(bits))
    }
}

/// Generates versions that are unique (guarantee 17), for implementors of
/// [`AtomicDb`](crate::AtomicDb).
///
/// A generator starts at a random offset of 79 bits, increments it, and combines it with the
/// timestamps that it is given. One generator never repeats a version, whatever its clock does. Two
/// generators, in two processes or before and after a restart, collide only if the ranges of their
/// sequence numbers overlap *and* both are used in the same millisecond.
///
/// ```
/// use atomic_db::VersionGenerator;
/// use std::time::Duration;
///
/// let versions = VersionGenerator::new();
/// let first = versions.next(Duration::from_secs(1_700_000_000));
/// // The next version is greater even if the clock goes back.
/// let second = versions.next(Duration::from_secs(1_600_000_000));
/// assert!(first < second);
/// ```
#[derive(Debug)]
pub struct VersionGenerator {
    /// Below 2^79, so that adding any count stays within the sequence number's 80 bits.
    offset: u128,
    count: AtomicU64,
    latest_millis: AtomicU64,
}

impl VersionGenerator {
    /// Creates a generator with a random offset.
    #[must_use]
    pub fn new() -> Self {
        let random = u128::from(random_u64()) << 64 | u128::from(random_u64());
        VersionGenerator {
            offset: random >> (u128::BITS - SEQUENCE_BITS + 1),
            count: AtomicU64::new(0),
            latest_millis: AtomicU64::new(0),
        }
    }

    /// Creates a generator whose versions are all greater than `latest`, a version of another one.
    #[cfg(feature = "redb")]
    pub(crate) fn after(latest: Version) -> Self {
        let mut versions = VersionGenerator::new();
        let millis = (latest.0 >> SEQUENCE_BITS) as u64;
        versions.latest_millis = AtomicU64::new(MILLIS_MAX.min(millis + 1));
        if millis == MILLIS_MAX {
            // There is no later millisecond, so continue the other generator's sequence. It may have
            // generated versions after `latest`, so skip an unpredictable number of them.
            let skipped = u128::from(random_u64() >> 8).max(1);
            versions.offset = (latest.0 & ((1 << SEQUENCE_BITS) - 1)) + skipped;
        }
        versions
    }

    /// Returns a version that no generator has returned before. `now` is the time since the Unix
    /// epoch. After the last millisecond of 48 bits, in the year 10889, versions keep that one.
    ///
    /// A call that begins after another one has returned gets a greater version.
    #[must_use]
    pub fn next(&self, now: Duration) -> Version {
        let millis = u64::try_from(now.as_millis()).map_or(MILLIS_MAX, |now| now.min(MILLIS_MAX));
        // The two updates need not be one atomic step: both values only grow, and a call that begins
        // after another one has returned observes both of its updates.
        let mut latest = self.latest_millis.load(Ordering::Relaxed);
        if latest < millis {
            latest = self.latest_millis.fetch_max(millis, Ordering::Relaxed);
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let sequence = self.offset + u128::from(count);
        Version(u128::from(millis.max(latest)) << SEQUENCE_BITS | sequence)
    }
}

impl Default for VersionGenerator {
    fn default() -> Self {
        VersionGenerator::new()
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;

    const SEQUENCE: u128 = (1 << SEQUENCE_BITS) - 1;

    /// Larger than any random offset, and not a bit palindrome.
    #[cfg(feature = "redb")]
    const OTHER_SEQUENCE: u128 = (1 << 79) + (1 << 70) + 5;

    /// The milliseconds and the sequence number.
    fn parts(version: Version) -> (u64, u128) {
        ((version.0 >> SEQUENCE_BITS) as u64, version.0 & SEQUENCE)
    }

    #[test]
    fn a_clock_beyond_48_bits_of_milliseconds_keeps_the_last_one() {
        let versions = VersionGenerator::new();
        let end = Duration::from_millis(MILLIS_MAX);
        let millisecond = Duration::from_millis(1);
        let mut latest = versions.next(end - millisecond);
        assert_eq!(parts(latest).0, MILLIS_MAX - 1);
        for now in [
            end,
            end + millisecond,
            end + 2 * millisecond,
            1_000 * end,
            Duration::MAX,
        ] {
            let version = versions.next(now);
            assert_eq!(parts(version).0, MILLIS_MAX, "at {now:?}");
            assert!(version > latest, "at {now:?}");
            latest = version;
        }
        assert_eq!(parts(versions.next(Duration::ZERO)).0, MILLIS_MAX);
    }

    /// With 100 generators, a bit is the same in all of them once in 2^99 runs.
    #[test]
    fn generators_begin_at_random_in_all_79_bits() {
        let offsets = [(); 100].map(|()| parts(VersionGenerator::new().next(Duration::ZERO)).1);
        let (ever_set, always_set) = offsets.iter().fold((0, SEQUENCE), |(any, all), offset| {
            (any | offset, all & offset)
        });
        assert_eq!(ever_set, SEQUENCE >> 1, "bits that are never set");
        assert_eq!(always_set, 0, "bits that are always set");
    }

    /// The parts of the first version after `latest`, which has the sequence number
    /// [`OTHER_SEQUENCE`], when the clock shows `now`.
    #[cfg(feature = "redb")]
    fn first_after(latest: u64, now: u64) -> (u64, u128) {
        let latest = Version(u128::from(latest) << SEQUENCE_BITS | OTHER_SEQUENCE);
        let first = VersionGenerator::after(latest).next(Duration::from_millis(now));
        assert!(first > latest);
        parts(first)
    }

    #[test]
    #[cfg(feature = "redb")]
    fn versions_after_another_generator_are_later_and_start_at_a_random_offset() {
        for (latest, now, expected) in [
            (7, 0, 8),
            (7, 8, 8),
            (7, 9, 9),
            (MILLIS_MAX - 1, 0, MILLIS_MAX),
            (1, u64::MAX, MILLIS_MAX),
        ] {
            let (millis, sequence) = first_after(latest, now);
            assert_eq!(millis, expected, "after {latest} at {now}");
            assert!(sequence < 1 << 79, "it continues the other sequence");
        }
    }

    #[test]
    #[cfg(feature = "redb")]
    fn after_the_last_millisecond_versions_skip_an_unpredictable_number() {
        let skipped = [(); 3].map(|()| {
            let (millis, sequence) = first_after(MILLIS_MAX, 0);
            assert_eq!(millis, MILLIS_MAX);
            sequence - OTHER_SEQUENCE
        });
        assert!(skipped.iter().all(|skipped| *skipped < 1 << 56));
        assert!(skipped[0] != skipped[1] || skipped[1] != skipped[2]);
    }
}

/// All interleavings of two threads, or many random schedules.
#[cfg(test)]
#[cfg(any(loom, shuttle))]
mod model {
    use super::*;
    use crate::sync::{Arc, explore};

    #[cfg(loom)]
    use loom::thread::spawn;
    #[cfg(shuttle)]
    use shuttle::thread::spawn;

    #[test]
    fn versions_are_unique_and_later_ones_greater_on_any_schedule() {
        explore(|| {
            let versions = Arc::new(VersionGenerator::new());
            let next = |millis| {
                let versions = Arc::clone(&versions);
                move || versions.next(Duration::from_millis(millis))
            };
            let other = spawn(next(1));
            let own = next(2)();
            let other = other.join().unwrap();
            assert_ne!(own, other);
            // Both calls have returned, so their versions are smaller, whatever the clock shows.
            let last = next(0)();
            assert!(
                last > own && last > other,
                "{own:?}, {other:?}, then {last:?}"
            );
        });
    }
}
