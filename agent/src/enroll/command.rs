//! `wayside-agent enroll`: makes this device a member of a fleet, or renews its certificate by hand.
//!
//! Invariant: a configuration file that cannot be read is found before the token is used; one that is there keeps everything but the address
//! of the broker. Not here: the exchange (`enroll`).

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use wayside_common::enrolment::Token;

use super::{
    enroll,
    identity::{Identity, replace},
    renew,
};
use crate::{
    clock::{Clock, Timekeeper},
    config::Config,
};

const DEFAULT_CONFIG: &str = "/etc/wayside/agent.toml";
const DEFAULT_DATA: &str = "/var/lib/wayside-agent";

#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the server enrols devices: https://HOST:PORT
    #[arg(value_name = "URL", required_unless_present = "renew")]
    server: Option<String>,
    /// What `wayside device add` printed; good once
    // One token in 64 begins with a hyphen.
    #[arg(long, required_unless_present = "renew", conflicts_with = "renew", allow_hyphen_values = true)]
    token: Option<Token>,
    /// Get a new certificate for the one that this device has, even if that has expired
    #[arg(long)]
    renew: bool,
    /// Configuration file; made where there is none
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Where the identity is kept; absent: as the configuration says
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { server, token, renew: again, config, data_dir } = arguments;
    let present = if config.exists() { Some(Config::load(&config)?) } else { None };
    let data_dir = data_dir.or_else(|| present.as_ref().map(|config| config.data_dir.clone())).unwrap_or_else(|| DEFAULT_DATA.into());
    let time = Timekeeper::new(Clock::start(), None);
    let said = if again {
        let known = Identity::load(&data_dir)?;
        let mut known = known.with_context(|| format!("{} holds no identity; enrol with a token first", data_dir.display()))?;
        known.server = server.unwrap_or(known.server);
        let renewed = renew(&known, &time).await?;
        renewed.save(&data_dir)?;
        format!("{} has a new certificate, good until {}", renewed.device, renewed.validity()?.until)
    } else {
        let (Some(server), Some(token)) = (server, token) else { bail!("give the server's address and --token") };
        let (identity, root) = enroll(&server, token, &time).await?;
        check(present.as_ref(), &identity)?;
        Identity::save_root(&data_dir, &root)?;
        identity.save(&data_dir)?;
        configure(&config, present.as_ref(), &data_dir, &identity)?;
        let until = identity.validity()?.until;
        format!(
            "{} is enrolled in {}, certificate good until {until}\nNext: wayside-agent run --config {}",
            identity.device,
            identity.fleet,
            config.display()
        )
    };
    writeln!(std::io::stdout(), "{said}")?;
    Ok(ExitCode::SUCCESS)
}

fn check(present: Option<&Config>, identity: &Identity) -> anyhow::Result<()> {
    let Some(device) = present.map(|config| &config.device) else { return Ok(()) };
    ensure!(
        (&device.id, &device.fleet, &device.class) == (&identity.device, &identity.fleet, &identity.class),
        "the token is for {} ({}) of {}, and the configuration says {} ({}) of {}; nothing was changed, and the token is used up",
        identity.device,
        identity.class,
        identity.fleet,
        device.id,
        device.class,
        device.fleet
    );
    Ok(())
}

/// Makes the file, or changes the one line in it that names another broker.
fn configure(path: &Path, present: Option<&Config>, data_dir: &Path, identity: &Identity) -> anyhow::Result<()> {
    let text = match present {
        None => first(data_dir, identity),
        Some(Config { link, .. }) => match &link.broker {
            // The identity says where the broker is.
            None => return Ok(()),
            Some(broker) if broker.to_string() == identity.broker => return Ok(()),
            Some(_) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
                let hint = || format!("write `broker = \"{}\"` into [link] of {}", identity.broker, path.display());
                with_broker(&text, &identity.broker).with_context(hint)?
            }
        },
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    replace(path, text.as_bytes(), 0o644).with_context(|| format!("{} cannot be written", path.display()))
}

fn first(data_dir: &Path, identity: &Identity) -> String {
    let data_dir = toml::Value::String(data_dir.to_string_lossy().into_owned());
    let Identity { device, fleet, class, .. } = identity;
    format!(
        "# Written by `wayside-agent enroll`. Add what this device senses: [[source]] and [[slot]].\ndata_dir = {data_dir}\n\n\
         [device]\nid = \"{device}\"\nfleet = \"{fleet}\"\nclass = \"{class}\"\n"
    )
}

/// The text with another broker; `None` where the line is not found, or something else would change.
fn with_broker(text: &str, broker: &str) -> Option<String> {
    let mut section = "";
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            section = trimmed;
        }
        let is_broker = section == "[link]" && trimmed.strip_prefix("broker").is_some_and(|rest| rest.trim_start().starts_with('='));
        lines.push(if is_broker { format!("broker = \"{broker}\"") } else { line.to_owned() });
    }
    let changed = lines.join("\n") + "\n";
    let (before, after) = (Config::parse(text).ok()?, Config::parse(&changed).ok()?);
    let expected = Config { link: crate::link::mqtt::Config { broker: broker.parse().ok() }, ..before };
    (after == expected).then_some(changed)
}

#[cfg(test)]
mod tests {
    use wayside_common::time::Wall;

    use super::*;
    use crate::{enroll::fixture::Ca, scratch::Scratch};

    const OWN: &str = "# mine\ndata_dir = \"d\"\n[device]\nid = \"cam-1\"\nfleet = \"plant\"\nclass = \"camera\"\n[link]\n# by hand\nbroker = \"mqtt://127.0.0.1:1883\"\n\n[samples]\nmargin_below = 0.5\n";

    #[test]
    fn a_configuration_is_made_where_there_is_none_and_only_its_broker_is_changed_where_there_is_one() {
        let scratch = Scratch::new();
        let identity = Ca::new("plant").identity("cam-1", (Wall(0), Wall(1_000)));
        let path = scratch.path().join("etc/agent.toml");
        configure(&path, None, scratch.path(), &identity).unwrap();
        let made = Config::load(&path).unwrap();
        assert_eq!((made.device.id.as_str(), made.link.broker, made.data_dir.as_path()), ("cam-1", None, scratch.path()));

        std::fs::write(&path, OWN).unwrap();
        configure(&path, Some(&Config::load(&path).unwrap()), scratch.path(), &identity).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, OWN.replace("mqtt://127.0.0.1:1883", "mqtts://127.0.0.1:8883"));
    }

    #[test]
    fn what_cannot_be_changed_by_one_line_is_left_to_a_person() {
        let inline = OWN
            .replace("[link]\n# by hand\nbroker = \"mqtt://127.0.0.1:1883\"\n", "")
            .replace("data_dir", "link.broker = \"mqtt://127.0.0.1:1\"\ndata_dir");
        assert!(Config::parse(&inline).is_ok());
        assert_eq!(with_broker(&inline, "mqtts://127.0.0.1:8883"), None);
        assert!(with_broker(OWN, "mqtts://127.0.0.1:8883").is_some());
    }

    #[test]
    fn a_token_for_another_device_is_found_out() {
        let identity = Ca::new("plant").identity("cam-2", (Wall(0), Wall(1_000)));
        let error = check(Some(&Config::parse(OWN).unwrap()), &identity).unwrap_err().to_string();
        assert!(error.contains("cam-2") && error.contains("cam-1"), "{error}");
        assert!(check(None, &identity).is_ok());
    }
}
