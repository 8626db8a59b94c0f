//! The crate, seen from outside. One binary, so that it links once; a module for each concern.
//!
//! `cfg(mutants)` leaves out what builds long and tells of no changed line that the others do not.

mod allocations;
mod cache;
mod common;
mod drops;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod guarantees;
#[cfg(not(mutants))]
mod histories;
mod prefixes;
#[cfg(feature = "redb")]
mod redb;
mod reference_model;
#[cfg(not(mutants))]
mod suite_faults;
mod suites;
mod time;
#[cfg(not(mutants))]
mod trace;
mod transact;
mod typescript_parity;
mod values;
