//! The database in a file, besides what every database promises.

#[cfg(not(mutants))]
mod crash;
mod full;
mod opening;
mod power;
mod reopened;
mod storage;
pub(crate) mod temporary;
