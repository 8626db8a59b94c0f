use crate::{Key, KeyBuf};

/// What a call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where an error came from, when it came from somewhere else.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a call failed, and what is in the database afterwards.
///
/// On any error but [`OutcomeUnknown`](Error::OutcomeUnknown), a commit wrote nothing. Its text is
/// a sentence without the text of its source; [`source`](std::error::Error::source) gives that.
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, MemoryDb};
///
/// let db = MemoryDb::new();
/// let lock = db.get_lock(Key::new("account#1", "lock"))?;
/// db.set_atomic(&[Item::new("account#1", "balance", 10)], &[lock.clone()])?;
///
/// // Somebody has committed since this lock was read.
/// let lost = db.set_atomic(&[Item::new("account#1", "balance", 99)], &[lock]).unwrap_err();
/// assert!(lost.is_race_condition() && lost.is_retryable());
/// assert_eq!(lost.to_string(), r#"somebody else committed first: ("account#1", "lock")"#);
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else committed first: these locks are no longer as they were read. An ordinary
    /// outcome; nothing was written. Read again and try again, as
    /// [`transact`](crate::AtomicDbExt::transact) does.
    #[error("somebody else committed first: {}", list(keys))]
    RaceCondition {
        /// The locks that lost, all of them and no other, in the order of the batch.
        keys: Vec<KeyBuf>,
    },

    /// A [`transact`](crate::AtomicDbExt::transact) came to the end of its attempts or its time,
    /// having lost a race each time. Nothing was written. The source is the last race.
    #[error("gave up after {attempts} {}", if *attempts == 1 { "attempt" } else { "attempts" })]
    RetriesExhausted {
        /// How often the closure was run.
        attempts: u32,
        /// What the last attempt ended with.
        source: Box<Error>,
    },

    /// An item that was to be created is there already. Nothing was written.
    #[error("there is an item at {key} already")]
    AlreadyExists {
        /// Where the item lives.
        key: KeyBuf,
    },

    /// The call makes no sense, and the text says why. Nothing was sent and nothing was written.
    #[error("{0}")]
    InvalidInput(String),

    /// The call is more than this database can do at once. Nothing was written.
    #[error("{what} may be at most {limit}, not {actual}")]
    LimitExceeded {
        /// What there is too much of, with its unit, such as "a sort key's length in bytes".
        what: &'static str,
        /// The most that is possible.
        limit: usize,
        /// What was asked for.
        actual: usize,
    },

    /// The answer to a write was lost: it may have happened, and may not. Read to find out.
    #[error("the outcome of the write is unknown")]
    OutcomeUnknown(#[source] BoxError),

    /// The database cannot be reached or is overloaded. Nothing was written; try again later.
    #[error("the database is unavailable")]
    Unavailable(#[source] BoxError),

    /// The data of this item could not be encoded or decoded. Nothing was written; what is stored
    /// under the key stays as it is.
    #[error("the data of {key} could not be encoded or decoded")]
    Codec {
        /// The item that is concerned.
        key: KeyBuf,
        /// What is wrong with its data.
        source: BoxError,
    },

    /// Something failed below this crate. A commit wrote nothing; of a
    /// [`set`](crate::AtomicDb::set) or [`delete`](crate::AtomicDb::delete), each item was written
    /// or was not.
    #[error("the database failed")]
    Backend(#[source] BoxError),
}

impl Error {
    /// Whether somebody else committed first, once or so often that the attempts ran out. The
    /// caller's view of the data is old: it should read again before it writes.
    #[must_use]
    pub fn is_race_condition(&self) -> bool {
        match self {
            Error::RaceCondition { .. } => true,
            Error::RetriesExhausted { source, .. } => source.is_race_condition(),
            _ => false,
        }
    }

    /// Whether doing the whole operation again, from its first read, may succeed and can do no
    /// harm. True of a race and of [`Unavailable`](Error::Unavailable); false of
    /// [`OutcomeUnknown`](Error::OutcomeUnknown), after which the write may have happened.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.is_race_condition() || matches!(self, Error::Unavailable(_))
    }
}

/// The error for a `get_lock` at the key of a live item.
pub(crate) fn item_at_lock_key(key: Key<'_>) -> Error {
    Error::InvalidInput(format!(
        "a live item is stored at {key}: a lock needs a key of its own, next to the data"
    ))
}

fn list(keys: &[KeyBuf]) -> String {
    let keys: Vec<String> = keys.iter().map(KeyBuf::to_string).collect();
    keys.join(", ")
}
