//! Writes the committed samples of version 1 of the wire anew: a deliberate act, which the diff of the files then shows.
//!
//! Invariant: after the first release of the format, no file that was written before it changes. Not here: what they hold
//! (`tests/v1/samples.rs`).

#[allow(dead_code)] // Its reading half is the test's.
#[path = "../tests/v1/samples.rs"]
mod samples;

use std::{fs, path::Path};

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/v1");
    for packet in samples::all() {
        let file = folder.join(samples::name_of(&packet)).with_extension("bin");
        fs::write(&file, packet.encode())?;
        println!("{}", file.display());
    }
    Ok(())
}
