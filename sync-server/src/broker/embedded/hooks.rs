//! rmqtt's hooks, answered: who may connect, publish and subscribe, and the commit before the PUBACK.
//!
//! Invariant: a publish is forwarded and acknowledged only after `Ingest::take`; what cannot be taken now ends the connection
//! without a PUBACK. The commit stands in `MessagePublishCheckAcl`: `MessagePublish` runs before it and cannot refuse. A
//! will passes no such hook, so it is judged at CONNECT and taken in `MessagePublish`. Not here: the rules (`acl`).

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use rmqtt::{
    codec::v5::{PublishAckReason, SubscribeAckReason},
    context::ServerContext,
    hook::{Handler, HookResult, Parameter, ReturnType, Type},
    session::Session,
    types::{
        AuthResult, ConnectInfo, From, FromType, Id, LastWill, Publish, PublishAclResult, PublishResult, QoS, Subscribe, SubscribeReturn,
    },
};
use tokio::sync::RwLock;
use wayside_common::{
    id::{DeviceId, FleetId},
    topic::{self, Up},
    wire,
};

use super::front::Subjects;
use crate::broker::{
    Downlink, Ingest, Revoked, Subject, Taken,
    acl::{self, Transport},
};

/// What all hooks share.
pub struct Gate {
    fleet: FleetId,
    ingest: Arc<dyn Ingest>,
    downlink: Arc<dyn Downlink>,
    /// The certificates behind the connections of the TLS front; none when plain MQTT is served on loopback.
    subjects: Option<Subjects>,
    /// By name.
    revoked: Mutex<HashSet<DeviceId>>,
    /// By certificate.
    revocations: Option<Arc<dyn Revoked>>,
    live: Live,
    closed: AtomicBool,
    /// Held for reading while a publish is taken, for writing when the broker stops.
    taking: RwLock<()>,
}

/// One connection: when it came and from where.
type Connection = (i64, Option<SocketAddr>);

fn connection(id: &Id) -> Connection {
    (id.create_time, id.remote_addr)
}

/// The connection that speaks for a device now. A late farewell of the one before it says nothing.
#[derive(Default)]
struct Live(Mutex<HashMap<DeviceId, Connection>>);

impl Live {
    fn arrived(&self, device: DeviceId, connection: Connection) {
        lock(&self.0).insert(device, connection);
    }

    /// Whether another connection speaks for the device.
    fn replaced(&self, device: &DeviceId, connection: Connection) -> bool {
        lock(&self.0).get(device).is_some_and(|live| *live != connection)
    }

    /// Whether the device is gone with this connection.
    fn left(&self, device: &DeviceId, connection: Connection) -> bool {
        let mut live = lock(&self.0);
        let last = live.get(device) == Some(&connection);
        if last {
            live.remove(device);
        }
        last
    }
}

/// What the client gets to know when a publish cannot be taken; the reason is in the log.
const NOT_NOW: &str = "not now";

impl Gate {
    pub fn new(
        fleet: FleetId,
        ingest: Arc<dyn Ingest>,
        downlink: Arc<dyn Downlink>,
        subjects: Option<Subjects>,
        revocations: Option<Arc<dyn Revoked>>,
    ) -> Self {
        Self {
            fleet,
            ingest,
            downlink,
            subjects,
            revoked: Mutex::default(),
            revocations,
            live: Live::default(),
            closed: AtomicBool::new(false),
            taking: RwLock::new(()),
        }
    }

    pub fn revoke(&self, device: &DeviceId) {
        lock(&self.revoked).insert(device.clone());
    }

    /// The certificate behind a connection: empty where there is none, though there must be one.
    fn subject(&self, id: &Id) -> Option<Subject> {
        self.subjects.as_ref().map(|subjects| id.remote_addr.and_then(|from| subjects.of(from)).unwrap_or_default())
    }

    fn is_revoked(&self, subject: Option<&Subject>) -> bool {
        self.revocations.as_ref().zip(subject).is_some_and(|(revocations, subject)| revocations.is_revoked(&subject.serial))
    }

    /// From now on nothing is taken and nobody is let in.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Returns when what was being taken at `close` is done.
    pub async fn drained(&self) {
        drop(self.taking.write().await);
    }

    /// CONNECT: the only place where a client id, MQTT 3, a revoked device or a will can be refused.
    fn authenticate(&self, connect_info: &ConnectInfo) -> AuthResult {
        let ConnectInfo::V5(id, connect) = connect_info else { return AuthResult::NotAuthorized };
        let subject = self.subject(id);
        let transport = match &subject {
            None => Transport::Loopback,
            Some(subject) => {
                Transport::Certificate { common_name: subject.common_name.as_deref(), organization: subject.organization.as_deref() }
            }
        };
        let client_id: &str = &connect.client_id;
        let verdict = acl::identity(&self.fleet, transport, client_id).and_then(|device| {
            if let Some(LastWill::V5(will)) = connect_info.last_will() {
                acl::check_will(&self.fleet, &device, &will.topic, will.retain)?;
            }
            Ok(device)
        });
        match verdict {
            Err(stranger) => {
                tracing::warn!(%stranger, "a connection is refused");
                AuthResult::NotAuthorized
            }
            Ok(device) if lock(&self.revoked).contains(&device) || self.is_revoked(subject.as_ref()) => {
                tracing::warn!(%device, "a revoked device is refused");
                AuthResult::NotAuthorized
            }
            Ok(_) if self.closed.load(Ordering::SeqCst) => AuthResult::NotAuthorized,
            // Not a superuser, no rules of rmqtt's own.
            Ok(_) => AuthResult::Allow(false, None),
        }
    }

    /// PUBLISH: the rule, then the durable commit. rmqtt waits for the answer before it forwards and before the PUBACK.
    async fn publish(&self, session: &Session, publish: &Publish) -> PublishAclResult {
        let Ok(device) = session.id().client_id.parse::<DeviceId>() else { return PublishAclResult::rejected(true, None) };
        if publish.qos == QoS::ExactlyOnce {
            return PublishAclResult::rejected(true, None);
        }
        let Some(up) = acl::publishes(&self.fleet, &device, &publish.topic, publish.retain) else {
            tracing::warn!(%device, topic = %publish.topic, "a publish is refused");
            return PublishAclResult::rejected(false, None);
        };
        match self.take(&device, up, &publish.payload).await {
            Taken::Committed(_) | Taken::Refused(_) => PublishAclResult::allow(),
            Taken::Unavailable(_) => PublishAclResult(PublishResult::reason_code(
                PublishAckReason::ImplementationSpecificError,
                Some(NOT_NOW.into()),
                // End the connection: no PUBACK leaves, and the device sends again when it is back.
                true,
            )),
        }
    }

    /// Commits, and sends the replies on their way; they leave after the PUBACK because the session is busy with this publish.
    async fn take(&self, device: &DeviceId, up: Up, bytes: &[u8]) -> Taken {
        let _taking = self.taking.read().await;
        if self.closed.load(Ordering::SeqCst) {
            return Taken::Unavailable("the server stops".into());
        }
        let mut taken = self.ingest.take(device, up, bytes).await;
        match &mut taken {
            Taken::Committed(replies) => {
                for reply in replies.drain(..) {
                    if let Err(error) = self.downlink.send(device, reply.down, wire::encode(&reply.packet), false).await {
                        tracing::warn!(%device, error = format!("{error:#}"), "a reply is not sent");
                    }
                }
            }
            Taken::Refused(reason) => tracing::warn!(%device, reason, "a publish is refused for good"),
            Taken::Unavailable(reason) => tracing::warn!(%device, reason, "a publish is not taken now"),
        }
        taken
    }

    /// The will of a connection that ended, unless the device is back already.
    async fn will(&self, from: &From, publish: &Publish) {
        let Ok(device) = from.client_id.parse::<DeviceId>() else { return };
        let replaced = self.live.replaced(&device, connection(from));
        let up = acl::publishes(&self.fleet, &device, &publish.topic, publish.retain);
        if let (Some(up), false) = (up, replaced) {
            self.take(&device, up, &publish.payload).await;
        }
    }

    fn subscribe(&self, session: &Session, subscribe: &Subscribe) -> SubscribeReturn {
        let allowed =
            session.id().client_id.parse().is_ok_and(|device| topic::may_subscribe(&self.fleet, &device, &subscribe.topic_filter));
        if !allowed {
            tracing::warn!(client = %session.id().client_id, filter = %subscribe.topic_filter, "a subscription is refused");
            return SubscribeReturn::new_failure(SubscribeAckReason::NotAuthorized);
        }
        // rmqtt bounds no queue of QoS 0.
        if subscribe.opts.qos() == QoS::AtMostOnce {
            return SubscribeReturn::new_failure(SubscribeAckReason::ImplementationSpecificError);
        }
        SubscribeReturn::new_success(subscribe.opts.qos(), None)
    }

    async fn connected(&self, session: &Session) {
        let Ok(device) = session.id().client_id.parse::<DeviceId>() else { return };
        // Revoked between the question at CONNECT and now: whoever revoked it found nothing to end.
        if self.is_revoked(self.subject(session.id()).as_ref()) {
            let downlink = self.downlink.clone();
            tokio::spawn(async move { downlink.kick(&device).await });
            return;
        }
        self.live.arrived(device.clone(), connection(session.id()));
        self.ingest.connected(&device).await;
    }

    async fn disconnected(&self, session: &Session) {
        let Ok(device) = session.id().client_id.parse::<DeviceId>() else { return };
        let last = self.live.left(&device, connection(session.id()));
        if last && !self.closed.load(Ordering::SeqCst) {
            self.ingest.disconnected(&device).await;
        }
    }
}

/// These maps hold no invariant that a panic could break half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Hooks(Arc<Gate>);

#[async_trait]
impl Handler for Hooks {
    async fn hook(&self, parameter: &Parameter, before: Option<HookResult>) -> ReturnType {
        let gate = &self.0;
        let result = match parameter {
            Parameter::ClientAuthenticate(connect_info) => Some(HookResult::AuthResult(gate.authenticate(connect_info))),
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                Some(HookResult::SubscribeAclResult(gate.subscribe(session, subscribe)))
            }
            Parameter::MessagePublishCheckAcl(session, publish) => Some(HookResult::PublishAclResult(gate.publish(session, publish).await)),
            Parameter::MessagePublish(_, from, publish) if matches!(from.typ(), FromType::LastWill) => {
                gate.will(from, publish).await;
                before
            }
            Parameter::MessageDropped(Some(to), _, publish, reason) => {
                tracing::debug!(device = %to.client_id, topic = %publish.topic, ?reason, "a publish to a device is dropped");
                before
            }
            Parameter::ClientConnected(session) => {
                gate.connected(session).await;
                before
            }
            Parameter::ClientDisconnected(session, _) => {
                gate.disconnected(session).await;
                before
            }
            _ => before,
        };
        (true, result)
    }
}

/// Hooks are off until `start`; afterwards every connection passes them.
pub async fn register(context: &ServerContext, gate: &Arc<Gate>) {
    let register = context.extends.hook_mgr().register();
    for kind in [
        Type::ClientAuthenticate,
        Type::ClientSubscribeCheckAcl,
        Type::MessagePublishCheckAcl,
        Type::MessagePublish,
        Type::MessageDropped,
        Type::ClientConnected,
        Type::ClientDisconnected,
    ] {
        register.add(kind, Box::new(Hooks(gate.clone()))).await;
    }
    register.start().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_farewell_of_the_connection_before_says_nothing() {
        let device: DeviceId = "cam-1".parse().unwrap();
        let (first, second) = ((1, None), (2, None));
        let live = Live::default();
        live.arrived(device.clone(), first);
        assert!(!live.replaced(&device, first));
        live.arrived(device.clone(), second);
        assert!(live.replaced(&device, first), "its will is dropped");
        assert!(!live.left(&device, first));
        assert!(live.left(&device, second));
        assert!(!live.left(&device, second), "it is said once");
        assert!(!live.replaced(&device, second), "nobody has come after it");
    }
}
