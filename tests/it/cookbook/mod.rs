//! The recipes of `docs/cookbook.md`, which are the modules of `examples/cookbook`: on each database,
//! from several threads, without faults and with them.
//!
//! - `recipes`: the modules of the example, and `examples/web.rs`.
//! - `databases`: the databases on which each recipe runs.
//! - `bench`: a `FaultyDb` with its seeds, threads, and the calls that a caller repeats.
//! - `page`: the page shows the code of the example, and the calls that it makes.
//! - `requests`: the requests to each backend, as the page states them.
//! - One module for each recipe, with its invariant.

mod bench;
mod counter;
mod data_type;
mod databases;
mod idempotency_key;
mod leader;
mod locks_found_by_reading;
mod moving;
mod outbox;
mod page;
mod pagination;
mod range;
mod recipes;
#[cfg(any(feature = "redb", feature = "postgres", feature = "dynamodb"))]
mod requests;
mod secondary_index;
mod session;
mod unique_value;
mod unknown_outcome;
mod web;
mod work_queue;
