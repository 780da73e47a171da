//! What must hold for any bytes at all: nothing panics, and what is read can be written and read again as the same.
//!
//! Invariant: a target is a function of bytes alone. libFuzzer runs them for hours (`just fuzz`), the test `hostile` on damaged samples with
//! every `cargo test`. Not here: making up bytes.

use serde::{Serialize, de::DeserializeOwned};
use wayside_common::{
    block::Block,
    degraded::Degraded,
    fleet::{Desired, Generation},
    id::{DeviceId, FleetId},
    record::Body,
    time::Wall,
    topic::{self, Topic},
    trust::{
        role::{Root, Targets},
        set::TrustedSet,
        signed,
    },
    wire::{self, FromDevice, ToDevice},
};

pub type Target = fn(&[u8]);

pub const ALL: [(&str, Target); 6] = [
    ("wire_from_device", wire_from_device),
    ("wire_to_device", wire_to_device),
    ("block_unpack", block_unpack),
    ("degraded", degraded),
    ("topic", topic),
    ("trust", trust),
];

pub fn wire_from_device(bytes: &[u8]) {
    let Some(packet) = read_and_written::<FromDevice>(bytes) else { return };
    let FromDevice::Batch { batch, sent } = packet else { return };
    let stored = wire::encode_batch(&batch);
    assert!(wire::batch_packet(sent, &stored).is_some_and(|packet| wire::decode::<FromDevice>(&packet).is_ok()));
    let _ = (batch.end_seq(), batch.body.fidelity(), batch.body.kind());
    match batch.body {
        Body::Readings(block) => unpack(&block),
        Body::Degraded(degraded) => buckets(&degraded),
        _ => {}
    }
}

pub fn wire_to_device(bytes: &[u8]) {
    match read_and_written::<ToDevice>(bytes) {
        Some(ToDevice::Desired(document)) => trust(&document),
        Some(ToDevice::Trust(documents)) => documents.iter().for_each(|(_, document)| trust(document)),
        _ => {}
    }
}

/// Without the version; the checksum is made right, because no fuzzer finds it.
pub fn block_unpack(bytes: &[u8]) {
    if let Ok(block) = postcard::from_bytes::<Block>(bytes) {
        let _ = block.unpack();
        unpack(&block.sealed());
    }
}

pub fn degraded(bytes: &[u8]) {
    if let Ok(degraded) = postcard::from_bytes::<Degraded>(bytes) {
        let _ = degraded.buckets();
        buckets(&degraded.sealed());
    }
}

pub fn topic(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(topic) = text.parse::<Topic>() {
        assert_eq!(topic.to_string(), text);
        assert!(!text.contains(['+', '#', '$']));
    }
    let (fleet, device) = names();
    if topic::may_publish(&fleet, &device, text) {
        assert!(matches!(text.parse(), Ok(Topic::Up(f, d, _)) if f == fleet && d == device));
    }
    if topic::may_subscribe(&fleet, &device, text) {
        assert!(!text.contains('+') && !text.starts_with('$'));
    }
}

/// Documents as the network brings them. Nobody here holds a key, so nothing but a root of its own may be believed.
pub fn trust(bytes: &[u8]) {
    let (fleet, device) = names();
    let _ = signed::unverified::<Root>(bytes);
    let _ = signed::unverified::<Targets>(bytes);
    let _ = signed::unverified::<Desired>(bytes);
    if let Ok(mut set) = TrustedSet::from_root(bytes) {
        let version = set.root_version();
        let _ = set.update_root(bytes);
        let _ = set.update_targets(bytes);
        assert!(set.root_version() >= version);
        assert!(set.desired(bytes, &fleet, &device, Generation(0), Wall(0)).is_err());
    }
}

fn names() -> (FleetId, DeviceId) {
    ("plant".parse().expect("a fleet"), "cam-31".parse().expect("a device"))
}

fn read_and_written<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let packet: T = wire::decode(bytes).ok()?;
    let written = wire::encode(&packet);
    // Not the bytes themselves: a number can be written longer than it need be. Not the value: NaN is not equal to itself.
    let again: T = wire::decode(&written).expect("what was written can be read");
    assert!(wire::encode(&again) == written, "another value comes back");
    Some(packet)
}

fn unpack(block: &Block) {
    let Ok(readings) = block.unpack() else { return };
    assert_eq!(readings.len(), block.len());
    let again = Block::pack(&block.columns, &readings).expect("what was unpacked can be packed");
    assert!(again.unpack().is_ok_and(|back| back == readings), "other readings come back");
}

fn buckets(degraded: &Degraded) {
    let Ok(buckets) = degraded.buckets() else { return };
    assert_eq!(buckets.iter().map(|bucket| bucket.len as usize).sum::<usize>(), degraded.len());
    assert!(buckets.iter().all(|bucket| bucket.means.len() == degraded.columns().len()));
    if let Ok(Some(sketch)) = degraded.sketch() {
        assert_eq!(sketch.len(), degraded.len());
    }
}
