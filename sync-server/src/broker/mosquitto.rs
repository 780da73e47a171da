//! The configuration of a Mosquitto broker for a fleet: two texts, made from the same rules as the embedded broker's.
//!
//! Invariant: a client that is not the server touches only what `topic::device_rules` gives it, by a name that it cannot choose
//! (the CN of its certificate). Not here: writing files, starting Mosquitto.
//!
//! Mosquitto knows no O, so it does not check the fleet: the CA of its listener must be the fleet's own.

use std::{fmt::Write, net::SocketAddr, path::Path};

use wayside_common::{id::FleetId, topic, wire::MAX_PACKET};

use super::TlsFiles;

/// The server's client id, user and CN. No device can have it: a device id holds no dot.
pub const SERVER: &str = "wayside.server";

/// Where devices and the server connect.
pub enum Listener<'a> {
    /// TLS 1.3, certificates from both ends.
    Tls {
        address: SocketAddr,
        files: &'a TlsFiles,
        /// Certificates that are no longer good; Mosquitto reads the list when it starts.
        revoked: Option<&'a Path>,
    },
    /// Plain, for one machine: a client is who it says it is.
    Loopback { port: u16 },
}

/// Contents of two files.
pub struct Rendered {
    pub configuration: String,
    pub access: String,
}

/// `access_file` is where the second text will lie, `store` the folder in which Mosquitto keeps sessions over a restart.
pub fn render(fleet: &FleetId, listener: &Listener<'_>, access_file: &Path, store: &Path) -> Rendered {
    let mut text = String::from("# Written by `wayside broker mosquitto-config`.\n\n");
    // A String takes every write.
    listen(&mut text, listener).expect("writing to a String does not fail");
    limits(&mut text, access_file, store).expect("writing to a String does not fail");
    Rendered { configuration: text, access: access(fleet, listener) }
}

fn listen(text: &mut String, listener: &Listener<'_>) -> std::fmt::Result {
    match listener {
        Listener::Tls { address, files, revoked } => {
            writeln!(text, "listener {} {}", address.port(), address.ip())?;
            writeln!(text, "cafile {}", files.ca.display())?;
            writeln!(text, "certfile {}", files.cert.display())?;
            writeln!(text, "keyfile {}", files.key.display())?;
            if let Some(list) = revoked {
                writeln!(text, "crlfile {}", list.display())?;
            }
            text.push_str("tls_version tlsv1.3\nrequire_certificate true\n");
            text.push_str("# The CN is the user and replaces the client id: what a client calls itself does not matter.\n");
            text.push_str("use_identity_as_username true\nuse_username_as_clientid true\nallow_anonymous false\n");
        }
        Listener::Loopback { port } => {
            writeln!(text, "listener {port} 127.0.0.1")?;
            text.push_str("# Whoever can connect to a loopback address is the operator.\nallow_anonymous true\n");
        }
    }
    Ok(())
}

fn limits(text: &mut String, access_file: &Path, store: &Path) -> std::fmt::Result {
    writeln!(text, "\nacl_file {}", access_file.display())?;
    writeln!(text, "allow_zero_length_clientid false")?;
    writeln!(text, "\nmax_packet_size {MAX_PACKET}")?;
    writeln!(text, "message_size_limit {MAX_PACKET}")?;
    writeln!(text, "max_connections 10000")?;
    writeln!(text, "max_keepalive 120")?;
    writeln!(text, "max_topic_alias 0")?;
    writeln!(text, "max_inflight_messages 16")?;
    writeln!(text, "max_queued_messages 64")?;
    writeln!(text, "max_queued_bytes {}", 16 * MAX_PACKET)?;
    writeln!(text, "queue_qos0_messages false")?;
    writeln!(text, "persistent_client_expiration 7d")?;
    text.push_str("\n# Acknowledged publishes outlive a restart. Those since the last save do not outlive a power cut;\n");
    text.push_str("# the acks of the application are what devices rely on.\n");
    writeln!(text, "persistence true")?;
    writeln!(text, "persistence_location {}/", store.display())?;
    writeln!(text, "autosave_interval 10")?;
    writeln!(text, "\nsys_interval 0")
}

fn access(fleet: &FleetId, listener: &Listener<'_>) -> String {
    let placeholder = match listener {
        Listener::Tls { .. } => "%u",
        Listener::Loopback { .. } => "%c",
    };
    let (publish, read) = topic::device_rules(fleet, placeholder);
    let mut text = format!("# The server.\nuser {SERVER}\ntopic read {}\n", topic::all_up(fleet));
    for filter in topic::all_written(fleet) {
        text.push_str(&format!("topic write {filter}\n"));
    }
    text.push_str("\n# Every device.\n");
    for filter in publish {
        text.push_str(&format!("pattern write {filter}\n"));
    }
    for filter in read {
        text.push_str(&format!("pattern read {filter}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_13_with_a_certificate_gets_in_and_the_cn_is_the_name() {
        let files = TlsFiles { ca: "/etc/w/ca.pem".into(), cert: "/etc/w/server.pem".into(), key: "/etc/w/server.key".into() };
        let fleet: FleetId = "plant".parse().unwrap();
        let listener = Listener::Tls { address: "0.0.0.0:8883".parse().unwrap(), files: &files, revoked: None };
        let rendered = render(&fleet, &listener, Path::new("/etc/w/acl"), Path::new("/var/lib/w"));
        for line in [
            "listener 8883 0.0.0.0",
            "cafile /etc/w/ca.pem",
            "tls_version tlsv1.3",
            "require_certificate true",
            "use_identity_as_username true",
            "use_username_as_clientid true",
            "allow_anonymous false",
            "acl_file /etc/w/acl",
            "max_packet_size 262144",
            "persistence true",
        ] {
            assert!(rendered.configuration.lines().any(|l| l == line), "{line}");
        }
        let (publish, _) = topic::device_rules(&fleet, "%u");
        for line in [format!("user {SERVER}"), format!("topic read {}", topic::all_up(&fleet)), format!("pattern write {}", publish[0])] {
            assert!(rendered.access.lines().any(|l| l == line), "{line}");
        }
        assert!(!rendered.access.contains("readwrite"));
    }

    #[test]
    fn the_plain_variant_listens_on_loopback_alone() {
        let fleet: FleetId = "plant".parse().unwrap();
        let rendered = render(&fleet, &Listener::Loopback { port: 1883 }, Path::new("acl"), Path::new("store"));
        assert!(rendered.configuration.contains("listener 1883 127.0.0.1\n"));
        let (_, read) = topic::device_rules(&fleet, "%c");
        assert!(rendered.access.contains(&format!("pattern read {}\n", read[0])));
    }
}
