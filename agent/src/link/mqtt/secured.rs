//! What a connection with TLS needs beside a broker: this device's identity, and the time.
//!
//! Invariant: every connection is made with the identity of that moment. Where the device's time was not trusted at the handshake, the
//! server is asked for it first; nothing that came before the answer is believed, and a certificate that is not good at the answered time
//! ends the connection. Not here: MQTT (`mqtt`), verification (`enroll::verifier`).

use std::{
    error::Error,
    io,
    sync::{Arc, PoisonError},
};

use rumqttc::{TlsConfiguration, Transport, v5::ConnectionError};
use rustls::AlertDescription;
use tokio::sync::{Notify, watch};

use crate::{
    clock::Timekeeper,
    enroll::{
        identity::Identity,
        verifier::{Accepted, Dated, certificates, client_config},
    },
};

#[derive(Clone)]
pub struct Secured {
    pub identity: watch::Receiver<Arc<Identity>>,
    pub time: Timekeeper,
    /// Told when a broker does not take the certificate.
    pub refused: Arc<Notify>,
}

impl Secured {
    /// For one connection; the dates of the broker's certificate are noted in `accepted`.
    pub fn transport(&self, accepted: &Accepted) -> anyhow::Result<Transport> {
        let identity = self.identity.borrow().clone();
        let dated = Dated::new(&certificates(&identity.authorities)?, self.time.clone(), accepted.clone())?;
        let config = client_config(Arc::new(dated), Some(&identity))?;
        Ok(Transport::Tls(TlsConfiguration::Rustls(Arc::new(config))))
    }

    /// The number of a question for the time, where one must be asked.
    pub fn question(&self) -> Option<u64> {
        if self.time.now().is_trusted() {
            return None;
        }
        self.time.ask().inspect_err(|error| tracing::error!(%error, "the time cannot be asked for")).ok()
    }

    /// Takes the answer, and judges the connection by it.
    pub fn answered(&self, document: &[u8], accepted: &Accepted) -> Answered {
        let key = self.identity.borrow().timestamp_key.clone();
        if let Err(error) = self.time.answered(document, &key) {
            tracing::warn!(%error, "an answer for the time is ignored");
            // A renewal may have asked, and been answered, meanwhile.
            if !self.time.now().is_trusted() {
                return Answered::Ignored;
            }
        }
        let now = self.time.now().at;
        tracing::info!(%now, "the server has told the time");
        let dates = *accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if dates.is_some_and(|dates| dates.holds(now)) { Answered::Good } else { Answered::CertificateIsNot }
    }

    /// A connection ended before it stood: was it because of our certificate?
    pub fn note_end(&self, error: &ConnectionError, accepted: &Accepted) {
        // A broker that has shown itself and then hangs up may have sent an alert that was lost with the connection. Only a device that
        // cannot tell whether its certificate has expired takes that for a refusal.
        let hung_up = accepted.lock().unwrap_or_else(PoisonError::into_inner).is_some() && !self.time.now().is_trusted();
        if hung_up || refuses_certificate(error) {
            self.refused.notify_one();
        }
    }
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It is no answer to the question.
    Ignored,
    Good,
    /// The broker's certificate is not good at that time.
    CertificateIsNot,
}

/// Whether the other end says that it does not take the certificate.
pub fn refuses_certificate(error: &ConnectionError) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let inner =
            error.downcast_ref::<io::Error>().and_then(|error| error.get_ref()).and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = inner.or(error.downcast_ref()) {
            use AlertDescription::{AccessDenied, BadCertificate, CertificateExpired, CertificateRevoked, CertificateUnknown, UnknownCA};
            return matches!(
                alert,
                CertificateExpired | CertificateUnknown | BadCertificate | CertificateRevoked | UnknownCA | AccessDenied
            );
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_about_the_certificate_is_told_from_every_other_end() {
        struct Case(ConnectionError, bool);
        let tls = |alert| io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert));
        let cases = [
            Case(ConnectionError::Io(tls(AlertDescription::CertificateExpired)), true),
            Case(ConnectionError::MqttState(rumqttc::v5::StateError::Io(tls(AlertDescription::CertificateExpired))), true),
            Case(ConnectionError::Tls(rumqttc::TlsError::Io(tls(AlertDescription::UnknownCA))), true),
            Case(ConnectionError::Io(tls(AlertDescription::InternalError)), false),
            Case(ConnectionError::Io(io::ErrorKind::ConnectionRefused.into()), false),
            Case(ConnectionError::RequestsDone, false),
        ];
        for Case(error, expected) in cases {
            assert_eq!(refuses_certificate(&error), expected, "{error}");
        }
    }
}
