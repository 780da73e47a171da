//! What a disk holds, what of it would survive a power cut now, and what a cut leaves: plain data and functions.
//!
//! Invariant: what was synced survives every cut, byte for byte; a name survives once its folder was synced. Everything younger may
//! be there or not, each write for itself, as the plan's seed says. Not here: SQLite (`vfs`), faults (`disk`).

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::Arc,
};

use super::content::Content;

/// What a disk writes at once or not at all.
pub const SECTOR: usize = 512;

pub type FileId = u64;

/// One step in the life of a disk.
#[derive(Clone, Debug)]
pub enum Op {
    Create {
        path: String,
    },
    Write {
        file: FileId,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    Truncate {
        file: FileId,
        len: u64,
    },
    /// `folder`: its names are synced as well.
    Sync {
        file: FileId,
        folder: bool,
    },
    Delete {
        path: String,
        folder: bool,
    },
    Rename {
        from: String,
        to: String,
    },
    SyncFolder,
}

/// How a power cut treats what is not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsynced {
    /// All of it had reached the disk.
    Kept,
    /// None of it had.
    Lost,
    /// The older writes had, one is cut off in its middle, the younger ones had not.
    Torn,
    /// Each write had or had not, the younger perhaps before the older; and so each name.
    Reordered,
    /// Each sector of each write had or had not, or holds neither the old nor the new.
    Garbled,
}

impl Unsynced {
    pub const ALL: [Self; 5] = [Self::Kept, Self::Lost, Self::Torn, Self::Reordered, Self::Garbled];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub unsynced: Unsynced,
    pub seed: u64,
}

/// What a cut did, so that a test can tell whether its plan met anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    pub kept: u64,
    pub lost: u64,
    /// Writes of which a part was kept.
    pub torn: u64,
    /// Writes that were kept although an older one of the same file was lost.
    pub reordered: u64,
    /// Sectors that hold neither the old nor the new.
    pub garbled: u64,
    /// Files made, deleted or renamed, of which the folder knows nothing.
    pub names_lost: u64,
}

impl Cut {
    pub fn add(&mut self, other: Self) {
        self.kept += other.kept;
        self.lost += other.lost;
        self.torn += other.torn;
        self.reordered += other.reordered;
        self.garbled += other.garbled;
        self.names_lost += other.names_lost;
    }
}

#[derive(Clone, Debug)]
enum Pending {
    Write { offset: u64, bytes: Arc<[u8]> },
    Truncate(u64),
}

#[derive(Clone, Debug)]
enum Naming {
    Create(String, FileId),
    Delete(String),
    Rename(String, String),
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        match self {
            Self::Create(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Delete(path) => drop(names.remove(path)),
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct File {
    now: Content,
    durable: Content,
    pending: Vec<Pending>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Model {
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    pending_names: Vec<Naming>,
    files: BTreeMap<FileId, File>,
    next: FileId,
}

impl Model {
    pub fn find(&self, path: &str) -> Option<FileId> {
        self.names.get(path).copied()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    pub fn content(&self, file: FileId) -> Option<&Content> {
        self.files.get(&file).map(|file| &file.now)
    }

    /// The bytes that all files take.
    pub fn allocated(&self) -> u64 {
        self.names.values().filter_map(|file| self.content(*file)).map(Content::allocated).sum()
    }

    /// Does one step; the file that was made, where one was. A step on a file that is not there does nothing.
    pub fn apply(&mut self, op: &Op) -> Option<FileId> {
        match op {
            Op::Create { path } => {
                let file = self.next;
                self.next += 1;
                self.files.insert(file, File::default());
                self.name(Naming::Create(path.clone(), file));
                return Some(file);
            }
            Op::Write { file, offset, bytes } => {
                let file = self.files.get_mut(file)?;
                file.now.write(*offset, bytes);
                file.pending.push(Pending::Write { offset: *offset, bytes: Arc::clone(bytes) });
            }
            Op::Truncate { file, len } => {
                let file = self.files.get_mut(file)?;
                file.now.set_len(*len);
                file.pending.push(Pending::Truncate(*len));
            }
            Op::Sync { file, folder } => {
                self.files.get_mut(file)?.sync();
                if *folder {
                    self.sync_folder();
                }
            }
            Op::Delete { path, folder } => {
                self.name(Naming::Delete(path.clone()));
                if *folder {
                    self.sync_folder();
                }
            }
            Op::Rename { from, to } => self.name(Naming::Rename(from.clone(), to.clone())),
            Op::SyncFolder => self.sync_folder(),
        }
        None
    }

    /// Forgets files that have no name any more, now or after a cut, and that nobody holds open.
    pub fn forget_unnamed(&mut self, open: &BTreeSet<FileId>) {
        let (names, durable) = (&self.names, &self.durable_names);
        let named: BTreeSet<FileId> = names.values().chain(durable.values()).copied().collect();
        self.files.retain(|file, _| named.contains(file) || open.contains(file));
    }

    /// What is there when the power comes back.
    pub fn cut(&self, plan: &Plan) -> (Self, Cut) {
        let mut random = fastrand::Rng::with_seed(plan.seed);
        let mut did = Cut::default();
        let mut names = self.durable_names.clone();
        let upto = random.usize(..=self.pending_names.len());
        for (at, naming) in self.pending_names.iter().enumerate() {
            let kept = match plan.unsynced {
                Unsynced::Kept => true,
                Unsynced::Lost => false,
                Unsynced::Torn | Unsynced::Garbled => at < upto,
                Unsynced::Reordered => random.bool(),
            };
            if kept { naming.apply(&mut names) } else { did.names_lost += 1 }
        }
        let mut files = BTreeMap::new();
        for (id, file) in &self.files {
            let content = file.cut(plan.unsynced, &mut random, &mut did);
            if names.values().any(|named| named == id) {
                files.insert(*id, File { now: content.clone(), durable: content, pending: Vec::new() });
            }
        }
        (Self { durable_names: names.clone(), names, pending_names: Vec::new(), files, next: self.next }, did)
    }

    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (path, file) in &self.names {
            path.hash(&mut hasher);
            if let Some(file) = self.files.get(file) {
                file.now.hash_pages(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Changes a file behind everybody's back; the change is durable at once.
    pub fn damage(&mut self, file: FileId, change: impl Fn(&mut Content)) {
        if let Some(file) = self.files.get_mut(&file) {
            change(&mut file.now);
            file.sync_all();
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending_names.push(naming);
    }

    fn sync_folder(&mut self) {
        self.durable_names = self.names.clone();
        self.pending_names.clear();
    }
}

impl File {
    fn sync(&mut self) {
        if self.pending.iter().any(|pending| matches!(pending, Pending::Truncate(_))) {
            return self.sync_all();
        }
        for pending in self.pending.drain(..) {
            if let Pending::Write { offset, bytes } = pending {
                self.durable.take_over(&self.now, range(offset, &bytes));
            }
        }
    }

    fn sync_all(&mut self) {
        self.durable = self.now.clone();
        self.pending.clear();
    }

    fn cut(&self, unsynced: Unsynced, random: &mut fastrand::Rng, did: &mut Cut) -> Content {
        if unsynced == Unsynced::Kept {
            did.kept += self.pending.len() as u64;
            return self.now.clone();
        }
        let mut content = self.durable.clone();
        let torn_at = random.usize(..=self.pending.len());
        let mut some_lost = false;
        for (at, pending) in self.pending.iter().enumerate() {
            let part = match unsynced {
                Unsynced::Kept => Part::Whole,
                Unsynced::Lost => Part::None,
                Unsynced::Torn => match at.cmp(&torn_at) {
                    std::cmp::Ordering::Less => Part::Whole,
                    std::cmp::Ordering::Equal => Part::Begin,
                    std::cmp::Ordering::Greater => Part::None,
                },
                Unsynced::Reordered if random.bool() => Part::Whole,
                Unsynced::Reordered => Part::None,
                Unsynced::Garbled => Part::Sectors,
            };
            match part {
                Part::None => {
                    some_lost = true;
                    did.lost += 1;
                    continue;
                }
                _ if some_lost && unsynced == Unsynced::Reordered => did.reordered += 1,
                _ => {}
            }
            pending.write_part(part, &mut content, random, did);
        }
        content
    }
}

/// How much of a write reached the disk.
#[derive(Clone, Copy)]
enum Part {
    None,
    Whole,
    Begin,
    Sectors,
}

impl Pending {
    fn write_part(&self, part: Part, content: &mut Content, random: &mut fastrand::Rng, did: &mut Cut) {
        let (offset, bytes) = match self {
            // A length is written at once.
            Self::Truncate(len) => {
                did.kept += 1;
                return content.set_len(*len);
            }
            Self::Write { offset, bytes } => (*offset, bytes),
        };
        let sectors = sectors(offset, bytes);
        match part {
            Part::None => {}
            Part::Begin if sectors.len() > 1 => {
                did.torn += 1;
                let end = sectors[random.usize(1..sectors.len())].start;
                content.write(offset, &bytes[..end]);
            }
            Part::Sectors => {
                for sector in &sectors {
                    let at = offset + sector.start as u64;
                    match random.u8(..8) {
                        0..=3 => content.write(at, &bytes[sector.clone()]),
                        4 => {
                            did.garbled += 1;
                            let garbage: Vec<u8> = sector.clone().map(|_| random.u8(..)).collect();
                            content.write(at, &garbage);
                        }
                        _ => {}
                    }
                }
                did.torn += u64::from(sectors.len() > 1);
            }
            Part::Whole | Part::Begin => {
                did.kept += 1;
                content.write(offset, bytes);
            }
        }
    }
}

fn range(offset: u64, bytes: &[u8]) -> Range<u64> {
    offset..offset + bytes.len() as u64
}

/// The parts of a write that lie in one sector each, as ranges of its bytes.
fn sectors(offset: u64, bytes: &[u8]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut from = 0;
    while from < bytes.len() {
        let to = (from + SECTOR - (offset as usize + from) % SECTOR).min(bytes.len());
        parts.push(from..to);
        from = to;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of which 1,024 bytes are synced, and then two writes of 1,024 bytes each are not.
    fn written() -> (Model, FileId) {
        let mut model = Model::default();
        let file = model.apply(&Op::Create { path: "a".into() }).expect("it was made");
        let write = |offset, byte| Op::Write { file, offset, bytes: vec![byte; 1_024].into() };
        for op in [write(0, 1), Op::Sync { file, folder: true }, write(0, 2), write(1_024, 3)] {
            model.apply(&op);
        }
        (model, file)
    }

    fn after(model: &Model, unsynced: Unsynced, seed: u64) -> (Vec<u8>, Cut) {
        let (left, did) = model.cut(&Plan { unsynced, seed });
        let file = left.find("a").expect("its name is synced");
        (left.content(file).expect("it is there").to_vec(), did)
    }

    fn sectors_of(bytes: &[u8]) -> Vec<u8> {
        bytes.chunks(SECTOR).map(|sector| if sector.iter().all(|byte| *byte == sector[0]) { sector[0] } else { 99 }).collect()
    }

    #[test]
    fn each_plan_leaves_what_it_says_and_never_touches_what_is_synced() {
        let (model, file) = written();
        assert_eq!(sectors_of(&after(&model, Unsynced::Kept, 0).0), [2, 2, 3, 3]);
        assert_eq!(sectors_of(&after(&model, Unsynced::Lost, 0).0), [1, 1]);
        let mut seen: BTreeMap<Unsynced, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for seed in 0..200 {
            for unsynced in [Unsynced::Torn, Unsynced::Reordered, Unsynced::Garbled] {
                seen.entry(unsynced).or_default().insert(sectors_of(&after(&model, unsynced, seed).0));
            }
        }
        let set = |cases: &[&[u8]]| cases.iter().map(|case| case.to_vec()).collect::<BTreeSet<_>>();
        assert_eq!(seen[&Unsynced::Torn], set(&[&[2, 1], &[2, 2, 3], &[2, 2, 3, 3]]));
        assert_eq!(seen[&Unsynced::Reordered], set(&[&[1, 1], &[2, 2], &[1, 1, 3, 3], &[2, 2, 3, 3]]));
        assert!(seen[&Unsynced::Garbled].iter().any(|sectors| sectors.contains(&99)));
        assert!(seen[&Unsynced::Garbled].contains(&vec![1, 2, 0, 3]), "{:?}", seen[&Unsynced::Garbled]);

        let mut model = model;
        model.apply(&Op::Sync { file, folder: false });
        for (seed, unsynced) in (0..50).flat_map(|seed| Unsynced::ALL.map(|unsynced| (seed, unsynced))) {
            assert_eq!(sectors_of(&after(&model, unsynced, seed).0), [2, 2, 3, 3]);
        }
    }

    #[test]
    fn a_name_is_there_once_its_folder_is_synced() {
        let mut model = Model::default();
        let file = model.apply(&Op::Create { path: "a".into() }).expect("it was made");
        model.apply(&Op::Sync { file, folder: false });
        assert_eq!(model.cut(&Plan { unsynced: Unsynced::Lost, seed: 0 }).0.find("a"), None);
        assert_eq!(model.cut(&Plan { unsynced: Unsynced::Kept, seed: 0 }).0.find("a"), Some(file));
        model.apply(&Op::Sync { file, folder: true });
        model.apply(&Op::Rename { from: "a".into(), to: "b".into() });
        model.apply(&Op::Delete { path: "b".into(), folder: false });
        let (lost, did) = model.cut(&Plan { unsynced: Unsynced::Lost, seed: 0 });
        assert_eq!((lost.find("a"), lost.find("b"), did.names_lost), (Some(file), None, 2));
        let (kept, _) = model.cut(&Plan { unsynced: Unsynced::Kept, seed: 0 });
        assert_eq!((kept.find("a"), kept.find("b")), (None, None));
    }
}
