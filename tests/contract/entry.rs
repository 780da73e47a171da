//! Who gets in, and who is thrown out.
//!
//! Invariant: after every refusal a good device is served, so that a dead broker refuses nothing here. Not here: what a device may
//! do when it is in (`access`).
//!
//! Seen red: `identity` answering with the client id; `with_safe_default_protocol_versions` in the front; `revoke` without the
//! set, and without the kick; Mosquitto without `use_username_as_clientid`, `require_certificate`, `crlfile`, `tls_version`.

use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, PubAckReason};
use rustls::version::TLS12;
use wayside_common::{
    topic::{Down, Up},
    wire::MAX_PACKET,
};

use crate::{
    bed::{Bed, Kind, device_id, publish, up},
    device::{Device, Greeting, Refused, Way},
    pki::Authority,
    witness::Seen,
};

const REFUSED: Refused = Refused::Code(ConnectReturnCode::NotAuthorized);

pub async fn the_certificate_alone_names_a_device(bed: &mut Bed) {
    let mut victim = bed.device("cam-2").await;
    match (bed.kind, Device::connect(&bed.way("cam-1"), Greeting::new("cam-2")).await) {
        (Kind::Embedded, result) => assert_eq!(result.err(), Some(REFUSED)),
        // Mosquitto puts the CN in the place of the client id.
        (Kind::Mosquitto, Ok(mut renamed)) => {
            assert_ne!(renamed.publish(publish(up("cam-2", Up::State), "forged")).await, Some(PubAckReason::Success));
            let mut renamed = bed.device_with("cam-1", Greeting::new("cam-2")).await;
            assert_eq!(renamed.publish(publish(up("cam-1", Up::State), "own")).await, Some(PubAckReason::Success));
            bed.witness.until_taken("cam-1", b"own").await;
        }
        (Kind::Mosquitto, Err(refused)) => panic!("{refused:?}"),
    }
    assert!(victim.answers_a_ping().await, "the device whose name was claimed stays connected");
    bed.serves().await;
    assert!(bed.witness.of("cam-2").is_empty());
}

/// Mosquitto knows no O: there the fleet is the CA. The embedded broker looks.
pub async fn a_certificate_of_another_fleet(bed: &mut Bed) {
    let way = bed.way_with(Some(bed.authority.client("cam-1", "other")));
    match (bed.kind, Device::connect(&way, Greeting::new("cam-1")).await) {
        (Kind::Embedded, result) => assert_eq!(result.err(), Some(REFUSED)),
        (Kind::Mosquitto, result) => assert_eq!(result.err(), None),
    }
    bed.serves().await;
}

pub async fn no_certificate_and_a_foreign_one_are_refused(bed: &mut Bed) {
    let foreign = Authority::new("fleet CA").client("cam-1", crate::bed::FLEET);
    for identity in [None, Some(foreign)] {
        let refused = bed.refused(&bed.way_with(identity), Greeting::new("cam-1")).await;
        assert!(matches!(refused, Refused::Tls | Refused::Closed), "{refused:?}");
    }
    // A name that is not a device's, signed by the right CA.
    let odd = bed.way_with(Some(bed.authority.client("a/b", crate::bed::FLEET)));
    match (bed.kind, Device::connect(&odd, Greeting::new("a/b")).await) {
        (Kind::Embedded, result) => assert_eq!(result.err(), Some(REFUSED)),
        (Kind::Mosquitto, Ok(mut odd)) => {
            assert_ne!(odd.publish(publish("wayside/v1/plant/a/b/up/state", "odd")).await, Some(PubAckReason::Success));
        }
        (Kind::Mosquitto, Err(_)) => {}
    }
    bed.serves().await;
}

pub async fn tls_1_2_is_refused(bed: &mut Bed) {
    let tls = Some((bed.authority.pem.clone(), Some(bed.identity("cam-1")), &TLS12));
    assert_eq!(bed.refused(&Way { address: bed.address, tls }, Greeting::new("cam-1")).await, Refused::Tls);
    bed.serves().await;
}

pub async fn the_same_device_twice_ends_the_first_connection(bed: &mut Bed) {
    let mut first = bed.device_with("cam-1", Greeting::lasting("cam-1")).await;
    let mut second = bed.device_with("cam-1", Greeting::lasting("cam-1")).await;
    first.ended().await;
    assert_eq!(second.publish(publish(up("cam-1", Up::State), "second")).await, Some(PubAckReason::Success));
    bed.witness.until_taken("cam-1", b"second").await;
    assert!(second.answers_a_ping().await);
    bed.serves().await;
    // The late farewell of the first connection says nothing of the second.
    let (here, gone) = (Seen::Connected("cam-1".into()), Seen::Disconnected("cam-1".into()));
    let all = bed.witness.all();
    assert_eq!(all.iter().rfind(|seen| **seen == here || **seen == gone), Some(&here), "{all:?}");
}

pub async fn a_revoked_device_is_thrown_out_and_stays_out(bed: &mut Bed) {
    let identity = bed.identity("cam-1");
    let way = bed.way_with(Some(identity.clone()));
    let mut live = Device::connect(&way, Greeting::lasting("cam-1")).await.unwrap();
    match bed.kind {
        Kind::Embedded => bed.broker.as_ref().unwrap().revoke(&device_id("cam-1")).await.unwrap(),
        Kind::Mosquitto => {
            assert!(bed.broker.as_ref().unwrap().revoke(&device_id("cam-1")).await.is_err());
            bed.restart_with_revoked(&identity).await;
        }
    }
    live.ended().await;
    let refused = bed.refused(&way, Greeting::lasting("cam-1")).await;
    match bed.kind {
        Kind::Embedded => assert_eq!(refused, REFUSED),
        Kind::Mosquitto => assert!(matches!(refused, Refused::Tls | Refused::Closed), "{refused:?}"),
    }
    // The server finds back to a broker that was restarted, and the others are served.
    match bed.kind {
        Kind::Embedded => bed.serves().await,
        Kind::Mosquitto => {
            let mut other = bed.device("cam-2").await;
            assert!(other.publish(publish(up("cam-2", Up::State), "kept for the server")).await.is_some());
            bed.witness.until_taken("cam-2", b"kept for the server").await;
        }
    }
}

pub async fn an_oversized_packet_ends_the_connection_and_nothing_else(bed: &mut Bed) {
    let mut device = bed.device("cam-1").await;
    let largest = vec![7; MAX_PACKET - 512];
    assert_eq!(device.publish(publish(up("cam-1", Up::Batch), largest.clone())).await, Some(PubAckReason::Success));
    bed.witness.until_taken("cam-1", &largest).await;
    // The broker may close while this is still being written.
    let _ = device.send(publish(up("cam-1", Up::Batch), vec![8; MAX_PACKET + 1])).await;
    device.ended().await;
    bed.serves().await;
    assert_eq!(bed.witness.of("cam-1").len(), 1);
    let downlink = bed.broker.as_ref().unwrap().downlink();
    let sent = downlink.send(&device_id("cam-1"), Down::Blob, vec![0; MAX_PACKET], false).await;
    assert!(sent.is_err(), "the server makes no packet that is too large");
}
