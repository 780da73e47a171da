//! Lanes: publishes are taken in the order of their device, several devices at once.
//!
//! Invariant: one device's publishes all go through one lane, one after the other; what cannot be taken now is tried again there, so
//! that nothing overtakes it and no other lane waits for it; a lane holds no more than the broker may have under way. Not here:
//! the connection (`external`).

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rumqttc::v5::{
    AsyncClient, ClientError,
    mqttbytes::{QoS, v5::Publish},
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinSet,
    time::timeout,
};
use wayside_common::{
    id::{DeviceId, FleetId},
    topic::{Topic, Up},
    wire::{self, FromDevice},
};

use super::{BACKOFF_FIRST, BACKOFF_MOST, RECEIVE_MAX, expires};
use crate::broker::{Ingest, Reply, Taken, lifetime};

const LANES: usize = 8;
/// Devices that are remembered as connected; one that is forgotten is announced again.
const REMEMBERED: usize = 20_000;

pub struct Lanes {
    senders: Vec<mpsc::Sender<Waiting>>,
    tasks: JoinSet<()>,
    gave_up: mpsc::Receiver<String>,
    fleet: FleetId,
    client: AsyncClient,
}

struct Waiting {
    device: DeviceId,
    up: Up,
    publish: Publish,
}

/// What all lanes of one connection share.
struct Shared {
    fleet: FleetId,
    client: AsyncClient,
    ingest: Arc<dyn Ingest>,
    connected: Mutex<HashSet<DeviceId>>,
}

impl Lanes {
    pub fn start(fleet: &FleetId, client: AsyncClient, ingest: Arc<dyn Ingest>) -> Self {
        let shared = Arc::new(Shared { fleet: fleet.clone(), client: client.clone(), ingest, connected: Mutex::default() });
        let (report, gave_up) = mpsc::channel(LANES);
        let mut tasks = JoinSet::new();
        let senders = (0..LANES).map(|_| {
            let (sender, waiting) = mpsc::channel(usize::from(RECEIVE_MAX));
            tasks.spawn(run(shared.clone(), waiting, report.clone()));
            sender
        });
        let senders = senders.collect();
        Self { senders, tasks, gave_up, fleet: fleet.clone(), client }
    }

    /// Puts a publish into its device's lane.
    pub fn offer(&self, publish: Publish) -> Result<(), String> {
        let parsed = std::str::from_utf8(&publish.topic).ok().and_then(|topic| topic.parse().ok());
        let Some(Topic::Up(fleet, device, up)) = parsed else {
            return self.refuse(&publish);
        };
        if fleet != self.fleet {
            return self.refuse(&publish);
        }
        let mut hasher = DefaultHasher::new();
        device.hash(&mut hasher);
        let lane = usize::try_from(hasher.finish() % LANES as u64).expect("less than the number of lanes");
        let lossy = publish.qos == QoS::AtMostOnce;
        match self.senders[lane].try_send(Waiting { device, up, publish }) {
            Ok(()) => Ok(()),
            // QoS 0 is not counted against what the broker may have under way.
            Err(TrySendError::Full(_)) if lossy => Ok(()),
            Err(TrySendError::Full(_)) => Err("the broker sends more than it may".into()),
            Err(TrySendError::Closed(_)) => Err("a lane has ended".into()),
        }
    }

    /// A topic of nobody: acked, because it would be no better the next time.
    fn refuse(&self, publish: &Publish) -> Result<(), String> {
        tracing::warn!(topic = %String::from_utf8_lossy(&publish.topic), "a publish on a topic that is not a device's");
        self.client.try_ack(publish).map_err(|_| "no room for an ack".to_owned())
    }

    /// Why a lane ended; the connection must be made anew so that the broker sends again.
    pub async fn gave_up(&mut self) -> String {
        self.gave_up.recv().await.unwrap_or_else(|| "all lanes have ended".into())
    }

    /// Takes what is in the lanes, up to a deadline.
    pub async fn finish(mut self, patience: Duration) {
        self.senders.clear();
        let _ = timeout(patience, async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}

async fn run(shared: Arc<Shared>, mut waiting: mpsc::Receiver<Waiting>, report: mpsc::Sender<String>) {
    while let Some(Waiting { device, up, publish }) = waiting.recv().await {
        if let Err(error) = shared.take(&device, up, &publish).await {
            // Nothing after it may be acked before it: this lane is over.
            let _ = report.send(error.to_string()).await;
            return;
        }
    }
}

impl Shared {
    async fn take(&self, device: &DeviceId, up: Up, publish: &Publish) -> Result<(), ClientError> {
        if self.is_new(device) {
            self.ingest.connected(device).await;
        }
        let replies = self.committed(device, up, &publish.payload).await;
        self.client.ack(publish).await?;
        for reply in replies {
            let topic = Topic::Down(self.fleet.clone(), device.clone(), reply.down).to_string();
            let bytes = wire::encode(&reply.packet);
            self.client.publish_with_properties(topic, QoS::AtLeastOnce, false, bytes, expires(lifetime(reply.down))).await?;
        }
        self.note_farewell(device, up, &publish.payload).await;
        Ok(())
    }

    /// Returns when the publish is committed, or refused for good.
    async fn committed(&self, device: &DeviceId, up: Up, bytes: &[u8]) -> Vec<Reply> {
        let mut backoff = BACKOFF_FIRST;
        loop {
            match self.ingest.take(device, up, bytes).await {
                Taken::Committed(replies) => return replies,
                Taken::Refused(reason) => {
                    tracing::warn!(%device, reason, "a publish is refused for good");
                    return Vec::new();
                }
                Taken::Unavailable(reason) => tracing::warn!(%device, reason, retry_in = ?backoff, "a publish is not taken now"),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MOST);
        }
    }

    /// An external broker does not tell who connects: a device is there when its first publish comes.
    fn is_new(&self, device: &DeviceId) -> bool {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if connected.len() >= REMEMBERED {
            connected.clear();
        }
        connected.insert(device.clone())
    }

    /// It is gone when its will comes.
    async fn note_farewell(&self, device: &DeviceId, up: Up, bytes: &[u8]) {
        if up == Up::State && matches!(wire::decode(bytes), Ok(FromDevice::Gone)) {
            self.connected.lock().unwrap_or_else(PoisonError::into_inner).remove(device);
            self.ingest.disconnected(device).await;
        }
    }
}
