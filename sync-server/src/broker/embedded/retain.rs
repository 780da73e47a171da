//! Retained publishes: rmqtt's tree behind a bound. Its own storage answers every call with "use a plugin".
//!
//! Invariant: never more than `BOUND` topics; one more is refused and logged, the publish itself still reaches who is connected.
//! Not here: who may retain (only the server: `hooks`).

use std::time::Duration;

use async_trait::async_trait;
use rmqtt::{
    retain::{DefaultRetainStorage, RetainStorage},
    types::{Retain, TopicFilter, TopicName},
};

/// One desired state for each device, and room for another per device.
const BOUND: isize = 20_000;

pub struct Bounded {
    tree: DefaultRetainStorage,
    bound: isize,
}

impl Default for Bounded {
    fn default() -> Self {
        Self { tree: DefaultRetainStorage::new(), bound: BOUND }
    }
}

#[async_trait]
impl RetainStorage for Bounded {
    fn enable(&self) -> bool {
        true
    }

    async fn set(&self, topic: &TopicName, retain: Retain, expiry: Option<Duration>) -> rmqtt::Result<()> {
        let adds = !retain.publish.payload.is_empty() && self.tree.get_message(topic).await?.is_empty();
        if adds && self.tree.count().await >= self.bound {
            self.tree.remove_expired_messages().await;
            if self.tree.count().await >= self.bound {
                // An error would end the publisher's connection.
                tracing::warn!(%topic, bound = self.bound, "not retained: the store is full");
                return Ok(());
            }
        }
        self.tree.set_with_timeout(topic, retain, expiry).await
    }

    async fn get(&self, filter: &TopicFilter) -> rmqtt::Result<Vec<(TopicName, Retain)>> {
        self.tree.get_message(filter).await
    }

    async fn count(&self) -> isize {
        self.tree.count().await
    }

    async fn max(&self) -> isize {
        self.bound
    }
}

#[cfg(test)]
mod tests {
    use rmqtt::types::{CodecPublish, From, Id, Publish, QoS};

    use super::*;

    fn retained(topic: &str, payload: &'static str) -> Retain {
        let packet = CodecPublish {
            dup: false,
            retain: true,
            qos: QoS::AtLeastOnce,
            topic: topic.to_owned().into(),
            packet_id: None,
            payload: payload.into(),
            properties: None,
        };
        Retain { msg_id: None, from: From::from_system(Id::from(1, "server".into())), publish: Publish::from(packet) }
    }

    #[tokio::test]
    async fn one_topic_more_than_the_bound_is_refused_and_a_cleared_one_makes_room() {
        let store = Bounded { tree: DefaultRetainStorage::new(), bound: 2 };
        let set = |topic: &'static str, payload| {
            let store = &store;
            async move { store.set(&topic.into(), retained(topic, payload), None).await.unwrap() }
        };
        set("a", "1").await;
        set("b", "1").await;
        set("c", "1").await;
        assert_eq!(store.count().await, 2);
        assert!(store.get(&"c".into()).await.unwrap().is_empty());
        set("a", "2").await;
        assert_eq!(store.get(&"a".into()).await.unwrap()[0].1.publish.payload, "2");
        set("b", "").await;
        set("c", "1").await;
        assert_eq!(store.count().await, 2);
        assert_eq!(store.get(&"c".into()).await.unwrap().len(), 1);
    }
}
