//! The expiry check of reads that ask the clock only for items that can expire.

use crate::{Clock, Result};

/// Returns `found` if it is live, and the result of `read_again` otherwise.
///
/// `found` was read before the clock is asked, so a live item may have replaced it by then.
/// `read_again` is given a time that was taken before the second read. Its result is therefore
/// correct at the time of that read.
pub(crate) fn live_or_read_again<V>(
    found: V,
    ttl: Option<u64>,
    clock: &dyn Clock,
    read_again: impl FnOnce(u64) -> Result<Option<V>>,
) -> Result<Option<V>> {
    let Some(ttl) = ttl else {
        return Ok(Some(found));
    };
    let now = clock.epoch_seconds();
    if now <= ttl {
        Ok(Some(found))
    } else {
        read_again(now)
    }
}
