//! One question to the server over HTTPS, and its answer.
//!
//! Invariant: one connection, one request, one bounded answer, within a time; nothing that the other end says panics. Not here: whom to
//! believe (`verifier`), what is asked (`enroll`).

use std::{io, sync::Arc, time::Duration};

use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use wayside_common::enrolment::MAX_ANSWER;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const MAX_HEADERS: usize = 32;
/// Of what the head of an answer may have.
const MAX_HEAD: usize = 16 * 1024;

/// Why there is no answer; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("{0:?} is not a server's address; write https://HOST:PORT")]
    Url(String),
    #[error("{0} cannot be reached: {1}; is the server running, and is the way to it open?")]
    Unreachable(String, io::Error),
    #[error(
        "the server at {0} is not the one that this device is to trust: its CA has another key; is the address right, and the token whole?"
    )]
    Stranger(String),
    #[error("the server at {0} has a certificate for other names; add this one to `names` in [pki] of its configuration")]
    Name(String),
    #[error("the certificate of the server at {0} is not good at this device's time; is the clock right? (timedatectl set-ntp true)")]
    Dates(String),
    #[error("TLS with {0}: {1}")]
    Tls(String, String),
    #[error("the server refuses: {detail}")]
    Refused { status: u16, detail: String },
    #[error("{0} gives no proper answer: {1}")]
    Answer(String, String),
}

/// Where a server is.
struct Address {
    authority: String,
    host: String,
}

fn address(url: &str) -> Result<Address, ExchangeError> {
    let malformed = || ExchangeError::Url(url.chars().take(120).collect());
    let authority = url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/')).ok_or_else(malformed)?;
    let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains(['/', '@', '?', ' ']) || port.parse::<u16>().is_err() {
        return Err(malformed());
    }
    Ok(Address { authority: authority.into(), host: host.into() })
}

/// POSTs `body` as JSON to `url` + `path`.
pub async fn post<T: DeserializeOwned>(url: &str, path: &str, body: &impl Serialize, tls: ClientConfig) -> Result<T, ExchangeError> {
    let Address { authority, host } = address(url)?;
    let unreachable = |error| ExchangeError::Unreachable(authority.clone(), error);
    let name = ServerName::try_from(host).map_err(|_| ExchangeError::Url(url.into()))?;
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let tcp = timeout(CONNECT_WITHIN, TcpStream::connect(&authority)).await.map_err(late).flatten().map_err(unreachable)?;
    let connecting = timeout(CONNECT_WITHIN, TlsConnector::from(Arc::new(tls)).connect(name, tcp));
    let mut stream = connecting.await.map_err(late).flatten().map_err(|error| of_tls(&authority, error))?;
    let answer = |what: &str| ExchangeError::Answer(authority.clone(), what.to_owned());
    let body = serde_json::to_vec(body).map_err(|e| answer(&e.to_string()))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let asked = async {
        stream.write_all(&[head.as_bytes(), &body].concat()).await?;
        stream.flush().await?;
        let mut bytes = Vec::new();
        // An end without a farewell is told from a whole answer by its length.
        match (&mut stream).take((MAX_HEAD + MAX_ANSWER) as u64).read_to_end(&mut bytes).await {
            Err(error) if bytes.is_empty() => Err(error),
            _ => Ok(bytes),
        }
    };
    let bytes = timeout(ANSWER_WITHIN, asked).await.map_err(late).flatten().map_err(|error| answer(&error.to_string()))?;
    let (status, body) = read(&bytes).map_err(|what| answer(&what))?;
    if status != 200 {
        return Err(ExchangeError::Refused { status, detail: detail(status, body) });
    }
    serde_json::from_slice(body).map_err(|e| answer(&e.to_string()))
}

/// Status and body of a whole answer.
fn read(bytes: &[u8]) -> Result<(u16, &[u8]), String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(|e| e.to_string())? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Err("it breaks off".into()),
    };
    let named = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let length = named("content-length").and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let length = length.filter(|length| *length <= MAX_ANSWER).ok_or("it has no length, or too much of it")?;
    let body = bytes.get(head..).and_then(|rest| rest.get(..length)).ok_or("it breaks off")?;
    Ok((response.code.unwrap_or(0), body))
}

/// What a problem document says, or nothing that could steer a terminal.
fn detail(status: u16, body: &[u8]) -> String {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = problem.get("detail").and_then(serde_json::Value::as_str).unwrap_or_default();
    let clean: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    if clean.is_empty() { format!("status {status}") } else { clean }
}

fn of_tls(authority: &str, error: io::Error) -> ExchangeError {
    let authority = authority.to_owned();
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return ExchangeError::Unreachable(authority, error);
    };
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    match tls {
        rustls::Error::InvalidCertificate(UnknownIssuer) => ExchangeError::Stranger(authority),
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => ExchangeError::Name(authority),
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }) => {
            ExchangeError::Dates(authority)
        }
        other => ExchangeError::Tls(authority, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_https_address_with_a_port_is_asked() {
        for (url, host) in [
            ("https://sync.example:8443", Some("sync.example")),
            ("https://127.0.0.1:8443/", Some("127.0.0.1")),
            ("https://[::1]:8443", Some("::1")),
            ("http://127.0.0.1:8443", None),
            ("https://127.0.0.1", None),
            ("https://:8443", None),
            ("https://user@host:8443", None),
            ("https://host:99999", None),
            ("", None),
        ] {
            assert_eq!(address(url).ok().map(|address| address.host).as_deref(), host, "{url}");
        }
    }

    #[test]
    fn an_answer_is_whole_and_bounded_or_an_error() {
        struct Case(&'static [u8], Result<(u16, &'static [u8]), &'static str>);
        let cases = [
            Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Ok((200, b"{}"))),
            Case(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", Ok((403, b""))),
            Case(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}", Err("breaks off")),
            Case(b"HTTP/1.1 200 OK\r\ncontent-le", Err("breaks off")),
            Case(b"HTTP/1.1 200 OK\r\n\r\n{}", Err("no length")),
            Case(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{}", Err("no length")),
            Case(b"SSH-2.0-x\r\n\r\n", Err("")),
            Case(b"", Err("breaks off")),
        ];
        for Case(bytes, expected) in cases {
            match (read(bytes), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(got), Err(says)) => assert!(got.contains(says), "{got} lacks {says}"),
                (got, expected) => panic!("{got:?} and {expected:?}"),
            }
        }
        assert_eq!(detail(403, b"{\"detail\": \"no\\u001b[31m\"}"), "no[31m");
        assert_eq!(detail(500, b"<html>"), "status 500");
    }
}
