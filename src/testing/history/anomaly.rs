//! An anomaly and the calls that show it.

use super::anomaly_kind::AnomalyKind;
use super::recording::History;
use std::error::Error;
use std::fmt;

/// An anomaly and the calls that show it.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Anomaly {
    /// The name of the anomaly.
    pub kind: AnomalyKind,
    /// Calls, one a line. If they form a cycle, the edge to the next call is between two of them.
    pub explanation: Vec<String>,
}

impl Anomaly {
    /// An anomaly that these calls show without a cycle.
    pub(super) fn new(kind: AnomalyKind, history: &History, ops: &[usize]) -> Self {
        let calls = ops.iter().map(|op| history.ops[*op].to_string());
        Anomaly {
            kind,
            explanation: calls.collect(),
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind)?;
        let mut lines = self.explanation.iter();
        lines.try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// As `Display`, so that `unwrap` shows the calls one a line.
impl fmt::Debug for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for Anomaly {}
