//! Tests of the public API. There is one binary, so that it links once, and a module for each concern.
//!
//! `cfg(mutants)` leaves out modules that build slowly and catch no additional mutants.

mod allocations;
mod cache;
mod caught_panics;
mod common;
#[cfg(not(mutants))]
mod cookbook;
mod drops;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod false_errors;
mod faulty;
mod guarantees;
#[cfg(not(mutants))]
mod histories;
mod hot_keys;
#[cfg(feature = "json-lines")]
mod json_lines;
#[cfg(all(feature = "redb", not(mutants)))]
mod ledger;
mod observe;
#[cfg(feature = "postgres")]
mod postgres;
mod prefixes;
mod public_api;
#[cfg(feature = "redb")]
mod redb;
mod reference_model;
mod scan_model;
mod scans;
#[cfg(feature = "serde")]
mod serialization;
#[cfg(not(mutants))]
mod suite_faults;
mod suites;
mod time;
#[cfg(not(mutants))]
mod trace;
mod transact;
mod transact_consistency;
mod transfer;
mod typescript_parity;
mod values;
