//! `GET /v1/events`: what happens, as server-sent events.
//!
//! Invariant: a watcher that is too slow misses events and is told so; it never slows anybody. Not here: what the events are (`events`).

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::stream::{self, Stream};
use tokio::sync::broadcast::error::RecvError;

use super::Shared;

pub async fn stream(State(shared): State<Shared>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = stream::unfold(shared.events.watch(), |mut watcher| async move {
        let event = match watcher.recv().await {
            Ok(event) => Event::default().json_data(&event).unwrap_or_else(|_| Event::default().comment("an event without JSON")),
            Err(RecvError::Lagged(missed)) => Event::default().event("missed").data(missed.to_string()),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), watcher))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}
