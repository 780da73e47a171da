//! The REST client of the command line.
//!
//! Invariant: every error says what to do next; the token is never printed. Not here: what is asked (`cli/*`).

use std::{fmt, time::Duration};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use ureq::{Agent, Body, http::Response};

use crate::config::ClientConfig;

/// An answer of the API is at most this long, blobs apart.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
const MAX_BLOB: u64 = 512 * 1024 * 1024;

pub struct Client {
    agent: Agent,
    server: String,
    token: Option<String>,
}

/// The server did not accept the token; the exit code is 4.
#[derive(Debug)]
pub struct NotAllowed;

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server does not accept the token; pass the one it printed when it started with --token or WAYSIDE_TOKEN")
    }
}
impl std::error::Error for NotAllowed {}

impl Client {
    pub fn new(config: ClientConfig) -> Self {
        let agent = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(120))).build().into();
        Self { agent, server: config.server.trim_end_matches('/').to_owned(), token: config.token }
    }

    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(self.with_token(self.agent.get(self.url(path))).call())
    }

    pub fn get_bytes(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let mut response = self.checked(self.with_token(self.agent.get(self.url(path))).call())?;
        Ok(response.body_mut().with_config().limit(MAX_BLOB).read_to_vec()?)
    }

    pub fn post(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Value> {
        self.json(self.with_token(self.agent.post(self.url(path))).send_json(body))
    }

    pub fn post_bytes(&self, path: &str, body: &[u8]) -> anyhow::Result<Value> {
        self.json(self.with_token(self.agent.post(self.url(path))).content_type("application/octet-stream").send(body))
    }

    pub fn put(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Value> {
        self.json(self.with_token(self.agent.put(self.url(path))).send_json(body))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }

    fn with_token<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn json(&self, result: Result<Response<Body>, ureq::Error>) -> anyhow::Result<Value> {
        let mut response = self.checked(result)?;
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string().context("the server's answer broke off")?;
        if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text).context("the server's answer is not JSON") }
    }

    fn checked(&self, result: Result<Response<Body>, ureq::Error>) -> anyhow::Result<Response<Body>> {
        let mut response =
            result.with_context(|| format!("no answer from {}; is the server running, and is --server right?", self.server))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.as_u16() == 401 {
            return Err(NotAllowed.into());
        }
        let problem: Value = response.body_mut().with_config().limit(64 * 1024).read_json().unwrap_or_default();
        let said = ["detail", "title"].iter().find_map(|key| problem.get(key)?.as_str());
        Err(anyhow::anyhow!("{}", said.map_or_else(|| format!("the server answered {status}"), str::to_owned)))
    }
}
