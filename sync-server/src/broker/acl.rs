//! Who a device is, and what it may do on the broker: pure functions of certificate fields, client id and topic text.
//!
//! Invariant: nothing that the client writes into CONNECT widens what it may do; on TLS the certificate alone names it. Not here:
//! topic text (`common::topic`), certificates' signatures (TLS), revocation (`embedded`).

use wayside_common::{
    id::{DeviceId, FleetId},
    topic::{self, Topic, Up},
};

/// What the transport knows of the client.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// Plain MQTT on a loopback address: whoever can connect is the operator.
    Loopback,
    /// The subject of a certificate that TLS has verified: CN and O.
    Certificate { common_name: Option<&'a str>, organization: Option<&'a str> },
}

/// Why a CONNECT is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    #[error("the client id {0:?} is not a device id")]
    ClientId(String),
    #[error("the certificate's subject has no CN that is a device id")]
    CommonName,
    #[error("the certificate is for another fleet")]
    Fleet,
    #[error("the client id {0:?} is not the certificate's CN")]
    NotTheCertificate(String),
    #[error("the will is for {0:?}, and the device may not publish there")]
    WillTopic(String),
    #[error("a will that is retained")]
    RetainedWill,
}

/// The device behind a CONNECT.
pub fn identity(fleet: &FleetId, transport: Transport<'_>, client_id: &str) -> Result<DeviceId, Stranger> {
    let claimed = || client_id.chars().take(80).collect::<String>();
    match transport {
        Transport::Loopback => client_id.parse().map_err(|_| Stranger::ClientId(claimed())),
        Transport::Certificate { common_name, organization } => {
            let device: DeviceId = common_name.and_then(|cn| cn.parse().ok()).ok_or(Stranger::CommonName)?;
            if organization != Some(fleet.as_str()) {
                return Err(Stranger::Fleet);
            }
            if device.as_str() != client_id {
                return Err(Stranger::NotTheCertificate(claimed()));
            }
            Ok(device)
        }
    }
}

/// What a publish of this device is, if it may be made: one of its own `up` topics, not retained.
pub fn publishes(fleet: &FleetId, device: &DeviceId, topic: &str, retain: bool) -> Option<Up> {
    match topic.parse() {
        Ok(Topic::Up(f, d, up)) if f == *fleet && d == *device && !retain => Some(up),
        _ => None,
    }
}

/// A will is a publish that comes later: it must be one that the device may make, and not a retained one.
pub fn check_will(fleet: &FleetId, device: &DeviceId, will_topic: &str, retain: bool) -> Result<(), Stranger> {
    if retain {
        return Err(Stranger::RetainedWill);
    }
    if !topic::may_publish(fleet, device, will_topic) {
        return Err(Stranger::WillTopic(will_topic.chars().take(120).collect()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_certificate_names_a_device_on_tls() {
        let fleet: FleetId = "plant".parse().unwrap();
        struct Case(Option<&'static str>, Option<&'static str>, &'static str, Result<&'static str, Stranger>);
        let cases = [
            Case(Some("cam-1"), Some("plant"), "cam-1", Ok("cam-1")),
            Case(Some("cam-1"), Some("plant"), "cam-2", Err(Stranger::NotTheCertificate("cam-2".into()))),
            Case(Some("cam-1"), Some("plant"), "", Err(Stranger::NotTheCertificate(String::new()))),
            Case(Some("cam-1"), Some("other"), "cam-1", Err(Stranger::Fleet)),
            Case(Some("cam-1"), None, "cam-1", Err(Stranger::Fleet)),
            Case(None, Some("plant"), "cam-1", Err(Stranger::CommonName)),
            Case(Some("a/b"), Some("plant"), "a/b", Err(Stranger::CommonName)),
            Case(Some("+"), Some("plant"), "+", Err(Stranger::CommonName)),
        ];
        for Case(common_name, organization, client_id, expected) in cases {
            let got = identity(&fleet, Transport::Certificate { common_name, organization }, client_id);
            assert_eq!(got.as_ref().map(DeviceId::as_str), expected.as_ref().map(|id| *id), "{common_name:?} {client_id}");
        }
    }

    #[test]
    fn a_loopback_client_is_its_client_id_and_that_must_be_a_device_id() {
        let fleet: FleetId = "plant".parse().unwrap();
        assert_eq!(identity(&fleet, Transport::Loopback, "cam-1").unwrap().as_str(), "cam-1");
        for bad in ["", "a/b", "#", "all/x", "$SYS"] {
            assert_eq!(identity(&fleet, Transport::Loopback, bad), Err(Stranger::ClientId(bad.into())));
        }
    }

    #[test]
    fn a_publish_is_one_of_the_devices_own_up_topics() {
        let (fleet, device): (FleetId, DeviceId) = ("plant".parse().unwrap(), "cam-1".parse().unwrap());
        let own = Topic::Up(fleet.clone(), device.clone(), Up::Batch).to_string();
        let cases = [
            (own.clone(), false, Some(Up::Batch)),
            (own.clone(), true, None),
            (own.replace("batch", "+"), false, None),
            (own.replace("batch", "#"), false, None),
            (own.replace("cam-1", "cam-2"), false, None),
            (own.replace("plant", "other"), false, None),
            (own.replace("/up/", "/dn/"), false, None),
            (format!("{own}/x"), false, None),
        ];
        for (topic, retain, expected) in cases {
            assert_eq!(publishes(&fleet, &device, &topic, retain), expected, "{topic} {retain}");
        }
    }

    #[test]
    fn a_will_is_judged_like_a_publish() {
        let (fleet, device): (FleetId, DeviceId) = ("plant".parse().unwrap(), "cam-1".parse().unwrap());
        let own = topic::Topic::Up(fleet.clone(), device.clone(), topic::Up::State).to_string();
        let foreign = topic::Topic::Up(fleet.clone(), "cam-2".parse().unwrap(), topic::Up::State).to_string();
        assert_eq!(check_will(&fleet, &device, &own, false), Ok(()));
        assert_eq!(check_will(&fleet, &device, &own, true), Err(Stranger::RetainedWill));
        assert_eq!(check_will(&fleet, &device, &foreign, false), Err(Stranger::WillTopic(foreign.clone())));
    }
}
