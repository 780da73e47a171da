//! The committed bytes of version 1 of the wire: what was ever sent or spooled can still be read, and is still written so.
//!
//! Invariant: a file is never changed by a test. After a deliberate change of the format, before its release alone:
//! `cargo run --package wayside-common --example v1_samples`. Not here: damaged bytes (`hostile`).

#[path = "v1/samples.rs"]
mod samples;

use std::{collections::BTreeSet, fs, path::Path};

use samples::{NAMES, Packet, all, name_of, odd_readings, readings};
use wayside_common::{record::Body, wire::FromDevice};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/v1")
}

#[test]
fn every_packet_reads_and_writes_the_committed_bytes() {
    for packet in all() {
        let name = name_of(&packet);
        let bytes = fs::read(folder().join(name).with_extension("bin")).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(packet.decode_like(&bytes).as_ref(), Ok(&packet), "{name} reads as something else");
        assert!(packet.encode() == bytes, "{name} is written otherwise");
    }
}

#[test]
fn every_kind_of_packet_has_one_file_and_every_file_a_packet() {
    let named: BTreeSet<String> = all().iter().map(|packet| name_of(packet).to_string()).collect();
    assert_eq!((named.len(), all().len()), (NAMES, NAMES));
    let entries = fs::read_dir(folder()).expect("the folder is committed").map(|entry| entry.expect("an entry").path());
    let files = entries.filter(|path| path.extension().is_some_and(|ending| ending == "bin"));
    let files: BTreeSet<String> = files.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    assert_eq!(files, named);
}

/// Two blocks can be equal and still be read wrongly; so what they hold is compared too.
#[test]
fn the_readings_of_the_committed_blocks_are_those_that_were_packed() {
    for (name, made) in [("up_batch_readings", readings()), ("up_batch_readings_odd", odd_readings())] {
        let bytes = fs::read(folder().join(name).with_extension("bin")).expect("it is committed");
        let gone = Packet::Up(FromDevice::Gone);
        let Ok(Packet::Up(FromDevice::Batch { batch, .. })) = gone.decode_like(&bytes) else { panic!("{name} is no batch") };
        let Body::Readings(block) = batch.body else { panic!("{name} holds no readings") };
        assert_eq!(block.unpack(), made.unpack(), "{name}");
        assert!(block.unpack().is_ok_and(|readings| readings.len() == block.len() && !block.is_empty()), "{name}");
    }
}
