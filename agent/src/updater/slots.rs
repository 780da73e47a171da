//! The slots' folders: `slots/{slot}/{digest}/` holds one unpacked package.
//!
//! Invariant: a folder under that name is complete: it was written beside, made durable and renamed. What is found damaged counts
//! as absent. Not here: which one runs (`state`).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use wayside_common::{
    fleet::ModelRef,
    id::{Digest, SlotName},
};
use wayside_models::package::{self, Package};

#[derive(Clone, Debug)]
pub struct Slots {
    root: PathBuf,
}

impl Slots {
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let root = data_dir.join("slots");
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn dir(&self, slot: &SlotName, package: Digest) -> PathBuf {
        self.root.join(slot.as_str()).join(package.to_string())
    }

    /// The package, if its folder is there and is what its name says.
    pub fn find(&self, slot: &SlotName, package: Digest) -> Option<Package> {
        Package::open(&self.dir(slot, package)).ok().filter(|found| found.digest() == package)
    }

    /// Makes packed bytes a folder of the slot. They must have the digest that was asked for.
    pub fn install(&self, slot: &SlotName, package: Digest, packed: &[u8]) -> Result<ModelRef, String> {
        let found = Digest::of(packed);
        if found != package {
            return Err(format!("the package has digest {found}, not {package}"));
        }
        let text = |error: io::Error| format!("the slot's folder: {error}");
        let parent = self.root.join(slot.as_str());
        let (beside, dir) = (parent.join("incoming"), self.dir(slot, package));
        fs::create_dir_all(&parent).map_err(text)?;
        for stale in [&beside, &dir] {
            if stale.exists() {
                fs::remove_dir_all(stale).map_err(text)?;
            }
        }
        let model = package::unpack(packed, &beside).map_err(|error| error.to_string())?.model_ref();
        fs::rename(&beside, &dir).map_err(text)?;
        sync_dir(&parent).and_then(|()| sync_dir(&self.root)).map_err(text)?;
        Ok(model)
    }

    /// Deletes one package of the slot, if it is there.
    pub fn discard(&self, slot: &SlotName, package: Digest) -> io::Result<()> {
        match fs::remove_dir_all(self.dir(slot, package)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes the slot's other folders.
    pub fn keep_only(&self, slot: &SlotName, keep: &[Digest]) -> io::Result<()> {
        let parent = self.root.join(slot.as_str());
        if !parent.exists() {
            return Ok(());
        }
        let keep: Vec<String> = keep.iter().map(Digest::to_string).collect();
        for entry in fs::read_dir(&parent)? {
            let entry = entry?;
            if !keep.iter().any(|name| entry.file_name() == name.as_str()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        sync_dir(&parent)
    }
}

/// Makes the names in a folder durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
