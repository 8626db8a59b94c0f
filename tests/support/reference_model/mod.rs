//! The contract as a program: a map of rows that predicts every result, and a driver that runs
//! operations against a database and the map and compares the results.
//!
//! - A key holds an item or a lock until its expiry, whatever the database still stores
//!   (guarantees 3 and 4).
//! - Only the database can create a version. The model takes it from the result. It must be new, and
//!   greater than all earlier versions of the same lock (guarantee 17).
//! - A conflict names exactly the locks that changed, in the order of the batch, locks before checks
//!   (guarantee 12).
//! - A database may drop an expired row at once or later. If the clock goes back, the row may be
//!   visible again or not. It is **uncertain**: both results are right until its key is written. A row
//!   that no operation met while it was expired is still there. A cache may even have kept an expired
//!   item that a lock has replaced since: a **shadowed** item.
//!
//! Operations come from a property test's strategies or a fuzzer's bytes. They name keys, locks and
//! times symbolically, so that any list of them makes sense.
//!
//! `operations` has the operations and their decoder, `model` the map, `body` the calls of a
//! transaction, `driver` the comparison, `setups` the databases. [`lru`] and [`text`] are separate
//! models of the cache and of text forms. All of them decode a fuzzer's bytes with `choices`.

mod body;
mod choices;
mod driver;
pub mod lru;
mod model;
mod operations;
mod setups;
pub mod text;

pub use driver::{Coverage, DbUnderTest, START, run};
pub use operations::{Op, decode};
pub use setups::{SETUPS, Setup, fuzz_database, run_setup};
