//! One bearer token in front of everything.
//!
//! Invariant: what a client gives is compared in constant time; a token never reaches a log. A browser trades the token in its first
//! address for a cookie, which opens reading alone and from which nobody gets the token. Not here: users.

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
use subtle::ConstantTimeEq;
use wayside_common::id::Digest;

use super::problem::Problem;
use crate::{
    disk::{self, Access},
    ui,
};

const COOKIE_NAME: &str = "wayside-page";
/// Hashed before the token, so that the cookie is of use for nothing else.
const COOKIE_PURPOSE: &str = "wayside cookie";

/// What a client must know.
#[derive(Clone)]
pub struct Token {
    text: Arc<str>,
    /// What a browser keeps instead: cookies are not separated by port, so every local server it visits gets them.
    cookie: Arc<str>,
}

impl Token {
    fn new(text: &str) -> Self {
        let cookie = Digest::of(format!("{COOKIE_PURPOSE}{text}").as_bytes()).to_string();
        Self { text: text.into(), cookie: cookie.into() }
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
        same(&self.text, text)
    }

    /// The cookie is for looking alone: a page of another local server could make a browser send it with a write.
    fn admits(&self, method: &Method, headers: &HeaderMap) -> bool {
        if let Some(value) = headers.get(AUTHORIZATION) {
            let bearer = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
            return bearer.is_some_and(|text| self.is(text));
        }
        let cookies = headers.get(COOKIE).filter(|_| method.is_safe()).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut ours = cookies.split(';').filter_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='));
        ours.any(|value| same(&self.cookie, value))
    }
}

pub async fn require(State(token): State<Token>, request: Request, next: Next) -> Response {
    if token.admits(request.method(), request.headers()) {
        return next.run(request).await;
    }
    let in_address = request.uri().query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("token=")));
    if request.uri().path() == "/" && in_address.is_some_and(|text| token.is(text)) {
        let cookie = format!("{COOKIE_NAME}={}; Path=/; HttpOnly; SameSite=Strict", token.cookie);
        return (StatusCode::SEE_OTHER, [(SET_COOKIE, cookie), (LOCATION, "/".into())]).into_response();
    }
    if request.uri().path() == "/" {
        return (StatusCode::UNAUTHORIZED, Html(ui::SIGN_IN)).into_response();
    }
    Problem::new(StatusCode::UNAUTHORIZED, "the token is missing or wrong; the server printed it when it started").into_response()
}

fn same(right: &str, given: &str) -> bool {
    right.as_bytes().ct_eq(given.as_bytes()).into()
}
