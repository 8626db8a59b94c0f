//! The crate, seen from outside. One binary, so that it links once; a module for each concern.
//!
//! `cfg(mutants)` leaves out what builds long and tells of no changed line that the others do not.

mod allocations;
#[cfg(not(mutants))]
mod broken;
mod cache;
mod drops;
#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(not(mutants))]
mod histories;
mod instruments;
mod machine;
mod original;
mod promises;
#[cfg(feature = "redb")]
mod redb;
mod suites;
mod time;
#[cfg(not(mutants))]
mod trace;
mod transact;
mod values;
