//! A page that shows one input after the other with its label.
//!
//! Invariant: what a file or a model is called reaches the browser as JSON text, never as markup. Not here: judging.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use wayside_models::model::Model;

use super::{Answered, Inputs, show};

/// How long each input stays on the page.
const EACH: Duration = Duration::from_millis(1_200);

/// One input and what came of it.
pub struct Shown {
    pub name: String,
    /// A JPEG; a window of readings has none.
    pub picture: Option<Vec<u8>>,
    pub answer: Result<Answered, String>,
}

impl Shown {
    fn json(&self, model: &str, number: u64) -> Value {
        let answer = match &self.answer {
            Ok(answer) => {
                let top: Vec<Value> = answer.top.iter().map(|(label, share)| json!({"label": label, "share": share})).collect();
                json!({"top": top, "millis": answer.millis})
            }
            Err(reason) => json!({"error": reason}),
        };
        json!({"model": model, "number": number, "name": self.name, "picture": self.picture.is_some(), "answer": answer})
    }
}

#[derive(Clone, Default)]
struct Latest {
    json: Value,
    picture: Option<Vec<u8>>,
}

/// Returns when the process is interrupted.
#[tokio::main(flavor = "current_thread")]
pub async fn serve(address: SocketAddr, model: Model, inputs: Inputs) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    println!("http://{}", listener.local_addr()?);
    if !address.ip().is_loopback() {
        eprintln!("warning: everyone who reaches {address} sees these pictures; 127.0.0.1 shows them to this machine alone");
    }
    let (latest, latest_seen) = watch::channel(Latest::default());
    thread::Builder::new().name("infer".into()).spawn(move || judge_for_ever(model, inputs, &latest))?;
    let routes = Router::new()
        .route("/", get(|| async { fixed("text/html; charset=utf-8", include_str!("page.html")) }))
        .route("/page.js", get(|| async { fixed("text/javascript", include_str!("page.js")) }))
        .route("/latest.json", get(json_of))
        .route("/latest.jpg", get(picture_of))
        .with_state(latest_seen);
    tokio::select! {
        served = axum::serve(listener, routes) => served.context("serving the page"),
        interrupted = tokio::signal::ctrl_c() => interrupted.context("waiting for the interrupt"),
    }
}

fn judge_for_ever(mut model: Model, mut inputs: Inputs, latest: &watch::Sender<Latest>) {
    let name = format!("{} v{}", model.identity().name, model.identity().version);
    for number in 0.. {
        let at = number % inputs.len();
        let shown = show(&mut model, &mut inputs, at);
        let picture = Latest { json: shown.json(&name, number), picture: shown.picture };
        if latest.send(picture).is_err() {
            return;
        }
        thread::sleep(EACH);
    }
}

async fn json_of(State(latest): State<watch::Receiver<Latest>>) -> Json<Value> {
    Json(latest.borrow().json.clone())
}

async fn picture_of(State(latest): State<watch::Receiver<Latest>>) -> Response {
    let picture = latest.borrow().picture.clone();
    match picture {
        Some(jpeg) => ([(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "no-store")], jpeg).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn fixed(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, "default-src 'self'; style-src 'unsafe-inline'")], text)
}
