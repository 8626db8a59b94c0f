use crate::random::random_u64;
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The state of a lock: a token that is unique for ever.
///
/// A version is never handed out twice, also not after its lock was deleted, expired and made
/// again, or after a restart. It is 128 bits: 48 bits of milliseconds since the Unix epoch, then
/// 80 bits that no other version has.
///
/// In memory and in a file, a later version of a lock is greater than all that it had before. On
/// DynamoDB a version is made before the request that writes it. There, a commit's version is
/// greater than those that it replaces if the same handle made them, or a clone of it; of others, if
/// its clock shows a later millisecond. And a lock that is made again may have a lesser version
/// than before, where a call that began earlier is done later. To tell whether a lock has changed,
/// ask whether two versions are equal.
///
/// Its text form is a ULID: 26 characters of Crockford's base 32, in the order of the versions.
/// Reading takes lower case too.
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

/// Crockford's base 32: the digits and the letters without I, L, O and U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The latest time that a version can have.
const MILLIS_MAX: u64 = (1 << 48) - 1;

/// 26 digits of 5 bits hold 130: the first digit is at most 7.
const TEXT_LENGTH: usize = 26;

impl Version {
    /// The version with these 128 bits, for implementors who store versions as numbers. New
    /// versions come from a [`VersionGenerator`].
    #[must_use]
    pub const fn from_u128(bits: u128) -> Self {
        Version(bits)
    }

    /// The 128 bits of this version.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; TEXT_LENGTH];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            *digit = DIGITS[(self.0 >> (5 * place)) as usize & 31];
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
    /// [`Error::InvalidInput`] if `text` is not 26 characters of Crockford's base 32, or stands for
    /// more than 128 bits.
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
        for (place, byte) in text.bytes().enumerate() {
            let byte = byte.to_ascii_uppercase();
            let value = DIGITS.iter().position(|digit| *digit == byte);
            match value {
                Some(value) if place > 0 || value < 8 => bits = bits << 5 | value as u128,
                _ => return Err(invalid()),
            }
        }
        Ok(Version(bits))
    }
}

/// Hands out versions that were never handed out before, for implementors of
/// [`AtomicDb`](crate::AtomicDb).
///
/// A generator begins at a random place of 79 bits and counts from there, under the milliseconds
/// that it is given. So two versions of one generator never meet, whatever its clock does; and two
/// generators, in two processes or before and after a restart, meet only if they began within a
/// run's length of each other by chance *and* write in the same millisecond.
///
/// ```
/// use atomic_db::VersionGenerator;
/// use std::time::Duration;
///
/// let versions = VersionGenerator::new();
/// let first = versions.next(Duration::from_secs(1_700_000_000));
/// // Also when the clock goes back, the next version is a later one.
/// let second = versions.next(Duration::from_secs(1_600_000_000));
/// assert!(first < second);
/// ```
#[derive(Debug)]
pub struct VersionGenerator {
    /// Below 2^79, so that adding any count stays within 80 bits.
    base: u128,
    count: AtomicU64,
    latest_millis: AtomicU64,
}

impl VersionGenerator {
    /// A generator with a beginning of its own.
    #[must_use]
    pub fn new() -> Self {
        let base = u128::from(random_u64()) << 64 | u128::from(random_u64());
        VersionGenerator {
            base: base >> 49,
            count: AtomicU64::new(0),
            latest_millis: AtomicU64::new(0),
        }
    }

    /// A generator whose versions are all greater than `latest`, which another one handed out before.
    #[cfg(feature = "redb")]
    pub(crate) fn after(latest: Version) -> Self {
        let mut versions = VersionGenerator::new();
        let millis = (latest.0 >> 80) as u64;
        versions.latest_millis = AtomicU64::new(MILLIS_MAX.min(millis + 1));
        if millis == MILLIS_MAX {
            // There is no later time, so this one goes on after the other one, at a distance that
            // nobody can foresee: versions after `latest` may have been handed out as well.
            let distance = u128::from(random_u64() >> 8).max(1);
            versions.base = (latest.0 & ((1 << 80) - 1)) + distance;
        }
        versions
    }

    /// A version that no generator has handed out before. `now` is the time since the Unix epoch.
    ///
    /// A version handed out after another one has been is the greater.
    #[must_use]
    pub fn next(&self, now: Duration) -> Version {
        let millis = u64::try_from(now.as_millis()).map_or(MILLIS_MAX, |now| now.min(MILLIS_MAX));
        // The two updates need not happen as one: each only grows, and a call that begins after
        // another has ended sees both of that one's.
        let latest = self.latest_millis.fetch_max(millis, Ordering::Relaxed);
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        Version(u128::from(millis.max(latest)) << 80 | (self.base + u128::from(count)))
    }
}

impl Default for VersionGenerator {
    fn default() -> Self {
        VersionGenerator::new()
    }
}

#[cfg(test)]
#[cfg(all(feature = "redb", not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// More than a beginning is, and not its own mirror image.
    const COUNT: u128 = (1 << 79) + (1 << 70) + 5;

    /// The milliseconds and the count of the first version after `latest`, when the clock shows
    /// `millis`.
    fn first_after(latest: (u64, u128), millis: u64) -> (u64, u128) {
        let latest = Version(u128::from(latest.0) << 80 | latest.1);
        let first = VersionGenerator::after(latest).next(Duration::from_millis(millis));
        assert!(first > latest);
        ((first.0 >> 80) as u64, first.0 & ((1 << 80) - 1))
    }

    #[test]
    fn the_versions_after_another_run_are_later_and_begin_anew() {
        for (latest, now, expected) in [
            (7, 0, 8),
            (7, 8, 8),
            (7, 9, 9),
            (MILLIS_MAX - 1, 0, MILLIS_MAX),
            (1, u64::MAX, MILLIS_MAX),
        ] {
            let (millis, begins) = first_after((latest, COUNT), now);
            assert_eq!(millis, expected, "after {latest} at {now}");
            assert!(begins < 1 << 79, "it goes on where the other ended");
        }
    }

    #[test]
    fn at_the_end_of_time_versions_go_on_at_a_distance() {
        let distances = [(); 3].map(|()| {
            let (millis, begins) = first_after((MILLIS_MAX, COUNT), 0);
            assert_eq!(millis, MILLIS_MAX);
            begins - COUNT
        });
        assert!(distances.iter().all(|distance| *distance < 1 << 56));
        assert!(distances[0] != distances[1] || distances[1] != distances[2]);
    }
}
