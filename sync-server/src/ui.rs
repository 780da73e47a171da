//! The live page at `/`: rendered here, so that it reads without JavaScript; a small module keeps it fresh.
//!
//! Invariant: everything the page loads comes from this server, and it shows nothing that the REST API does not offer. Not here: what the
//! page says ([`page`]), the token (`api`).

pub mod chart;
pub mod device;
pub mod fleet;
pub mod page;

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    extract::State,
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY},
    response::{Html, IntoResponse},
    routing::get,
};
use wayside_common::id::FleetId;

use crate::{
    api::problem::Problem,
    clock,
    db::{Db, telemetry::SampleFilter},
    drift::References,
};

const STYLE: &str = include_str!("ui/wayside.css");
const SCRIPT: &str = include_str!("ui/wayside.js");
const ICON: &str = include_str!("ui/icon.svg");
/// For a browser that has no token.
pub const SIGN_IN: &str = include_str!("ui/sign_in.html");
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// What the page is made from.
#[derive(Clone)]
pub struct Sources {
    pub db: Arc<dyn Db>,
    pub references: Arc<dyn References>,
    pub fleet: FleetId,
}

pub fn router(sources: Sources) -> Router {
    let file =
        |kind: &'static str, text: &'static str| get(move || async move { ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text) });
    Router::new()
        .route("/", get(show))
        .route("/ui/wayside.css", file("text/css; charset=utf-8", STYLE))
        .route("/ui/wayside.js", file("text/javascript; charset=utf-8", SCRIPT))
        .route("/ui/icon.svg", file("image/svg+xml", ICON))
        .with_state(sources)
}

async fn show(State(sources): State<Sources>) -> Result<impl IntoResponse + use<>, Problem> {
    let page = gather(&sources).await?;
    let html = page.render().map_err(|e| anyhow::anyhow!("the page could not be rendered: {e}"))?;
    let headers = [(CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, "no-store"), (REFERRER_POLICY, "no-referrer")];
    Ok((headers, Html(html)))
}

/// Reads the store; everything else is a function of what was read.
async fn gather(Sources { db, references, fleet }: &Sources) -> anyhow::Result<page::Page> {
    let now = clock::wall();
    let mut devices = Vec::new();
    for device in db.devices().await? {
        devices.push(device::read(&**db, &**references, device, now).await?);
    }
    let models = db.models().await?;
    let seen = fleet::Seen {
        releases: db.releases().await?,
        outcomes: db.outcomes().await?,
        runs: db.runs().await?,
        unlabelled: db.samples(SampleFilter { labelled: Some(false), slot: None, limit: 10_000 }).await?,
        labelled: db.samples(SampleFilter { labelled: Some(true), slot: None, limit: 10_000 }).await?,
    };
    Ok(page::build(fleet.as_str(), devices, &models, &seen, now))
}
