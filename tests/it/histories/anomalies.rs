//! Tests of the checker: histories that it must accept, and each anomaly.

use super::expectations::{accepts, detects, detects_last};
use super::script::{WRITTEN, parse};
use atomic_db::testing::history::AnomalyKind::{
    CreateOverExisting, DuplicateCreation, FracturedRead, G0, G1a, G1c, G2, GSingle, GarbageRead,
    IncompatibleOrder, LostUpdate, LostWrite, Phantom, ReadAfterDeletion, ReadAfterExpiry,
    StaleRead, UnjustifiedRejection, VersionReuse, WrongResult,
};
use atomic_db::testing::history::Versions;

#[test]
fn a_sequential_history_is_accepted() {
    accepts(
        "WRITTEN
        read a.x=1 b.x=3
        get_lock a@30
        commit lock a@30 check b@31 read a.x=1 b.x=3 delete a.x set a.y=4 -> 40
        read a.x=- a.y=4
        commit lock a@30 set a.y=5 conflict a
        commit lock a@40 create a.y=6 exists a.y
        commit lock a@40 create a.x=7 -> 50
        read a.x=7 a.y=4
        read a.z=-",
    );
}

#[test]
fn reads_that_overlap_a_commit_may_observe_it_or_not() {
    accepts(
        "WRITTEN
        0..9 commit lock a@30 set a.x=4 a.y=5 -> 40
        1..2 read a.x=1 a.y=2
        3..4 read a.x=4 a.y=5
        5..6 get_lock a@40
        3..8 commit lock a@30 set a.x=6 conflict a",
    );
}

#[test]
fn lost_updates_are_detected() {
    // Two commits replace one version of a lock.
    let renewed = "WRITTEN
        commit lock a@30 set a.x=4 -> 40";
    detects_last(LostUpdate, renewed, "commit lock a@30 set a.x=5 -> 41");
    // A commit overwrites a version of an item that it has not read.
    let overwrite = "commit lock a@40 read a.x=1 set a.x=5 -> 41";
    detects_last(LostUpdate, renewed, overwrite);
}

#[test]
fn fractured_reads_are_detected() {
    let script = "WRITTEN
        0..5 commit lock a@30 set a.x=4 a.y=5 -> 40";
    detects_last(FracturedRead, script, "1..2 read a.x=4 a.y=2");
}

#[test]
fn single_anti_dependency_cycles_are_detected() {
    // A read observes a commit, but not another one that this depends on.
    let script = "WRITTEN
        0..9 commit lock a@30 set a.x=4 -> 40
        0..9 commit lock b@31 check a@40 set b.x=5 -> 41";
    detects_last(GSingle, script, "0..9 read a.x=1 b.x=5");
    // A commit checks a lock that has changed.
    let script = "WRITTEN
        commit lock a@30 -> 40";
    detects_last(GSingle, script, "commit lock b@31 check a@30 -> 41");
}

#[test]
fn queries_that_overlap_a_commit_may_observe_it_or_not() {
    accepts(
        "WRITTEN
        0..9 commit lock a@30 create a.z=4 delete a.x -> 40
        1..2 query a.* a.x=1 a.y=2
        3..4 query a.* a.y=2 a.z=4
        5..6 query a.z* a.z=4
        7..8 query a.*..y a.y=2
        7..8 query b.* b.x=3",
    );
}

#[test]
fn phantoms_are_detected() {
    // A query misses an item of a commit that another read of it depends on.
    let script = "WRITTEN
        0..9 commit lock a@30 create a.z=4 -> 40
        0..9 commit lock b@31 check a@40 set b.x=5 -> 41";
    detects_last(
        Phantom,
        script,
        "0..9 commit check a@30 check b@41 query a.* a.x=1 a.y=2 read b.x=5 ok",
    );
    // Write skew by two queries: each transaction creates what the other one did not find.
    let script = "WRITTEN
        0..9 commit lock a@30 check b@31 query b.* b.x=3 create a.z=4 -> 40";
    let skewed = "0..9 commit lock b@31 check a@30 query a.* a.x=1 a.y=2 create b.z=5 -> 41";
    detects_last(Phantom, script, skewed);
    // The transaction names the version of the lock under which the item exists.
    let created = "WRITTEN
        commit lock a@30 create a.z=4 -> 40";
    detects_last(Phantom, created, "commit check a@40 query a.z* ok");
    // It was absent before and after, but not under this version.
    let deleted = "WRITTEN
        0..9 commit lock a@30 create a.z=4 -> 40
        0..9 commit lock a@40 delete a.z -> 50";
    detects_last(
        Phantom,
        deleted,
        "0..9 commit lock b@31 check a@40 query a.z* -> 51",
    );
}

#[test]
fn a_query_that_ends_early_or_reads_an_own_write_observes_no_absence_there() {
    let created = "WRITTEN
        commit lock a@30 create a.z=4 -> 40";
    for query in [
        "query a.*..y a.x=1 a.y=2",
        "commit check a@40 query a.*!z a.x=1 a.y=2 ok",
    ] {
        accepts(&format!("{created}\n {query}"));
    }
    detects_last(LostWrite, created, "query a.*..z a.x=1 a.y=2");
}

#[test]
fn impossible_results_of_a_query_are_detected() {
    for query in [
        "query a.x* a.y=2",
        "query a.* a.y=2 a.x=1",
        "query a.* a.x=1 a.x=1 a.y=2",
        "query a.x* a.x=1 a.x=1",
        "query b.* a.x=1",
    ] {
        let history = parse(&format!("WRITTEN\n {query}"));
        let anomaly = history.check_with(Versions::AtCommit).unwrap_err();
        assert_eq!(anomaly.kind, WrongResult, "{query}");
    }
}

#[test]
fn results_of_transactions_that_write_nothing_rest_on_one_state() {
    // An error of the body, and a result, each on a state that never existed.
    for outcome in ["failed", "ok"] {
        let script = "WRITTEN
            0..9 commit lock a@30 set a.x=4 -> 40
            0..9 commit lock b@31 check a@40 set b.x=5 -> 41";
        accepts(&format!(
            "{script}\n 0..9 commit read a.x=4 b.x=5 {outcome}"
        ));
        accepts(&format!(
            "{script}\n 0..9 commit read a.x=4 b.x=3 {outcome}"
        ));
        detects_last(
            GSingle,
            script,
            &format!("0..9 commit read a.x=1 b.x=5 {outcome}"),
        );
        let script = "WRITTEN
            0..9 commit lock a@30 set a.x=4 a.y=5 -> 40";
        detects_last(
            GSingle,
            script,
            &format!("0..9 commit read a.x=4 a.y=2 {outcome}"),
        );
    }
    // What a body wrote before it returned an error is not visible.
    let failed = "WRITTEN
        commit check a@30 read a.x=1 set a.x=4 failed";
    detects_last(G1a, failed, "read a.x=4");
}

#[test]
fn an_absence_is_that_of_the_version_that_the_other_reads_imply() {
    // It is absent at first and at the end, and all commits overlap the read.
    let script = "WRITTEN
        0..9 commit lock a@30 create a.z=4 -> 40
        0..9 commit lock a@40 set a.x=5 -> 41
        0..9 commit lock a@41 delete a.z set a.y=6 -> 50";
    for (x, y) in [(1, 2), (5, 6)] {
        accepts(&format!("{script}\n 0..9 query a.* a.x={x} a.y={y}"));
    }
    detects_last(LostWrite, script, "0..9 query a.* a.x=5 a.y=2");
}

#[test]
fn anti_dependency_cycles_are_detected() {
    // Write skew: two commits check each other's locks.
    let script = "WRITTEN
        0..5 commit lock a@30 check b@31 read b.x=3 set a.x=4 -> 40";
    let skewed = "1..4 commit lock b@31 check a@30 read a.x=1 set b.x=5 -> 41";
    detects_last(G2, script, skewed);
    // Long fork: two reads observe two commits in different orders.
    let script = "WRITTEN
        0..9 commit lock a@30 set a.x=4 -> 40
        1..8 commit lock b@31 set b.x=5 -> 41
        2..6 read a.x=4 b.x=3";
    detects_last(G2, script, "3..7 read a.x=1 b.x=5");
}

#[test]
fn stale_reads_are_detected() {
    let completed = "WRITTEN
        commit lock a@30 set a.x=4 -> 40";
    detects_last(StaleRead, completed, "read a.x=1");
    detects_last(StaleRead, completed, "get_lock a@30");
    // Another read has observed the commit while it is under way.
    let observed = "WRITTEN
        0..9 commit lock a@30 set a.x=4 -> 40
        1..2 read a.x=4";
    detects_last(StaleRead, observed, "3..4 read a.x=1");
    detects(StaleRead, "set n.x=1\n set n.x=2\n read n.x=1");
}

#[test]
fn reads_after_deletion_are_detected() {
    let deleted = "WRITTEN
        commit lock a@30 delete a.x -> 40";
    detects_last(ReadAfterDeletion, deleted, "read a.x=1");
    detects_last(ReadAfterDeletion, "set n.x=1\n delete n.x", "read n.x=1");
    // Another read has observed the deletion while it is under way.
    let observed = "set n.x=1
        8..17 delete n.x
        9..10 read n.x=-";
    detects_last(ReadAfterDeletion, observed, "11..12 read n.x=1");
}

#[test]
fn reused_versions_are_detected() {
    // By two commits.
    let script = "WRITTEN
        commit lock a@30 set a.x=4 -> 40";
    detects_last(VersionReuse, script, "commit lock b@31 set b.x=5 -> 40");
    // By two creations.
    detects_last(VersionReuse, "WRITTEN\n get_lock c@50", "get_lock d@50");
    // By a commit and a creation.
    detects_last(VersionReuse, "WRITTEN", "get_lock c@30");
}

#[test]
fn duplicate_creations_are_detected() {
    detects_last(
        DuplicateCreation,
        "WRITTEN\n get_lock c@50",
        "get_lock c@51",
    );
    detects_last(
        CreateOverExisting,
        "WRITTEN",
        "commit lock a@30 create a.x=4 -> 40",
    );
}

#[test]
fn unjustified_rejections_are_detected() {
    for rejected in [
        // The lock has not changed.
        "commit lock a@30 set a.x=4 conflict a",
        // The conflict names no lock, one that the commit does not, or one twice.
        "commit lock a@30 set a.x=4 conflict",
        "commit lock a@10 set a.x=4 conflict a b",
        "commit lock a@10 set a.x=4 conflict a a",
    ] {
        detects_last(UnjustifiedRejection, "WRITTEN", rejected);
    }
    // The lock changed after the rejection.
    detects(
        UnjustifiedRejection,
        "WRITTEN
        commit lock a@30 set a.x=4 conflict a
        commit lock a@30 set a.x=5 -> 40",
    );
    // The conflict omits one of two locks that have changed.
    let changed = "WRITTEN
        commit lock a@30 set a.x=4 -> 40";
    let omitted = "commit lock a@30 check b@20 set a.x=5 conflict a";
    detects_last(UnjustifiedRejection, changed, omitted);
    // The item to be created does not exist.
    let deleted = "WRITTEN
        commit lock a@30 delete a.x -> 40";
    let exists = "commit lock a@40 create a.x=4 exists a.x";
    detects_last(UnjustifiedRejection, deleted, exists);
}

#[test]
fn aborted_reads_are_detected() {
    let rejected = "WRITTEN
        commit lock a@10 set a.x=4 conflict a";
    detects_last(G1a, rejected, "read a.x=4");
}

#[test]
fn garbage_reads_are_detected() {
    // The value was never written, or only to another key.
    detects_last(GarbageRead, "WRITTEN", "read a.x=99");
    detects_last(GarbageRead, "WRITTEN", "read a.x=3");
}

#[test]
fn circular_information_flow_is_detected() {
    detects(
        G1c,
        "WRITTEN
        0..5 commit lock a@30 check b@41 set a.x=4 -> 40
        1..4 commit lock b@31 check a@40 set b.x=5 -> 41",
    );
    // A read observes a commit that begins later.
    detects(
        G1c,
        "WRITTEN
        read a.x=4
        commit lock a@30 set a.x=4 -> 40",
    );
}

#[test]
fn write_cycles_are_detected() {
    // Each of two commits overwrites the other one at one of two keys.
    let script = "0..9 commit set n.x=1 n.y=2 -> 50
        0..9 commit set n.x=3 n.y=4 -> 51
        10..11 read n.x=1";
    detects_last(G0, script, "10..11 read n.y=4");
}

#[test]
fn concurrent_blind_writes_may_have_either_order() {
    for (last, other) in [(1, 2), (2, 1)] {
        accepts(&format!(
            "0..9 set n.x=1
            1..8 set n.x=2
            2..3 read n.x={other}
            4..5 read n.x={last}
            6..20 delete n.x
            10..11 read n.x={last}
            12..13 read n.x=-
            21..22 read n.x=-"
        ));
    }
}

#[test]
fn incompatible_orders_of_blind_writes_are_detected() {
    let observed = "0..9 set n.x=1
        0..9 set n.x=2
        1..2 read n.x=1
        3..6 read n.x=2";
    // Another reader observes them the other way round.
    let other = format!("{observed}\n 1..4 read n.x=2");
    detects_last(IncompatibleOrder, &other, "5..6 read n.x=1");
    // The first value comes back.
    detects_last(IncompatibleOrder, observed, "7..8 read n.x=1");
}

#[test]
fn reads_of_one_blind_write_order_reads_of_another() {
    let script = "set n.x=1
        set n.y=2
        10..19 set n.x=3
        10..19 set n.y=4
        11..18 read n.x=3 n.y=2";
    detects_last(G2, script, "11..18 read n.x=1 n.y=4");
}

#[test]
fn fractured_reads_of_a_commit_without_locks_are_detected() {
    let script = "set n.x=1
        set n.y=2
        10..19 commit set n.x=3 delete n.y -> 50
        11..12 read n.x=1 n.y=2
        13..14 read n.x=3 n.y=-";
    detects_last(LostWrite, script, "11..18 read n.x=- n.y=-");
    detects_last(FracturedRead, script, "11..18 read n.x=3 n.y=2");
    detects_last(FracturedRead, script, "11..18 read n.x=1 n.y=-");
}

#[test]
fn lost_writes_are_detected() {
    detects_last(LostWrite, "WRITTEN", "read a.x=-");
    detects_last(LostWrite, "set n.x=1", "read n.x=-");
    // The note was written again after its deletion.
    let rewritten = "set n.x=1
        delete n.x
        read n.x=-
        set n.x=2";
    detects_last(LostWrite, rewritten, "read n.x=-");
    // The note is deleted later.
    detects(LostWrite, "set n.x=1\n read n.x=-\n delete n.x");
    // Absence before the first write comes before every write.
    let first = "0..9 set n.x=1
        0..9 set n.x=2
        1..2 read n.x=-
        3..4 read n.x=1";
    detects_last(LostWrite, first, "5..6 read n.x=-");
    // A note expires early.
    detects(
        LostWrite,
        "clock 99
        set n.x=1 until 100
        clock 100
        read n.x=-
        clock 101",
    );
    // The value that replaced it does not expire.
    let replaced = "set n.x=1 until 100
        set n.x=2
        clock 101";
    detects_last(LostWrite, replaced, "read n.x=-");
}

#[test]
fn reads_after_expiry_are_detected() {
    let script = "set n.x=1 until 100
        clock 100
        read n.x=1
        4..7 clock 101
        5..6 read n.x=-
        8..9 read n.x=-";
    detects_last(ReadAfterExpiry, script, "10..11 read n.x=1");
}

#[test]
fn an_expired_note_was_the_last_one_written() {
    // The absence shows that the note with a last second replaced the other one.
    let script = "0..1 set n.x=1 until 100
        0..1 set n.x=2
        2..3 clock 101
        4..5 read n.x=-";
    detects_last(IncompatibleOrder, script, "6..7 read n.x=2");
}

#[test]
fn a_long_history_is_checked_without_deep_recursion() {
    let mut script = WRITTEN.to_owned();
    for value in 100..2_100 {
        let version = if value == 100 { 30 } else { value };
        let next = value + 1;
        script += &format!("\n commit lock a@{version} set a.x={value} -> {next}");
        script += &format!("\n read a.x={value} a.w=-");
    }
    assert!(parse(&script).check_with(Versions::AtCommit).is_ok());

    // A cycle through all of it is explained by a few of its calls.
    let anomaly = parse(&(script + "\n read a.x=1")).check_with(Versions::AtCommit);
    let anomaly = anomaly.unwrap_err();
    assert_eq!(anomaly.kind, StaleRead);
    assert!(anomaly.explanation.len() < 20, "{anomaly}");
}

#[test]
fn an_anomaly_is_explained_by_the_calls_of_its_cycle_and_the_edges_between_them() {
    let script = "WRITTEN
        0..9 commit lock a@30 set a.x=4 -> 40
        1..2 read a.x=4
        3..4 read a.x=1";
    let anomaly = parse(script).check_with(Versions::AtCommit).unwrap_err();
    let expected = r#"stale read:
  thread 4 at 8..17: commit lock ("a", "lock")=0000000000000000000000000Y set ("a", "x")=4: committed as 00000000000000000000000018
    -- wr ("a", "x"): the next call observed the version that this call wrote
  thread 5 at 9..10: get_many read ("a", "x")=4
    -- real time: this call had returned before the next call began
  thread 6 at 11..12: get_many read ("a", "x")=1
    -- rw ("a", "x"): this call observed a version that the next call overwrote
  the first call again"#;
    assert_eq!(anomaly.to_string(), expected);
}
