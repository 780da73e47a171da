//! What the core and a worker process say to each other over the worker's stdin and stdout.
//!
//! Invariant: a frame is a length (u32, little endian) of at most [`MAX_FRAME`] and that many bytes of postcard; the worker
//! speaks first, then each request has one reply. Not here: processes and their deaths.

use std::io::{self, Read, Write};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use wayside_common::{
    fleet::ModelRef,
    record::{Answer, Roi},
};

/// Room for the largest picture that a source reads, and for what surrounds it.
pub const MAX_FRAME: usize = 20 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request<'a> {
    Frame {
        #[serde(borrow)]
        jpeg: Bytes<'a>,
        roi: Option<Roi>,
        thumbnail: bool,
        /// A margin below this brings the embedding and the crop with the answer.
        details_below: f32,
    },
    /// Row by row, in the order of the manifest's columns; NaN is a missing value.
    Window { rows: Vec<Vec<f64>> },
    /// Run the package's golden samples.
    SelfTest,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The first word: the package is loaded.
    Ready(ModelRef),
    /// The first word: it cannot be. The worker ends.
    Unloadable(String),
    Judged(Judged),
    /// The input's fault; the worker goes on.
    BadInput(String),
    /// The network failed or gave a value that is not finite. The worker ends, because its state may be broken.
    Failed(String),
    SelfTest(Result<Passed, String>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub answer: Answer,
    /// In the order of the package's `reference.json`.
    pub drift: Vec<f64>,
    pub embedding: Vec<f32>,
    pub thumbnail: Option<Vec<u8>>,
    pub crop: Option<Vec<u8>>,
}

/// What the golden samples showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    pub samples: u32,
    pub p95_micros: u64,
}

/// Bytes that are neither copied nor taken one by one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}
impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a [u8] as Deserialize<'de>>::deserialize(deserializer).map(Self)
    }
}

/// A frame with its length before it.
pub fn frame(packet: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(packet, vec![0; 4]).map_err(io::Error::other)?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {length} bytes; {MAX_FRAME} are allowed")));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// The length that stands before a frame.
pub fn length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes; {MAX_FRAME} are allowed")));
    }
    Ok(length)
}

pub fn parse<'de, T: de::Deserialize<'de>>(bytes: &'de [u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads one frame into `bytes`; `false`: the other side has closed the pipe between two frames.
pub fn read(from: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut prefix = [0; 4];
    let first = loop {
        match from.read(&mut prefix) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            first => break first?,
        }
    };
    if first == 0 {
        return Ok(false);
    }
    from.read_exact(&mut prefix[first..])?;
    // Room for what has come, not for what the other side says will come.
    let length = length(prefix)?;
    bytes.clear();
    if from.take(length as u64).read_to_end(bytes)? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(true)
}

pub fn write(to: &mut impl Write, packet: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(packet)?)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let request = Request::Frame {
            jpeg: Bytes(b"jpeg"),
            roi: Some(Roi { x: 1, y: 2, width: 3, height: 4 }),
            thumbnail: true,
            details_below: 0.2,
        };
        let mut pipe = Vec::new();
        write(&mut pipe, &request).unwrap();
        write(&mut pipe, &Request::SelfTest).unwrap();
        let (mut from, mut bytes) = (pipe.as_slice(), Vec::new());
        assert!(read(&mut from, &mut bytes).unwrap());
        assert_eq!(parse::<Request>(&bytes).unwrap(), request);
        assert!(read(&mut from, &mut bytes).unwrap());
        assert_eq!(parse::<Request>(&bytes).unwrap(), Request::SelfTest);
        assert!(!read(&mut from, &mut bytes).unwrap());
    }

    #[test]
    fn damage_is_an_error_and_takes_no_memory() {
        let mut bytes = Vec::new();
        for pipe in [&[1u8, 0][..], &[9, 0, 0, 0, 1], &[255, 255, 255, 255, 0], &[0, 0, 64, 1]] {
            assert!(read(&mut &pipe[..], &mut bytes).is_err(), "{pipe:?}");
        }
        assert!(bytes.capacity() < 1_000_000);
        for garbage in [&[0xff][..], &[0, 0xff, 0xff, 0xff, 0xff, 0x0f], &[]] {
            assert!(parse::<Request>(garbage).is_err(), "{garbage:?}");
        }
        assert!(frame(&Request::Frame { jpeg: Bytes(&vec![0; MAX_FRAME]), roi: None, thumbnail: false, details_below: 0.0 }).is_err());
    }
}
