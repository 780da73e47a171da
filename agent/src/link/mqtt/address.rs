//! Where the broker is.
//!
//! Invariant: plain MQTT is for this machine alone; the type cannot name another. Not here: connecting.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};

/// `mqtts://HOST:PORT`, or `mqtt://HOST:PORT` on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    pub secure: bool,
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerUrlError {
    #[error("{0:?} is not a broker's address; write mqtts://HOST:PORT, or mqtt://HOST:PORT for one on this machine")]
    Malformed(String),
    #[error("{0:?}: without TLS only a broker on this machine is spoken to; write mqtts://")]
    Plain(String),
}

impl BrokerUrl {
    /// For a device that cannot know: TLS, and so never without an identity.
    pub fn nowhere() -> Self {
        Self { secure: true, host: "nowhere.invalid".into(), port: 0 }
    }
}

impl FromStr for BrokerUrl {
    type Err = BrokerUrlError;
    fn from_str(text: &str) -> Result<Self, BrokerUrlError> {
        let shown = || text.chars().take(120).collect::<String>();
        let malformed = || BrokerUrlError::Malformed(shown());
        let (secure, rest) = match (text.strip_prefix("mqtts://"), text.strip_prefix("mqtt://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(malformed()),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(malformed)?;
        if host.is_empty() || host.contains('/') {
            return Err(malformed());
        }
        let port = port.parse().map_err(|_| malformed())?;
        let local = host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !secure && !local {
            return Err(BrokerUrlError::Plain(shown()));
        }
        Ok(Self { secure, host: host.into(), port })
    }
}
impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mqtt{}://{}:{}", if self.secure { "s" } else { "" }, self.host, self.port)
    }
}
impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_address_inverts_and_a_bad_one_is_refused() {
        for good in ["mqtt://127.0.0.1:1883", "mqtt://localhost:1", "mqtts://broker.example:8883", "mqtt://[::1]:1883"] {
            assert_eq!(good.parse::<BrokerUrl>().unwrap().to_string(), good);
        }
        assert_eq!("mqtt://[::1]:1883".parse::<BrokerUrl>().unwrap().host, "[::1]");
        for bad in ["127.0.0.1:1883", "mqtt://localhost", "mqtt://:1", "mqtt://localhost:99999", "mqtts://a/b:1", ""] {
            assert!(matches!(bad.parse::<BrokerUrl>(), Err(BrokerUrlError::Malformed(_))), "{bad}");
        }
        assert!(matches!("mqtt://10.0.0.1:1883".parse::<BrokerUrl>(), Err(BrokerUrlError::Plain(_))));
    }
}
