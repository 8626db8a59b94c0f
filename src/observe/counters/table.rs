//! A snapshot as a table that a person reads.

use super::snapshot::{CountersSnapshot, HotLock, Quantiles, TransactionStats};
use std::fmt;
use std::time::Duration;

/// The number of locks of each kind that the table shows.
const SHOWN_LOCKS: usize = 10;

/// Shows a line for each operation that was called, then the transactions, then the ten locks with the
/// most conflicts.
impl fmt::Display for CountersSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16}{:>10}{:>12}{:>12}{:>10}{:>10}{:>10}  errors",
            "operation", "calls", "keys", "items", "p50", "p99", "max"
        )?;
        for stats in &self.operations {
            let [p50, p99, max] = texts(stats.latency);
            let errors = stats.errors.iter();
            let errors: Vec<String> = errors
                .map(|(kind, count)| format!("{kind} {count}"))
                .collect();
            let line = format!(
                "{:<16}{:>10}{:>12}{:>12}{p50:>10}{p99:>10}{max:>10}  {}",
                stats.operation,
                stats.calls,
                stats.keys,
                stats.items,
                errors.join(", ")
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        if self.transactions.count() > 0 {
            writeln!(f)?;
            write_transactions(f, &self.transactions)?;
        }
        write_locks(
            f,
            "attempts lost by transactions, per lock",
            &self.locks_of_attempts,
        )?;
        write_locks(
            f,
            "commits failed with a race condition, per lock",
            &self.locks_of_commits,
        )
    }
}

fn write_transactions(f: &mut fmt::Formatter<'_>, stats: &TransactionStats) -> fmt::Result {
    let TransactionStats {
        first_attempt,
        recovered,
        exhausted,
        failed,
        panicked,
        lost_attempts,
        attempts: Quantiles { p50, p99, max },
        ..
    } = stats;
    writeln!(
        f,
        "{:<20} {}: {first_attempt} at the first attempt, {recovered} recovered, {exhausted} exhausted, {failed} failed, {panicked} panicked",
        "transactions",
        stats.count()
    )?;
    writeln!(
        f,
        "{:<20} {:.2} per success (p50 {p50}, p99 {p99}, max {max}), {lost_attempts} lost",
        "attempts",
        stats.attempts_per_success()
    )?;
    for (name, times) in [
        ("waited for turns", stats.waited),
        ("paused", stats.paused),
        ("duration", stats.duration),
    ] {
        let [p50, p99, max] = texts(times);
        writeln!(f, "{name:<20} p50 {p50}, p99 {p99}, max {max}")?;
    }
    Ok(())
}

fn write_locks(f: &mut fmt::Formatter<'_>, title: &str, locks: &[HotLock]) -> fmt::Result {
    if locks.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}")?;
    for HotLock {
        key,
        count,
        overcount,
    } in locks.iter().take(SHOWN_LOCKS)
    {
        match overcount {
            0 => writeln!(f, "{count:>10}  {key}")?,
            _ => writeln!(f, "{count:>10}  {key} (at least {})", count - overcount)?,
        }
    }
    Ok(())
}

fn texts(times: Quantiles<Duration>) -> [String; 3] {
    [times.p50, times.p99, times.max].map(|time| format!("{time:.1?}"))
}
