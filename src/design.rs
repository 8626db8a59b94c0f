//! Why it is built this way. Documentation only; there is nothing to call here.
//!
//! # Why is the trait blocking?
//!
//! A blocking call works everywhere: in a plain thread, in a command-line tool that is gone in
//! milliseconds, and from async code through a runtime's `spawn_blocking`. An async trait works where a
//! runtime is, and has to be doubled for the rest. For data in memory or in a file, there is nothing
//! to wait for that a future would make shorter.
//!
//! # Why versions under keys of their own, and not in the items?
//!
//! With a version in each item, a commit can guard what it writes and nothing else. A lock beside the
//! data guards what was read as well, one lock can guard a whole partition, and two writers of
//! different items can be made to meet, or not to, as the data demands. The price is one more read
//! for each update, and [`Lock::renewed`](crate::Lock::renewed) saves it where one update follows
//! another.
//!
//! # Why are versions unique for ever?
//!
//! A counter in the lock would begin anew when the lock has been deleted or has expired. Somebody who
//! still holds the old lock at version 1 would then match the new one at version 1, and overwrite what
//! was written between. So a version is 128 bits that no other version has, whichever database or
//! process made it; see [`VersionGenerator`](crate::VersionGenerator).
//!
//! # How does the memory database keep its promises?
//!
//! Partitions are spread over *stripes*, each a plain data structure under one mutex. A call takes the
//! mutexes of all the stripes that it touches, in ascending order, judges, writes, and lets go. So a
//! commit is one instant, and so is a `get_many`; a partition lies in one stripe, so a `query` is one
//! instant too. Taking mutexes in one order cannot deadlock, and no code of a caller runs while any is
//! held: values are shared by reference counts, replaced ones are dropped after unlocking, and the
//! clock is read before locking.
//!
//! Within a stripe, items and locks lie in a slab. A hash table finds a row by its whole key, which
//! costs the same however large the partition is; per partition, the numbers of its items' rows are
//! kept in the order of the sort keys, in blocks of a few hundred. Locks are found by hash alone, so
//! a query does not step over them. An index by time to live makes a purge cost what has expired.
//!
//! Which stripe a partition falls to is decided by bits of its hash that the stripe's own tables do
//! not use; the hash is seeded at random, so that nobody outside can choose keys that meet.
//!
//! # How does the database on DynamoDB keep its promises?
//!
//! The server judges: a commit is one transaction whose conditions are the locks' versions and lives,
//! and a lock is made by a write whose condition is that nothing lives there. What is left is to know
//! how a request ended. So requests are repeated by this crate and not by the SDK, and each outcome
//! is told apart: done, not done, and in doubt.
//!
//! A commit carries its new version as the token by which DynamoDB recognises a repetition. It may be
//! sent any number of times, and happens once or not at all; and since nobody else writes that
//! version, finding it in a lock proves that it happened, whatever became of the answers. A lock that
//! is made has no token, so every request that would make one offers another version. A request that
//! was given up for lost and arrives after all can then do no worse than make a lock that nobody
//! holds. With one version for all of them, it could bring back one that had been deleted while
//! somebody still held it.
//!
//! The SDK is async, and runs on a thread of its own that is reached through channels: a call that
//! blocked on a runtime would panic wherever a caller's own runtime drives the thread. Connections
//! belong to the runtime that opened them, so a caller's client is not accepted. Data is encoded and
//! decoded on the caller's thread, and the clock is asked there.
//!
//! # How can a cache not cause a lost update?
//!
//! An update reads fresh: [`get_fresh`](crate::AtomicDb::get_fresh) never asks a cache, and
//! [`transact`](crate::AtomicDbExt::transact) uses nothing else. So even a cache that knows nothing of
//! other writers costs an extra attempt at worst.
//!
//! For all other reads, [`LruCache`](crate::LruCache) keeps three rules per key. While a write is under
//! way, the key is not cached. A fill is stored only if no write was under way when it began, or began
//! since: a fill that read the old value and was overtaken is thrown away. And what a write wrote is
//! stored only if no other write overlapped it, for otherwise nobody knows which came last. Together
//! they mean that an entry is what the database behind holds, for as long as the entry is there. That
//! is also why a `get_many` that mixes entries with fetched items can be one instant: if the entries
//! are still the same ones after the fetch, they held at the fetch's instant.
//!
//! # Why is the recency list made of indices?
//!
//! Nodes in a vector that name each other by number cannot dangle, and need no `unsafe`. A removed
//! node's place goes onto a free list and is used again, so a full cache allocates nothing.
//!
//! # How does the database in a file write?
//!
//! A commit waits for the disk, hundreds of microseconds in which nothing else happens. So those who
//! come while one waits are served together: the caller who is first takes all the work that waits, and
//! what comes while it does, judges each by what those before it left, writes it in one transaction of
//! redb's, and syncs once for all. A commit is judged before it writes its first row, so one that loses its race leaves nothing
//! to undo, and no savepoint is needed. A group in which nobody wrote is not synced at all.
//!
//! The leader is one of the callers, and there is no thread in the background: a program that has one
//! writer pays for no hand-over, and one that ends has nothing to stop. Callers who were answered
//! together come back together, some microseconds later; a leader with nothing left to do yields to
//! them for about as long, but only if fewer have come than were served last and waited meanwhile.
//! Without that, groups of seven and of one would take turns.
//!
//! An answer is the truth or no answer. What fails before redb is asked to commit was not written; what
//! fails in that call may have been, and every caller whose work wrote something is told that nobody
//! knows. redb refuses all later writes then, until the file is opened again.
//!
//! No row names what is in another one but for the index of expiries, which is changed in the same
//! transaction. The latest version is kept in the file, so that versions grow also if the clock has
//! been set back since the last run.
//!
//! # What was left out, and why?
//!
//! - *Leases and mutual exclusion.* A lock that somebody owns must be taken from owners who died, and
//!   then two may believe that they own it. A version that is checked at the commit has no such case.
//! - *Snapshots across calls.* They keep old versions of everything for as long as the slowest reader
//!   wants. A check of a lock at the commit proves the same for an update, and costs nothing meanwhile.
//! - *Secondary indexes and queries over them.* A commit can write an index's items with the item, all
//!   or nothing.
//! - *Unbounded retries.* Who loses 32 races in a row should hear of it.
//! - *Guards and references into the database.* A guard that outlives its statement is how users of
//!   other maps come to deadlock. Items are handles that hold nothing but themselves.
