//! Observation of calls, conflicts and transactions.
//!
//! - `observer.rs`: the trait [`Observer`], and how it is called.
//! - `event.rs`: the events.
//! - `error_kind.rs`: [`ErrorKind`], the variants of an error as labels.
//! - `observed.rs`: [`Observed`], the wrapper that reports calls.
//! - `counters/`: [`Counters`], a ready-made observer.
//!
//! Transactions are reported by `transact`, because a wrapper sees only the calls of their attempts.

mod counters;
mod error_kind;
mod event;
mod observed;
mod observer;

pub use counters::{
    Counters, CountersSnapshot, HotLock, OperationStats, Quantiles, TransactionStats,
};
pub use error_kind::ErrorKind;
pub use event::{CallEvent, ConflictEvent, Operation, TransactionEnd, TransactionEvent};
pub use observed::Observed;
pub use observer::Observer;
pub(crate) use observer::notify;
