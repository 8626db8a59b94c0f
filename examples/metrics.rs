//! Connects an observer to the facade `metrics`, and prints what its Prometheus exporter would serve.
//!
//! ```sh
//! cargo run --example metrics
//! ```

use atomic_db::{
    AtomicDb, AtomicDbExt, CallEvent, ConflictEvent, ErrorKind, Item, MemoryDb, Observed, Observer,
    TransactionEvent,
};
use metrics::{counter, histogram};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::error::Error;

/// Records a metric for each event of the database. Labels have few values: no key is one.
struct Metrics;

impl Observer for Metrics {
    fn on_call(&self, call: &CallEvent<'_>) {
        let operation = call.operation.as_str();
        histogram!("db_call_seconds", "operation" => operation).record(call.duration);
        if let Some(error) = call.error {
            let kind = ErrorKind::from(error).as_str();
            counter!("db_errors_total", "operation" => operation, "kind" => kind).increment(1);
        }
    }

    fn on_conflict(&self, _: &ConflictEvent<'_>) {
        counter!("db_lost_attempts_total").increment(1);
    }

    fn on_transaction(&self, transaction: &TransactionEvent<'_>) {
        let end = transaction.end.as_str();
        counter!("db_transactions_total", "end" => end).increment(1);
        histogram!("db_transaction_seconds").record(transaction.duration);
        histogram!("db_transaction_waited_seconds").record(transaction.waited);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let prometheus = PrometheusBuilder::new().install_recorder()?;
    let db = Observed::new(MemoryDb::new(), Metrics);

    db.set(&[Item::new("account#1", "balance", 0)])?;
    for number in 0..100 {
        let mut runs = 0;
        db.transact(|tx| {
            let lock = tx.lock(("account#1", "lock"))?;
            let balance = tx.get(("account#1", "balance"))?.and_then(Item::into_data);
            runs += 1;
            if number % 10 == 0 && runs == 1 {
                // Another writer wins, so the transaction runs again.
                db.set_atomic(&[], &[lock])?;
            }
            tx.set(Item::new("account#1", "balance", balance.unwrap_or(0) + 1))
        })?;
    }
    print!("{}", prometheus.render());
    Ok(())
}
