//! What the checker must find in a script.

use super::script::parse;
use super::second_opinion::is_linearizable;
use atomic_db::testing::history::{AnomalyKind, Versions};

/// How versions may be assigned.
pub(super) const BOTH: [Versions; 2] = [Versions::AtCommit, Versions::Early];

/// The anomaly of a script, on which the other checker agrees.
pub(super) fn anomaly(script: &str, versions: Versions) -> Option<AnomalyKind> {
    let history = parse(script);
    let anomaly = history.check_with(versions).err();
    let linearizable = is_linearizable(&history, versions);
    assert_eq!(linearizable, anomaly.is_none(), "{script}\n{anomaly:?}");
    let anomaly = anomaly?;
    assert!(!anomaly.explanation.is_empty());
    Some(anomaly.kind)
}

pub(super) fn early(script: &str) -> Option<AnomalyKind> {
    anomaly(script, Versions::Early)
}

/// Checks that a script is correct, however versions are assigned.
pub(super) fn accepts(script: &str) {
    for versions in BOTH {
        assert_eq!(anomaly(script, versions), None, "{script}");
    }
}

/// Checks that a script has this anomaly if versions are assigned at commit, and one if early.
pub(super) fn detects(kind: AnomalyKind, script: &str) {
    assert_eq!(anomaly(script, Versions::AtCommit), Some(kind), "{script}");
    assert!(early(script).is_some(), "{script}");
}

/// Checks that one more call makes a correct script incorrect.
pub(super) fn detects_last(kind: AnomalyKind, script: &str, call: &str) {
    accepts(script);
    detects(kind, &format!("{script}\n{call}"));
}

/// The same if versions are assigned early.
pub(super) fn detects_last_early(kind: AnomalyKind, script: &str, call: &str) {
    assert_eq!(early(script), None, "{script}");
    assert_eq!(early(&format!("{script}\n{call}")), Some(kind), "{script}");
}
