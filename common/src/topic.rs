//! Topics: an enum and its text, inverse of each other. The only place with topic text.
//!
//! Invariant: names hold no `/ + # $`, so a topic made here is never a filter. Not here: what the bytes on a topic mean (`wire`).

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{fmt, str::FromStr};

use crate::id::{DeviceId, Digest, FleetId};

/// Everything lies below this prefix.
const ROOT: &str = "wayside/v1";

/// Device to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Up {
    Batch,
    State,
    Blob,
    Trust,
    Cmd,
}

/// Server to device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Down {
    Ack,
    Desired,
    Blob,
    Trust,
    Cmd,
}

/// ```
/// use wayside_common::topic::{Topic, Up};
/// let topic = Topic::Up("plant".parse().unwrap(), "cam-31".parse().unwrap(), Up::Batch);
/// assert_eq!(topic.to_string(), "wayside/v1/plant/cam-31/up/batch");
/// assert_eq!("wayside/v1/plant/cam-31/up/batch".parse(), Ok(topic));
/// assert!("wayside/v1/plant/+/up/batch".parse::<Topic>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    Up(FleetId, DeviceId, Up),
    Down(FleetId, DeviceId, Down),
    /// A blob that many devices want, published once.
    AllBlob(FleetId, Digest),
    AllTrust(FleetId),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a topic of Wayside")]
pub struct TopicError(String);

impl Up {
    const ALL: [Self; 5] = [Self::Batch, Self::State, Self::Blob, Self::Trust, Self::Cmd];
    fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::State => "state",
            Self::Blob => "blob",
            Self::Trust => "trust",
            Self::Cmd => "cmd",
        }
    }
}
impl Down {
    const ALL: [Self; 5] = [Self::Ack, Self::Desired, Self::Blob, Self::Trust, Self::Cmd];
    fn as_str(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Desired => "desired",
            Self::Blob => "blob",
            Self::Trust => "trust",
            Self::Cmd => "cmd",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(fleet, device, up) => write!(f, "{ROOT}/{fleet}/{device}/up/{}", up.as_str()),
            Self::Down(fleet, device, down) => write!(f, "{ROOT}/{fleet}/{device}/dn/{}", down.as_str()),
            Self::AllBlob(fleet, digest) => write!(f, "{ROOT}/{fleet}/all/blob/{digest}"),
            Self::AllTrust(fleet) => write!(f, "{ROOT}/{fleet}/all/trust"),
        }
    }
}

impl FromStr for Topic {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<Self, TopicError> {
        parse(text).ok_or_else(|| TopicError(text.chars().take(120).collect()))
    }
}

fn parse(text: &str) -> Option<Topic> {
    let mut levels = text.strip_prefix(ROOT)?.strip_prefix('/')?.split('/');
    let fleet: FleetId = levels.next()?.parse().ok()?;
    let topic = match (levels.next()?, levels.next()?, levels.next()) {
        ("all", "blob", Some(digest)) => Topic::AllBlob(fleet, digest.parse().ok()?),
        ("all", "trust", None) => Topic::AllTrust(fleet),
        ("all", ..) => return None,
        (device, "up", Some(kind)) => Topic::Up(fleet, device.parse().ok()?, Up::ALL.into_iter().find(|k| k.as_str() == kind)?),
        (device, "dn", Some(kind)) => Topic::Down(fleet, device.parse().ok()?, Down::ALL.into_iter().find(|k| k.as_str() == kind)?),
        _ => return None,
    };
    levels.next().is_none().then_some(topic)
}

/// What the server listens to: every device's `up` topics.
pub fn all_up(fleet: &FleetId) -> String {
    format!("{ROOT}/{fleet}/+/up/#")
}

/// What a device listens to: its own `dn` topics.
pub fn own_down(fleet: &FleetId, device: &DeviceId) -> String {
    format!("{ROOT}/{fleet}/{device}/dn/#")
}

/// What the server writes to: every device's `dn` topics, and what is for the whole fleet.
pub fn all_written(fleet: &FleetId) -> [String; 2] {
    [format!("{ROOT}/{fleet}/+/dn/#"), format!("{ROOT}/{fleet}/all/#")]
}

/// What a device may publish to and what it may read, for a broker whose rules know the device by a placeholder (`%u`).
pub fn device_rules(fleet: &FleetId, placeholder: &str) -> (Vec<String>, [String; 2]) {
    let publish = Up::ALL.map(|up| format!("{ROOT}/{fleet}/{placeholder}/up/{}", up.as_str()));
    (publish.to_vec(), [format!("{ROOT}/{fleet}/{placeholder}/dn/#"), format!("{ROOT}/{fleet}/all/#")])
}

/// May this device publish to this topic? Its own `up` topics, nothing else.
pub fn may_publish(fleet: &FleetId, device: &DeviceId, topic: &str) -> bool {
    matches!(topic.parse(), Ok(Topic::Up(f, d, _)) if f == *fleet && d == *device)
}

/// May this device subscribe to this filter? Its own `dn` prefix, and what is for the whole fleet.
pub fn may_subscribe(fleet: &FleetId, device: &DeviceId, filter: &str) -> bool {
    if filter == own_down(fleet, device) || filter == Topic::AllTrust(fleet.clone()).to_string() {
        return true;
    }
    match filter.parse() {
        Ok(Topic::Down(f, d, _)) => f == *fleet && d == *device,
        Ok(Topic::AllBlob(f, _)) => f == *fleet,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (FleetId, DeviceId) {
        ("plant".parse().unwrap(), "cam-31".parse().unwrap())
    }

    #[test]
    fn every_topic_inverts() {
        let (fleet, device) = names();
        let mut topics = alloc::vec![Topic::AllBlob(fleet.clone(), Digest::of(b"x")), Topic::AllTrust(fleet.clone())];
        topics.extend(Up::ALL.map(|up| Topic::Up(fleet.clone(), device.clone(), up)));
        topics.extend(Down::ALL.map(|down| Topic::Down(fleet.clone(), device.clone(), down)));
        for topic in topics {
            assert_eq!(topic.to_string().parse(), Ok(topic));
        }
    }

    #[test]
    fn the_rules_with_a_placeholder_are_those_of_a_device() {
        let (fleet, device) = names();
        let (publish, read) = device_rules(&fleet, device.as_str());
        assert_eq!(publish.len(), Up::ALL.len());
        assert!(publish.iter().all(|topic| may_publish(&fleet, &device, topic)));
        assert_eq!(read[0], own_down(&fleet, &device));
        assert_eq!(read[1], all_written(&fleet)[1]);
    }

    #[test]
    fn a_device_touches_its_own_prefix_alone() {
        let (fleet, device) = names();
        struct Case(&'static str, bool, bool);
        let cases = [
            Case("wayside/v1/plant/cam-31/up/batch", true, false),
            Case("wayside/v1/plant/cam-31/dn/ack", false, true),
            Case("wayside/v1/plant/cam-31/dn/#", false, true),
            Case("wayside/v1/plant/cam-31/up/#", false, false),
            Case("wayside/v1/plant/cam-32/up/batch", false, false),
            Case("wayside/v1/plant/cam-32/dn/#", false, false),
            Case("wayside/v1/other/cam-31/dn/#", false, false),
            Case("wayside/v1/plant/cam-31/up/batch/x", false, false),
            Case("wayside/v1/plant/all/trust", false, true),
            Case("wayside/v1/plant/all/#", false, false),
            Case("wayside/v1/plant/+/dn/ack", false, false),
            Case("$share/g/wayside/v1/plant/cam-31/dn/#", false, false),
            Case("$SYS/#", false, false),
            Case("#", false, false),
            Case("", false, false),
        ];
        for Case(text, publish, subscribe) in cases {
            assert_eq!(may_publish(&fleet, &device, text), publish, "publish {text}");
            assert_eq!(may_subscribe(&fleet, &device, text), subscribe, "subscribe {text}");
        }
    }
}
