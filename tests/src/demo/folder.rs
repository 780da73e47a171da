//! The data folder of a run.
//!
//! Invariant: it is gone when the run is over, on whatever path, unless it is to be kept. Not here: what is in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

pub struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    pub fn make(keep: bool) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("wayside-demo-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self { path, keep })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept {}", self.path.display());
        } else if let Err(e) = fs::remove_dir_all(&self.path) {
            eprintln!("could not remove {}: {e}", self.path.display());
        }
    }
}

/// Copies the files of a folder and its folders; links are followed.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("could not make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))? {
        let path = entry?.path();
        let target = to.join(path.file_name().expect("an entry of a folder has a name"));
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).with_context(|| format!("could not copy {}", path.display()))?;
        }
    }
    Ok(())
}
