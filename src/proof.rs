//! How the promises are tested, and how much. Documentation only; there is nothing to call here.
//!
//! A sentence in the documentation of [`AtomicDb`](crate::AtomicDb) that a user could rely on is a
//! promise, and each promise has a test that fails without it. That a test would fail is itself
//! tested: for each kind of test there are databases with a planted fault, and the tests of the
//! tests demand that it is found.
//!
//! # What is done
//!
//! - **Conformance** (`tests/it/suites.rs`, `tests/it/dynamodb.rs`): the suite that any backend can
//!   run, over every database and wrapper here, each in several configurations. Dozens of plain
//!   databases with one fault each fail it, in the case that names the promise, and every case fails
//!   one of them (`tests/it/broken.rs`).
//! - **Model checking** (`tests/model`): loom runs two threads through *every* order in which they
//!   can take the library's locks, and three threads through all with a bounded number of
//!   preemptions; shuttle runs the same bodies, and longer ones, through very many schedules. Commits
//!   over the same stripes in either order, against queries, reads of many, purges, expiry,
//!   deletion, refresh; and fills of the cache against every kind of write, eviction and
//!   invalidation.
//! - **Histories** (`tests/it/histories.rs`, `tests/model/histories.rs`): threads transfer, read
//!   many, query, page and stream, create, delete and create again, write and delete without any
//!   lock, and let items expire; everything that each call saw is written down. As every value names
//!   the call that wrote it, and what is written under a lock has a known order, strict
//!   serializability comes to one question: has the graph of who saw whom, and who ended before whom
//!   began, a cycle? Of writes that check nothing, as much of their order goes into the graph as the
//!   reads demand.
//! - **Models** (`tests/it/machine.rs`, `src/memory/stripe`, `src/cache/list.rs`): random operations
//!   with odd keys, stale and forged locks and a clock that jumps, on a database and on a plain
//!   ordered map; every answer must be the same, errors included. After each step of the inner
//!   structures, their links and counts are walked.
//! - **Fuzzing** (`fuzz/`): the same bodies, fed by libFuzzer; what it found worth keeping runs as
//!   ordinary tests.
//! - **Files** (`tests/it/redb`): processes that are killed at random moments while eight threads write;
//!   power cuts at every operation of a disk in memory, which keeps any of what was not synced, and
//!   again within the repair; disks that are full, fail or panic under a group of commits. What was
//!   acknowledged is there, nothing is there in part, and nobody is told what is not so.
//! - **A network** (`tests/it/dynamodb`): a proxy that loses requests and answers, cuts them short or
//!   delivers them late, between `DynamoDb` and DynamoDB Local.
//! - **Mutation**: cargo-mutants changes the lines of the engine, the cache, the transactions and what
//!   writes a file one at a time, and the tests must notice. Those left out are listed in
//!   `.ci/mutants.toml`, each with the reason: most do what the unchanged line does, only slower; one
//!   cannot be told from it on two cores, and one writes a row more than it need.
//! - **Counted allocations** (`tests/it/allocations.rs`) and a **real trace** of 113,872 block
//!   requests (`tests/it/trace.rs`), on which the cache's hits are those of another exact LRU.
//!
//! # How much
//!
#![doc = include_str!("proof.md")]
//!
//! The figures are of `SCHEDULES=25000 HISTORIES=1200 CASES=6000 FUZZ_SECONDS=200 .ci/prove long` with
//! all its steps but the last, less than the defaults. The row of changed lines is no single run's: it
//! is summed by hand from runs of groups of files, in which lines that were missed at first were run
//! again once they had a test, two of them by hand. A changed line on which the tests ran into their
//! time limit counts as noticed.
//!
//! `.ci/prove` runs the short form of model checking and histories, in a few minutes; `.ci/prove long`
//! runs the long form of all, in some hours, and writes the table above. `.ci/prove long mutants`, or
//! another of its steps by name, runs that one and writes its rows.
//!
//! # What it does not show
//!
//! - Loom's orders are complete for the bodies it is given, which are small: two or three threads, a
//!   handful of calls each.
//! - Shuttle takes all atomic operations as sequentially consistent. The library has two atomic
//!   counters, which make versions, and otherwise only mutexes.
//! - The histories trust that a version names the commit that made it; that versions are unique and
//!   grow is tested by the models.
//! - Where several blind writes could explain that a key was empty, or one call sees several keys that
//!   are written blindly, the checker of histories gives the benefit of the doubt: it never objects to a
//!   sound history, and may pass a contradiction that no edge shows. Locks do not expire in histories,
//!   are deleted by commits alone, and items under a lock have no time to live; the models hold these.
