//! Transactions that are retried after a conflict, and calls for a single item.
//!
//! - `ext.rs`: [`AtomicDbExt`], the methods that every database has.
//! - `run.rs`: the retry loops of transactions and updates.
//! - `transaction.rs`: [`Transaction`], one attempt: its locks, reads and writes, and their validation.
//! - `write_set.rs`: what the commit of an attempt does at each key.
//! - `retry.rs`: [`Retry`], the policy, and what happens between attempts.
//! - `watch.rs`: what is noted about an observed transaction, to report it.
//! - `queue.rs`: [`RetryQueue`], in which contending transactions take turns.

mod ext;
mod queue;
mod retry;
mod run;
mod transaction;
mod watch;
mod write_set;

pub use ext::AtomicDbExt;
pub use queue::RetryQueue;
pub use retry::Retry;
pub use transaction::Transaction;
