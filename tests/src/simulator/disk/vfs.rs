//! SQLite's side of the disks in RAM: a VFS that takes what lies below [`PREFIX`] and hands the rest to the one that was the default.
//!
//! Invariant: every `sqlite3_file` whose methods are [`METHODS`] was filled by [`open`] and holds one [`Open`], which [`close`]
//! takes back; SQLite calls no method before the one or after the other. All unsafe code of the crate stands here. Not here: what a
//! disk does (`disk`), who may write (`lock`).

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int, c_void},
    ptr, slice,
    sync::{
        Arc, Mutex, Once, OnceLock, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering, fence},
    },
};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_vfs};

use super::{Inner, Refusal, Shared, lock, lock::Handle, model::FileId};

pub const PREFIX: &str = "/wayside-sim/";

/// Milliseconds since 1970. The first value is a morning in November 2026.
pub static NOW: AtomicI64 = AtomicI64::new(1_795_000_000_000);
/// Between 1970 and the day from which SQLite counts.
const JULIAN_MS: i64 = 210_866_760_000_000;
/// A region of a log's shared index, as SQLite asks for it.
const REGION: usize = 32 * 1024;

static DISKS: Mutex<BTreeMap<u64, Weak<Mutex<Inner>>>> = Mutex::new(BTreeMap::new());

/// The VFS that was the default before.
struct Real(*mut sqlite3_vfs);

// SAFETY: SQLite never moves or frees a registered VFS, and its functions may be called from any thread.
unsafe impl Send for Real {}
// SAFETY: as above; nothing here writes to it.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();

/// Makes a disk known to SQLite; its number.
pub fn attach(disk: &Shared) -> u64 {
    static REGISTERED: Once = Once::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    REGISTERED.call_once(register);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    disks().insert(id, Arc::downgrade(disk));
    id
}

pub fn detach(id: u64) {
    disks().remove(&id);
}

fn disks() -> std::sync::MutexGuard<'static, BTreeMap<u64, Weak<Mutex<Inner>>>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn register() {
    // SAFETY: finding the default VFS has no precondition; SQLite initialises itself.
    let real = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    assert!(!real.is_null(), "SQLite has a default VFS");
    REAL.get_or_init(|| Real(real));
    // SAFETY: a found VFS is valid for ever, and its fields are plain data. What is not replaced below takes no state from `self`.
    let mut ours = unsafe { *real };
    ours.zName = c"wayside-sim".as_ptr();
    ours.pNext = ptr::null_mut();
    ours.szOsFile = ours.szOsFile.max(size_of::<RamFile>() as c_int);
    ours.xOpen = Some(open);
    ours.xDelete = Some(delete);
    ours.xAccess = Some(access);
    ours.xFullPathname = Some(full_pathname);
    ours.xRandomness = Some(randomness);
    ours.xCurrentTime = Some(current_time);
    ours.xCurrentTimeInt64 = Some(current_time_ms);
    // SAFETY: a registered VFS must live for ever, and this box is never freed.
    let registered = unsafe { ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 1) };
    assert_eq!(registered, ffi::SQLITE_OK);
}

/// What SQLite has in its hands.
#[repr(C)]
struct RamFile {
    base: sqlite3_file,
    open: *mut Open,
}

struct Open {
    disk: Shared,
    boot: u64,
    file: FileId,
    handle: Handle,
    /// The first sync of a new journal syncs its folder, as the real VFS does.
    folder_due: bool,
    index: Option<Arc<Index>>,
}

/// A log's index, shared by the connections to one file.
#[derive(Debug, Default)]
pub struct Index(Mutex<Vec<Region>>);

#[derive(Debug)]
struct Region(*mut [u64; REGION / 8]);

// SAFETY: the memory belongs to SQLite, which orders its own accesses by the locks and barriers below.
unsafe impl Send for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and the last connection that could point into it is closed.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(raise_lock),
    xUnlock: Some(lower_lock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(index_map),
    xShmLock: Some(index_lock),
    xShmBarrier: Some(index_barrier),
    xShmUnmap: Some(index_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The disk of a path below the prefix, and the path below its root.
fn routed(path: *const c_char) -> Option<(Shared, String)> {
    if path.is_null() {
        return None;
    }
    // SAFETY: SQLite hands over paths that end with a zero byte.
    let path = unsafe { CStr::from_ptr(path) }.to_str().ok()?;
    let (id, below) = path.strip_prefix(PREFIX)?.split_once('/')?;
    let disk = disks().get(&id.parse().ok()?)?.upgrade()?;
    Some((disk, below.to_owned()))
}

fn is_below_prefix(path: *const c_char) -> bool {
    // SAFETY: as in `routed`.
    !path.is_null() && unsafe { CStr::from_ptr(path) }.to_bytes().starts_with(PREFIX.as_bytes())
}

fn real() -> *mut sqlite3_vfs {
    REAL.get().expect("it is set before the VFS is registered").0
}

unsafe extern "C" fn open(_: *mut sqlite3_vfs, path: *const c_char, file: *mut sqlite3_file, flags: c_int, out: *mut c_int) -> c_int {
    let Some((disk, below)) = routed(path) else {
        if is_below_prefix(path) {
            // A disk that is gone; its methods stay unset, so nothing is closed.
            // SAFETY: SQLite hands over room for at least `szOsFile` bytes.
            unsafe { (*file).pMethods = ptr::null() };
            return ffi::SQLITE_CANTOPEN;
        }
        let open = unsafe { (*real()).xOpen }.expect("the default VFS opens files");
        // SAFETY: the arguments are SQLite's own, and the room is as large as the real VFS asks for.
        return unsafe { open(real(), path, file, flags, out) };
    };
    // SAFETY: as above.
    unsafe { (*file).pMethods = ptr::null() };
    let mut inner = lock(&disk);
    let existed = inner.model.find(&below).is_some();
    let id = match inner.open(&below, flags & ffi::SQLITE_OPEN_CREATE != 0) {
        Ok(id) => id,
        Err(_) => return ffi::SQLITE_CANTOPEN,
    };
    let (boot, handle, read_only) = (inner.boot, inner.next_handle(), inner.faults.read_only);
    drop(inner);
    let journal = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
    let folder_due = !existed && flags & journal != 0;
    let open = Box::new(Open { disk, boot, file: id, handle, folder_due, index: None });
    // SAFETY: the room is at least as large as a `RamFile`, because `szOsFile` is, and SQLite aligns it for any type.
    unsafe { file.cast::<RamFile>().write(RamFile { base: sqlite3_file { pMethods: &METHODS }, open: Box::into_raw(open) }) };
    if !out.is_null() {
        let opened = if read_only { flags & !ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_READONLY } else { flags };
        // SAFETY: it is not null, so it is SQLite's own variable.
        unsafe { *out = opened };
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, path: *const c_char, sync_folder: c_int) -> c_int {
    let Some((disk, below)) = routed(path) else {
        let delete = unsafe { (*real()).xDelete }.expect("the default VFS deletes files");
        // SAFETY: the arguments are SQLite's own.
        return unsafe { delete(real(), path, sync_folder) };
    };
    let deleted = lock(&disk).delete(&below, sync_folder != 0);
    match deleted {
        Err(Refusal::NotThere) => ffi::SQLITE_IOERR_DELETE_NOENT,
        other => code(other, ffi::SQLITE_IOERR_DELETE),
    }
}

unsafe extern "C" fn access(_: *mut sqlite3_vfs, path: *const c_char, flags: c_int, found: *mut c_int) -> c_int {
    let Some((disk, below)) = routed(path) else {
        let access = unsafe { (*real()).xAccess }.expect("the default VFS looks for files");
        // SAFETY: the arguments are SQLite's own.
        return unsafe { access(real(), path, flags, found) };
    };
    let inner = lock(&disk);
    let there = match inner.model.find(&below).and_then(|file| inner.model.content(file)) {
        // As the real VFS: a log without content is none.
        Some(content) if flags == ffi::SQLITE_ACCESS_EXISTS => !content.is_empty(),
        Some(_) => flags != ffi::SQLITE_ACCESS_READWRITE || !inner.faults.read_only,
        None => false,
    };
    // SAFETY: it is SQLite's own variable.
    unsafe { *found = c_int::from(there) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(_: *mut sqlite3_vfs, path: *const c_char, room: c_int, out: *mut c_char) -> c_int {
    if !is_below_prefix(path) {
        let full_pathname = unsafe { (*real()).xFullPathname }.expect("the default VFS knows paths");
        // SAFETY: the arguments are SQLite's own.
        return unsafe { full_pathname(real(), path, room, out) };
    }
    // SAFETY: SQLite hands over a path that ends with a zero byte.
    let bytes = unsafe { CStr::from_ptr(path) }.to_bytes_with_nul();
    if bytes.len() > room as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: there is room for so many bytes, and the two do not overlap.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len()) };
    ffi::SQLITE_OK
}

/// SQLite seeds its generator with it, once per process.
unsafe extern "C" fn randomness(_: *mut sqlite3_vfs, count: c_int, out: *mut c_char) -> c_int {
    // SAFETY: there is room for so many bytes.
    unsafe { ptr::write_bytes(out, 0x5a, count as usize) };
    count
}

unsafe extern "C" fn current_time_ms(_: *mut sqlite3_vfs, out: *mut sqlite3_int64) -> c_int {
    // SAFETY: it is SQLite's own variable.
    unsafe { *out = NOW.load(Ordering::Relaxed) + JULIAN_MS };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time(_: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: it is SQLite's own variable.
    unsafe { *out = (NOW.load(Ordering::Relaxed) + JULIAN_MS) as f64 / 86_400_000.0 };
    ffi::SQLITE_OK
}

/// What a method's file is open for.
///
/// # Safety
/// `file` must be one that [`open`] filled and [`close`] has not seen.
unsafe fn opened<'a>(file: *mut sqlite3_file) -> &'a mut Open {
    // SAFETY: by the caller; and SQLite uses a file from one thread at a time.
    unsafe { &mut *(*file.cast::<RamFile>()).open }
}

fn code(done: Result<(), Refusal>, failed: c_int) -> c_int {
    match done {
        Ok(()) => ffi::SQLITE_OK,
        Err(Refusal::Full) => ffi::SQLITE_FULL,
        Err(Refusal::Dead | Refusal::NotThere | Refusal::ReadOnly | Refusal::Failed) => failed,
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once, and `open` made the box.
    let open = unsafe { Box::from_raw((*file.cast::<RamFile>()).open) };
    let mut inner = lock(&open.disk);
    if open.boot == inner.boot {
        inner.locks.forget(open.file, open.handle);
    }
    inner.close(open.boot, open.file);
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut sqlite3_file, into: *mut c_void, count: c_int, offset: sqlite3_int64) -> c_int {
    // SAFETY: the file is open, and there is room for so many bytes.
    let (open, into) = unsafe { (opened(file), slice::from_raw_parts_mut(into.cast::<u8>(), count as usize)) };
    match lock(&open.disk).content(open.boot, open.file) {
        Ok(content) if content.read(offset as u64, into) == into.len() => ffi::SQLITE_OK,
        Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, count: c_int, offset: sqlite3_int64) -> c_int {
    // SAFETY: the file is open, and so many bytes are there.
    let (open, from) = unsafe { (opened(file), slice::from_raw_parts(from.cast::<u8>(), count as usize)) };
    code(lock(&open.disk).write(open.boot, open.file, offset as u64, from), ffi::SQLITE_IOERR_WRITE)
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, len: sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    code(lock(&open.disk).truncate(open.boot, open.file, len as u64), ffi::SQLITE_IOERR_TRUNCATE)
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    let synced = lock(&open.disk).sync(open.boot, open.file, open.folder_due);
    open.folder_due &= synced.is_err();
    code(synced, ffi::SQLITE_IOERR_FSYNC)
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, out: *mut sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    let Ok(len) = lock(&open.disk).content(open.boot, open.file).map(|content| content.len()) else {
        return ffi::SQLITE_IOERR_FSTAT;
    };
    // SAFETY: it is SQLite's own variable.
    unsafe { *out = len as sqlite3_int64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn raise_lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    let mut inner = lock(&open.disk);
    match inner.alive(open.boot) {
        Err(_) => ffi::SQLITE_IOERR_LOCK,
        Ok(()) if inner.locks.raise(open.file, open.handle, level) => ffi::SQLITE_OK,
        Ok(()) => ffi::SQLITE_BUSY,
    }
}

unsafe extern "C" fn lower_lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    let mut inner = lock(&open.disk);
    if inner.alive(open.boot).is_ok() {
        inner.locks.lower(open.file, open.handle, level);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    let reserved = lock(&open.disk).locks.is_reserved(open.file);
    // SAFETY: it is SQLite's own variable.
    unsafe { *out = c_int::from(reserved) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut sqlite3_file) -> c_int {
    4096
}

/// As the real VFS says of every file: a write changes nothing beside what it writes.
unsafe extern "C" fn characteristics(_: *mut sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn index_map(file: *mut sqlite3_file, page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    if size as usize != REGION {
        return ffi::SQLITE_IOERR_SHMMAP;
    }
    let index = match &open.index {
        Some(index) => Arc::clone(index),
        None => {
            let mut inner = lock(&open.disk);
            if inner.alive(open.boot).is_err() {
                return ffi::SQLITE_IOERR_SHMOPEN;
            }
            inner.index(open.file)
        }
    };
    let mut regions = index.0.lock().unwrap_or_else(PoisonError::into_inner);
    while regions.len() <= page as usize && extend != 0 {
        regions.push(Region(Box::into_raw(Box::new([0; REGION / 8]))));
    }
    let region = regions.get(page as usize).map_or(ptr::null_mut(), |region| region.0.cast());
    drop(regions);
    open.index = Some(index);
    // SAFETY: it is SQLite's own variable.
    unsafe { *out = region };
    ffi::SQLITE_OK
}

unsafe extern "C" fn index_lock(file: *mut sqlite3_file, first: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    let slots = (((1u32 << count) - 1) << first) as u8;
    let mut inner = lock(&open.disk);
    if inner.alive(open.boot).is_err() {
        return ffi::SQLITE_IOERR_SHMLOCK;
    }
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        inner.locks.free_slots(open.file, open.handle, slots);
        return ffi::SQLITE_OK;
    }
    let exclusive = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
    if inner.locks.take_slots(open.file, open.handle, slots, exclusive) { ffi::SQLITE_OK } else { ffi::SQLITE_BUSY }
}

unsafe extern "C" fn index_barrier(_: *mut sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn index_unmap(file: *mut sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open.
    unsafe { opened(file) }.index = None;
    ffi::SQLITE_OK
}
