//! The seeded bugs.

/// What a [`FaultyDb`](super::FaultyDb) or [`FaultyCache`](super::FaultyCache) does wrong. Each fault
/// names the guarantee that it breaks.
///
/// "Sometimes" means in every fourth or eighth call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    None,

    // Keys and data
    /// Keys are stored as `pk:sk` (guarantee 1).
    JoinedKeys,
    /// An empty sort key is refused by some calls only, after other writes of the call (24).
    LateKeyRefusal,
    /// Items without data are not returned (8).
    DatalessItemDropped,
    /// `get_many` answers a repeated key once, and then with `None` (2).
    MergedRepeats,
    /// `get_many` returns one answer for several adjacent equal keys (2).
    ShortGetMany,
    /// `get_many` ignores all keys after the hundredth (2).
    TruncatedGetMany,

    /// `get_locks` returns one lock for several equal keys (15).
    MergedLocks,

    // Expiry
    /// An item is expired in its last second already (3).
    ExclusiveTtl,
    /// Items never expire (3).
    IgnoredTtl,
    /// A read reads the clock after it has unlocked the row, which may have been replaced (3).
    LateClockRead,
    /// Queries return expired items (3).
    ExpiredItemInQuery,
    /// An expired item makes a creation fail (3).
    ExpiredItemBlocksCreate,
    /// A purge collects expired keys in one critical section and removes them in another (3).
    PurgeByKey,
    /// A purge of several entries reports one.
    WrongPurgeCount,
    /// A purge removes a lock at the expiry that it was created with, despite a refresh (16).
    StaleExpiryIndex,

    // Queries
    /// Queries return locks as items (4).
    LockInQuery,
    /// Queries order short sort keys first (5).
    OrderByLength,
    /// A prefix matches anywhere in the sort key (5).
    PrefixAnywhere,
    /// The upper bound of a range is always included (5).
    InclusiveRangeEnd,
    /// `after` includes its sort key (5).
    InclusiveAfter,
    /// `after` is ignored in a reverse query (5).
    AfterIgnoredInReverse,
    /// A limit counts expired items and locks (5).
    LimitCountsHidden,
    /// The largest limit overflows (23).
    LimitOverflow,
    /// The last page is never reached (5).
    LastPageLost,
    /// A page leaves out its last item, and the next page begins after it (5).
    SkippedItem,
    /// `next` is the number of items so far, not a sort key (6).
    OffsetPaging,
    /// A stream ends after its first page (6).
    StreamEndsAfterPage,
    /// A stream begins again after its first page (6).
    StreamRestarts,
    /// A stream continues after it has returned `None` (6).
    StreamNotFused,
    /// A stream holds a mutex between pages (6).
    StreamHoldsMutex,

    // Scans
    /// A scan returns locks as items (4).
    LockInScan,
    /// A scan returns expired items (3).
    ExpiredItemInScan,
    /// A scan reads a snapshot that is some writes old.
    StaleScan,
    /// A scan continues at the number of rows that it has read so far, not after a key.
    OffsetScan,
    /// A scan leaves out the partitions with one item.
    ScanSkipsSmallPartitions,
    /// A scan ends after its first page.
    ScanEndsAfterPage,
    /// A scan ends if the row at its position was removed.
    ScanLosesPosition,
    /// A scan begins again after its first page.
    ScanRestarts,
    /// A scan continues after it has returned `None`.
    ScanNotFused,
    /// A scan holds a mutex between pages (22).
    ScanHoldsMutex,

    // Stale and torn reads
    /// `get` reads a snapshot that is some writes old (19).
    StaleGet,
    /// `get_fresh` reads a snapshot that is some writes old (8).
    StaleGetFresh,
    /// A fresh query reads a snapshot that is some writes old (8).
    StaleFreshQuery,
    /// `get_locks` returns a lock as `get_lock` last returned it, so that the validation of a
    /// transaction does not see a conflict (15).
    StaleGetLocks,
    /// `stream` reads a snapshot that is some writes old (8).
    StaleStream,
    /// `get_many` reads each key in a critical section of its own (7).
    TornGetMany,
    /// `get_many` reads every hundred keys in a critical section of their own (7).
    ChunkedGetMany,
    /// `query` reads in two critical sections (7).
    TornQuery,
    /// `query` reads page by page, as the trait's default implementation does (7).
    PagedQuery,
    /// `page` reads in two critical sections (11).
    TornPage,

    // `set` and `delete`
    /// Of two items of one key in a call, the first one wins (9).
    FirstRepeatWins,
    /// `set` removes items in one critical section and writes them in another (9).
    TornSet,
    /// `set` writes its items again later, as a client that retries does (9).
    RepeatedSet,
    /// `delete` sometimes does nothing (9).
    DroppedDelete,
    /// `delete` leaves locks (9).
    DeleteLeavesLocks,
    /// Empty input is an error (10).
    EmptyInputRefused,
    /// `set_atomic` accepts items without a lock (10).
    UnguardedSetAtomic,

    // Commits
    /// A rejected commit has written its first item (11).
    PartialApply,
    /// A commit writes its first item in one critical section and the others in another (11).
    TornCommit,
    /// A commit without locks makes each write in a critical section of its own (11).
    TornUnlockedCommit,
    /// A commit sometimes drops its last write (11).
    DroppedWrite,
    /// A commit drops its deletions (11).
    DroppedCommitDeletes,
    /// A commit validates in one critical section and writes in another (13).
    CheckThenAct,
    /// A commit validates its locks and not its checks (12).
    IgnoredChecks,
    /// A commit gives its checks a new version, too (12).
    RenewedChecks,
    /// A commit returns another version than it stores (12).
    WrongVersionReturned,
    /// A commit sometimes reports a conflict although no lock changed (12).
    SpuriousConflict,
    /// A conflict names all locks of the batch (12).
    OverreportedConflict,
    /// A conflict names only the first lock that changed (12).
    UnderreportedConflict,
    /// An item that exists is reported in preference to a conflict (12).
    ExistsBeforeConflict,
    /// A creation sometimes fails although there is no item (11).
    SpuriousExists,
    /// A creation replaces a live item (11).
    CreateReplaces,
    /// A batch may name a key twice (14).
    RepeatedKeyInBatch,

    // Locks
    /// A lock replaces a live item (4).
    LockReplacesItem,
    /// `get_lock` looks for a lock in one critical section and creates it in another (15).
    DuplicateLock,
    /// `get_lock` extends a lock before the last hour of its life (16).
    EarlyRefresh,
    /// A refreshed lock has a new version (16).
    RefreshChangesVersion,
    /// A commit under an expired lock succeeds (18).
    ExpiredLockCommits,
    /// A commit extends the life of its locks (18).
    CommitExtendsLock,
    /// An expired lock is extended by `get_lock` and keeps its version (17).
    RevivedLock,
    /// A lock that is created again has its first version (17).
    RestartedVersion,
    /// A lock that is created again has its last version (17).
    ResurrectedVersion,
    /// A commit sometimes returns a version that was returned before (17).
    ReusedVersion,

    // Stripes
    /// A commit locks its stripes in the order of its keys, so two commits can deadlock.
    UnorderedStripes,
    /// A commit locks a stripe once for each key, so it deadlocks on its own.
    StripeLockedTwice,

    // Caches
    /// Entries are stored under `pk/sk` (1).
    JoinedCacheKeys,
    /// Entries are returned after their expiry (19).
    ExpiredEntry,
    /// Deletions do not invalidate entries (19).
    MissedInvalidation,
    /// Deletions do not invalidate the entries that `get_many` is answered from (19).
    StaleGetMany,
    /// Queries are answered from a cache, whose results stay when another item is added (8).
    CachedQuery,
    /// A read that missed stores an item that was replaced since (19).
    LateFill,
    /// A writer stores its item after the write, even if another writer came later (19).
    LastWriterCaches,
    /// Items are cached before they are written, and removed if that fails (19).
    CachedBeforeCommit,
    /// Items are cached before they are written, and stay if that fails (20).
    FailedWriteCached,
}

impl Fault {
    /// Returns whether [`FaultyCache`](super::FaultyCache) has this fault, and not the database.
    pub(super) fn is_in_cache(self) -> bool {
        matches!(
            self,
            Fault::JoinedCacheKeys
                | Fault::ExpiredEntry
                | Fault::MissedInvalidation
                | Fault::StaleGetMany
                | Fault::CachedQuery
                | Fault::LateFill
                | Fault::LastWriterCaches
                | Fault::CachedBeforeCommit
                | Fault::FailedWriteCached
        )
    }
}
