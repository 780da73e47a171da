//! A model package: what a device needs to run one version of one model and to know that it runs it rightly.
//!
//! Invariant: a `Package` is complete and was parsed as a whole; it holds exactly the files that its format names, so its packed
//! bytes, and thus its digest, follow from its content alone: `Package::from_bytes(&p.pack())` is `p`. A head on another
//! package's network is composed when the folder is opened. Not here: signatures, transfer, where packages lie.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use sha2::{Digest as _, Sha256};
use wayside_common::{fleet::ModelRef, id::Digest};

use crate::{
    golden::{self, GoldenSet},
    head::HeadError,
    malformed::Malformed,
    manifest::{self, Manifest},
    onnx_file,
    reference::{self, Reference},
};

mod container;
mod folder;

pub use container::MAX_FILES;

pub const MODEL: &str = "model.onnx";
pub const CARD: &str = "card.md";
pub const METRICS: &str = "metrics.json";
/// No network is larger.
pub const MAX_MODEL: usize = 256 * 1024 * 1024;
const MAX_CARD: usize = 1024 * 1024;
const MAX_GOLDEN_INPUT: usize = 8 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("the package has no {0}")]
    Missing(String),
    #[error("{file} has more than {limit} bytes")]
    TooLarge { file: String, limit: usize },
    #[error("{0} is not UTF-8 text")]
    NotText(&'static str),
    #[error("{0} does not belong into a package")]
    Unexpected(String),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the packed bytes are damaged: {0}")]
    Container(String),
    #[error("the folder holds both model.onnx and head.toml; one of them says what the network is")]
    TwoNetworks,
    #[error(transparent)]
    Head(#[from] HeadError),
}

#[derive(Clone, PartialEq)]
pub struct Package {
    files: BTreeMap<String, Vec<u8>>,
    manifest: Manifest,
    golden: GoldenSet,
    reference: Reference,
    digest: Digest,
}

impl std::fmt::Debug for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Package({} v{} {})", self.manifest.name, self.manifest.version, self.digest)
    }
}

impl Package {
    /// Reads a folder; a head folder also reads the base folder beside it.
    pub fn open(dir: &Path) -> Result<Self, PackageError> {
        Self::from_files(folder::read(dir)?)
    }

    /// Reads what [`Package::pack`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PackageError> {
        let package = Self::from_files(container::unpack(bytes)?)?;
        if package.digest == Digest::of(bytes) {
            Ok(package)
        } else {
            Err(PackageError::Container("not packed as this build packs".into()))
        }
    }

    /// Takes the files by their paths in the package and parses all of them.
    pub fn from_files(files: BTreeMap<String, Vec<u8>>) -> Result<Self, PackageError> {
        for (path, bytes) in &files {
            let limit = limit(path).ok_or_else(|| PackageError::Unexpected(path.clone()))?;
            if bytes.len() > limit {
                return Err(PackageError::TooLarge { file: path.clone(), limit });
            }
        }
        let manifest = Manifest::parse(text(&files, manifest::FILE)?)?;
        let golden = GoldenSet::parse(text(&files, golden::FILE)?, &manifest)?;
        let reference = Reference::parse(text(&files, reference::FILE)?, &manifest)?;
        text(&files, CARD)?;
        for required in [MODEL].into_iter().chain(golden.samples.iter().map(|sample| sample.input.as_str())) {
            if !files.contains_key(required) {
                return Err(PackageError::Missing(required.into()));
            }
        }
        let inputs: BTreeSet<&str> = golden.samples.iter().map(|sample| sample.input.as_str()).collect();
        if let Some(stray) = files.keys().find(|path| path.starts_with("golden/") && !inputs.contains(path.as_str())) {
            return Err(PackageError::Unexpected(stray.clone()));
        }
        let digest = digest(&files);
        Ok(Self { files, manifest, golden, reference, digest })
    }

    /// The package as one string of bytes; always the same for the same content.
    pub fn pack(&self) -> Vec<u8> {
        container::pack(&self.files)
    }

    /// Writes the folder that [`Package::open`] reads: `dir` must be absent or empty. Everything is on the disk when it returns.
    pub fn write(&self, dir: &Path) -> Result<(), PackageError> {
        folder::write(&self.files, dir)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn golden(&self) -> &GoldenSet {
        &self.golden
    }

    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    pub fn onnx(&self) -> &[u8] {
        &self.files[MODEL]
    }

    /// A file by its path in the package.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }

    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// Of the packed bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn model_ref(&self) -> ModelRef {
        ModelRef { name: self.manifest.name.clone(), version: self.manifest.version, digest: self.digest }
    }
}

/// Writes packed bytes as a folder and gives the package that it is. Nothing is written unless all of it was parsed.
pub fn unpack(bytes: &[u8], dir: &Path) -> Result<Package, PackageError> {
    let package = Package::from_bytes(bytes)?;
    package.write(dir)?;
    Ok(package)
}

/// Where files, large tensors and long golden outputs start and end in packed bytes, ascending: chunks cut there are shared by
/// versions that share them. Empty for what is no package.
pub fn boundaries(packed: &[u8]) -> Vec<usize> {
    let Ok(places) = container::places(packed) else { return Vec::new() };
    let mut boundaries = Vec::new();
    for (path, range) in places {
        boundaries.push(range.start);
        let inside = match path.as_str() {
            MODEL => onnx_file::boundaries(&packed[range.clone()]),
            golden::FILE => golden::boundaries(&packed[range.clone()]),
            _ => Vec::new(),
        };
        boundaries.extend(inside.into_iter().map(|at| range.start + at));
    }
    boundaries.dedup();
    boundaries
}

/// How large a file of a package may be; `None` for a path that no package has.
fn limit(path: &str) -> Option<usize> {
    match path {
        manifest::FILE => Some(manifest::MAX_BYTES),
        MODEL => Some(MAX_MODEL),
        golden::FILE => Some(golden::MAX_BYTES),
        reference::FILE => Some(reference::MAX_BYTES),
        CARD | METRICS => Some(MAX_CARD),
        _ => golden::is_input_path(path).then_some(MAX_GOLDEN_INPUT),
    }
}

fn text<'a>(files: &'a BTreeMap<String, Vec<u8>>, name: &'static str) -> Result<&'a str, PackageError> {
    let bytes = files.get(name).ok_or_else(|| PackageError::Missing(name.into()))?;
    std::str::from_utf8(bytes).map_err(|_| PackageError::NotText(name))
}

/// Of the packed bytes, without making them.
fn digest(files: &BTreeMap<String, Vec<u8>>) -> Digest {
    let mut hash = Sha256::new();
    hash.update(container::head(files));
    files.values().for_each(|bytes| hash.update(bytes));
    Digest(hash.finalize().into())
}
