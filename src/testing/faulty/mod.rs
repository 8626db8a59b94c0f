//! Fault injection.
//!
//! - `fault.rs`: [`Fault`], what may go wrong, and [`Injection`], what did.
//! - `rule.rs`: [`FaultRule`], which calls get a fault.
//! - `plan.rs`: the rules with their counts, which decide.
//! - `db.rs`: [`FaultyDb`], the database.
//!
//! Lock order: the mutexes of the plan and of the log are leaves, and are not held at the same time. No
//! user code runs while one is held.

mod db;
mod fault;
mod plan;
mod rule;

pub use db::FaultyDb;
pub use fault::{Fault, Injection};
pub use rule::FaultRule;
