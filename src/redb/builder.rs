//! The options of a [`RedbDb`](crate::RedbDb), their defaults and their setters.

use crate::sync::Arc;
use crate::{Clock, Json, SystemClock};
use std::marker::PhantomData;
use std::time::Duration;

/// When a write is durable, and what a crash costs the next open.
///
/// A crash is the end of the process, `kill -9` or power loss. After one, the next open repairs the
/// file, and every write that was durable is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// A write is durable when the call returns. Each group of writes syncs the disk once. After a
    /// crash, the next open reads the whole file to rebuild the allocator state. The default.
    ///
    /// If the file is damaged after a crash, before it was opened again, the last commit can be lost
    /// without an error: the damage may look like a commit that the crash interrupted. This was the
    /// result of 4 % of random byte flips in such files. Where it matters, use
    /// [`QuickRepair`](Durability::QuickRepair) with
    /// [`check_on_open`](RedbDbBuilder::check_on_open). It commits in two phases, so that a damaged
    /// commit can be distinguished from an interrupted one, and the file is refused.
    #[default]
    Immediate,
    /// As [`Immediate`](Durability::Immediate), but each group of writes syncs the disk twice and
    /// writes more, so that an open after a crash takes no longer than any other. For large files.
    QuickRepair,
    /// A call returns without syncing the disk. Its writes are durable when
    /// [`flush`](crate::RedbDb::flush) has returned or the last handle was dropped. A crash before that
    /// loses the most recent commits, but never part of one. For imports that can be restarted, and
    /// for tests.
    Deferred,
}

/// Configures and opens a [`RedbDb`](crate::RedbDb).
///
/// # Defaults
///
/// | option | default |
/// | --- | --- |
/// | [`durability`](RedbDbBuilder::durability) | [`Durability::Immediate`] |
/// | [`cache_size`](RedbDbBuilder::cache_size) | 256 MiB |
/// | [`read_only`](RedbDbBuilder::read_only) | off |
/// | [`shared`](RedbDbBuilder::shared) | off |
/// | [`wait`](RedbDbBuilder::wait) | not at all, or ten seconds if shared |
/// | [`check_on_open`](RedbDbBuilder::check_on_open) | up to 8 MiB |
/// | [`codec`](RedbDbBuilder::codec) | [`Json`] |
/// | [`clock`](RedbDbBuilder::clock) | [`SystemClock`] |
///
/// ```
/// use atomic_db::{Durability, ManualClock, RedbDb};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("names.redb");
/// let db: RedbDb<String> = RedbDb::builder()
///     .clock(ManualClock::new(1_700_000_000))
///     .cache_size(16 << 20)
///     .durability(Durability::QuickRepair)
///     .open(&path)?;
/// assert!(db.is_empty()?);
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until it opens a database"]
pub struct RedbDbBuilder<T, C = Json> {
    pub(super) options: Options,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) codec: C,
    data: PhantomData<fn() -> T>,
}

/// The options with which the file itself is opened.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) durability: Durability,
    pub(super) cache_size: usize,
    pub(super) read_only: bool,
    check_on_open: Option<bool>,
    pub(super) shared: bool,
    wait: Option<Duration>,
}

/// The size up to which files are checked by default. The check takes about 0.35 ms per MiB.
const MAX_BYTES_CHECKED: u64 = 8 << 20;

/// How long a shared file is waited for by default.
const SHARED_WAIT: Duration = Duration::from_secs(10);

impl Default for Options {
    fn default() -> Self {
        Options {
            durability: Durability::default(),
            cache_size: 256 << 20,
            read_only: false,
            check_on_open: None,
            shared: false,
            wait: None,
        }
    }
}

impl Options {
    /// Returns how long to wait for other processes.
    pub(super) fn wait(&self) -> Duration {
        let default = if self.shared {
            SHARED_WAIT
        } else {
            Duration::ZERO
        };
        self.wait.unwrap_or(default)
    }

    /// Returns whether a file of `bytes` is checked when it is opened.
    pub(super) fn checks_on_open(&self, bytes: u64) -> bool {
        self.check_on_open.unwrap_or(bytes <= MAX_BYTES_CHECKED)
    }
}

impl<T> RedbDbBuilder<T> {
    pub(super) fn new() -> Self {
        RedbDbBuilder {
            options: Options::default(),
            clock: Arc::new(SystemClock),
            codec: Json,
            data: PhantomData,
        }
    }
}

impl<T, C> RedbDbBuilder<T, C> {
    /// Sets how data is converted to bytes. The file stores the name of its codec, and is refused if
    /// it is opened with another one.
    ///
    /// ```
    /// use atomic_db::{Bytes, RedbDb};
    ///
    /// let db: RedbDb<Vec<u8>, Bytes> = RedbDb::builder().codec(Bytes).in_memory()?;
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    pub fn codec<D>(self, codec: D) -> RedbDbBuilder<T, D> {
        RedbDbBuilder {
            options: self.options,
            clock: self.clock,
            codec,
            data: PhantomData,
        }
    }

    /// Sets the clock that decides when items and locks expire.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets when a write is durable.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.options.durability = durability;
        self
    }

    /// Sets the largest amount of memory, in bytes, in which parts of the file are cached. It is
    /// allocated as needed.
    pub fn cache_size(mut self, bytes: usize) -> Self {
        self.options.cache_size = bytes;
        self
    }

    /// Sets whether the file is opened read-only, so that other processes can do the same at the same
    /// time.
    ///
    /// On a read-only handle every write, and every [`get_lock`](crate::AtomicDb::get_lock) that would
    /// have to write, is [`InvalidInput`](crate::Error::InvalidInput). The file is not changed,
    /// and a missing one is not created: a tool that only lists a file may open it like this.
    /// The file is not checked for damage (see [`check_on_open`](RedbDbBuilder::check_on_open)).
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.options.read_only = read_only;
        self
    }

    /// Sets how long to wait for other processes, and for handles of this process that are not clones.
    ///
    /// - Opening waits for this long if the file is open elsewhere, instead of failing at once. So
    ///   command-line tools that run at the same time take turns.
    /// - If the file is [`shared`](RedbDbBuilder::shared), each call waits for this long while another
    ///   process writes, compacts or checks it.
    ///
    /// Then the call fails with [`Unavailable`](crate::Error::Unavailable), and nothing was written.
    /// The time is that of the system, not of the [`clock`](RedbDbBuilder::clock). The default is not
    /// to wait, and ten seconds if the file is shared. [`open_with`](RedbDbBuilder::open_with) tries
    /// only once.
    ///
    /// ```
    /// use atomic_db::RedbDb;
    /// use std::time::Duration;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("names.redb");
    /// let db: RedbDb<String> = RedbDb::builder().wait(Duration::from_secs(5)).open(&path)?;
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    pub fn wait(mut self, duration: Duration) -> Self {
        self.options.wait = Some(duration);
        self
    }

    /// Lets several processes have the file open at the same time, for reading and writing. All of
    /// them must open it like this.
    ///
    /// All guarantees hold across the processes. Their write transactions take turns.
    ///
    /// # When to use it
    ///
    /// One process that keeps the file open to itself is much faster, and command-line tools that open
    /// it for some milliseconds can [`wait`](RedbDbBuilder::wait) for each other. Share the file if a
    /// long-running process and others need it at the same time.
    ///
    /// - In one measurement on two cores, which no bench of the repository repeats, eight threads of one
    ///   process made about a third of the commits a second that they make on a file of their own, and
    ///   eight processes together 4 percent. A `get` took seven times as long, 15 microseconds.
    /// - Each commit syncs the disk several times, and empties the page cache of the other processes.
    /// - Which of the waiting processes is next is left to chance: under constant load, some calls
    ///   wait for seconds.
    /// - A reader that was stopped in a call keeps the space of the data that it reads from being
    ///   reused. [`compact`](crate::RedbDb::compact) fails while another process reads, and other
    ///   processes wait while it runs.
    /// - An [`LruCache`](crate::LruCache) in front does not see the writes of other processes
    ///   (guarantee 21).
    /// - [`get_lock`](crate::AtomicDb::get_lock) waits up to ten milliseconds for a write of another
    ///   process, because a commit under the lock that it would read may be about to fail.
    /// - A process that is killed in the middle of a write does not disturb the others. Its last commit
    ///   takes effect as a whole or not at all: at once, or with the next write of another process.
    ///
    /// # Requirements
    ///
    /// Linux, macOS or Windows, and a local file system: shared files rely on locks of byte ranges. All
    /// processes must use versions of redb with the same locks; redb 4.5 and 4.6 do.
    /// [`Durability::Deferred`] cannot be combined with this, because other processes see only durable
    /// commits. A shared file can be opened [`read_only`](RedbDbBuilder::read_only), and then follows
    /// the commits of other processes.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, Item, Key, RedbDb};
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("names.redb");
    /// let first: RedbDb<u32> = RedbDb::builder().shared().open(&path)?;
    /// // In another process:
    /// let second: RedbDb<u32> = RedbDb::builder().shared().open(&path)?;
    /// second.set(&[Item::new("a", "b", 7)])?;
    /// assert!(first.get(Key::new("a", "b"))?.is_some());
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    pub fn shared(mut self) -> Self {
        self.options.shared = true;
        self
    }

    /// Sets whether opening verifies the checksums of the whole file. By default, this is done for files
    /// of up to 8 MiB. It has no effect if the file is opened read-only.
    ///
    /// The check takes time in proportion to the size of the file: about 0.35 milliseconds for each MiB
    /// were measured on a file in the page cache of the system. A damaged file is then refused with
    /// [`Backend`](crate::Error::Backend), or repaired.
    ///
    /// Without the check, opening reads no more than it must. Damage from outside is found when the
    /// damaged part is read, by [`check_integrity`](crate::RedbDb::check_integrity), or never: a call
    /// may return wrong data, and redb may abort the process when it writes to a damaged file. A crash
    /// causes no such damage. It is always repaired on open.
    pub fn check_on_open(mut self, check: bool) -> Self {
        self.options.check_on_open = Some(check);
        self
    }
}
