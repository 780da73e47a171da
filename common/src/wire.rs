//! Bytes on the wire: one version byte, then postcard.
//!
//! Invariant: decoding never panics and never allocates more than the input is long, times a constant; bytes left over are an
//! error. A reader takes every version since 1; a writer sends none newer than the other side announced. Not here: topics.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    fleet::{Hello, SlotStatus},
    id::{Digest, Epoch, SlotName, StreamId},
    record::Batch,
    schedule::Position,
    sync::{credit::Credit, receiver::Ack},
    time::Mono,
};

/// The version that this build writes.
pub const VERSION: u8 = 1;

/// No packet is larger, in either direction; brokers and clients are configured with it.
pub const MAX_PACKET: usize = 256 * 1024;

/// Mean length of a chunk of a blob, and the most that one may have.
pub const MAX_CHUNK: usize = 64 * 1024;

/// Device to server. The topic says which variants may come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromDevice {
    /// On `up/batch`; made by [`batch_packet`]. `sent`: bytes of batches sent so far in this epoch, this one included.
    Batch { sent: u64, batch: Batch },
    /// On `up/state`.
    Hello(Hello),
    /// On `up/state`: the will of the connection. The broker sends it when the device is gone.
    Gone,
    /// On `up/blob`: the chunks that the device lacks, by their own digest.
    Need { blob: Digest, chunks: Vec<Digest> },
    /// On `up/blob`: the newest picture of a camera; lossy, the latest is kept.
    Thumbnail(Thumbnail),
    /// On `up/trust`: the versions the device trusts; the answer brings what is newer.
    TrustRequest { root_version: u64, targets_version: u64 },
    /// On `up/state`: what runs in the slots has changed.
    Slots(Vec<SlotStatus>),
    /// On `up/trust`: what time is it? The answer, [`ToDevice::Time`], names this number.
    TimeRequest { nonce: u64 },
}

/// The newest picture of one camera.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thumbnail {
    pub slot: SlotName,
    pub position: Position,
    pub mono: Mono,
    pub label: Option<String>,
    /// At most 16 KiB.
    pub jpeg: Vec<u8>,
}

/// Server to device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToDevice {
    /// On `dn/ack`: answers a batch.
    Ack { ack: Ack, credit: Credit },
    /// On `dn/ack`: answers a hello. The ledger up to this version is committed; if that is less than the device took for acked, the
    /// server was restored from a backup, and the device tells the rest again.
    HelloAck { ledger_version: u64, credit: Credit },
    /// On `dn/ack`: this batch can never be stored, and is not to come again.
    Refused { epoch: Epoch, stream: StreamId, first_seq: u64, reason: String, credit: Credit },
    /// On `dn/desired`: a signed document, JSON.
    Desired(Vec<u8>),
    /// On `dn/trust`: signed documents by role name ("root", "targets", "assign"), JSON. `root` comes in ascending versions.
    Trust(Vec<(String, Vec<u8>)>),
    /// On `dn/blob`: one chunk of a blob, or of a chunk index (then `chunk == blob`).
    Chunk { blob: Digest, chunk: Digest, bytes: Vec<u8> },
    /// On `dn/blob`: the server does not have it.
    NoChunk { blob: Digest, chunk: Digest },
    /// On `dn/cmd`: say hello again.
    SayHello,
    /// On `dn/trust`: a document signed with the timestamp key, JSON: the time, and the number of the request.
    Time(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("an empty packet")]
    Empty,
    #[error("wire version {0}, and this build reads 1 to {VERSION}")]
    Version(u8),
    #[error("a packet of {0} bytes, and {MAX_PACKET} are allowed")]
    TooLong(usize),
    #[error("the packet is truncated or not of this version")]
    Malformed,
    #[error("{0} bytes after the end of the packet")]
    Trailing(usize),
}

pub fn encode<T: Serialize>(packet: &T) -> Vec<u8> {
    postcard::to_extend(packet, alloc::vec![VERSION]).expect("writing to a Vec does not fail")
}

/// A batch as a store keeps it, until it is sent in a [`batch_packet`].
pub fn encode_batch(batch: &Batch) -> Vec<u8> {
    encode(batch)
}

/// The packet that carries a batch of [`encode_batch`], which may have been written by an earlier version; `None` for no bytes.
pub fn batch_packet(sent: u64, stored: &[u8]) -> Option<Vec<u8>> {
    let (version, batch) = stored.split_first()?;
    let mut packet = postcard::to_extend(&(BATCH_VARIANT, sent), alloc::vec![*version]).expect("writing to a Vec does not fail");
    packet.extend_from_slice(batch);
    Some(packet)
}

/// How postcard numbers [`FromDevice::Batch`].
const BATCH_VARIANT: u32 = 0;

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > MAX_PACKET {
        return Err(WireError::TooLong(bytes.len()));
    }
    let (&version, rest) = bytes.split_first().ok_or(WireError::Empty)?;
    if version == 0 || version > VERSION {
        return Err(WireError::Version(version));
    }
    match postcard::take_from_bytes(rest) {
        Ok((packet, [])) => Ok(packet),
        Ok((_, left)) => Err(WireError::Trailing(left.len())),
        Err(_) => Err(WireError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::Body,
        time::{ClockStamp, Wall, WallQuality},
    };

    #[test]
    fn a_packet_inverts_and_bad_ones_are_named() {
        let packet = FromDevice::Need { blob: Digest::of(b"a"), chunks: alloc::vec![Digest::of(b"b")] };
        let bytes = encode(&packet);
        assert_eq!(decode::<FromDevice>(&bytes), Ok(packet));
        assert_eq!(decode::<FromDevice>(&[]), Err(WireError::Empty));
        assert_eq!(decode::<FromDevice>(&[9, 0]), Err(WireError::Version(9)));
        assert_eq!(decode::<FromDevice>(&alloc::vec![1; MAX_PACKET + 1]), Err(WireError::TooLong(MAX_PACKET + 1)));
        for cut in 1..bytes.len() {
            assert_eq!(decode::<FromDevice>(&bytes[..cut]), Err(WireError::Malformed), "cut at {cut}");
        }
        let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
        assert_eq!(decode::<FromDevice>(&longer), Err(WireError::Trailing(1)));
    }

    #[test]
    fn a_stored_batch_becomes_a_packet_without_being_decoded() {
        let batch = Batch {
            epoch: Epoch { counter: 3, nonce: 4 },
            stream: "cam0.frames".parse().unwrap(),
            first_seq: 500,
            lowest_held: 7,
            clock: ClockStamp { mono: Mono(1), wall: Wall(2), quality: WallQuality::Plausible },
            body: Body::Frames(Vec::new()),
        };
        for sent in [0, 127, 128, u64::MAX] {
            let packet = batch_packet(sent, &encode_batch(&batch)).unwrap();
            assert_eq!(decode(&packet), Ok(FromDevice::Batch { sent, batch: batch.clone() }));
        }
        assert_eq!(batch_packet(1, &[]), None);
    }

    #[test]
    fn a_length_beyond_the_input_is_refused_without_allocating_it() {
        // Need with a chunk count of 2^62.
        let mut bytes = alloc::vec![VERSION, 3];
        bytes.extend([0; 32]);
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f]);
        assert_eq!(decode::<FromDevice>(&bytes), Err(WireError::Malformed));
    }
}
