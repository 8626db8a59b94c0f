//! The variants of an error, as labels.

use crate::Error;
use std::fmt;

/// The variant of an [`Error`], as a label of a counter or of a log line.
///
/// ```
/// use atomic_db::{Error, ErrorKind};
///
/// let kind = ErrorKind::from(&Error::Unavailable("no connection".into()));
/// assert_eq!(kind, ErrorKind::Unavailable);
/// assert_eq!(kind.as_str(), "unavailable");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Error::RaceCondition`]: another commit won.
    RaceCondition,
    /// [`Error::RetriesExhausted`].
    RetriesExhausted,
    /// [`Error::AlreadyExists`].
    AlreadyExists,
    /// [`Error::InvalidInput`].
    InvalidInput,
    /// [`Error::LimitExceeded`].
    LimitExceeded,
    /// [`Error::OutcomeUnknown`].
    OutcomeUnknown,
    /// [`Error::Unavailable`].
    Unavailable,
    /// [`Error::Codec`].
    Codec,
    /// [`Error::Backend`].
    Backend,
}

impl ErrorKind {
    /// All kinds, in the order of their declaration.
    pub(crate) const ALL: [ErrorKind; 9] = [
        ErrorKind::RaceCondition,
        ErrorKind::RetriesExhausted,
        ErrorKind::AlreadyExists,
        ErrorKind::InvalidInput,
        ErrorKind::LimitExceeded,
        ErrorKind::OutcomeUnknown,
        ErrorKind::Unavailable,
        ErrorKind::Codec,
        ErrorKind::Backend,
    ];

    /// Returns the kind in snake case, such as `"race_condition"`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::RaceCondition => "race_condition",
            ErrorKind::RetriesExhausted => "retries_exhausted",
            ErrorKind::AlreadyExists => "already_exists",
            ErrorKind::InvalidInput => "invalid_input",
            ErrorKind::LimitExceeded => "limit_exceeded",
            ErrorKind::OutcomeUnknown => "outcome_unknown",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Codec => "codec",
            ErrorKind::Backend => "backend",
        }
    }
}

impl From<&Error> for ErrorKind {
    fn from(error: &Error) -> Self {
        match error {
            Error::RaceCondition { .. } => ErrorKind::RaceCondition,
            Error::RetriesExhausted { .. } => ErrorKind::RetriesExhausted,
            Error::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Error::InvalidInput(_) => ErrorKind::InvalidInput,
            Error::LimitExceeded { .. } => ErrorKind::LimitExceeded,
            Error::OutcomeUnknown(_) => ErrorKind::OutcomeUnknown,
            Error::Unavailable(_) => ErrorKind::Unavailable,
            Error::Codec { .. } => ErrorKind::Codec,
            Error::Backend(_) => ErrorKind::Backend,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
