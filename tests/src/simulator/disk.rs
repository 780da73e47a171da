//! A device's disk in RAM, under the real SQLite: it can lose its power, fill up, refuse, lie and rot.
//!
//! Files below [`Disk::root`] live in it, through a VFS that is registered as SQLite's default and hands every other path to the
//! real one; so the stores' own `open(dir)` runs on it unchanged. After [`Disk::kill`], [`Disk::cut_power`] and [`Disk::restore`]
//! every connection of before is dead: it can do nothing any more but be dropped.
//!
//! Invariant: what a disk does follows from the calls that it gets and from the seeds in them; it knows no clock and no chance of
//! its own. (WAL salts come from SQLite's generator, which all connections of a process share; nothing decides by them.)
//! Not here: what a cut leaves (`disk/model`), SQLite's side (`disk/vfs`).

pub mod content;
mod lock;
pub mod model;
mod vfs;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
};

use wayside_agent::files::Files;

use content::Content;
use lock::{Handle, Locks};
use model::{Cut, FileId, Model, Op, Plan};

/// What SQLite takes for the present time, in milliseconds since 1970; the same for every disk of the process.
pub fn set_current_time(ms: i64) {
    vfs::NOW.store(ms, Ordering::Relaxed);
}

/// What a disk can be told to do wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Files may take so many bytes; what would make them take more is refused. Absent: no limit.
    pub capacity: Option<u64>,
    /// Nothing can be written, made or deleted.
    pub read_only: bool,
    /// This write from now, counted from 1, fails.
    pub fail_write: Option<u64>,
    /// This sync from now, counted from 1, fails; what it should have synced stays unsynced.
    pub fail_sync: Option<u64>,
    /// A sync says that it was done, and was not. No store can survive this; it is here to show that the tests would see it.
    pub lying_syncs: bool,
}

/// What a disk has done, and how often it did it wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes: u64,
    pub bytes_written: u64,
    pub syncs: u64,
    pub refused_full: u64,
    pub refused_read_only: u64,
    pub failed_writes: u64,
    pub failed_syncs: u64,
    pub lied: u64,
    pub cuts: u64,
    /// Of all cuts together.
    pub cut: Cut,
}

/// All that lies on a disk, and what of it is not synced.
#[derive(Clone, Debug, Default)]
pub struct Image(Model);

/// Every step of a disk since [`Disk::record`].
#[derive(Clone, Debug)]
pub struct Recording {
    start: Model,
    ops: Vec<Op>,
}

/// A handle that a test holds; its files vanish with it.
#[derive(Debug)]
pub struct Disk {
    id: u64,
    shared: Shared,
}

type Shared = Arc<Mutex<Inner>>;

#[derive(Debug)]
struct Inner {
    model: Model,
    /// Counts kills, cuts and restores: who opened a file before the last of them is dead.
    boot: u64,
    open: Vec<FileId>,
    locks: Locks,
    last_handle: Handle,
    /// The shared indexes of logs; SQLite's connections own them.
    indexes: BTreeMap<FileId, Weak<vfs::Index>>,
    faults: Faults,
    counts: Counts,
    log: Option<Recording>,
}

/// Why the disk does not do what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The asker is dead.
    Dead,
    NotThere,
    Full,
    ReadOnly,
    Failed,
}

fn lock(shared: &Shared) -> MutexGuard<'_, Inner> {
    // A panic elsewhere leaves a disk as it is.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    #[expect(clippy::new_without_default, reason = "a new disk is an effect: it registers the VFS")]
    pub fn new() -> Self {
        Self::with(Image::default())
    }

    pub fn with(image: Image) -> Self {
        let inner = Inner {
            model: image.0,
            boot: 0,
            open: Vec::new(),
            locks: Locks::default(),
            last_handle: 0,
            indexes: BTreeMap::new(),
            faults: Faults::default(),
            counts: Counts::default(),
            log: None,
        };
        let shared = Arc::new(Mutex::new(inner));
        Self { id: vfs::attach(&shared), shared }
    }

    /// The folder to open stores in. It is not in any file system: `std::fs` does not know it.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("{}{}", vfs::PREFIX, self.id))
    }

    pub fn set_faults(&self, faults: Faults) {
        self.inner().faults = faults;
    }

    pub fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// The bytes that all files take, in whole pages.
    pub fn allocated(&self) -> u64 {
        self.inner().model.allocated()
    }

    /// The process that has files open dies. The system goes on, so nothing that was written is lost.
    pub fn kill(&self) {
        self.inner().die();
    }

    /// The power fails and comes back.
    pub fn cut_power(&self, plan: &Plan) -> Cut {
        let mut inner = self.inner();
        let (model, did) = inner.model.cut(plan);
        inner.model = model;
        inner.die();
        inner.counts.cuts += 1;
        inner.counts.cut.add(did);
        did
    }

    pub fn snapshot(&self) -> Image {
        Image(self.inner().model.clone())
    }

    /// Puts an image back, as a backup or a cloned card would.
    pub fn restore(&self, image: &Image) {
        let mut inner = self.inner();
        inner.model = image.0.clone();
        inner.die();
    }

    /// From now on every step is remembered.
    pub fn record(&self) {
        let mut inner = self.inner();
        let start = inner.model.clone();
        inner.log = Some(Recording { start, ops: Vec::new() });
    }

    /// How many steps the recording has so far.
    pub fn recorded(&self) -> usize {
        self.inner().log.as_ref().map_or(0, |log| log.ops.len())
    }

    /// The recording, which ends.
    pub fn recording(&self) -> Option<Recording> {
        self.inner().log.take()
    }

    // What a test does to the files by hand. Paths are below the root.

    pub fn files(&self) -> Vec<String> {
        self.inner().model.names().map(String::from).collect()
    }

    pub fn exists(&self, path: &str) -> bool {
        self.inner().model.find(path).is_some()
    }

    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let inner = self.inner();
        inner.model.content(inner.model.find(path)?).map(Content::to_vec)
    }

    /// Cuts a file off, behind the back of whoever has it open.
    pub fn truncate(&self, path: &str, len: u64) -> io::Result<()> {
        self.damage(path, |content| content.set_len(len.min(content.len())))
    }

    pub fn overwrite(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.damage(path, |content| content.write(offset, bytes))
    }

    /// Flips `bits` bits, chosen by `seed`.
    pub fn rot(&self, path: &str, seed: u64, bits: u32) -> io::Result<()> {
        self.damage(path, |content| {
            let mut random = fastrand::Rng::with_seed(seed);
            for _ in 0..if content.is_empty() { 0 } else { bits } {
                let (at, mut byte) = (random.u64(..content.len()), [0]);
                content.read(at, &mut byte);
                content.write(at, &[byte[0] ^ (1 << random.u8(..8))]);
            }
        })
    }

    pub fn remove(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.model.find(path).ok_or(io::ErrorKind::NotFound)?;
        inner.step(Op::Delete { path: path.into(), folder: true });
        Ok(())
    }

    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.model.find(from).ok_or(io::ErrorKind::NotFound)?;
        inner.step(Op::Rename { from: from.into(), to: to.into() });
        inner.step(Op::SyncFolder);
        Ok(())
    }

    /// For the stores' `open_in`.
    pub fn folder(&self) -> Arc<dyn Files> {
        Arc::new(Folder { root: self.root(), shared: Arc::clone(&self.shared) })
    }

    fn damage(&self, path: &str, change: impl Fn(&mut Content)) -> io::Result<()> {
        let mut inner = self.inner();
        let file = inner.model.find(path).ok_or(io::ErrorKind::NotFound)?;
        inner.model.damage(file, change);
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.shared)
    }
}

/// The files as the agent's stores see them beside SQLite.
struct Folder {
    root: PathBuf,
    shared: Shared,
}

impl Folder {
    fn below(&self, path: &Path) -> io::Result<String> {
        let below = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
        below.map(str::to_owned).ok_or_else(|| io::Error::other("the path is not on this disk"))
    }
}

impl Files for Folder {
    fn len(&self, path: &Path) -> Option<u64> {
        let inner = lock(&self.shared);
        inner.model.find(&self.below(path).ok()?).and_then(|file| inner.model.content(file)).map(Content::len)
    }

    fn read_at(&self, path: &Path, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let inner = lock(&self.shared);
        let file = inner.model.find(&self.below(path)?).and_then(|file| inner.model.content(file));
        Ok(file.ok_or(io::ErrorKind::NotFound)?.read(offset, into))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.below(from)?, self.below(to)?);
        let mut inner = lock(&self.shared);
        inner.model.find(&from).ok_or(io::ErrorKind::NotFound)?;
        inner.writable().map_err(|_| io::ErrorKind::ReadOnlyFilesystem)?;
        inner.step(Op::Rename { from, to });
        inner.step(Op::SyncFolder);
        Ok(())
    }

    fn fill(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let path = self.below(path)?;
        let mut inner = lock(&self.shared);
        let boot = inner.boot;
        let filled = inner.open(&path, true).and_then(|file| {
            let chunk = [0; 65_536];
            let done = (0..bytes)
                .step_by(chunk.len())
                .try_for_each(|at| inner.write(boot, file, at, &chunk[..chunk.len().min((bytes - at) as usize)]));
            let done = done.and_then(|()| inner.sync(boot, file, true));
            inner.close(boot, file);
            done
        });
        filled.map_err(|_| {
            let _ = inner.delete(&path, false);
            io::ErrorKind::StorageFull.into()
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = self.below(path)?;
        lock(&self.shared).delete(&path, false).map_err(|refusal| match refusal {
            Refusal::NotThere => io::ErrorKind::NotFound.into(),
            _ => io::ErrorKind::ReadOnlyFilesystem.into(),
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.kill();
        vfs::detach(self.id);
    }
}

impl Recording {
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The disk before its first step, after it, and so on.
    pub fn boundaries(&self) -> impl Iterator<Item = Image> {
        let mut model = self.start.clone();
        std::iter::once(Image(model.clone())).chain(self.ops.iter().map(move |op| {
            model.apply(op);
            Image(model.clone())
        }))
    }
}

impl Image {
    /// The same for images that hold the same pages, not copies of them; compare it only while both live.
    pub fn fingerprint(&self) -> u64 {
        self.0.fingerprint()
    }

    /// What is there when the power comes back.
    pub fn after_cut(&self, plan: &Plan) -> (Self, Cut) {
        let (model, did) = self.0.cut(plan);
        (Self(model), did)
    }
}

impl Inner {
    fn die(&mut self) {
        self.boot += 1;
        self.open.clear();
        self.locks = Locks::default();
        self.indexes.clear();
        self.model.forget_unnamed(&BTreeSet::new());
    }

    fn alive(&self, boot: u64) -> Result<(), Refusal> {
        if boot == self.boot { Ok(()) } else { Err(Refusal::Dead) }
    }

    fn step(&mut self, op: Op) -> Option<FileId> {
        let made = self.model.apply(&op);
        if let Some(log) = &mut self.log {
            log.ops.push(op);
        }
        made
    }

    /// The file under this name, made where it may be made.
    fn open(&mut self, path: &str, make: bool) -> Result<FileId, Refusal> {
        let file = match self.model.find(path) {
            Some(file) => file,
            None if !make => return Err(Refusal::NotThere),
            None => {
                self.writable()?;
                self.step(Op::Create { path: path.into() }).expect("a file that is made has a number")
            }
        };
        self.open.push(file);
        Ok(file)
    }

    fn close(&mut self, boot: u64, file: FileId) {
        if boot != self.boot {
            return;
        }
        if let Some(at) = self.open.iter().position(|open| *open == file) {
            self.open.swap_remove(at);
        }
        if !self.model.names().any(|path| self.model.find(path) == Some(file)) {
            let open = self.open.iter().copied().collect();
            self.model.forget_unnamed(&open);
        }
    }

    fn next_handle(&mut self) -> Handle {
        self.last_handle += 1;
        self.last_handle
    }

    fn index(&mut self, file: FileId) -> Arc<vfs::Index> {
        if let Some(index) = self.indexes.get(&file).and_then(Weak::upgrade) {
            return index;
        }
        let index = Arc::<vfs::Index>::default();
        self.indexes.insert(file, Arc::downgrade(&index));
        index
    }

    fn content(&self, boot: u64, file: FileId) -> Result<&Content, Refusal> {
        self.alive(boot)?;
        self.model.content(file).ok_or(Refusal::NotThere)
    }

    fn write(&mut self, boot: u64, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), Refusal> {
        self.alive(boot)?;
        self.writable()?;
        if due(&mut self.faults.fail_write) {
            self.counts.failed_writes += 1;
            return Err(Refusal::Failed);
        }
        let end = offset + bytes.len() as u64;
        let allocated = self.content(boot, file)?.allocated();
        if let Some(capacity) = self.faults.capacity
            && end > allocated
            && self.model.allocated() - allocated + end > capacity
        {
            self.counts.refused_full += 1;
            return Err(Refusal::Full);
        }
        self.counts.writes += 1;
        self.counts.bytes_written += bytes.len() as u64;
        self.step(Op::Write { file, offset, bytes: bytes.into() });
        Ok(())
    }

    fn truncate(&mut self, boot: u64, file: FileId, len: u64) -> Result<(), Refusal> {
        self.alive(boot)?;
        self.writable()?;
        self.step(Op::Truncate { file, len });
        Ok(())
    }

    fn sync(&mut self, boot: u64, file: FileId, folder: bool) -> Result<(), Refusal> {
        self.alive(boot)?;
        if due(&mut self.faults.fail_sync) {
            self.counts.failed_syncs += 1;
            return Err(Refusal::Failed);
        }
        self.counts.syncs += 1;
        if self.faults.lying_syncs {
            self.counts.lied += 1;
            return Ok(());
        }
        self.step(Op::Sync { file, folder });
        Ok(())
    }

    fn delete(&mut self, path: &str, folder: bool) -> Result<(), Refusal> {
        if self.model.find(path).is_none() {
            return Err(Refusal::NotThere);
        }
        self.writable()?;
        self.step(Op::Delete { path: path.into(), folder });
        let open = self.open.iter().copied().collect();
        self.model.forget_unnamed(&open);
        Ok(())
    }

    fn writable(&mut self) -> Result<(), Refusal> {
        if self.faults.read_only {
            self.counts.refused_read_only += 1;
            return Err(Refusal::ReadOnly);
        }
        Ok(())
    }
}

/// Is it the turn of the one that fails?
fn due(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(left) if *left <= 1 => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

#[cfg(test)]
mod tests;
