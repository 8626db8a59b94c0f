//! A simulated disk that injects a fault at a chosen operation, loses writes that were not synced, or
//! is full.

use redb::StorageBackend;
use std::io;
use std::sync::{Arc, Mutex};

/// The unit that the disk writes atomically.
const SECTOR: usize = 512;

/// What happens at the operation at which the disk is to fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// This and every later operation fails, as if the process had ended.
    PowerCut,
    /// This operation fails, and later ones succeed.
    Error,
    /// This operation panics.
    Panic,
}

/// How a full disk fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SpaceLimit {
    /// The file cannot become longer than this.
    Length(usize),
    /// The file can become longer, but nothing can be written beyond this offset.
    Written(usize),
}

/// A handle: clones share one disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The contents that a reader sees.
    current: Vec<u8>,
    /// The contents that survive a power cut for certain.
    synced: Vec<u8>,
    /// The writes since the last sync, each of which may survive a power cut.
    unsynced: Vec<Change>,
    /// The number of writes, syncs and changes of length so far.
    operations: usize,
    fault: Option<(usize, Fault)>,
    was_cut: bool,
    space_limit: Option<SpaceLimit>,
    ignores_sync: bool,
    /// The number of successful syncs so far.
    syncs: usize,
}

#[derive(Clone, Debug)]
enum Change {
    Length(usize),
    Sector(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Change::Length(length) => image.resize(*length, 0),
            Change::Sector(start, bytes) => {
                let end = start + bytes.len();
                image.resize(image.len().max(end), 0);
                image[*start..end].copy_from_slice(bytes);
            }
        }
    }
}

/// Which of the unsynced writes survive a power cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SurvivingWrites {
    None,
    All,
    /// Each with a probability of one half, from this seed.
    Random(u64),
}

impl Disk {
    /// Creates a disk that contains `image`, all of it synced.
    pub(crate) fn with_image(image: Vec<u8>) -> Self {
        let disk = Disk::default();
        {
            let mut state = disk.state.lock().unwrap();
            state.synced.clone_from(&image);
            state.current = image;
        }
        disk
    }

    /// Makes the disk fail at operation `n`, counted from zero.
    pub(crate) fn failing_at(self, n: usize, fault: Fault) -> Self {
        self.state.lock().unwrap().fault = Some((n, fault));
        self
    }

    /// Makes syncs succeed without any effect.
    pub(crate) fn ignoring_syncs(self) -> Self {
        self.state.lock().unwrap().ignores_sync = true;
        self
    }

    /// Limits the space on the disk from now on, or lifts the limit.
    pub(crate) fn set_space_limit(&self, limit: Option<SpaceLimit>) {
        self.state.lock().unwrap().space_limit = limit;
    }

    pub(crate) fn operations(&self) -> usize {
        self.state.lock().unwrap().operations
    }

    pub(crate) fn syncs(&self) -> usize {
        self.state.lock().unwrap().syncs
    }

    pub(crate) fn was_cut(&self) -> bool {
        self.state.lock().unwrap().was_cut
    }

    /// Returns the contents that the next process finds if only this process ended.
    pub(crate) fn current(&self) -> Vec<u8> {
        self.state.lock().unwrap().current.clone()
    }

    /// Returns the contents after a power cut.
    pub(crate) fn after_power_cut(&self, surviving: SurvivingWrites) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        let mut image = state.synced.clone();
        let mut random = match surviving {
            SurvivingWrites::Random(seed) => seed,
            SurvivingWrites::None | SurvivingWrites::All => 0,
        };
        for change in &state.unsynced {
            // Knuth's MMIX generator; its high bits are the good ones.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let survives = match surviving {
                SurvivingWrites::None => false,
                SurvivingWrites::All => true,
                SurvivingWrites::Random(_) => random >> 63 == 1,
            };
            if survives {
                change.apply(&mut image);
            }
        }
        image
    }

    fn operation(&self, op: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let number = state.operations;
        state.operations += 1;
        let fault = state.fault.filter(|(at, _)| *at == number);
        state.was_cut |= matches!(fault, Some((_, Fault::PowerCut)));
        if fault.is_none() && !state.was_cut {
            op(&mut state);
            return Ok(());
        }
        // A panic while the mutex is held would poison it, and fail later operations too.
        drop(state);
        match fault {
            Some((_, Fault::Panic)) => panic!("a fault injected into the storage"),
            _ => Err(io::Error::other("a fault injected into the storage")),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        let start = offset as usize;
        let bytes = state.current.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let limit = self.state.lock().unwrap().space_limit;
        if matches!(limit, Some(SpaceLimit::Length(max)) if max < len as usize) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.operation(|state| {
            let change = Change::Length(len as usize);
            change.apply(&mut state.current);
            state.unsynced.push(change);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operation(|state| {
            state.syncs += 1;
            if !state.ignores_sync {
                state.synced.clone_from(&state.current);
                state.unsynced.clear();
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let limit = self.state.lock().unwrap().space_limit;
        if matches!(limit, Some(SpaceLimit::Written(max)) if max < offset as usize + data.len()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.operation(|state| {
            let mut start = offset as usize;
            let mut rest = data;
            while !rest.is_empty() {
                let (sector, more) = rest.split_at(rest.len().min(SECTOR - start % SECTOR));
                let change = Change::Sector(start, sector.to_vec());
                change.apply(&mut state.current);
                state.unsynced.push(change);
                start += sector.len();
                rest = more;
            }
        })
    }
}
