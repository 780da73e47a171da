//! Errors as problem documents (RFC 9457).
//!
//! Invariant: an internal error is logged here, once, and its causes are not told to the client. Not here: which status fits (`api/*`).

use axum::{
    Json,
    body::to_bytes,
    http::{HeaderValue, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Of an error text that some extractor wrote.
const MAX_TEXT: usize = 4096;

/// What a handler answers when it cannot answer.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, what)
    }

    /// The request cannot be right.
    pub fn bad_request(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why)
    }
}

impl From<anyhow::Error> for Problem {
    fn from(e: anyhow::Error) -> Self {
        tracing::error!("a request failed: {e:#}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed; its log says why")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("error");
        let document = Document { r#type: "about:blank", title, status: self.status.as_u16(), detail: &self.detail };
        (self.status, [(CONTENT_TYPE, PROBLEM)], Json(document)).into_response().with_type()
    }
}

trait WithType {
    fn with_type(self) -> Self;
}

impl WithType for Response {
    /// `Json` has set its own type.
    fn with_type(mut self) -> Self {
        self.headers_mut().insert(CONTENT_TYPE, PROBLEM);
        self
    }
}

pub async fn no_such_route(uri: Uri) -> Problem {
    Problem::not_found(format!("nothing is served at {}", uri.path()))
}

/// Turns the plain texts that extractors answer into problem documents; a page for people stays.
pub async fn every_error(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if status.as_u16() < 400 || kind == PROBLEM.as_bytes() || kind.starts_with(b"text/html") {
        return response;
    }
    let text = to_bytes(response.into_body(), MAX_TEXT).await.unwrap_or_default();
    let detail = String::from_utf8_lossy(&text).into_owned();
    Problem::new(status, if detail.is_empty() { status.to_string() } else { detail }).into_response()
}
