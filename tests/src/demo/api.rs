//! The server's REST API as the demo reads it.
//!
//! Invariant: everything that the demo reports of stored data came through here. Fields that the demo does not need are not read. Not
//! here: when to ask, and what the answers mean.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use ureq::{Agent, Body, http::Response};

use super::{interrupt, ranges::Ranges};

const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// Rows per page; the server may give fewer.
const PAGE: u32 = 1_000;
/// A server that was killed is back by then.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Api {
    agent: Agent,
    pub address: String,
    pub token: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    pub name: String,
    pub version: u32,
    pub digest: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Slot {
    pub slot: String,
    pub active: Option<Model>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Device {
    pub id: String,
    pub online: bool,
    pub storage_fault: bool,
    pub slots: Vec<Slot>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Stream {
    pub epoch: String,
    pub stream: String,
    pub records: u64,
    pub positions: Ranges,
    pub degraded: Ranges,
    pub duplicate_positions: u64,
    pub redelivered: u64,
    pub differing: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct GapEntry {
    pub epoch: String,
    pub stream: String,
    pub from: Option<u64>,
    pub to: Option<u64>,
    pub span: (i64, i64),
    pub count: Option<u64>,
    pub unknown: bool,
    pub reason: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Frame {
    pub position: u64,
    pub item: String,
    pub label: Option<String>,
    pub model: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Prediction {
    pub to: u64,
    pub label: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    pub position: u64,
    pub values: Vec<Option<i32>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Readings {
    rows: Vec<Row>,
    complete: bool,
    next_ms: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Sample {
    pub id: String,
    pub device: String,
    pub item: String,
    pub position: u64,
    pub embedding: Option<usize>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseDevice {
    pub device: String,
    pub state: String,
    pub stage: Option<String>,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Release {
    pub model: String,
    pub version: u32,
    pub digest: String,
    pub slot: String,
    pub state: String,
    pub devices: Vec<ReleaseDevice>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Retraining {
    pub job: String,
    pub state: String,
    pub exit_status: Option<i64>,
    pub candidate: Option<Model>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct RegistryModel {
    pub version: u32,
    pub digest: String,
    pub state: String,
}

impl Api {
    pub fn new(address: String, token: String) -> Self {
        let agent = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(20))).build().into();
        Self { agent, address, token }
    }

    pub fn devices(&self) -> anyhow::Result<Vec<Device>> {
        self.get("/v1/devices")
    }

    pub fn streams(&self, device: &str) -> anyhow::Result<Vec<Stream>> {
        self.get(&format!("/v1/devices/{device}/streams"))
    }

    pub fn gaps(&self, device: &str) -> anyhow::Result<Vec<GapEntry>> {
        self.get(&format!("/v1/devices/{device}/gaps"))
    }

    pub fn frames(&self, device: &str) -> anyhow::Result<Vec<Frame>> {
        #[derive(Deserialize)]
        struct Page {
            frames: Vec<Frame>,
            next: Option<u64>,
        }
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page: Page = self.get(&page_path(device, "frames", after))?;
            all.extend(page.frames);
            match page.next {
                Some(next) if Some(next) > after => after = Some(next),
                Some(next) => bail!("the page of frames after {after:?} points back to {next}"),
                None => return Ok(all),
            }
        }
    }

    pub fn predictions(&self, device: &str) -> anyhow::Result<Vec<Prediction>> {
        #[derive(Deserialize)]
        struct Page {
            predictions: Vec<Prediction>,
            next: Option<u64>,
        }
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page: Page = self.get(&page_path(device, "predictions", after))?;
            all.extend(page.predictions);
            match page.next {
                Some(next) if Some(next) > after => after = Some(next),
                Some(next) => bail!("the page of predictions after {after:?} points back to {next}"),
                None => return Ok(all),
            }
        }
    }

    /// All readings of a source in a time range, in Unix milliseconds, both ends inclusive.
    pub fn readings(&self, device: &str, source: &str, mut from: i64, to: i64) -> anyhow::Result<Vec<Row>> {
        let mut all = Vec::new();
        loop {
            let page: Readings = self.get(&format!("/v1/devices/{device}/readings?source={source}&from={from}&to={to}&limit={PAGE}"))?;
            all.extend(page.rows);
            match page.next_ms {
                Some(next) if !page.complete && next >= from => from = next.max(from + i64::from(next == from)),
                Some(next) if !page.complete => bail!("the page of readings from {from} points back to {next}"),
                None if !page.complete => bail!("the page of readings from {from} is cut and does not say where to go on"),
                _ => break,
            }
        }
        // Pages meet at one millisecond, which both may hold.
        all.sort_by_key(|row| row.position);
        all.dedup_by_key(|row| row.position);
        Ok(all)
    }

    pub fn samples_to_label(&self, limit: u32) -> anyhow::Result<Vec<Sample>> {
        self.get(&format!("/v1/samples?labelled=false&limit={limit}"))
    }

    pub fn label(&self, sample: &str, label: &str) -> anyhow::Result<()> {
        let body = serde_json::json!({ "label": label });
        let path = format!("/v1/samples/{sample}/label");
        let call = || {
            let request = self.agent.put(format!("{}{path}", self.address)).header("authorization", format!("Bearer {}", self.token));
            request.send_json(&body)
        };
        checked(&path, patiently(call)?).map(|_| ())
    }

    pub fn releases(&self) -> anyhow::Result<Vec<Release>> {
        self.get("/v1/releases")
    }

    pub fn retraining(&self) -> anyhow::Result<Vec<Retraining>> {
        self.get("/v1/retrain")
    }

    pub fn models(&self) -> anyhow::Result<Vec<RegistryModel>> {
        self.get("/v1/models")
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let call = || self.agent.get(format!("{}{path}", self.address)).header("authorization", format!("Bearer {}", self.token)).call();
        let mut response = checked(path, patiently(call)?)?;
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string().with_context(|| format!("GET {path} broke off"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("GET {path} gave something else than was asked for: {}", text.chars().take(300).collect::<String>()))
    }
}

/// Calls again while nobody answers: somebody may have killed the server, which is then started again.
fn patiently<T>(call: impl Fn() -> Result<T, ureq::Error>) -> anyhow::Result<Result<T, ureq::Error>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt::check()?;
        let answer = call();
        if answer.is_ok() || Instant::now() >= deadline {
            return Ok(answer);
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn page_path(device: &str, what: &str, after: Option<u64>) -> String {
    let after = after.map_or_else(String::new, |position| format!("after_position={position}&"));
    format!("/v1/devices/{device}/{what}?{after}limit={PAGE}")
}

fn checked(path: &str, answer: Result<Response<Body>, ureq::Error>) -> anyhow::Result<Response<Body>> {
    let mut response = answer.with_context(|| format!("no answer to {path}"))?;
    if !response.status().is_success() {
        let text = response.body_mut().with_config().limit(4_096).read_to_string().unwrap_or_default();
        bail!("{path} was answered with {}: {text}", response.status());
    }
    Ok(response)
}
