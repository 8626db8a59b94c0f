//! `PostgresDb`, on a server that the tests start.

mod conformance;
mod counters;
mod faults;
mod model;
mod opening;
mod operations;
mod pgbouncer;
pub(crate) mod proxy;
mod runtimes;
pub(crate) mod server;
mod sql;
mod tls;
mod two_sessions;
mod without_nul;
