//! What a case runs on: a database, its clock and its capabilities.

use super::threads::with_timeout;
use crate::sync::Arc;
use crate::{AtomicDb, ManualClock};
use std::fmt;
use std::time::Duration;

/// A database that the suite can test: it holds strings, and threads can share it.
pub trait Database: AtomicDb<Data = String> + Send + Sync + 'static {}

impl<D: AtomicDb<Data = String> + Send + Sync + 'static> Database for D {}

/// The guarantees that only some databases give. The default is all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    pub(super) snapshots: bool,
}

impl Capabilities {
    /// Returns all capabilities.
    #[must_use]
    pub fn new() -> Self {
        Capabilities { snapshots: true }
    }

    /// Leaves out guarantee 7: one `query` or one `get_many` need not be a snapshot.
    #[must_use]
    pub fn without_snapshots(mut self) -> Self {
        self.snapshots = false;
        self
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Capabilities::new()
    }
}

/// A database under test: new, empty, and the only user of its clock.
pub struct Fixture<D> {
    pub(super) db: Arc<D>,
    pub(super) clock: ManualClock,
    pub(super) capabilities: Capabilities,
}

impl<D: Database> Fixture<D> {
    /// Creates a fixture with the database that `make` returns.
    #[must_use]
    pub fn new(make: impl FnOnce(ManualClock) -> D, capabilities: Capabilities) -> Self {
        // In 2033: a backend that deletes expired items by real time must not delete items that are
        // live by the test's clock.
        let clock = ManualClock::new(2_000_000_000);
        Fixture {
            db: Arc::new(make(clock.clone())),
            clock,
            capabilities,
        }
    }
}

impl<D> fmt::Debug for Fixture<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture")
            .field("clock", &self.clock)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

/// A case of the suite, as a value.
#[expect(
    clippy::exhaustive_structs,
    reason = "`suite!` makes cases in other crates"
)]
pub struct Case<D> {
    /// The name of its function.
    pub name: &'static str,
    /// The function. It panics if the database breaks the guarantee.
    pub run: fn(&Fixture<D>),
}

impl<D> fmt::Debug for Case<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish()
    }
}

/// Runs one case on a new database.
///
/// # Panics
///
/// If the database breaks the guarantee, or if the case runs for more than two minutes.
pub fn check<D: Database>(
    case: fn(&Fixture<D>),
    make: impl FnOnce(ManualClock) -> D,
    capabilities: Capabilities,
) {
    let fixture = Fixture::new(make, capabilities);
    with_timeout(Duration::from_secs(120), move |_| case(&fixture));
}
