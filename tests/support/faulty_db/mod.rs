//! A database and a cache with seeded bugs.
//!
//! Each checker of this repository (the conformance suite, the history checker, the reference model,
//! and the scenarios under loom and shuttle) has a table of the faults that it must find, and accepts
//! the same database and cache without a fault.
//!
//! `fault` has the bugs, each with the guarantee that it breaks. `db` has [`FaultyDb`], maps under one
//! mutex per stripe, and `scan` its scans. `cache` has [`FaultyCache`], a map in front of any database. `sync` has their
//! mutexes, which are the model checkers' under `--cfg loom` and `--cfg shuttle`.

mod cache;
mod db;
mod fault;
mod scan;
mod sync;

pub use cache::FaultyCache;
pub use db::FaultyDb;
pub use fault::Fault;

/// The faults that the history checker must find.
pub const HISTORY_FAULTS: &[Fault] = &[
    Fault::ExclusiveTtl,
    Fault::IgnoredTtl,
    Fault::SkippedItem,
    Fault::StaleGet,
    Fault::StaleGetFresh,
    Fault::StaleFreshQuery,
    Fault::StaleGetLocks,
    Fault::StaleStream,
    Fault::TornGetMany,
    Fault::TornQuery,
    Fault::TornPage,
    Fault::TornSet,
    Fault::RepeatedSet,
    Fault::DroppedDelete,
    Fault::PartialApply,
    Fault::TornCommit,
    Fault::TornUnlockedCommit,
    Fault::DroppedWrite,
    Fault::CheckThenAct,
    Fault::IgnoredChecks,
    Fault::SpuriousConflict,
    Fault::OverreportedConflict,
    Fault::SpuriousExists,
    Fault::CreateReplaces,
    Fault::DuplicateLock,
    Fault::ResurrectedVersion,
    Fault::ReusedVersion,
    Fault::MissedInvalidation,
    Fault::CachedQuery,
    Fault::LateFill,
];
