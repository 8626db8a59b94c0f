//! The databases against the reference model, by random operations; and the faults that the model
//! finds.

use atomic_db::{AtomicDb, Item, LruCache, ManualClock, MemoryDb};
use atomic_db_test_support::faulty_db::{Fault, FaultyCache};
use atomic_db_test_support::reference_model::{
    Coverage, Op, SETUPS, START, Setup, decode, fuzz_database, run, run_setup,
};
use atomic_db_test_support::reference_model::{lru, text};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRng, TestRunner};
use std::fs;
use std::path::Path;

/// The number of lists of operations of each test, unless `PROPTEST_CASES` is set.
const CASES: u32 = 100;

pub(crate) fn config() -> Config {
    let default = Config {
        // A failure becomes a test, or a file of the corpus.
        failure_persistence: None,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return default;
    }
    Config {
        cases: CASES,
        ..default
    }
}

/// Each operation has bytes of its own, so that a shrunk list keeps the others as they are.
pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = vec(any::<u8>(), 1..32).prop_map(|bytes| decode(&bytes, 1));
    vec(op, 0..60).prop_map(|ops| ops.concat())
}

/// The same lists of operations in every run.
fn fixed_ops() -> impl Iterator<Item = Vec<Op>> {
    let rng = TestRng::deterministic_rng(Config::default().rng_algorithm);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..CASES).map(move |_| ops().new_tree(&mut runner).unwrap().current())
}

fn check(setup: Setup) {
    let mut runner = TestRunner::new(config());
    let checked = runner.run(&ops(), |ops| {
        let checked = run_setup(setup, &ops);
        checked.map(drop).map_err(TestCaseError::fail)
    });
    if let Err(failure) = checked {
        panic!("{failure}");
    }
}

macro_rules! checks {
    ($($name:ident: $setup:literal)*) => {
        const CHECKED: &[usize] = &[$($setup),*];

        $(
            #[test]
            fn $name() {
                check(SETUPS[$setup]);
            }
        )*
    };
}

checks! {
    one_stripe_agrees_with_the_model: 0
    two_stripes_agree_with_the_model: 1
    many_stripes_agree_with_the_model: 2
    a_cache_of_nothing_agrees_with_the_model: 3
    a_cache_of_one_agrees_with_the_model: 4
    a_cache_of_few_agrees_with_the_model: 5
    a_cache_of_many_in_several_shards_agrees_with_the_model: 6
    a_cache_before_a_cache_agrees_with_the_model: 7
    a_boxed_trait_object_agrees_with_the_model: 8
    a_cache_before_a_shared_trait_object_agrees_with_the_model: 9
}

#[test]
fn every_setup_is_checked() {
    assert!(CHECKED.iter().copied().eq(0..SETUPS.len()));
}

#[test]
fn the_operations_cover_every_kind_of_outcome() {
    let mut covered = Coverage::new();
    for ops in fixed_ops() {
        for (outcome, count) in run_setup(SETUPS[1], &ops).unwrap() {
            *covered.entry(outcome).or_default() += count;
        }
    }
    for outcome in [
        "a repeated key",
        "already exists",
        "an item at a lock's key",
        "an uncertain row",
        "committed",
        "committed without a lock",
        "conflict",
        "found",
        "items without a lock",
        "lock created",
        "lock refreshed",
        "lock unchanged",
        "next page",
        "not found",
        "purged",
        "query found more than a page",
        "query found nothing",
        "query found one",
        "query found several",
        "transaction committed",
        "transaction failed",
        "transaction met an existing item",
        "transaction queried after a write",
    ] {
        let count = covered.get(outcome).copied().unwrap_or(0);
        assert!(count > 1, "{outcome}: {count} of {covered:?}");
    }
}

/// Runs the body of a fuzz target over its corpus, which a published package does not have.
fn replay(target: &str, body: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if !fuzz.exists() {
        return;
    }
    let files = fs::read_dir(fuzz.join("corpus").join(target)).unwrap();
    let mut count = 0;
    for file in files {
        body(&fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is empty");
}

#[test]
fn databases_agree_with_the_model_over_the_corpus() {
    replay("database", fuzz_database);
}

#[test]
fn the_cache_agrees_with_a_vector_over_the_corpus() {
    replay("list", lru::fuzz_list);
}

#[test]
fn versions_and_keys_parse_back_over_the_corpus() {
    replay("text", text::fuzz_text);
}

/// In-flight entries are by hash, so keys of one hash are not cached when they are written together.
/// A hash that was symmetric in the two parts of a key gave `("a", "b")` that of `("b", "a")`, and
/// `("a", "a")` that of `("b", "b")`.
#[test]
fn keys_with_swapped_or_equal_parts_have_different_hashes() {
    for keys in [[("a", "b"), ("b", "a")], [("a", "a"), ("b", "b")]] {
        let db = LruCache::builder(MemoryDb::new()).shards(1).build();
        let items = keys.map(|(pk, sk)| Item::new(pk, sk, ()));
        db.set(&items).unwrap();
        assert_eq!(db.stats().entries, 2, "{keys:?}");
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn databases_agree_with_the_model_over_any_bytes(bytes in vec(any::<u8>(), 0..150)) {
        fuzz_database(&bytes);
    }

    #[test]
    fn the_cache_agrees_with_a_vector_over_any_bytes(bytes in vec(any::<u8>(), 0..150)) {
        lru::fuzz_list(&bytes);
    }

    #[test]
    fn versions_and_keys_parse_back_over_any_bytes(bytes in vec(any::<u8>(), 0..40)) {
        text::fuzz_text(&bytes);
    }
}

/// The faults that the model must find.
const FAULTS: &[Fault] = &[
    Fault::ShortGetMany,
    Fault::ExclusiveTtl,
    Fault::ExpiredItemInQuery,
    Fault::WrongPurgeCount,
    Fault::StaleExpiryIndex,
    Fault::InclusiveRangeEnd,
    Fault::StaleGetFresh,
    Fault::StaleFreshQuery,
    Fault::AfterIgnoredInReverse,
    Fault::LimitCountsHidden,
    Fault::LastPageLost,
    Fault::StreamRestarts,
    Fault::FirstRepeatWins,
    Fault::DeleteLeavesLocks,
    Fault::UnguardedSetAtomic,
    Fault::PartialApply,
    Fault::IgnoredChecks,
    Fault::RenewedChecks,
    Fault::OverreportedConflict,
    Fault::UnderreportedConflict,
    Fault::CreateReplaces,
    Fault::RepeatedKeyInBatch,
    Fault::EarlyRefresh,
    Fault::RefreshChangesVersion,
    Fault::RestartedVersion,
    Fault::MissedInvalidation,
    Fault::StaleGetMany,
    Fault::FailedWriteCached,
];

/// Returns the number of lists of operations that pass before one fails.
fn passed(fault: Fault) -> usize {
    let passes = |ops: &Vec<Op>| {
        let clock = ManualClock::new(START);
        run(ops, &FaultyCache::with_fault(fault, clock.clone()), &clock).is_ok()
    };
    fixed_ops().take_while(passes).count()
}

#[test]
fn the_model_finds_every_fault() {
    for fault in FAULTS {
        let passed = passed(*fault);
        println!("{fault:?}: found after {passed} lists");
        assert!(passed < CASES as usize, "{fault:?} was not found");
    }
}

#[test]
fn the_model_finds_no_fault_in_a_database_without_one() {
    assert_eq!(passed(Fault::None), CASES as usize);
}
