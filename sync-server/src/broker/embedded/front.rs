//! The TLS front of the embedded broker: TLS 1.3 with a client certificate, then plain bytes to rmqtt over loopback.
//!
//! rmqtt builds its TLS configuration itself, with TLS 1.2 and a provider of its own; nothing outside it can change that, not
//! even a process-wide provider. So TLS ends here, and the subject of the verified certificate is known by the address from
//! which the inner connection comes.
//!
//! Invariant: a subject is noted before its inner connection opens and forgotten after it closed, so an address never stands for
//! another certificate; an inner connection without a subject (another program on this machine) has no identity. Not here: what
//! a subject may do (`acl`).

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::parse_x509_certificate;

use super::{DRAIN, HANDSHAKE, MAX_CONNECTIONS, MAX_HANDSHAKES};
use crate::broker::{self, Subject, TlsFiles};

/// Which certificate is behind an inner connection.
#[derive(Clone, Default)]
pub struct Subjects(Arc<Mutex<HashMap<SocketAddr, Subject>>>);

impl Subjects {
    pub fn of(&self, from: SocketAddr) -> Option<Subject> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&from).cloned()
    }
}

pub struct Front {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    inner: SocketAddr,
    subjects: Subjects,
}

pub async fn bind(listen: SocketAddr, tls: Arc<ServerConfig>, inner: SocketAddr) -> anyhow::Result<Front> {
    let acceptor = TlsAcceptor::from(tls);
    // `bind` sets SO_REUSEADDR, so that a restart after a kill finds the port free.
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    Ok(Front { listener, acceptor, inner, subjects: Subjects::default() })
}

pub fn configuration(files: &TlsFiles) -> anyhow::Result<ServerConfig> {
    let read = |path: &std::path::Path| -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        certificates.with_context(|| format!("reading certificates from {}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in read(&files.ca)? {
        roots.add(certificate)?;
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).with_context(|| format!("reading the key {}", files.key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let mut configuration = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(read(&files.cert)?, key)?;
    // Without tickets every connection shows its certificate again.
    configuration.send_tls13_tickets = 0;
    Ok(configuration)
}

impl Front {
    pub fn subjects(&self) -> Subjects {
        self.subjects.clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener has an address")
    }

    /// Accepts until it is dropped; its connections end with it.
    pub async fn run(self) {
        let (open, handshakes) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(Semaphore::new(MAX_HANDSHAKES)));
        let mut connections = JoinSet::new();
        loop {
            let permit = open.clone().acquire_owned().await.expect("the semaphore is never closed");
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let (device, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, for example: connections that end make room.
                    tracing::warn!(%error, "a connection is not accepted");
                    connections.join_next().await;
                    continue;
                }
            };
            let (acceptor, inner, subjects, handshakes) = (self.acceptor.clone(), self.inner, self.subjects.clone(), handshakes.clone());
            connections.spawn(async move {
                let _open = permit;
                if let Err(error) = serve(device, &acceptor, inner, &subjects, &handshakes).await {
                    tracing::debug!(%from, error = format!("{error:#}"), "a TLS connection ended");
                }
            });
        }
    }
}

async fn serve(
    device: TcpStream,
    acceptor: &TlsAcceptor,
    inner: SocketAddr,
    subjects: &Subjects,
    handshakes: &Semaphore,
) -> anyhow::Result<()> {
    device.set_nodelay(true)?;
    let device = {
        let _handshake = handshakes.acquire().await?;
        timeout(HANDSHAKE, acceptor.accept(device)).await.context("the TLS handshake took too long")?.context("TLS handshake")?
    };
    let subject = subject(&device).context("a certificate without a readable subject")?;
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let _noted = Noted::new(subjects, socket.local_addr()?, subject);
    let broker = socket.connect(inner).await.context("reaching the broker")?;
    broker.set_nodelay(true)?;
    join(device, broker).await;
    Ok(())
}

fn subject(device: &TlsStream<TcpStream>) -> Option<Subject> {
    let (_, connection) = device.get_ref();
    let (_, certificate) = parse_x509_certificate(connection.peer_certificates()?.first()?).ok()?;
    Some(broker::subject(&certificate))
}

/// A subject is known as long as this lives; it is dropped after the inner connection.
struct Noted<'a>(&'a Subjects, SocketAddr);

impl<'a> Noted<'a> {
    fn new(subjects: &'a Subjects, from: SocketAddr, subject: Subject) -> Self {
        subjects.0.lock().unwrap_or_else(PoisonError::into_inner).insert(from, subject);
        Self(subjects, from)
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// Copies both ways until one end is done. The broker gets all that the device wrote before its end, a DISCONNECT above all,
/// because without it the broker publishes the will.
async fn join(device: impl AsyncRead + AsyncWrite, broker: impl AsyncRead + AsyncWrite) {
    let (mut from_device, mut to_device) = split(device);
    let (mut from_broker, mut to_broker) = split(broker);
    let down = async {
        let _ = copy(&mut from_broker, &mut to_device).await;
        let _ = timeout(DRAIN, to_device.shutdown()).await;
    };
    tokio::pin!(down);
    tokio::select! {
        _ = copy(&mut from_device, &mut to_broker) => {
            let _ = to_broker.shutdown().await;
            let _ = timeout(DRAIN, down).await;
        }
        () = &mut down => {}
    }
}
