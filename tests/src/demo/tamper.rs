//! Makes a package that must not run: right golden expectations, wrong weights.
//!
//! Invariant: only the copy is changed. Not here: signing and sending it, which is done as for any other package.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

use super::folder;

const FACTOR: f32 = 1.05;

/// Copies a package that is a head on another network, multiplies its weights by 1.05 and raises its version.
pub fn head_scaled(package: &Path, version: u32, into: &Path) -> anyhow::Result<PathBuf> {
    let name = package.file_name().context("a package's folder has a name")?;
    let copy = into.join(name);
    folder::copy(package, &copy)?;
    copy_base(package, &copy)?;
    let head = copy.join("head.bin");
    let bytes = fs::read(&head).with_context(|| format!("{} is no head on another network", package.display()))?;
    ensure!(!bytes.is_empty() && bytes.len() % 4 == 0, "{} is no row of f32", head.display());
    let scaled: Vec<u8> = bytes
        .chunks_exact(4)
        .flat_map(|four| (f32::from_le_bytes(four.try_into().expect("chunks of four")) * FACTOR).to_le_bytes())
        .collect();
    fs::write(&head, scaled)?;
    let manifest = copy.join("manifest.toml");
    fs::write(&manifest, with_version(&fs::read_to_string(&manifest)?, version)?)?;
    Ok(copy)
}

/// The network that the head sits on must lie where `head.toml` says.
fn copy_base(package: &Path, copy: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(package.join("head.toml")).with_context(|| format!("{} has no head.toml", package.display()))?;
    let table: toml::Table = toml::from_str(&text)?;
    let base = table.get("base").and_then(toml::Value::as_str).context("head.toml names no base")?;
    folder::copy(&package.join(base), &copy.join(base))
}

fn with_version(manifest: &str, version: u32) -> anyhow::Result<String> {
    let mut found = false;
    let lines: Vec<String> = manifest
        .lines()
        .map(|line| {
            let is_version = line.split('=').next().is_some_and(|key| key.trim() == "version");
            found |= is_version;
            if is_version { format!("version = {version}") } else { line.to_owned() }
        })
        .collect();
    ensure!(found, "the manifest has no version");
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_has_another_head_and_version_and_the_original_is_as_it_was() {
        let root = std::env::temp_dir().join(format!("wayside-tamper-{}", std::process::id()));
        let (base, package) = (root.join("zoo/vehicles"), root.join("zoo/vehicles-refit"));
        fs::create_dir_all(&base).unwrap();
        fs::create_dir_all(&package).unwrap();
        fs::write(base.join("model.onnx"), "network").unwrap();
        fs::write(package.join("head.toml"), "base = \"../vehicles\"\n").unwrap();
        fs::write(package.join("manifest.toml"), "format = 1\nversion = 2   # the second\n").unwrap();
        fs::write(package.join("head.bin"), 2.0f32.to_le_bytes()).unwrap();
        let copy = head_scaled(&package, 3, &root.join("tampered")).unwrap();
        assert_eq!(fs::read(copy.join("head.bin")).unwrap(), 2.1f32.to_le_bytes());
        assert_eq!(fs::read_to_string(copy.join("manifest.toml")).unwrap(), "format = 1\nversion = 3\n");
        assert_eq!(fs::read_to_string(copy.join("../vehicles/model.onnx")).unwrap(), "network");
        assert_eq!(fs::read(package.join("head.bin")).unwrap(), 2.0f32.to_le_bytes());
        fs::remove_dir_all(root).unwrap();
    }
}
