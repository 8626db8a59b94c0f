//! `RedbDb`, beyond what every database guarantees.

mod backup;
mod child;
mod codecs;
#[cfg(not(mutants))]
mod crash;
#[cfg(not(mutants))]
mod damage;
mod full;
mod opening;
mod operations;
mod power;
mod queries;
mod remote;
mod reopened;
mod sharing;
pub(crate) mod storage;
pub(crate) mod temporary;
