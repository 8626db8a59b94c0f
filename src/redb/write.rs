//! Applies the requests of a group in one redb transaction.

use super::builder::Durability;
use super::error::{self, SharedError, backend};
use super::file::File;
use super::request::{Outcome, SharedCause, WriteError, WriteRequest};
use super::tables::Tables;
use crate::{BoxError, Error, Result, VersionGenerator};
use redb::{CommitError, WriteTransaction};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Applies all `requests` in one transaction and returns their outcomes in the same order. Each
/// request is validated on the state that the earlier ones left.
///
/// If the outcome of the commit is unknown, a request that wrote nothing still reports
/// [`NotWritten`](WriteError::NotWritten). It does not report its own result, which may rest on writes
/// that were never committed.
pub(super) fn write(
    file: &File,
    versions: &VersionGenerator,
    requests: &mut dyn Iterator<Item = WriteRequest>,
) -> Vec<Outcome> {
    let mut responses = Vec::new();
    let taken = Cell::new(0);
    let mut requests = requests.inspect(|_| taken.set(taken.get() + 1));
    // Nothing can have been written before `commit` is called; if that fails, the outcome is unknown.
    let committing = Cell::new(false);
    let write = || {
        file.with_write_txn(|mut transaction| {
            let mut flush = false;
            let mut tables = Tables::open(&transaction, file.is_shared())?;
            for request in requests.by_ref() {
                let before = tables.written();
                let response = tables.apply(&request, versions)?;
                responses.push((response, tables.written() != before));
                flush |= matches!(request, WriteRequest::Flush);
            }
            let written = tables.written() > 0;
            drop(tables);
            if !written {
                // There is nothing to roll back, and no reason to wait for the disk.
                return Ok(None);
            }
            set_durability(&mut transaction, file.durability(), flush)?;
            committing.set(true);
            Ok(transaction.commit().err())
        })
    };
    let failure = match catch_unwind(AssertUnwindSafe(write)) {
        Ok(Ok(None)) => {
            return responses
                .into_iter()
                .map(|(response, _)| Ok(response))
                .collect();
        }
        // redb did not begin to commit.
        Ok(Ok(Some(CommitError::TransactionPoisoned))) => WriteError::NotWritten(
            SharedCause::from_error(backend(CommitError::TransactionPoisoned)),
        ),
        Ok(Ok(Some(error))) => {
            let source = error::source(error.into());
            file.recover(&*source);
            WriteError::Unknown(source.into())
        }
        Ok(Err(error)) => {
            if let Error::Backend(source) = &error {
                file.recover(&**source);
            }
            WriteError::NotWritten(SharedCause::from_error(error))
        }
        Err(panic) if committing.get() => {
            let source = BoxError::from(error::panicked(&*panic));
            WriteError::Unknown(SharedError::from(source))
        }
        Err(panic) => WriteError::NotWritten(SharedCause::from_error(error::panicked(&*panic))),
    };
    // Requests that were not taken before the failure fail for the same reason.
    requests.by_ref().for_each(drop);
    let wrote = responses.iter().map(|(_, wrote)| *wrote);
    let failures = wrote
        .chain(std::iter::repeat(true))
        .map(|wrote| match &failure {
            WriteError::Unknown(source) if !wrote => {
                WriteError::NotWritten(SharedCause::Backend(source.clone()))
            }
            failure => failure.clone(),
        });
    failures.map(Err).take(taken.get()).collect()
}

fn set_durability(
    transaction: &mut WriteTransaction,
    durability: Durability,
    flush: bool,
) -> Result<()> {
    match durability {
        Durability::Immediate => {}
        Durability::QuickRepair => transaction.set_quick_repair(true),
        Durability::Deferred if flush => {}
        Durability::Deferred => transaction
            .set_durability(redb::Durability::None)
            .map_err(backend)?,
    }
    Ok(())
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;
    use crate::redb::builder::Options;
    use crate::redb::encoding;
    use crate::redb::request::{EncodedBatch, Response};
    use crate::sync::Arc;
    use crate::testing::with_timeout;
    use crate::{Key, Version};
    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// An in-memory storage whose `sync_data` can be made to fail.
    #[derive(Debug)]
    struct Disk {
        memory: InMemoryBackend,
        fails: Arc<AtomicBool>,
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.memory.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            if self.fails.load(Ordering::Relaxed) {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                self.memory.sync_data()
            }
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.memory.write(offset, data)
        }
    }

    fn open(durability: Durability) -> (File, Arc<AtomicBool>) {
        let fails = Arc::new(AtomicBool::new(false));
        let disk = Disk {
            memory: InMemoryBackend::new(),
            fails: Arc::clone(&fails),
        };
        let mut options = Options::default();
        options.durability = durability;
        (File::open_with(disk, "json", options).unwrap(), fails)
    }

    fn set(sk: &str) -> WriteRequest {
        let row = encoding::item_header(None).to_vec();
        WriteRequest::Write {
            sets: vec![(encoding::row_key(Key::new("pk", sk)), row)],
            deletes: Vec::new(),
        }
    }

    /// A commit under a lock that does not exist.
    fn conflict() -> WriteRequest {
        let lock = encoding::row_key(Key::new("pk", "lock"));
        WriteRequest::Apply(EncodedBatch {
            locks: vec![(lock, Version::from_u128(1))],
            renewed: 1,
            ..EncodedBatch::default()
        })
    }

    fn write_all(file: &File, requests: impl IntoIterator<Item = WriteRequest>) -> Vec<Outcome> {
        write(file, &VersionGenerator::new(), &mut requests.into_iter())
    }

    #[test]
    fn requests_that_wrote_nothing_report_not_written_when_sync_fails() {
        with_timeout(Duration::from_secs(60), |_| {
            let (file, fails) = open(Durability::Immediate);
            fails.store(true, Ordering::Relaxed);
            let outcomes = write_all(&file, [conflict(), set("a"), conflict()]);
            assert!(
                matches!(
                    &outcomes[..],
                    [
                        Err(WriteError::NotWritten(SharedCause::Backend(_))),
                        Err(WriteError::Unknown(_)),
                        Err(WriteError::NotWritten(SharedCause::Backend(_))),
                    ]
                ),
                "{outcomes:?}"
            );
        });
    }

    #[test]
    fn a_group_with_a_flush_is_synced_wherever_the_flush_is() {
        with_timeout(Duration::from_secs(60), |_| {
            let (file, fails) = open(Durability::Deferred);
            fails.store(true, Ordering::Relaxed);
            let outcomes = write_all(&file, [set("a"), conflict(), set("b")]);
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            for (before, after) in [(0, 0), (0, 2), (2, 0), (2, 2)] {
                let (file, fails) = open(Durability::Deferred);
                fails.store(true, Ordering::Relaxed);
                let sets = |count| std::iter::repeat_with(|| set("a")).take(count);
                let flush = std::iter::once(WriteRequest::Flush);
                let outcomes = write_all(&file, sets(before).chain(flush).chain(sets(after)));
                assert_eq!(outcomes.len(), before + 1 + after);
                for outcome in outcomes {
                    assert!(
                        matches!(outcome, Err(WriteError::Unknown(_))),
                        "{outcome:?}"
                    );
                }
            }
        });
    }

    #[test]
    fn after_a_panic_before_the_commit_no_outcome_is_unknown() {
        with_timeout(Duration::from_secs(60), |_| {
            let (file, _) = open(Durability::Immediate);
            let mut panicked = false;
            let panics_once = std::iter::from_fn(|| {
                assert!(std::mem::replace(&mut panicked, true), "an injected panic");
                None
            });
            let outcomes = write_all(&file, [set("a"), set("b")].into_iter().chain(panics_once));
            assert_eq!(outcomes.len(), 2);
            for outcome in outcomes {
                let not_written = matches!(
                    outcome,
                    Err(WriteError::NotWritten(SharedCause::Backend(_)))
                );
                assert!(not_written, "{outcome:?}");
            }
            assert_eq!(file.len(0).unwrap(), 0);
            assert!(matches!(
                &write_all(&file, [set("a")])[..],
                [Ok(Response::Written)]
            ));
        });
    }
}
