//! What a device may publish and read.
//!
//! Invariant: "did not arrive" is judged by what arrived after it, never by waiting alone. Not here: how it got in (`entry`).
//!
//! Seen red: `acl::publishes` answering yes to every topic of Wayside (`planted/acl_off.patch`); `Gate::subscribe` allowing all;
//! `check_will` left out; an access file with `pattern readwrite #` for Mosquitto.

use std::time::Duration;

use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{LastWill, PubAckReason, Publish, PublishProperties, SubscribeReasonCode},
};
use wayside_common::{
    topic::{Down, Up},
    wire::{self, FromDevice, ToDevice},
};

use crate::{
    bed::{Bed, Kind, all_down, assert_success, down, publish, up},
    device::{Device, Greeting},
    witness::{Answer, Seen},
};

/// Publishes on a connection of its own; whether the broker said yes.
async fn attempt(bed: &Bed, publish: Publish) -> bool {
    bed.device("cam-1").await.publish(publish).await == Some(PubAckReason::Success)
}

pub async fn a_publish_outside_the_own_topics_is_refused(bed: &mut Bed) {
    let mut victim = bed.listening("cam-2").await;
    let foreign = [
        up("cam-2", Up::Batch),
        down("cam-2", Down::Ack),
        down("cam-1", Down::Ack),
        "wayside/v1/other/cam-1/up/batch".into(),
        "wayside/v1/plant/all/trust".into(),
        "wayside/v1/plant/cam-1/up/batch/deeper".into(),
        "wayside/v1/plant/cam-1/up".into(),
        "$SYS/broker/version".into(),
        "elsewhere".into(),
    ];
    for topic in foreign {
        assert!(!attempt(bed, publish(topic.clone(), "forged")).await, "{topic}");
    }
    assert!(attempt(bed, publish(up("cam-1", Up::Batch), "own")).await);
    bed.witness.until_taken("cam-1", b"own").await;
    assert_eq!(bed.witness.of("cam-1"), [b"own"]);
    assert!(bed.witness.of("cam-2").is_empty());
    bed.send("cam-2", Down::Cmd, "marker", false).await;
    assert_eq!(victim.receive_until(b"marker").await.len(), 1);
}

pub async fn a_topic_with_a_wildcard_is_refused(bed: &mut Bed) {
    for topic in ["wayside/v1/plant/cam-1/up/#", "wayside/v1/plant/cam-1/up/+", "wayside/v1/plant/+/up/batch", "#"] {
        assert!(!attempt(bed, publish(topic, "forged")).await, "{topic}");
    }
    bed.serves().await;
    assert!(bed.witness.of("cam-1").is_empty());
}

/// Only the server retains. Mosquitto has no rule for it: there a retained publish comes again when the server subscribes, and
/// is known by its name.
pub async fn a_retained_publish_of_a_device(bed: &mut Bed) {
    let retained = Publish { retain: true, ..publish(up("cam-1", Up::Batch), "retained") };
    assert_eq!(attempt(bed, retained).await, bed.kind == Kind::Mosquitto);
    bed.serves().await;
}

pub async fn no_subscription_reaches_what_is_not_for_the_device(bed: &mut Bed) {
    let mut victim = bed.listening("cam-2").await;
    let foreign = [
        "#",
        "+/#",
        "+/v1/plant/cam-2/dn/#",
        "wayside/v1/plant/#",
        "wayside/v1/plant/+/dn/#",
        "wayside/v1/plant/cam-2/dn/#",
        "wayside/v1/plant/cam-2/dn/cmd",
        "wayside/v1/plant/+/up/#",
        "wayside/v1/plant/cam-1/up/#",
        "$share/x/#",
        "$share/x/wayside/v1/plant/+/dn/#",
        "$share/x/wayside/v1/plant/cam-2/dn/cmd",
        "$SYS/#",
    ];
    for filter in foreign {
        let mut curious = bed.device("cam-1").await;
        let answer = curious.subscribe(filter, QoS::AtLeastOnce).await;
        match bed.kind {
            Kind::Embedded => assert!(!matches!(answer, Some(SubscribeReasonCode::Success(_))), "{filter}: {answer:?}"),
            // Mosquitto grants any filter and looks at each publish before it delivers it.
            Kind::Mosquitto => {}
        }
        if !matches!(answer, Some(SubscribeReasonCode::Success(_))) && !curious.answers_a_ping().await {
            continue;
        }
        assert_success(curious.subscribe(&all_down("cam-1"), QoS::AtLeastOnce).await);
        bed.send("cam-2", Down::Cmd, "secret", false).await;
        victim.receive_until(b"secret").await;
        assert_eq!(victim.publish(publish(up("cam-2", Up::Batch), "secret")).await, Some(PubAckReason::Success));
        bed.send("cam-1", Down::Cmd, "marker", false).await;
        let got = curious.receive_until(b"marker").await;
        assert!(got.iter().all(|publish| publish.payload != "secret"), "{filter} reached {got:?}");
    }
}

/// rmqtt bounds no queue of QoS 0, so it is not granted; Mosquitto bounds them.
pub async fn a_subscription_with_qos_0(bed: &mut Bed) {
    let mut device = bed.device("cam-1").await;
    let answer = device.subscribe(&all_down("cam-1"), QoS::AtMostOnce).await;
    match bed.kind {
        Kind::Embedded => assert_eq!(answer, Some(SubscribeReasonCode::ImplementationSpecific)),
        Kind::Mosquitto => assert_eq!(answer, Some(SubscribeReasonCode::Success(QoS::AtMostOnce))),
    }
}

fn with_will(device: &str, topic: String) -> Greeting {
    let will = LastWill::new(topic, wire::encode(&FromDevice::Gone), QoS::AtLeastOnce, false, None);
    Greeting { will: Some(will), ..Greeting::new(device) }
}

pub async fn a_will_outside_the_own_topics_never_arrives(bed: &mut Bed) {
    let mut victim = bed.listening("cam-2").await;
    for topic in [up("cam-2", Up::State), down("cam-2", Down::Cmd), "wayside/v1/plant/+/up/state".into(), "#".into()] {
        let result = Device::connect(&bed.way("cam-1"), with_will("cam-1", topic.clone())).await;
        if bed.kind == Kind::Embedded {
            assert!(result.is_err(), "{topic}");
        }
        drop(result);
    }
    // The control: a good will that is left after the bad ones does arrive.
    drop(bed.device_with("cam-3", with_will("cam-3", up("cam-3", Up::State))).await);
    bed.witness.until_taken("cam-3", &wire::encode(&FromDevice::Gone)).await;
    bed.send("cam-2", Down::Cmd, "marker", false).await;
    assert_eq!(victim.receive_until(b"marker").await.len(), 1);
    assert!(bed.witness.of("cam-2").is_empty());
}

pub async fn a_will_arrives_when_the_connection_breaks_and_not_after_a_farewell(bed: &mut Bed) {
    let gone = wire::encode(&FromDevice::Gone);
    let mut polite = bed.device_with("cam-1", with_will("cam-1", up("cam-1", Up::State))).await;
    assert_eq!(polite.publish(publish(up("cam-1", Up::State), "here")).await, Some(PubAckReason::Success));
    polite.leave().await;
    let mut broken = bed.device_with("cam-2", with_will("cam-2", up("cam-2", Up::State))).await;
    assert_eq!(broken.publish(publish(up("cam-2", Up::State), "here")).await, Some(PubAckReason::Success));
    drop(broken);
    bed.witness.until_taken("cam-2", &gone).await;
    bed.witness.until(|all| all.contains(&Seen::Disconnected("cam-2".into()))).await;
    bed.serves().await;
    assert_eq!(bed.witness.of("cam-1"), [b"here"]);
}

pub async fn a_response_topic_moves_nobody_to_publish_there(bed: &mut Bed) {
    let mut victim = bed.listening("cam-2").await;
    let mut device = bed.listening("cam-1").await;
    bed.witness.answer(Answer::CommitAndReply);
    for response_topic in [down("cam-2", Down::Cmd), up("cam-2", Up::State), "wayside/v1/plant/+/dn/#".into(), "$SYS/x".into()] {
        let properties = PublishProperties { response_topic: Some(response_topic), ..Default::default() };
        let asking = Publish { properties: Some(properties), ..publish(up("cam-1", Up::State), "answer there") };
        // A broker may refuse a response topic with a wildcard and end the connection.
        match device.publish(asking).await {
            Some(_) => {
                let reply = device.receive().await.unwrap();
                assert_eq!((reply.topic, reply.payload.to_vec()), (down("cam-1", Down::Cmd).into(), wire::encode(&ToDevice::SayHello)));
            }
            None => device = bed.listening("cam-1").await,
        }
    }
    bed.witness.answer(Answer::Commit);
    bed.send("cam-2", Down::Cmd, "marker", false).await;
    assert_eq!(victim.receive_until(b"marker").await.len(), 1);
    assert!(bed.witness.of("cam-2").is_empty());
    assert!(victim.silent_for(Duration::from_millis(100)).await);
}
