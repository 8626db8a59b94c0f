//! Tests of the checker: locks that are deleted and created again.

use super::expectations::{anomaly, detects_last, detects_last_early, early};
use atomic_db::testing::history::AnomalyKind::{
    DuplicateCreation, GSingle, LostUpdate, ReadAfterDeletion, StaleRead, UnjustifiedRejection,
};
use atomic_db::testing::history::Versions;

#[test]
fn a_lock_may_be_deleted_and_created_again() {
    let script = "WRITTEN
        commit delete a.lock -> 40
        commit lock a@30 set a.x=4 conflict a
        commit delete a.lock -> 41
        get_lock a@50
        commit lock a@50 set a.x=5 -> 60
        read a.x=5 a.y=2";
    // A commit under the earlier incarnation may not succeed.
    let old = "commit lock a@30 set a.x=6 -> 70";
    detects_last(LostUpdate, script, old);
}

/// Recorded from a database that checks locks in one critical section and writes in another: the
/// commit replaces a lock that has been deleted since. Without an order of versions, the deletion
/// may have come before the lock was created.
#[test]
fn a_deletion_between_two_versions_of_a_lock_is_a_lost_update() {
    let recorded = "12..21 commit delete a.lock -> 7
        16..17 get_lock a@6
        20..33 commit lock a@6 set a.x=1 -> 9";
    let read_later = format!("{recorded}\n 40..41 get_lock a@9");
    for script in [recorded, &read_later] {
        assert_eq!(anomaly(script, Versions::AtCommit), Some(LostUpdate));
        assert_eq!(early(script), None);
    }
}

#[test]
fn a_deletion_with_an_early_version_ends_the_current_incarnation() {
    // The deletion has the lesser version, but the lock was created before it.
    let lesser = "0..9 get_lock a@20
        5..15 commit delete a.lock -> 10
        18..19 commit lock a@20 set a.x=1 conflict a
        20..21 get_lock a@30
        22..23 commit lock a@30 set a.x=2 -> 40";
    assert_eq!(early(lesser), None);
    let by_version = anomaly(lesser, Versions::AtCommit);
    assert_eq!(by_version, Some(DuplicateCreation));

    // The deletion has the greater version, but it came first.
    let greater = "0..3 commit delete a.lock -> 30
        2..9 get_lock a@20
        10..11 commit lock a@20 set a.x=1 -> 40";
    assert_eq!(early(greater), None);
}

#[test]
fn an_incarnation_with_an_early_version_may_be_the_later_one() {
    let script = "get_lock a@20
        commit lock a@20 set a.x=1 -> 21
        commit delete a.lock -> 30
        get_lock a@10
        commit lock a@21 set a.x=2 conflict a
        commit lock a@10 read a.x=1 set a.x=3 -> 40
        read a.x=3";
    // Items written in the incarnations have the same order.
    detects_last_early(StaleRead, script, "read a.x=1");
    let overwrite = "commit lock a@40 read a.x=1 set a.x=4 -> 50";
    detects_last_early(LostUpdate, script, overwrite);
}

#[test]
fn concurrent_incarnations_may_have_either_order() {
    let one = "0..9 get_lock a@10
        1..8 get_lock a@20
        2..7 commit delete a.lock -> 30";
    // The second deletion is not needed and deleted nothing.
    let two = format!("{one}\n 2..7 commit delete a.lock -> 31");
    for script in [one, &two] {
        // A later read shows which one was the last.
        for (last, other) in [(10, 20), (20, 10)] {
            let read = format!("{script}\n 20..21 get_lock a@{last}");
            assert_eq!(early(&read), None);
            let back = format!("{read}\n 22..23 get_lock a@{other}");
            assert!(early(&back).is_some());
        }
    }
}

#[test]
fn two_incarnations_need_a_deletion_between_them() {
    let creations = "10..19 get_lock a@20
        30..39 get_lock a@10";
    assert_eq!(early(creations), Some(DuplicateCreation));
    let deleted = |times| early(&format!("{creations}\n{times} commit delete a.lock -> 15"));
    // It had returned before the first creation, or began after the second.
    for times in ["0..9", "40..49"] {
        assert_eq!(deleted(times), Some(DuplicateCreation), "{times}");
    }
    for times in ["0..11", "0..49", "20..29", "38..49", "18..31"] {
        assert_eq!(deleted(times), None, "{times}");
    }
}

/// Checks that a script needs one more deletion, during these times.
fn needs_a_deletion(script: &str, times: &str) {
    assert_eq!(early(script), Some(DuplicateCreation), "{script}");
    let script = format!("{script}\n {times} commit delete a.lock -> 99");
    assert_eq!(early(&script), None, "{script}");
}

#[test]
fn a_deletion_ends_a_single_incarnation() {
    let sequential = "0..1 get_lock a@10
        10..11 get_lock a@20
        20..21 get_lock a@30
        0..30 commit delete a.lock -> 40";
    needs_a_deletion(sequential, "12..30");

    let concurrent = "0..9 get_lock a@10
        0..9 get_lock a@20
        0..9 get_lock a@30
        0..9 get_lock a@40
        0..9 commit delete a.lock -> 50
        0..9 commit delete a.lock -> 51";
    needs_a_deletion(concurrent, "0..9");

    // There are as many deletions as are needed, but two of them come too late.
    let late = "0..49 get_lock a@10
        0..9 get_lock a@20
        0..9 get_lock a@21
        0..9 get_lock a@22
        0..9 get_lock a@23
        0..49 commit delete a.lock -> 30
        0..49 commit delete a.lock -> 31
        20..49 commit delete a.lock -> 32
        20..49 commit delete a.lock -> 33";
    needs_a_deletion(late, "0..49");
}

#[test]
fn the_other_writes_of_a_deletion_are_visible_once_the_incarnation_has_ended() {
    let overlapping = "WRITTEN
        0..50 commit lock b@31 set b.x=9 delete a.lock -> 90
        1..2 read b.x=3";
    let old = "5..6 read b.x=3";
    // The next incarnation shows that this one has ended.
    let next = format!("{overlapping}\n 3..4 get_lock a@40");
    detects_last_early(DuplicateCreation, &next, old);
    // So does a conflict.
    let conflict = format!("{overlapping}\n 3..4 commit lock a@30 set a.x=8 conflict a");
    detects_last_early(UnjustifiedRejection, &conflict, old);
}

#[test]
fn two_incarnations_never_exist_at_the_same_time() {
    // The first is observed before and after the second, whatever was deleted concurrently.
    let script = "0..50 commit delete a.lock -> 40
        0..50 commit delete a.lock -> 41
        0..50 commit delete a.lock -> 42
        1..2 get_lock a@10
        3..4 get_lock a@20";
    detects_last_early(StaleRead, script, "5..6 get_lock a@10");
    // Nor is the first renewed after the second has been observed.
    let renewal = "5..6 commit lock a@10 set a.x=1 -> 50";
    detects_last_early(LostUpdate, script, renewal);
}

#[test]
fn an_ended_incarnation_is_neither_observed_nor_renewed() {
    let script = "WRITTEN
        commit delete a.lock -> 25
        get_lock a@24";
    detects_last_early(ReadAfterDeletion, script, "get_lock a@30");
    let renewal = "commit lock a@30 set a.x=6 -> 70";
    detects_last_early(LostUpdate, script, renewal);
    let check = "commit lock b@31 check a@30 -> 70";
    detects_last_early(GSingle, script, check);
}

#[test]
fn a_conflict_on_an_ended_incarnation_needs_a_deletion_in_time() {
    let script = "10..11 get_lock a@20
        20..29 commit lock a@20 set a.x=1 conflict a";
    let deleted = |times: &[&str]| {
        let versions = ["-> 30", "-> 31"].iter().zip(times);
        let lines =
            versions.map(|(version, times)| format!("\n {times} commit delete a.lock {version}"));
        early(&lines.fold(script.to_owned(), |script, line| script + &line))
    };
    let too_late: [&[&str]; 4] = [&[], &["0..9"], &["30..31"], &["30..39", "30..39"]];
    for times in too_late {
        assert_eq!(deleted(times), Some(UnjustifiedRejection), "{times:?}");
    }
    for times in ["0..11", "12..13", "28..39", "0..40"] {
        assert_eq!(deleted(&[times]), None, "{times}");
    }

    // The lock is not observed again, even while the deletions are under way.
    let concurrent = "0..40 commit delete a.lock -> 30
        0..40 commit delete a.lock -> 31
        10..11 get_lock a@20
        12..13 commit lock a@20 set a.x=1 conflict a";
    detects_last_early(UnjustifiedRejection, concurrent, "14..15 get_lock a@20");

    // The conflict shows that the lock was deleted, so no later commit can check it.
    let checked = "10..11 get_lock a@20
        12..50 commit delete a.lock -> 30
        20..21 commit lock a@20 set a.x=1 conflict a";
    detects_last_early(
        UnjustifiedRejection,
        checked,
        "30..31 commit check a@20 -> 40",
    );
}
