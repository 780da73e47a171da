//! A package as a folder on a disk; a head folder becomes a whole package here.
//!
//! Invariant: only paths that the format names are read or written, below the folder alone; a base is a sibling folder by its
//! plain name. Files are synced, then their folder. Not here: what the files say.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    path::Path,
};

use super::{CARD, METRICS, MODEL, PackageError, limit};
use crate::{golden, head, manifest, reference};

const HEAD_TOML_MAX: usize = 4 * 1024;
const HEAD_BIN_MAX: usize = 64 * 1024 * 1024;

pub fn read(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>, PackageError> {
    let mut files = BTreeMap::new();
    for name in [manifest::FILE, golden::FILE, reference::FILE, CARD, MODEL] {
        match read_file(dir, name, limit(name).expect("a name of the format"))? {
            Some(bytes) => drop(files.insert(name.to_owned(), bytes)),
            None if name == MODEL => {}
            None => return Err(PackageError::Missing(name.into())),
        }
    }
    if let Some(metrics) = read_file(dir, METRICS, limit(METRICS).expect("a name of the format"))? {
        files.insert(METRICS.into(), metrics);
    }
    let base = match (files.contains_key(MODEL), read_file(dir, head::TOML, HEAD_TOML_MAX)?) {
        (true, None) => None,
        (true, Some(_)) => return Err(PackageError::TwoNetworks),
        (false, None) => return Err(PackageError::Missing(MODEL.into())),
        (false, Some(toml)) => Some(head::Base::parse(&toml)?),
    };
    let base_dir = base.map(|base| dir.join("..").join(base.folder()));
    if let Some(base_dir) = &base_dir {
        files.insert(MODEL.into(), compose(dir, base_dir)?);
    }
    let golden = String::from_utf8_lossy(&files[golden::FILE]).into_owned();
    for input in golden_inputs(&golden) {
        let limit = limit(&input).ok_or_else(|| PackageError::Unexpected(input.clone()))?;
        let own = read_file(dir, &input, limit)?;
        // A head is checked on its base's inputs where it has none of its own.
        let bytes = match (own, &base_dir) {
            (None, Some(base_dir)) => read_file(base_dir, &input, limit)?,
            (own, _) => own,
        };
        files.insert(input.clone(), bytes.ok_or(PackageError::Missing(input))?);
    }
    Ok(files)
}

pub fn write(files: &BTreeMap<String, Vec<u8>>, dir: &Path) -> Result<(), PackageError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error| PackageError::Io { path, error }
    };
    let golden = dir.join("golden");
    fs::create_dir_all(dir).map_err(failed(dir))?;
    if fs::read_dir(dir).map_err(failed(dir))?.next().is_some() {
        return Err(failed(dir)(std::io::Error::other("the folder is not empty")));
    }
    fs::create_dir(&golden).map_err(failed(&golden))?;
    for (name, bytes) in files {
        let path = dir.join(name);
        let written = File::create_new(&path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        written.map_err(failed(&path))?;
    }
    for folder in [golden.as_path(), dir] {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
    }
    Ok(())
}

/// The base's network with this folder's head.
fn compose(dir: &Path, base_dir: &Path) -> Result<Vec<u8>, PackageError> {
    let missing = |name: &str| PackageError::Missing(name.into());
    let onnx = read_file(base_dir, MODEL, super::MAX_MODEL)?.ok_or_else(|| missing("model.onnx in the folder of its base"))?;
    let bin = read_file(dir, head::BIN, HEAD_BIN_MAX)?.ok_or_else(|| missing(head::BIN))?;
    let (classes, dimension) = head::shape(&onnx)?;
    let head = head::LinearHead::from_bytes(&bin, classes, dimension)?;
    Ok(head.put_into(&onnx)?)
}

/// The inputs that a golden.json names, before it is parsed against its manifest.
fn golden_inputs(text: &str) -> Vec<String> {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let samples = value["samples"].as_array().map(Vec::as_slice).unwrap_or_default();
    samples.iter().take(golden::MAX_SAMPLES).filter_map(|sample| sample["input"].as_str().map(str::to_owned)).collect()
}

/// `None` where the file is absent; at most `limit` bytes are read.
fn read_file(dir: &Path, name: &str, limit: usize) -> Result<Option<Vec<u8>>, PackageError> {
    let path = dir.join(name);
    let failed = |error| PackageError::Io { path: path.display().to_string(), error };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(PackageError::TooLarge { file: name.into(), limit });
    }
    Ok(Some(bytes))
}
