//! Names: who, which stream, which bytes. Each is a newtype whose `Display` and `FromStr` invert each other.
//!
//! Invariant: a value of these types is valid; it was parsed at the edge and can be put into a topic, a path or a certificate
//! subject without another check. Not here: how names become topic text (`topic`).

use alloc::{borrow::ToOwned, format, string::String};
use core::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{kind} is empty")]
    Empty { kind: &'static str },
    #[error("{kind} is longer than {max} bytes")]
    TooLong { kind: &'static str, max: usize },
    #[error("{kind} {text:?} holds {found:?}; allowed are {allowed}")]
    BadChar { kind: &'static str, text: String, found: char, allowed: &'static str },
    #[error("{text:?} is not {expected}")]
    Malformed { text: String, expected: &'static str },
}

const NAME_MAX: usize = 64;

fn check(kind: &'static str, text: &str, allowed: &'static str, ok: fn(char) -> bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if text.len() > NAME_MAX {
        return Err(NameError::TooLong { kind, max: NAME_MAX });
    }
    match text.chars().find(|&c| !ok(c)) {
        Some(found) => Err(NameError::BadChar { kind, text: text.to_owned(), found, allowed }),
        None => Ok(()),
    }
}

/// Serializes through `Display` and deserializes through `FromStr`, so that a name from outside is always checked.
macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $allowed:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check($kind, text, $allowed, $ok)?;
                Ok(Self(text.to_owned()))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        serde_as_text!($name);
    };
}

name!(
    /// One device: MQTT client id and certificate subject. Nothing with a meaning in a topic can be part of it.
    ///
    /// ```
    /// use wayside_common::id::DeviceId;
    /// let id: DeviceId = "cam-31".parse().unwrap();
    /// assert_eq!(id.to_string(), "cam-31");
    /// assert!("a/b".parse::<DeviceId>().is_err());
    /// ```
    DeviceId, "device id", "A-Z a-z 0-9 -", |c| c.is_ascii_alphanumeric() || c == '-'
);
name!(
    /// A fleet: the devices of one server, the first level below `wayside/v1` in every topic.
    FleetId, "fleet id", "A-Z a-z 0-9 -", |c| c.is_ascii_alphanumeric() || c == '-'
);
name!(
    /// What kind of device this is; targets are delegated to classes ("camera", "imu", "climate").
    DeviceClass, "device class", "a-z 0-9 -", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);
name!(
    /// A source on a device ("cam0", "imu0").
    SourceName, "source name", "a-z 0-9 -", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);
name!(
    /// A place for one model on a device ("vehicles"); a device has few, fixed by its configuration.
    SlotName, "slot name", "a-z 0-9 -", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);
name!(
    /// A model in the registry.
    ModelName, "model name", "a-z 0-9 -", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);

/// SHA-256 of some bytes; the name of everything content-addressed.
///
/// ```
/// use wayside_common::id::Digest;
/// let digest = Digest::of(b"");
/// assert_eq!(digest.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
/// assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Digest {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let malformed = || NameError::Malformed { text: text.chars().take(80).collect(), expected: "64 lower-case hex digits" };
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(malformed());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| malformed())?;
        Ok(Self(bytes))
    }
}
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}
impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

/// One start of the agent: a counter that only grows, and a random nonce that tells a restored image from a new start.
///
/// ```
/// use wayside_common::id::Epoch;
/// let epoch = Epoch { counter: 7, nonce: 0xff };
/// assert_eq!(epoch.to_string(), "7-00000000000000ff");
/// assert_eq!("7-00000000000000ff".parse(), Ok(epoch));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    pub counter: u32,
    pub nonce: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.counter, self.nonce)
    }
}
impl FromStr for Epoch {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let malformed = || NameError::Malformed { text: text.chars().take(80).collect(), expected: "an epoch, COUNTER-NONCE" };
        let (counter, nonce) = text.split_once('-').ok_or_else(malformed)?;
        let epoch =
            Self { counter: counter.parse().map_err(|_| malformed())?, nonce: u64::from_str_radix(nonce, 16).map_err(|_| malformed())? };
        if format!("{epoch}") == text { Ok(epoch) } else { Err(malformed()) }
    }
}
impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { (self.counter, self.nonce).serialize(serializer) }
    }
}
impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            <(u32, u64)>::deserialize(deserializer).map(|(counter, nonce)| Self { counter, nonce })
        }
    }
}

/// What a stream carries. The kind decides the class, so that no message can claim a better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// Update reports, source faults: what the fleet is steered by.
    Reports,
    /// Frames of a camera, each with its prediction or the reason for none.
    Frames,
    /// Predictions on windows of a sensor.
    Predictions,
    /// Counts per drift feature and window.
    Sketches,
    /// Raw readings of a sensor.
    Readings,
    /// Frames and windows worth a label.
    Samples,
}

/// How dear a stream is: under pressure bulk goes first and vital last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Vital,
    Normal,
    Bulk,
}

impl StreamKind {
    pub const ALL: [Self; 6] = [Self::Reports, Self::Frames, Self::Predictions, Self::Sketches, Self::Readings, Self::Samples];

    pub fn class(self) -> Class {
        match self {
            Self::Reports => Class::Vital,
            Self::Frames | Self::Predictions | Self::Sketches => Class::Normal,
            Self::Readings | Self::Samples => Class::Bulk,
        }
    }

    /// On the wire.
    fn number(self) -> u8 {
        match self {
            Self::Reports => 0,
            Self::Frames => 1,
            Self::Predictions => 2,
            Self::Sketches => 3,
            Self::Readings => 4,
            Self::Samples => 5,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reports => "reports",
            Self::Frames => "frames",
            Self::Predictions => "predictions",
            Self::Sketches => "sketches",
            Self::Readings => "readings",
            Self::Samples => "samples",
        }
    }
}

/// One stream of a device. seq is dense in it, per epoch.
///
/// ```
/// use wayside_common::id::{StreamId, StreamKind};
/// let stream = StreamId { source: "imu0".parse().unwrap(), kind: StreamKind::Readings };
/// assert_eq!(stream.to_string(), "imu0.readings");
/// assert_eq!("imu0.readings".parse(), Ok(stream));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    pub source: SourceName,
    pub kind: StreamKind,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.source, self.kind.as_str())
    }
}
impl FromStr for StreamId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let malformed = || NameError::Malformed { text: text.chars().take(80).collect(), expected: "a stream, SOURCE.KIND" };
        let (source, kind) = text.split_once('.').ok_or_else(malformed)?;
        let kind = StreamKind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or_else(malformed)?;
        Ok(Self { source: source.parse()?, kind })
    }
}
impl Serialize for StreamId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { (&self.source, self.kind.number()).serialize(serializer) }
    }
}
impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(D::Error::custom);
        }
        let (source, number) = <(SourceName, u8)>::deserialize(deserializer)?;
        let kind = StreamKind::ALL.into_iter().find(|kind| kind.number() == number);
        Ok(Self { source, kind: kind.ok_or_else(|| D::Error::custom("a kind of stream that is not known"))? })
    }
}
