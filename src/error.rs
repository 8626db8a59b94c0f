use crate::{Key, KeyBuf};

/// The result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A boxed source error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a call failed, and the state of the database afterwards.
///
/// On any error but [`OutcomeUnknown`](Error::OutcomeUnknown), a commit wrote nothing (guarantee 11).
///
/// | error | was anything written? | what to do |
/// | --- | --- | --- |
/// | [`RaceCondition`](Error::RaceCondition), [`RetriesExhausted`](Error::RetriesExhausted) | no | read again, then retry; [`transact`](crate::AtomicDbExt::transact) and [`update`](crate::AtomicDbExt::update) do it until their deadline |
/// | [`Unavailable`](Error::Unavailable) | by `set` and `delete`: some keys, perhaps; otherwise no | retry later |
/// | [`OutcomeUnknown`](Error::OutcomeUnknown) | all, or nothing; by `set` and `delete`, each key on its own | read to find out, or make the write safe to repeat: the [cookbook](crate::_documentation::cookbook#after-an-unknown-outcome) has recipes |
/// | [`Backend`](Error::Backend) | as after `Unavailable` | report it |
/// | [`AlreadyExists`](Error::AlreadyExists), [`InvalidInput`](Error::InvalidInput), [`LimitExceeded`](Error::LimitExceeded), [`Codec`](Error::Codec) | no | correct the call |
///
/// # Causes
///
/// `Display` is one sentence without the cause, which may name hosts and paths and is not meant for the
/// clients of a service. A log or a command-line tool needs the cause as well: it is in
/// [`source`](std::error::Error::source), and that error may have a source of its own.
///
/// ```
/// use std::error::Error;
///
/// fn chain(error: &dyn Error) -> String {
///     let cause = error.source().map(|cause| format!(": {}", chain(cause)));
///     format!("{error}{}", cause.unwrap_or_default())
/// }
///
/// let error = atomic_db::Error::Unavailable("connection refused".into());
/// assert_eq!(chain(&error), "the database is unavailable: connection refused");
/// ```
///
/// # Examples
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, MemoryDb};
///
/// let db = MemoryDb::new();
/// let lock = db.get_lock(Key::new("account#1", "lock"))?;
/// db.set_atomic(&[Item::new("account#1", "balance", 10)], &[lock.clone()])?;
///
/// // The lock has a new version since it was read.
/// let race = db.set_atomic(&[Item::new("account#1", "balance", 99)], &[lock]).unwrap_err();
/// assert!(race.is_race_condition() && race.is_retryable());
/// assert_eq!(race.to_string(), r#"another writer committed first: ("account#1", "lock")"#);
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An optimistic-concurrency conflict: another writer committed first, so these locks are not as
    /// they were read. They may also have been deleted or replaced, or have expired. Nothing was
    /// written. This is an ordinary outcome: read again and retry, as
    /// [`transact`](crate::AtomicDbExt::transact) does.
    #[error("another writer committed first: {}", join_keys(keys))]
    RaceCondition {
        /// Exactly the locks that have changed, in the order of the batch.
        keys: Vec<KeyBuf>,
    },

    /// A [`transact`](crate::AtomicDbExt::transact) exhausted its attempts or its deadline: every
    /// attempt ended in a conflict. Nothing was written. The source is the last conflict.
    #[error("gave up after {attempts} {}", if *attempts == 1 { "attempt" } else { "attempts" })]
    RetriesExhausted {
        /// The number of times that the closure was run.
        attempts: u32,
        /// The error of the last attempt.
        source: Box<Error>,
    },

    /// An item to be created already exists. Nothing was written.
    #[error("an item already exists at {key}")]
    AlreadyExists {
        /// The key of the existing item.
        key: KeyBuf,
    },

    /// The arguments are invalid; the message explains why. Nothing was sent and nothing was written.
    #[error("{0}")]
    InvalidInput(String),

    /// The call exceeds a limit of this database. Nothing was written.
    #[error("{what} may be at most {limit}, not {actual}")]
    LimitExceeded {
        /// The limited quantity with its unit, such as "a sort key's length in bytes".
        what: &'static str,
        /// The largest possible value.
        limit: usize,
        /// The value in this call.
        actual: usize,
    },

    /// The response to a write was lost, so it may or may not have been applied. Read to find out.
    #[error("the outcome of the write is unknown")]
    OutcomeUnknown(#[source] BoxError),

    /// The database cannot be reached or is overloaded. Try again later. A commit wrote nothing. A
    /// [`set`](crate::AtomicDb::set) or [`delete`](crate::AtomicDb::delete) may have written some items
    /// and not others.
    #[error("the database is unavailable")]
    Unavailable(#[source] BoxError),

    /// The data of an item could not be encoded or decoded. Nothing was written.
    #[error("the data of {key} could not be encoded or decoded")]
    Codec {
        /// The key of the item.
        key: KeyBuf,
        /// The error of the codec.
        source: BoxError,
    },

    /// The underlying store failed. The state afterwards is that of
    /// [`Unavailable`](Error::Unavailable).
    #[error("the underlying store failed")]
    Backend(#[source] BoxError),
}

impl Error {
    /// Returns `true` for a [`RaceCondition`](Error::RaceCondition), including one that is the
    /// source of [`RetriesExhausted`](Error::RetriesExhausted): the caller's view of the data is
    /// stale, and it should read again before it writes.
    #[must_use]
    pub fn is_race_condition(&self) -> bool {
        match self {
            Error::RaceCondition { .. } => true,
            Error::RetriesExhausted { source, .. } => source.is_race_condition(),
            _ => false,
        }
    }

    /// Returns `true` if retrying the whole operation, including its reads, is safe and may succeed:
    /// after a conflict and after [`Unavailable`](Error::Unavailable). Returns `false` after
    /// [`OutcomeUnknown`](Error::OutcomeUnknown), because the write may have been applied.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.is_race_condition() || matches!(self, Error::Unavailable(_))
    }
}

/// Returns the error for a `get_lock` at the key of a live item (guarantee 4).
pub(crate) fn item_at_lock_key(key: Key<'_>) -> Error {
    Error::InvalidInput(format!(
        "a live item is stored at {key}: a lock needs a key of its own, next to the data"
    ))
}

fn join_keys(keys: &[KeyBuf]) -> String {
    let keys: Vec<String> = keys.iter().map(KeyBuf::to_string).collect();
    keys.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_conflicts_and_unavailable_databases_are_retryable() {
        let key = || KeyBuf::new("pk", "sk");
        let race = || Error::RaceCondition { keys: vec![key()] };
        let exhausted = Error::RetriesExhausted {
            attempts: 2,
            source: Box::new(race()),
        };
        let limit = Error::LimitExceeded {
            what: "a sort key's length in bytes",
            limit: 1,
            actual: 2,
        };
        let codec = Error::Codec {
            key: key(),
            source: "not a number".into(),
        };
        // Each with its predicates: is it a race condition, and is it retryable?
        for (error, is_race_condition, is_retryable) in [
            (race(), true, true),
            (exhausted, true, true),
            (Error::AlreadyExists { key: key() }, false, false),
            (Error::InvalidInput("wrong".into()), false, false),
            (limit, false, false),
            (Error::OutcomeUnknown("timed out".into()), false, false),
            (Error::Unavailable("down".into()), false, true),
            (codec, false, false),
            (Error::Backend("broken".into()), false, false),
        ] {
            assert_eq!(error.is_race_condition(), is_race_condition, "{error:?}");
            assert_eq!(error.is_retryable(), is_retryable, "{error:?}");
        }
    }
}
