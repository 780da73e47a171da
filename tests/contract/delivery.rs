//! What is promised about delivery, in both directions.
//!
//! Invariant: order and loss are judged by payloads that count up. Not here: access.
//!
//! Seen red: `publish` answering before `take` (`planted/ack_before_commit.patch`); `Unavailable` answered with an ack, in each
//! adapter; `MAX_QUEUE` and `max_queued_messages` of 1,000; the retained store's `set` doing nothing; a publish without
//! `create_time`; `set_clean_start(true)` in `external`.

use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{PubAckReason, Publish};
use wayside_common::{
    topic::{Down, Up},
    wire::{self, ToDevice},
};

use crate::{
    bed::{Bed, Kind, all_down, assert_success, device_id, down, publish, up},
    device::Greeting,
    witness::{Answer, Seen},
};

/// On an external broker the PUBACK is the broker's own; there the application's acks are what a device relies on.
pub async fn nothing_is_acknowledged_before_it_is_committed(bed: &mut Bed) {
    let mut device = bed.device("cam-1").await;
    bed.witness.answer(Answer::Wait);
    let id = device.send(publish(up("cam-1", Up::Batch), "1")).await.unwrap();
    bed.witness.until_taken("cam-1", b"1").await;
    match bed.kind {
        Kind::Embedded => assert!(device.silent_for(Duration::from_millis(500)).await, "acknowledged before the commit"),
        Kind::Mosquitto => assert_eq!(device.acknowledged(id).await, Some(PubAckReason::Success)),
    }
    bed.witness.answer(Answer::Commit);
    if bed.kind == Kind::Embedded {
        assert_eq!(device.acknowledged(id).await, Some(PubAckReason::Success));
    }
}

pub async fn what_cannot_be_taken_now_comes_again(bed: &mut Bed) {
    let mut device = bed.device("cam-1").await;
    bed.witness.answer(Answer::Unavailable);
    let answer = device.publish(publish(up("cam-1", Up::Batch), "1")).await;
    let refused = match bed.kind {
        Kind::Embedded => {
            assert_eq!(answer, None, "the connection ends without a PUBACK");
            let refused = bed.witness.of("cam-1").len();
            bed.witness.answer(Answer::Commit);
            let mut again = bed.device("cam-1").await;
            assert_eq!(again.publish(publish(up("cam-1", Up::Batch), "1")).await, Some(PubAckReason::Success));
            refused
        }
        Kind::Mosquitto => {
            assert_eq!(answer, Some(PubAckReason::Success), "Mosquitto keeps it for the server");
            bed.witness.until_taken("cam-1", b"1").await;
            // A server that ends without having taken it gets it when it is back.
            bed.stop_server().await;
            let refused = bed.witness.of("cam-1").len();
            bed.witness.answer(Answer::Commit);
            bed.attach_server().await;
            refused
        }
    };
    let took = |seen: &&Seen| matches!(seen, Seen::Took { bytes, .. } if bytes == b"1");
    bed.witness.until(|all| all.iter().filter(took).count() > refused).await;
}

pub async fn replies_reach_the_device_after_the_commit(bed: &mut Bed) {
    let mut device = bed.listening("cam-1").await;
    bed.witness.answer(Answer::CommitAndReply);
    assert_eq!(device.publish(publish(up("cam-1", Up::State), "hello")).await, Some(PubAckReason::Success));
    let reply = device.receive().await.unwrap();
    assert_eq!(reply.topic, down("cam-1", Down::Cmd));
    assert_eq!(wire::decode(&reply.payload), Ok(ToDevice::SayHello));
}

pub async fn publishes_of_one_device_are_taken_in_order(bed: &mut Bed) {
    let (mut one, mut two) = (bed.device("cam-1").await, bed.device("cam-2").await);
    let numbers: Vec<Vec<u8>> = (0..100).map(|n: u32| n.to_string().into_bytes()).collect();
    for number in &numbers {
        let (a, b) = (publish(up("cam-1", Up::Batch), number.clone()), publish(up("cam-2", Up::Batch), number.clone()));
        let (a, b) = tokio::join!(one.publish(a), two.publish(b));
        assert_eq!((a, b), (Some(PubAckReason::Success), Some(PubAckReason::Success)));
    }
    for device in ["cam-1", "cam-2"] {
        bed.witness.until_taken(device, b"99").await;
        assert_eq!(bed.witness.of(device), numbers);
    }
}

fn payloads(all: &[Publish]) -> Vec<String> {
    all.iter().map(|publish| String::from_utf8(publish.payload.to_vec()).unwrap()).collect()
}

pub async fn a_session_keeps_what_is_sent_while_the_device_is_away(bed: &mut Bed) {
    let mut device = bed.device_with("cam-1", Greeting::lasting("cam-1")).await;
    assert!(!device.session_present);
    assert_success(device.subscribe(&all_down("cam-1"), rumqttc::v5::mqttbytes::QoS::AtLeastOnce).await);
    device.leave().await;
    let sent: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    for payload in &sent {
        bed.send("cam-1", Down::Blob, payload, false).await;
    }
    let mut back = bed.device_with("cam-1", Greeting::lasting("cam-1")).await;
    assert!(back.session_present);
    assert_eq!(payloads(&back.receive_until(b"19").await), sent);
}

/// rmqtt drops the oldest when a queue is full, Mosquitto the newest; both keep a bounded number, and what they keep is in order.
pub async fn a_queue_has_a_bound(bed: &mut Bed) {
    const BOUND: usize = 64 + 16;
    let mut device = bed.device_with("cam-1", Greeting::lasting("cam-1")).await;
    assert_success(device.subscribe(&all_down("cam-1"), rumqttc::v5::mqttbytes::QoS::AtLeastOnce).await);
    device.leave().await;
    for payload in 0..500 {
        bed.send("cam-1", Down::Blob, &payload.to_string(), false).await;
    }
    // Mosquitto works off what the server sends after the server has gone on: this one is for a device that is there.
    let mut other = bed.listening("cam-2").await;
    bed.send("cam-2", Down::Cmd, "marker", false).await;
    other.receive_until(b"marker").await;
    let mut back = bed.device_with("cam-1", Greeting::lasting("cam-1")).await;
    let mut kept = Vec::new();
    while !back.silent_for(Duration::from_millis(500)).await {
        kept.push(back.receive().await.expect("the connection holds"));
    }
    let kept: Vec<u32> = payloads(&kept).iter().map(|payload| payload.parse().unwrap()).collect();
    assert!((16..=BOUND).contains(&kept.len()), "{kept:?}");
    assert!(kept.is_sorted(), "{kept:?}");
    match bed.kind {
        Kind::Embedded => assert_eq!(kept.last(), Some(&499)),
        Kind::Mosquitto => assert_eq!(kept.first(), Some(&0)),
    }
    bed.serves().await;
}

pub async fn the_desired_state_waits_for_a_device_without_a_session(bed: &mut Bed) {
    for payload in ["first", "second"] {
        bed.send("cam-1", Down::Desired, payload, true).await;
    }
    bed.send("cam-2", Down::Desired, "other", true).await;
    let mut bystander = bed.listening("cam-2").await;
    assert_eq!(payloads(&bystander.receive_until(b"other").await), ["other"]);
    let mut device = bed.listening("cam-1").await;
    let desired = device.receive_until(b"second").await;
    assert_eq!(payloads(&desired), ["second"]);
    assert!(desired[0].retain);
    assert_eq!(desired[0].topic, down("cam-1", Down::Desired));
}

pub async fn what_has_expired_is_not_delivered(bed: &mut Bed) {
    let mut device = bed.device_with("cam-1", Greeting::lasting("cam-1")).await;
    assert_success(device.subscribe(&all_down("cam-1"), rumqttc::v5::mqttbytes::QoS::AtLeastOnce).await);
    device.leave().await;
    let broker = bed.broker.as_ref().unwrap();
    broker.send_for(&device_id("cam-1"), Down::Cmd, "stale".into(), Duration::from_secs(1)).await.unwrap();
    bed.send("cam-1", Down::Cmd, "fresh", false).await;
    // Another device hears nothing for longer than that.
    assert!(bed.listening("cam-2").await.silent_for(Duration::from_millis(2500)).await);
    let mut back = bed.device_with("cam-1", Greeting::lasting("cam-1")).await;
    let got = back.receive_until(b"fresh").await;
    assert_eq!(payloads(&got), ["fresh"]);
    let left = got[0].properties.as_ref().and_then(|properties| properties.message_expiry_interval).unwrap();
    assert!((200..=300).contains(&left), "{left} s left");
}
