//! The crate, seen from outside. One binary, so that it links once; a module for each concern.

mod allocations;
mod original;
mod promises;
mod suites;
mod trace;
