//! A disk in memory that fails, or loses what was not synced, at a chosen operation, or is full.

use redb::StorageBackend;
use std::io;
use std::sync::{Arc, Mutex};

/// What a disk keeps or loses as one.
const SECTOR: usize = 512;

/// What happens at the operation at which the disk is to fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// From there on nothing works, as in a process that is no more.
    PowerCut,
    /// It fails once, and works again.
    Error,
    /// The thread that is at it panics.
    Panic,
}

/// What fails on a disk that is full.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Room {
    /// A file does not become longer than so many bytes.
    Length(usize),
    /// It does, but nothing can be written beyond so many.
    Written(usize),
}

/// A handle; clones are handles to the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What a reader sees.
    current: Vec<u8>,
    /// What a power cut leaves in any case.
    synced: Vec<u8>,
    /// What it may leave or not.
    pending: Vec<Change>,
    /// Writes, syncs and changes of length.
    operations: usize,
    fault: Option<(usize, Fault)>,
    cut: bool,
    room: Option<Room>,
    /// Whether a sync only says that it did.
    lies: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Length(usize),
    Sector(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Length(length) => to.resize(*length, 0),
            Change::Sector(start, bytes) => {
                let end = start + bytes.len();
                to.resize(to.len().max(end), 0);
                to[*start..end].copy_from_slice(bytes);
            }
        }
    }
}

/// Which of the changes that were not synced a power cut leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left {
    None,
    All,
    /// Each with one chance in two, by this seed.
    Some(u64),
}

impl Disk {
    /// A disk that holds `image`, all of it synced.
    pub(crate) fn holding(image: Vec<u8>) -> Self {
        let disk = Disk::default();
        {
            let mut state = disk.state.lock().unwrap();
            state.synced.clone_from(&image);
            state.current = image;
        }
        disk
    }

    /// Has the disk fail at its `operation`th operation, counted from zero.
    pub(crate) fn failing_at(self, operation: usize, fault: Fault) -> Self {
        self.state.lock().unwrap().fault = Some((operation, fault));
        self
    }

    /// How much fits on the disk from now on; anything if it is not said.
    pub(crate) fn set_room(&self, room: Option<Room>) {
        self.state.lock().unwrap().room = room;
    }

    pub(crate) fn lying(self) -> Self {
        self.state.lock().unwrap().lies = true;
        self
    }

    pub(crate) fn operations(&self) -> usize {
        self.state.lock().unwrap().operations
    }

    pub(crate) fn was_cut(&self) -> bool {
        self.state.lock().unwrap().cut
    }

    /// What a process that opens the file finds, if the system did not fail.
    pub(crate) fn current(&self) -> Vec<u8> {
        self.state.lock().unwrap().current.clone()
    }

    /// What is there after a power cut.
    pub(crate) fn after_power_cut(&self, left: Left) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        let mut image = state.synced.clone();
        let mut random = match left {
            Left::Some(seed) => seed,
            Left::None | Left::All => 0,
        };
        for change in &state.pending {
            // Knuth's MMIX generator; its high bits are the good ones.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let stays = match left {
                Left::None => false,
                Left::All => true,
                Left::Some(_) => random >> 63 == 1,
            };
            if stays {
                change.apply(&mut image);
            }
        }
        image
    }

    fn operation(&self, act: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let number = state.operations;
        state.operations += 1;
        let fault = state.fault.filter(|(at, _)| *at == number);
        state.cut |= matches!(fault, Some((_, Fault::PowerCut)));
        let cut = state.cut;
        if fault.is_none() && !cut {
            act(&mut state);
            return Ok(());
        }
        // Not within the mutex: the next one at the disk would panic too.
        drop(state);
        match fault {
            Some((_, Fault::Panic)) => panic!("planted in the storage"),
            _ => Err(io::Error::other("planted in the storage")),
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
        let room = self.state.lock().unwrap().room;
        if matches!(room, Some(Room::Length(room)) if room < len as usize) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.operation(|state| {
            let change = Change::Length(len as usize);
            change.apply(&mut state.current);
            state.pending.push(change);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operation(|state| {
            if !state.lies {
                state.synced.clone_from(&state.current);
                state.pending.clear();
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let room = self.state.lock().unwrap().room;
        if matches!(room, Some(Room::Written(room)) if room < offset as usize + data.len()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.operation(|state| {
            let mut start = offset as usize;
            let mut rest = data;
            while !rest.is_empty() {
                let (sector, more) = rest.split_at(rest.len().min(SECTOR - start % SECTOR));
                let change = Change::Sector(start, sector.to_vec());
                change.apply(&mut state.current);
                state.pending.push(change);
                start += sector.len();
                rest = more;
            }
        })
    }
}
