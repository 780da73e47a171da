//! What devices sent: records, the ledger, and who they are; the types in which the REST API shows them.
//!
//! Invariant: a record is stored once under (device, epoch, stream, seq) and never changed. Not here: releases, labels' use in
//! training, retraining runs (`registry`).

use async_trait::async_trait;
use serde::Serialize;
use wayside_common::{
    degraded::Fidelity,
    fleet::{Hello, SlotStatus},
    id::{DeviceId, Digest, SlotName, SourceName},
    reading::Column,
    record::Batch,
    sync::receiver::{Ack, Verdict},
    time::Wall,
    wire::Thumbnail,
};

/// A batch that passed every check that needs no store.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub device: DeviceId,
    pub batch: Batch,
    pub received: Wall,
}

/// What became of an [`Arrival`].
#[derive(Clone, Debug)]
pub enum Receipt {
    /// Committed, now or before.
    Stored { ack: Ack, verdict: Verdict, tally: Tally },
    /// The stream's row cannot take it now; it is to come again.
    Deferred { ack: Ack },
    /// It can never be stored.
    Refused(String),
    /// The store failed on it; it is to come again.
    Failed(String),
}

/// How the records of one batch met what was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub stored: u64,
    /// Came again with the content that is stored.
    pub redelivered: u64,
    /// Came again with other content; the first stays.
    pub differing: u64,
    /// Took the place of the same records in less fidelity.
    pub replaced: u64,
}

/// What the ledger and hello changed.
#[derive(Clone, Debug)]
pub struct HelloReceipt {
    /// Gaps that were not known before.
    pub new_gaps: u64,
    /// The version up to which this store has the device's ledger.
    pub ledger_version: u64,
    /// A person must look: the device looks restored or cloned, or this server has lost what it acked.
    pub alert: Option<String>,
}

/// What became of a thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureReceipt {
    Kept,
    /// A newer one is there.
    Late,
    /// The device has not said that it has such a slot.
    NoSlot,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Device {
    pub id: DeviceId,
    pub class: String,
    pub online: bool,
    /// Unix milliseconds of the server's clock.
    pub last_seen: i64,
    pub agent_version: String,
    pub epoch: Option<String>,
    /// Unix milliseconds of the device's clock.
    pub started: Option<i64>,
    /// Highest generation that the device says it obeyed.
    pub generation: u64,
    pub root_version: u64,
    pub targets_version: u64,
    pub storage_fault: bool,
    pub slots: Vec<SlotStatus>,
    pub redelivered: u64,
    pub differing: u64,
}

/// What is stored of one (epoch, stream), found by reading the content.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamContent {
    pub epoch: String,
    pub stream: String,
    pub watermark: u64,
    /// Committed above the watermark, `from..to`.
    pub ranges: Vec<(u64, u64)>,
    pub records: u64,
    /// Stored positions, merged, inclusive. Empty for streams whose records are no positions of a source.
    pub positions: Vec<(u64, u64)>,
    /// Positions stored in less than full fidelity.
    pub degraded: Vec<(u64, u64)>,
    /// Positions that were stored and are left in one-minute rollups alone.
    pub retired: Vec<(u64, u64)>,
    /// Positions stored here a second time, or here after an earlier epoch of the same stream.
    pub duplicate_positions: u64,
    pub redelivered: u64,
    pub differing: u64,
    /// Records that came in less fidelity first, and then better.
    pub replaced: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GapEntry {
    pub epoch: String,
    pub stream: String,
    /// First and last position, where they are known.
    pub from: Option<u64>,
    pub to: Option<u64>,
    /// These positions are as many as the records that are missing.
    pub exact: bool,
    pub first_seq: Option<u64>,
    pub last_seq: Option<u64>,
    pub after_seq: Option<u64>,
    pub span: (i64, i64),
    /// `None` where the device cannot know.
    pub count: Option<u64>,
    pub unknown: bool,
    pub reason: String,
}

/// Which rows of a device's frames or predictions.
#[derive(Clone, Debug)]
pub struct After {
    pub source: Option<SourceName>,
    /// Exclusive; `None` is from the start.
    pub position: Option<u64>,
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FrameRow {
    pub source: String,
    pub epoch: String,
    pub seq: u64,
    pub position: u64,
    pub item: String,
    pub wall_ms: i64,
    #[serde(flatten)]
    pub answer: AnswerRow,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PredictionRow {
    pub source: String,
    pub slot: String,
    pub epoch: String,
    pub seq: u64,
    /// First and last position of the window.
    pub from: u64,
    pub to: u64,
    pub wall_ms: i64,
    #[serde(flatten)]
    pub answer: AnswerRow,
}

/// Either the first five, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AnswerRow {
    pub label: Option<String>,
    pub confidence: Option<f64>,
    pub margin: Option<f64>,
    pub micros: Option<u64>,
    pub model: Option<Digest>,
    /// Why there is no answer.
    pub none: Option<String>,
}

/// Rows in order, and where to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// The position after which the rest lies; `None` at the end.
    pub next: Option<u64>,
}

/// Which readings.
#[derive(Clone, Debug)]
pub struct Range {
    pub source: SourceName,
    /// Unix milliseconds, inclusive.
    pub from: i64,
    pub to: i64,
    pub limit: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Readings {
    pub columns: Vec<Column>,
    pub rows: Vec<ReadingRow>,
    /// What is stored of the range in less fidelity, in the order of time. A bucket that reaches over a cut is told on both sides of it.
    pub degraded: Vec<DegradedStretch>,
    /// False where the limit, or a change of columns, cut the answer; `next_ms` is then where to go on.
    pub complete: bool,
    pub next_ms: Option<i64>,
    #[serde(flatten)]
    pub coverage: Coverage,
}

/// What a range of time lacks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Coverage {
    pub state: CoverageState,
    /// The gaps that touch the range, whole.
    pub gaps: Vec<GapEntry>,
    /// The newest reading of the source; what lies behind it has not come, or not yet.
    pub known_until_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CoverageState {
    #[default]
    Complete,
    /// All of it, and some in buckets alone.
    Degraded,
    Gaps,
}

/// A range of time in buckets of one width; those that hold nothing are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    pub of: SeriesOf,
    pub from_ms: i64,
    pub width_ms: i64,
    pub columns: Vec<SeriesColumn>,
    pub buckets: Vec<SeriesBucket>,
    #[serde(flatten)]
    pub coverage: Coverage,
}

/// What the buckets were made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SeriesOf {
    #[default]
    Readings,
    /// Minutes, which outlive readings; for buckets of a minute and more.
    Rollups,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeriesColumn {
    pub name: String,
    pub unit: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeriesBucket {
    pub from_ms: i64,
    /// Readings.
    pub count: u64,
    /// Of these, how many were told in less fidelity.
    pub degraded: u64,
    /// One for each column; null where it had no value.
    pub values: Vec<Option<Summary>>,
}

/// Of the values that were there, in the column's unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    pub count: u64,
}

/// Which raw readings are let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retire {
    /// Those that the server received before this.
    pub received_before: Option<Wall>,
    /// The oldest, until no more bytes than these are left.
    pub bytes: Option<u64>,
}

/// What one step of retention did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    pub rows: u64,
    pub bytes: u64,
    /// There may be more to let go.
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReadingRow {
    pub position: u64,
    pub wall_ms: i64,
    pub values: Vec<Option<i32>>,
}

/// Neighbouring buckets of one fidelity, with their own columns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DegradedStretch {
    pub fidelity: Fidelity,
    pub columns: Vec<Column>,
    pub buckets: Vec<BucketRow>,
}

/// Some neighbouring readings as one: raw integers, null where a column had no value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BucketRow {
    /// First and last position.
    pub from: u64,
    pub to: u64,
    pub from_ms: i64,
    pub to_ms: i64,
    pub count: u64,
    pub means: Vec<Option<i32>>,
    pub minima: Vec<Option<i32>>,
    pub maxima: Vec<Option<i32>>,
}

/// The newest of everything, per source and slot.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latest {
    pub readings: Vec<LatestReading>,
    pub frames: Vec<FrameRow>,
    pub predictions: Vec<PredictionRow>,
    pub thumbnails: Vec<ThumbnailRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatestReading {
    pub source: String,
    pub position: u64,
    pub wall_ms: i64,
    pub values: Vec<LatestValue>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatestValue {
    pub name: String,
    pub unit: String,
    pub value: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThumbnailRow {
    pub slot: String,
    pub position: u64,
    pub received_ms: i64,
    pub label: Option<String>,
}

/// Counts of one feature, merged over the windows asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct SketchSum {
    pub slot: SlotName,
    pub model: Digest,
    pub feature: String,
    pub counts: [u32; 32],
    pub windows: u64,
    pub first_ms: i64,
    pub last_ms: i64,
}

/// Which samples.
#[derive(Clone, Debug, Default)]
pub struct SampleFilter {
    pub labelled: Option<bool>,
    pub slot: Option<SlotName>,
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampleRow {
    pub id: String,
    pub device: DeviceId,
    pub slot: SlotName,
    pub source: String,
    pub item: String,
    pub position: u64,
    pub wall_ms: i64,
    pub model: Digest,
    pub label_predicted: String,
    pub confidence: Option<f64>,
    pub margin: Option<f64>,
    pub why: String,
    pub label: Option<String>,
    pub labelled_by: Option<String>,
    pub labelled_ms: Option<i64>,
    /// Length of the embedding; 0 where the model has none.
    pub embedding: usize,
}

/// What a trainer needs of a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleContent {
    pub jpeg: Vec<u8>,
    pub embedding: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportRow {
    pub source: String,
    pub epoch: String,
    pub seq: u64,
    pub wall_ms: i64,
    /// A `common::record::Fact`, as JSON.
    pub fact: serde_json::Value,
}

/// See the module.
#[async_trait]
pub trait Telemetry: Send + Sync {
    /// Random, made with the store: acks carry it, so that a device sees when a store was made anew.
    fn incarnation(&self) -> u64;

    /// Stores the batches in one transaction; one that fails does not take the others with it. Receipts are in the same order.
    async fn commit(&self, arrivals: Vec<Arrival>) -> anyhow::Result<Vec<Receipt>>;
    /// The device's own row, and its ledger.
    async fn hello(&self, device: &DeviceId, hello: &Hello, now: Wall) -> anyhow::Result<HelloReceipt>;
    async fn presence(&self, device: &DeviceId, online: bool, now: Wall) -> anyhow::Result<()>;
    /// For the start of the server: who is connected is not known yet.
    async fn nobody_is_online(&self) -> anyhow::Result<()>;
    async fn set_slots(&self, device: &DeviceId, slots: &[SlotStatus], now: Wall) -> anyhow::Result<()>;
    async fn set_storage_fault(&self, device: &DeviceId) -> anyhow::Result<()>;
    async fn keep_thumbnail(&self, device: &DeviceId, thumbnail: &Thumbnail, now: Wall) -> anyhow::Result<PictureReceipt>;

    async fn devices(&self) -> anyhow::Result<Vec<Device>>;
    async fn device(&self, device: &DeviceId) -> anyhow::Result<Option<Device>>;
    async fn streams(&self, device: &DeviceId) -> anyhow::Result<Vec<StreamContent>>;
    async fn gaps(&self, device: &DeviceId) -> anyhow::Result<Vec<GapEntry>>;
    async fn frames(&self, device: &DeviceId, after: After) -> anyhow::Result<Page<FrameRow>>;
    async fn predictions(&self, device: &DeviceId, after: After) -> anyhow::Result<Page<PredictionRow>>;
    async fn readings(&self, device: &DeviceId, range: Range) -> anyhow::Result<Readings>;
    /// At most `range.limit` buckets and one.
    async fn series(&self, device: &DeviceId, range: Range) -> anyhow::Result<Series>;
    /// One small step; it is to be called again while there is more.
    async fn retire(&self, limits: Retire) -> anyhow::Result<Retired>;
    async fn latest(&self, device: &DeviceId) -> anyhow::Result<Latest>;
    async fn thumbnail(&self, device: &DeviceId, slot: &SlotName) -> anyhow::Result<Option<Vec<u8>>>;
    /// Sums over sketches whose wall time is `since` or later.
    async fn sketches(&self, device: &DeviceId, since: Wall) -> anyhow::Result<Vec<SketchSum>>;
    /// Newest first.
    async fn reports(&self, device: &DeviceId, limit: u32) -> anyhow::Result<Vec<ReportRow>>;

    /// Newest first.
    async fn samples(&self, filter: SampleFilter) -> anyhow::Result<Vec<SampleRow>>;
    async fn sample(&self, id: &str) -> anyhow::Result<Option<SampleRow>>;
    async fn sample_content(&self, id: &str) -> anyhow::Result<Option<SampleContent>>;
    /// The last label counts. False: there is no such sample.
    async fn label_sample(&self, id: &str, label: &str, by: &str, now: Wall) -> anyhow::Result<bool>;
}
