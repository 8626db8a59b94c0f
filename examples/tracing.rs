//! Connects an observer to `tracing`: slow calls, errors and conflicts become log lines.
//!
//! ```sh
//! cargo run --example tracing
//! ```

use atomic_db::{
    AtomicDb, AtomicDbExt, CallEvent, ConflictEvent, Item, MemoryDb, Observed, Observer, Result,
    TransactionEnd, TransactionEvent,
};
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// Writes an event to `tracing` for each event of the database.
struct Tracing {
    /// Calls that take longer are warnings.
    slow: Duration,
}

impl Observer for Tracing {
    fn on_call(&self, call: &CallEvent<'_>) {
        let operation = call.operation.as_str();
        let partition = call.partition;
        match call.error {
            // An ordinary outcome, which `on_conflict` reports for transactions.
            Some(error) if error.is_race_condition() => {
                debug!(operation, partition, duration = ?call.duration, "{error}");
            }
            Some(error) => error!(operation, partition, duration = ?call.duration, "{error}"),
            None if call.duration > self.slow => {
                warn!(operation, partition, keys = call.keys, duration = ?call.duration, "slow call");
            }
            None => debug!(operation, partition, keys = call.keys, duration = ?call.duration),
        }
    }

    fn on_conflict(&self, conflict: &ConflictEvent<'_>) {
        info!(attempt = conflict.attempt, locks = ?conflict.locks, "lost a race");
    }

    fn on_transaction(&self, transaction: &TransactionEvent<'_>) {
        let TransactionEvent {
            attempts,
            waited,
            duration,
            ..
        } = *transaction;
        match transaction.end {
            TransactionEnd::FirstAttempt => debug!(?duration, "transaction"),
            TransactionEnd::Recovered => {
                info!(attempts, ?waited, ?duration, "transaction recovered");
            }
            end => {
                let locks = transaction.lost_locks;
                error!(attempts, ?locks, ?duration, %end, "transaction");
            }
        }
    }
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .init();
    let slow = Duration::from_millis(10);
    let db = Observed::new(MemoryDb::new(), Tracing { slow });

    db.set(&[Item::new("account#1", "balance", 100)])?;
    let mut runs = 0;
    db.transact(|tx| {
        let lock = tx.lock(("account#1", "lock"))?;
        let balance = tx.get(("account#1", "balance"))?.and_then(Item::into_data);
        runs += 1;
        if runs == 1 {
            // Another writer wins, so the transaction runs again.
            db.set_atomic(&[], &[lock])?;
        }
        tx.set(Item::new("account#1", "balance", balance.unwrap_or(0) + 10))
    })
}
