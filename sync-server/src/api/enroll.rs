//! Enrolment and renewal: `POST /v1/enroll` and `/v1/renew` for devices, over TLS 1.3 on a listener of their own; and for the operator, behind
//! the API's token, the tokens of devices and their revocation.
//!
//! Invariant: a certificate is answered only after it stands in the database; a token buys one, for the device that it names; a revoked
//! device gets none. No secret reaches a log or an error. Not here: the CA (`pki`), SQL.

pub mod limit;
pub mod listener;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use wayside_common::{
    enrolment::{EnrolRequest, Granted, MAX_REQUEST, RenewRequest, Token, renewal},
    id::{DeviceClass, DeviceId, FleetId},
};

use super::problem::{self, Problem};
use crate::{
    broker::Downlink,
    clock,
    db::{
        Db,
        identity::{Certificate, Granting, Token as KeptToken},
    },
    pki::{
        Pki,
        authority::Issued,
        request::{Proof, PublicKey},
    },
};
use limit::Failures;
use listener::Peer;

/// What the routes need.
#[derive(Clone)]
pub struct Enrolment {
    pub db: Arc<dyn Db>,
    pub pki: Arc<Pki>,
    pub fleet: FleetId,
    /// What devices are told: `mqtts://HOST:PORT`.
    pub broker: String,
    /// Where this is served, and how long a token is good; `None`: nowhere.
    pub served: Option<(String, Duration)>,
    /// Whether the broker knows devices by this CA, so that revoking one ends its connection.
    pub downlink: Arc<dyn Downlink>,
    pub failures: Arc<Mutex<Failures>>,
}

/// The host by which devices reach a listener of this server.
pub fn host(names: &[String], listen: SocketAddr) -> String {
    let name = match (names.first(), listen.ip()) {
        (Some(name), _) => name.clone(),
        (None, ip) if ip.is_unspecified() => "localhost".into(),
        (None, ip) => ip.to_string(),
    };
    match name.parse() {
        Ok(IpAddr::V6(_)) => format!("[{name}]:{}", listen.port()),
        _ => format!("{name}:{}", listen.port()),
    }
}

/// For devices.
pub fn router(enrolment: Enrolment) -> Router {
    Router::new()
        .route("/v1/enroll", post(enroll))
        .route("/v1/renew", post(renew))
        .with_state(enrolment.clone())
        .layer(middleware::from_fn_with_state(enrolment.failures, limited))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(problem::no_such_route)
        .layer(middleware::map_response(problem::every_error))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
}

/// For the operator; behind the API's token.
pub fn operator(enrolment: Enrolment) -> Router {
    Router::new()
        .route("/v1/devices/{device}/enrolment", post(invite))
        .route("/v1/devices/{device}/revoke", post(revoke))
        .with_state(enrolment)
}

/// Who fails too often from one address waits, whatever it asks.
async fn limited(
    State(failures): State<Arc<Mutex<Failures>>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let lock = || failures.lock().unwrap_or_else(PoisonError::into_inner);
    if !lock().admits(peer.ip(), Instant::now()) {
        let wait = limit::WINDOW.as_secs();
        return Problem::new(StatusCode::TOO_MANY_REQUESTS, format!("too many failed requests; try again in {wait} s")).into_response();
    }
    let response = next.run(request).await;
    if response.status().is_client_error() {
        tracing::warn!(%peer, status = response.status().as_u16(), "an enrolment or renewal is refused");
        lock().note(peer.ip(), Instant::now());
    }
    response
}

async fn enroll(State(enrolment): State<Enrolment>, Json(request): Json<EnrolRequest>) -> Result<Json<Granted>, Problem> {
    let digest = request.token.digest();
    let unknown = || Problem::new(StatusCode::FORBIDDEN, "this server did not make this token; make one with `wayside device add`");
    let token = enrolment.db.token(digest).await?.ok_or_else(unknown)?;
    let key = PublicKey::of_request(&request.csr).map_err(|e| Problem::bad_request(e.to_string()))?;
    let (issued, certificate) = enrolment.issue(&token.device, token.class, &key)?;
    match enrolment.db.redeem(digest, certificate.clone()).await? {
        Granting::Done => {}
        Granting::Unknown => return Err(unknown()),
        Granting::Barred => {
            return Err(Problem::new(StatusCode::FORBIDDEN, "this token has been used; make another with `wayside device add`"));
        }
        Granting::Expired => {
            return Err(Problem::new(StatusCode::FORBIDDEN, "this token has expired; make another with `wayside device add`"));
        }
    }
    tracing::info!(device = %certificate.device, serial = issued.serial, "a device is enrolled");
    enrolment.granted(issued, certificate, request.nonce).await
}

async fn renew(State(enrolment): State<Enrolment>, Json(request): Json<RenewRequest>) -> Result<Json<Granted>, Problem> {
    let refused = |e: crate::pki::request::RequestError| Problem::new(StatusCode::FORBIDDEN, e.to_string());
    let signature = hex::decode(&request.signature).map_err(|_| Problem::bad_request("the signature is not hex"))?;
    let message = renewal(&request.csr, request.nonce);
    let proof = Proof { certificate: &request.certificate, message, signature: &signature };
    let (serial, device) = enrolment.pki.proven(&proof).map_err(refused)?;
    let key = PublicKey::of_request(&request.csr).map_err(|e| Problem::bad_request(e.to_string()))?;
    let unknown = || Problem::new(StatusCode::FORBIDDEN, "this server does not know the certificate; enrol the device again");
    let class = enrolment.db.class_of(&serial).await?.ok_or_else(unknown)?;
    let (issued, certificate) = enrolment.issue(&device, class, &key)?;
    match enrolment.db.renew(&serial, certificate.clone()).await? {
        Granting::Done => {}
        Granting::Barred => return Err(Problem::new(StatusCode::FORBIDDEN, "the device is revoked; enrol it again if that is over")),
        Granting::Unknown | Granting::Expired => return Err(unknown()),
    }
    tracing::info!(%device, serial = issued.serial, "a device has a new certificate");
    enrolment.granted(issued, certificate, request.nonce).await
}

impl Enrolment {
    fn issue(&self, device: &DeviceId, class: DeviceClass, key: &PublicKey) -> Result<(Issued, Certificate), Problem> {
        let now = clock::wall();
        let issued = self.pki.issue(device, key, now)?;
        let certificate =
            Certificate { serial: issued.serial.clone(), device: device.clone(), class, issued: now, expires: issued.expires };
        Ok((issued, certificate))
    }

    async fn granted(&self, issued: Issued, certificate: Certificate, nonce: u64) -> Result<Json<Granted>, Problem> {
        let root = self.db.newest_trust("root").await?.context("the server has no root document")?;
        let text = |bytes| String::from_utf8(bytes).context("a document that is not text");
        let timestamp = self.pki.timestamp();
        let (authorities, bridges) = self.pki.authorities();
        Ok(Json(Granted {
            device: certificate.device,
            fleet: self.fleet.clone(),
            class: certificate.class,
            certificate: issued.pem,
            authorities,
            bridges,
            broker: self.broker.clone(),
            root: text(root.bytes)?,
            timestamp_key: timestamp.public(),
            time: text(timestamp.answer(nonce, clock::wall()))?,
        }))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InviteRequest {
    class: DeviceClass,
}

#[derive(Debug, Serialize)]
struct Invited {
    url: String,
    token: Token,
    /// Unix milliseconds.
    expires: i64,
}

async fn invite(
    State(enrolment): State<Enrolment>,
    Path(device): Path<DeviceId>,
    Json(InviteRequest { class }): Json<InviteRequest>,
) -> Result<(StatusCode, Json<Invited>), Problem> {
    let nowhere =
        || Problem::new(StatusCode::CONFLICT, "devices cannot enrol here: set `listen` in [enroll] of the server's configuration");
    let (url, lifetime) = enrolment.served.clone().ok_or_else(nowhere)?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| anyhow::anyhow!("no random bytes for a token: {e}"))?;
    let (now, token) = (clock::wall(), Token::new(secret, enrolment.pki.pin()));
    let expires = now.plus(lifetime);
    enrolment.db.keep_token(KeptToken { digest: token.digest(), device, class, expires }, now).await?;
    Ok((StatusCode::CREATED, Json(Invited { url, token, expires: expires.0 })))
}

#[derive(Debug, Serialize)]
struct RevokedCertificates {
    device: DeviceId,
    certificates: usize,
}

async fn revoke(State(enrolment): State<Enrolment>, Path(device): Path<DeviceId>) -> Result<Json<RevokedCertificates>, Problem> {
    let serials = enrolment.db.revoke(&device, clock::wall()).await?;
    let certificates = serials.len();
    if certificates == 0 {
        return Err(Problem::not_found(format!("no certificate was issued to {device}; its open tokens are void now")));
    }
    enrolment.pki.revoked().add(serials);
    if enrolment.pki.export_revoked(&enrolment.db.revoked().await?, clock::wall())? {
        tracing::warn!(%device, "the broker keeps the device's connection until it has read the list of revoked certificates again");
    }
    // Who is not connected need not be thrown out; who is connected to an external broker falls to its revocation list.
    if let Err(e) = enrolment.downlink.kick(&device).await {
        tracing::debug!(%device, "no connection was ended: {e:#}");
    }
    tracing::warn!(%device, certificates, "a device is revoked");
    Ok(Json(RevokedCertificates { device, certificates }))
}

#[cfg(test)]
mod tests;
