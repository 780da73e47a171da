//! Builds the real programs and finds them.
//!
//! Invariant: the programs are of the same profile as the demo, and lie beside it. Not here: starting them.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

pub struct Binaries {
    pub wayside: PathBuf,
    pub agent: PathBuf,
}

/// The workspace's root, as it was when the demo was built.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

impl Binaries {
    /// Builds them unless `as_they_are`.
    pub fn make(as_they_are: bool) -> anyhow::Result<Self> {
        let demo = std::env::current_exe().context("could not find the demo's own program")?;
        Self::beside(demo.parent().context("the demo's program lies in no folder")?, as_they_are)
    }

    /// For a test, whose own program lies one folder deeper.
    pub fn for_tests() -> anyhow::Result<Self> {
        let test = std::env::current_exe().context("could not find the test's own program")?;
        Self::beside(test.parent().and_then(Path::parent).context("the test's program lies in no folder")?, false)
    }

    fn beside(folder: &Path, as_they_are: bool) -> anyhow::Result<Self> {
        if !as_they_are {
            build(folder)?;
        }
        let found = Self { wayside: folder.join("wayside"), agent: folder.join("wayside-agent") };
        for program in [&found.wayside, &found.agent] {
            ensure!(program.is_file(), "cargo build made no {}", program.display());
        }
        Ok(found)
    }
}

fn build(folder: &Path) -> anyhow::Result<()> {
    // Cargo calls the folder of the dev profile "debug", and every other by the profile's name.
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    // Together with the demo's own crate the features are those with which the demo was built, so no dependency is built again.
    command.current_dir(workspace()).args(["build", "--bins", "--profile", profile]);
    command.args(["--package", "wayside-tests", "--package", "wayside-agent", "--package", "wayside-sync-server"]);
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    // `cargo run` tells the demo about its own package; build scripts that look at these would run, and their crates build, again.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_about_a_package(name)) {
        command.env_remove(name);
    }
    let status = command.status().context("could not run cargo")?;
    ensure!(status.success(), "cargo build failed ({status})");
    Ok(())
}

fn is_about_a_package(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
}
