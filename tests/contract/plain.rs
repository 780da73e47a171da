//! Plain MQTT on loopback, until certificates are issued: the rules are the same, the name is the client id.
//!
//! Invariant: nothing plain listens on another address. Not here: TLS.
//!
//! Seen red: `start` without its check of the address; a stop that only aborts its tasks.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use rumqttc::v5::mqttbytes::v5::PubAckReason;
use tokio::time::timeout;
use wayside_common::topic::Up;

use crate::{
    bed::{plain_embedded, plain_mosquitto, publish, up},
    device::{DEADLINE, Device, Greeting, Way},
    witness::{Answer, Seen, Witness},
};

#[tokio::test]
async fn plain_mqtt_is_refused_beyond_loopback() {
    let refused = plain_embedded((Ipv4Addr::UNSPECIFIED, 0).into(), Arc::new(Witness::new())).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("loopback")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_loopback_the_client_id_is_the_device() {
    let witness = Arc::new(Witness::new());
    let broker = plain_embedded((Ipv4Addr::LOCALHOST, 0).into(), witness.clone()).await.unwrap();
    let way = Way { address: broker.address().unwrap(), tls: None };
    // An empty client id gets a random one from rmqtt before anybody is asked; it is a good device id.
    for bad in ["a/b", "#", "server.1"] {
        assert!(Device::connect(&way, Greeting::new(bad)).await.is_err(), "{bad}");
    }
    let mut device = Device::connect(&way, Greeting::new("cam-1")).await.unwrap();
    assert_eq!(device.publish(publish(up("cam-2", Up::State), "forged")).await, Some(PubAckReason::NotAuthorized));
    assert_eq!(device.publish(publish(up("cam-1", Up::State), "own")).await, Some(PubAckReason::Success));
    assert_eq!(witness.of("cam-1"), [b"own"]);
    device.leave().await;
    witness.until(|all| all.last() == Some(&Seen::Disconnected("cam-1".into()))).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_the_commit_and_frees_the_port() {
    let witness = Arc::new(Witness::new());
    let broker = plain_embedded((Ipv4Addr::LOCALHOST, 0).into(), witness.clone()).await.unwrap();
    let address = broker.address().unwrap();
    let way = Way { address, tls: None };
    let mut device = Device::connect(&way, Greeting::lasting("cam-1")).await.unwrap();
    witness.answer(Answer::Wait);
    let id = device.send(publish(up("cam-1", Up::Batch), "1")).await.unwrap();
    witness.until_taken("cam-1", b"1").await;
    let stop = tokio::spawn(broker.stop());
    assert!(device.silent_for(Duration::from_millis(200)).await);
    assert!(!stop.is_finished(), "stopped while a publish was being taken");
    witness.answer(Answer::Commit);
    timeout(DEADLINE, stop).await.unwrap().unwrap();
    // What was committed is acknowledged, unless the connection ended first; then the device sends it again.
    let _ = device.acknowledged(id).await;
    let again = plain_embedded(address, witness.clone()).await.unwrap();
    let mut device = Device::connect(&way, Greeting::lasting("cam-1")).await.unwrap();
    assert_eq!(device.publish(publish(up("cam-1", Up::Batch), "2")).await, Some(PubAckReason::Success));
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_mosquitto_serves_this_machine() {
    let witness = Arc::new(Witness::new());
    let Some((broker, address, _kept)) = plain_mosquitto(witness.clone()).await else {
        assert!(std::env::var_os("WAYSIDE_REQUIRE_MOSQUITTO").is_none(), "mosquitto is not installed, and this run requires it");
        println!("SKIPPED: mosquitto is not installed");
        return;
    };
    let way = Way { address, tls: None };
    let mut device = Device::connect(&way, Greeting::new("cam-1")).await.unwrap();
    assert_ne!(device.publish(publish(up("cam-2", Up::State), "forged")).await, Some(PubAckReason::Success));
    let mut device = Device::connect(&way, Greeting::new("cam-1")).await.unwrap();
    let subscribed = async { while device.publish(publish(up("cam-1", Up::State), "own")).await != Some(PubAckReason::Success) {} };
    timeout(DEADLINE, subscribed).await.unwrap();
    witness.until_taken("cam-1", b"own").await;
    assert!(witness.of("cam-2").is_empty());
    broker.stop().await;
}
