//! One bearer token in front of everything.
//!
//! Invariant: tokens are compared by their digests, so that time tells nothing; a token never reaches a log. A browser trades the
//! token in its first address for a cookie. Not here: users.

use std::{path::Path, sync::Arc};

use anyhow::{Context, ensure};
use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, Method, StatusCode,
        header::{AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE},
    },
    middleware::Next,
    response::{Html, IntoResponse, Response},
};
use wayside_common::id::Digest;

use super::problem::Problem;
use crate::{
    disk::{self, Access},
    ui,
};

const COOKIE_NAME: &str = "wayside-token";

/// What a client must know.
#[derive(Clone)]
pub struct Token {
    text: Arc<str>,
    digest: Digest,
}

impl Token {
    fn new(text: &str) -> Self {
        Self { text: text.into(), digest: Digest::of(text.as_bytes()) }
    }

    /// The given one, else the one in the file, else a new one; the file has it afterwards.
    pub fn open(file: &Path, given: Option<&str>) -> anyhow::Result<Self> {
        let kept = match std::fs::read_to_string(file) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(e).with_context(|| format!("could not read {}", file.display())),
        };
        let text = match given.map(str::to_owned).or_else(|| kept.clone().filter(|kept| !kept.is_empty())) {
            Some(text) => text,
            None => {
                let mut bytes = [0; 24];
                getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no random bytes for the token: {e}"))?;
                hex::encode(bytes)
            }
        };
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b));
        ensure!(plain && (8..=128).contains(&text.len()), "a token has 8 to 128 characters of A-Z a-z 0-9 - _ . ~");
        if kept.as_deref() != Some(&text) {
            disk::replace(file, format!("{text}\n").as_bytes(), Access::OwnerAlone)
                .with_context(|| format!("could not write {}", file.display()))?;
        }
        Ok(Self::new(&text))
    }

    /// For the operator's terminal alone.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    fn is(&self, text: &str) -> bool {
        Digest::of(text.as_bytes()) == self.digest
    }
}

pub async fn require(State(token): State<Token>, request: Request, next: Next) -> Response {
    if of_client(request.method(), request.headers()).is_some_and(|text| token.is(&text)) {
        return next.run(request).await;
    }
    let in_address = request.uri().query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("token=")));
    if request.uri().path() == "/" && in_address.is_some_and(|text| token.is(text)) {
        let cookie = format!("{COOKIE_NAME}={}; Path=/; HttpOnly; SameSite=Strict", token.text);
        return (StatusCode::SEE_OTHER, [(SET_COOKIE, cookie), (LOCATION, "/".into())]).into_response();
    }
    if request.uri().path() == "/" {
        return (StatusCode::UNAUTHORIZED, Html(ui::SIGN_IN)).into_response();
    }
    Problem::new(StatusCode::UNAUTHORIZED, "the token is missing or wrong; the server printed it when it started").into_response()
}

/// The cookie is for looking alone: a page of another local server could make a browser send it with a write.
fn of_client(method: &Method, headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        return value.to_str().ok()?.strip_prefix("Bearer ").map(str::to_owned);
    }
    let cookies = headers.get(COOKIE).filter(|_| method.is_safe())?.to_str().ok()?;
    cookies.split(';').find_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('=')).map(str::to_owned)
}
