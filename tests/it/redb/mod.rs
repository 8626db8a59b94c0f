//! `RedbDb`, beyond what every database guarantees.

mod codecs;
#[cfg(not(mutants))]
mod crash;
mod full;
mod opening;
mod operations;
mod power;
mod queries;
mod reopened;
mod storage;
pub(crate) mod temporary;
