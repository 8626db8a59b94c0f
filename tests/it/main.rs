//! The crate, seen from outside. One binary, so that it links once; a module for each concern.

mod allocations;
mod broken;
mod cache;
mod drops;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod histories;
mod instruments;
mod machine;
mod original;
mod promises;
#[cfg(feature = "redb")]
mod redb;
mod suites;
mod time;
mod trace;
mod transact;
mod values;
