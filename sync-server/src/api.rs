//! The REST API under `/v1`: what is served, behind one token.
//!
//! Invariant: everything but `/healthz` needs the token; bodies and lists are bounded; every error is a problem document (RFC 9457).
//! Not here: SQL, MQTT, and what the control plane's own routes do.

mod auth;
mod blobs;
pub mod control;
mod devices;
mod drift;
pub mod enroll;
mod events;
mod frames;
mod gaps;
mod latest;
mod models;
pub mod problem;
mod readings;
mod releases;
mod retrain;
mod samples;
mod streams;
mod trust;

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, ensure};
use axum::{Router, extract::DefaultBodyLimit, middleware, routing::get};
use serde::Deserialize;
use tokio::{net::TcpListener, sync::watch};

use crate::{db::Db, drift::References, events::Events};

pub use auth::Token;

/// Of a request's body, where a route does not say otherwise.
const MAX_BODY: usize = 64 * 1024;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A loopback address: the API speaks plain HTTP. Port 0: the system chooses.
    pub listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 8080).into() }
    }
}

/// What the routes of this module need.
#[derive(Clone)]
pub struct Shared {
    pub db: Arc<dyn Db>,
    pub references: Arc<dyn References>,
    pub events: Events,
}

/// All routes; `more` are the control plane's and the page's, which come behind the same token.
pub fn router(shared: Shared, token: Token, more: Router) -> Router {
    let own = Router::new()
        .route("/v1/devices", get(devices::list))
        .route("/v1/devices/{device}", get(devices::one))
        .route("/v1/devices/{device}/reports", get(devices::reports))
        .route("/v1/devices/{device}/streams", get(streams::list))
        .route("/v1/devices/{device}/gaps", get(gaps::list))
        .route("/v1/devices/{device}/frames", get(frames::frames))
        .route("/v1/devices/{device}/predictions", get(frames::predictions))
        .route("/v1/devices/{device}/readings", get(readings::range))
        .route("/v1/devices/{device}/latest", get(latest::all))
        .route("/v1/devices/{device}/thumbnail/{slot}", get(latest::thumbnail))
        .route("/v1/devices/{device}/drift", get(drift::list))
        .route("/v1/samples", get(samples::list))
        .route("/v1/samples/{id}/image", get(samples::image))
        .route("/v1/samples/{id}/label", axum::routing::put(samples::label))
        .route("/v1/events", get(events::stream))
        .with_state(shared);
    own.merge(more)
        .fallback(problem::no_such_route)
        .layer(middleware::from_fn_with_state(token, auth::require))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(middleware::map_response(problem::every_error))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// Binds the address; the connections come with [`serve`].
pub async fn bind(config: &Config) -> anyhow::Result<TcpListener> {
    let listen = config.listen;
    ensure!(listen.ip().is_loopback(), "the API on {listen}: it has no TLS, so only a loopback address can be listened on");
    TcpListener::bind(listen).await.with_context(|| format!("could not listen on {listen}"))
}

/// Serves until `stop` is true; requests under way are finished, event streams end.
pub async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let stopped = async move {
        // The sender's end is a stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(stopped).await.context("the API has ended")
}

#[cfg(test)]
mod tests;
