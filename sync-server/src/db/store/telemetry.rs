//! Telemetry in SQL: the tables, and which file does what with them.
//!
//! Invariant: records are inserted and never updated; blocks are stored as they came. Not here: the control plane's tables.

mod answer;
mod commit;
mod content;
mod coverage;
mod degraded;
mod device;
mod latest;
mod ledger;
mod reading;
mod record;
mod retention;
mod rollup;
mod sample;
mod series;
mod sketch;

use anyhow::Context;
use async_trait::async_trait;
use wayside_common::{
    fleet::{Hello, SlotStatus},
    id::{DeviceId, Digest, NameError, SlotName},
    time::Wall,
    wire::Thumbnail,
};

use crate::db::{
    sql::{Engine, Tx, params},
    telemetry::{
        After, Arrival, Device, FrameRow, GapEntry, HelloReceipt, Latest, Page, PictureReceipt, PredictionRow, Range, Readings, Receipt,
        ReportRow, Retire, Retired, SampleContent, SampleFilter, SampleRow, Series, SketchSum, StreamContent, Telemetry,
    },
};

/// `content` is the start of a SHA-256 over the record, to compare what comes again. The rows of `batch` are disjoint and cover every
/// stored seq; `digest` is empty where the batch came with records that were stored before.
pub const SCHEMA_1: &str = "
CREATE TABLE server (one INTEGER PRIMARY KEY CHECK (one = 1), incarnation INTEGER NOT NULL) STRICT;

CREATE TABLE device (
    id TEXT PRIMARY KEY,
    class TEXT NOT NULL DEFAULT '',
    online INTEGER NOT NULL DEFAULT 0,
    last_seen INTEGER NOT NULL DEFAULT 0,
    agent_version TEXT NOT NULL DEFAULT '',
    epoch TEXT,
    epoch_counter INTEGER,
    started INTEGER,
    generation INTEGER NOT NULL DEFAULT 0,
    root_version INTEGER NOT NULL DEFAULT 0,
    targets_version INTEGER NOT NULL DEFAULT 0,
    storage_fault INTEGER NOT NULL DEFAULT 0,
    ledger_version INTEGER NOT NULL DEFAULT 0,
    streams INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE slot (
    device TEXT NOT NULL, slot TEXT NOT NULL,
    model TEXT, version INTEGER, digest BLOB,
    PRIMARY KEY (device, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE source (
    id INTEGER PRIMARY KEY,
    device TEXT NOT NULL, name TEXT NOT NULL,
    UNIQUE (device, name)
) STRICT;

CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    device TEXT NOT NULL, epoch TEXT NOT NULL, source INTEGER NOT NULL REFERENCES source, kind TEXT NOT NULL,
    epoch_counter INTEGER NOT NULL,
    watermark INTEGER NOT NULL, ranges BLOB NOT NULL,
    records INTEGER NOT NULL DEFAULT 0, redelivered INTEGER NOT NULL DEFAULT 0, differing INTEGER NOT NULL DEFAULT 0,
    UNIQUE (device, epoch, source, kind)
) STRICT;
CREATE INDEX stream_source ON stream (source, kind);

CREATE TABLE batch (
    stream INTEGER NOT NULL REFERENCES stream, first_seq INTEGER NOT NULL, end_seq INTEGER NOT NULL,
    digest BLOB NOT NULL, received INTEGER NOT NULL, first_wall INTEGER NOT NULL, last_wall INTEGER NOT NULL,
    PRIMARY KEY (stream, first_seq, end_seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE block (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL REFERENCES stream, first_seq INTEGER NOT NULL, end_seq INTEGER NOT NULL,
    source INTEGER NOT NULL, first_wall INTEGER NOT NULL, last_wall INTEGER NOT NULL,
    clock BLOB NOT NULL, bytes BLOB NOT NULL,
    UNIQUE (stream, first_seq)
) STRICT;
CREATE INDEX block_wall ON block (source, first_wall, last_wall);

CREATE TABLE frame (
    stream INTEGER NOT NULL REFERENCES stream, seq INTEGER NOT NULL,
    source INTEGER NOT NULL, position INTEGER NOT NULL, wall INTEGER NOT NULL, item TEXT NOT NULL,
    label TEXT, confidence REAL, margin REAL, micros INTEGER, model BLOB, none TEXT, content BLOB NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX frame_position ON frame (source, position);
CREATE INDEX frame_wall ON frame (source, wall);

CREATE TABLE prediction (
    stream INTEGER NOT NULL REFERENCES stream, seq INTEGER NOT NULL,
    source INTEGER NOT NULL, slot TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, wall INTEGER NOT NULL,
    label TEXT, confidence REAL, margin REAL, micros INTEGER, model BLOB, none TEXT, content BLOB NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX prediction_last ON prediction (source, last);
CREATE INDEX prediction_wall ON prediction (source, slot, wall);

CREATE TABLE sketch (
    stream INTEGER NOT NULL REFERENCES stream, seq INTEGER NOT NULL,
    source INTEGER NOT NULL, slot TEXT NOT NULL, model BLOB NOT NULL, feature TEXT NOT NULL, \"window\" INTEGER NOT NULL,
    wall INTEGER NOT NULL, counts BLOB NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX sketch_wall ON sketch (source, wall);

CREATE TABLE sample (
    id TEXT PRIMARY KEY,
    stream INTEGER NOT NULL REFERENCES stream, seq INTEGER NOT NULL,
    slot TEXT NOT NULL, position INTEGER NOT NULL, wall INTEGER NOT NULL, item TEXT NOT NULL,
    model BLOB NOT NULL, label TEXT NOT NULL, confidence REAL, margin REAL, why TEXT NOT NULL,
    received INTEGER NOT NULL, jpeg BLOB NOT NULL, embedding BLOB NOT NULL, content BLOB NOT NULL,
    UNIQUE (stream, seq)
) STRICT;
CREATE INDEX sample_received ON sample (received);

CREATE TABLE label (
    sample TEXT PRIMARY KEY REFERENCES sample, label TEXT NOT NULL, by TEXT NOT NULL, at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE report (
    stream INTEGER NOT NULL REFERENCES stream, seq INTEGER NOT NULL,
    wall INTEGER NOT NULL, fact TEXT NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE gap (
    id INTEGER PRIMARY KEY,
    device TEXT NOT NULL, epoch TEXT NOT NULL, epoch_counter INTEGER NOT NULL, stream TEXT NOT NULL,
    first_seq INTEGER, last_seq INTEGER, after_seq INTEGER,
    from_position INTEGER, to_position INTEGER, span_from INTEGER NOT NULL, span_to INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX gap_stream ON gap (device, epoch, stream);

CREATE TABLE hold (
    device TEXT NOT NULL, epoch TEXT NOT NULL, epoch_counter INTEGER NOT NULL, stream TEXT NOT NULL, lowest_held INTEGER NOT NULL,
    PRIMARY KEY (device, epoch, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE thumbnail (
    device TEXT NOT NULL, slot TEXT NOT NULL,
    position INTEGER NOT NULL, received INTEGER NOT NULL, label TEXT, jpeg BLOB NOT NULL,
    PRIMARY KEY (device, slot)
) STRICT;
";

/// The device's epoch when a picture came: positions may start anew with an epoch, so they are compared within one.
pub const SCHEMA_3: &str = "ALTER TABLE thumbnail ADD COLUMN epoch TEXT NOT NULL DEFAULT '';";

/// Readings in less than full fidelity. `base_seq`: the seq of the first record that `bytes` stands for; the row stands for
/// `first_seq..end_seq` of them.
pub const SCHEMA_4: &str = "
CREATE TABLE degraded (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL REFERENCES stream, first_seq INTEGER NOT NULL, end_seq INTEGER NOT NULL, base_seq INTEGER NOT NULL,
    source INTEGER NOT NULL, first_wall INTEGER NOT NULL, last_wall INTEGER NOT NULL,
    clock BLOB NOT NULL, bytes BLOB NOT NULL,
    UNIQUE (stream, first_seq)
) STRICT;
CREATE INDEX degraded_wall ON degraded (source, first_wall, last_wall);
ALTER TABLE stream ADD COLUMN replaced INTEGER NOT NULL DEFAULT 0;
";

/// Which of its source's items a batch carries: so that what a device takes for missing is compared with what is stored.
pub const SCHEMA_7: &str = "
ALTER TABLE batch ADD COLUMN first_position INTEGER;
ALTER TABLE batch ADD COLUMN last_position INTEGER;
CREATE INDEX batch_position ON batch (stream, last_position);
";

/// What outlives readings, and what is kept so that nobody searches for it. `minute` counts from 1970; `retired` says which positions
/// are left in rollups alone.
pub const SCHEMA_5: &str = "
CREATE TABLE rollup (
    source INTEGER NOT NULL REFERENCES source, minute INTEGER NOT NULL, bytes BLOB NOT NULL,
    PRIMARY KEY (source, minute)
) STRICT, WITHOUT ROWID;

CREATE TABLE latest (
    source INTEGER NOT NULL REFERENCES source, kind TEXT NOT NULL, slot TEXT NOT NULL,
    counter INTEGER NOT NULL, stream INTEGER NOT NULL REFERENCES stream, seq INTEGER NOT NULL, wall INTEGER NOT NULL, bytes BLOB,
    PRIMARY KEY (source, kind, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE retired (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL REFERENCES stream, source INTEGER NOT NULL, first_seq INTEGER NOT NULL, end_seq INTEGER NOT NULL,
    first_position INTEGER NOT NULL, last_position INTEGER NOT NULL, first_wall INTEGER NOT NULL, last_wall INTEGER NOT NULL
) STRICT;
CREATE INDEX retired_stream ON retired (stream, end_seq);
CREATE INDEX retired_wall ON retired (source, first_wall, last_wall);
";

/// Reads the store's incarnation, making it at the first start.
pub fn incarnation(tx: &Tx) -> anyhow::Result<u64> {
    let known: Option<i64> = tx.first("SELECT incarnation FROM server", params![], |row| row.get(0))?;
    if let Some(known) = known {
        return Ok(known as u64);
    }
    let made = getrandom::u64().map_err(|e| anyhow::anyhow!("no random number: {e}"))?;
    tx.execute("INSERT INTO server (one, incarnation) VALUES (1, $1)", params![made as i64])?;
    Ok(made)
}

/// The stores' integers are signed.
fn int(number: u64) -> anyhow::Result<i64> {
    i64::try_from(number).context("a number is too large for the store")
}

fn digest(bytes: Vec<u8>) -> anyhow::Result<Digest> {
    let digest = bytes.try_into().map_err(|bytes: Vec<u8>| anyhow::anyhow!("a digest of {} bytes in the store", bytes.len()))?;
    Ok(Digest(digest))
}

/// Reads back a name that was checked when it was stored.
fn name<T: std::str::FromStr<Err = NameError>>(text: String) -> anyhow::Result<T> {
    text.parse().context("a name in the store")
}

/// The sources of a device that have a stream of this kind, or the one named.
fn sources(tx: &Tx, device: &DeviceId, kind: &str, only: Option<&str>) -> anyhow::Result<Vec<(i64, String)>> {
    let sql = "SELECT id, name FROM source WHERE device = $1 AND (CAST($2 AS TEXT) IS NULL OR name = $2)
         AND EXISTS (SELECT 1 FROM stream WHERE stream.source = source.id AND stream.kind = $3) ORDER BY name";
    tx.rows(sql, params![device.as_str(), only, kind], |row| Ok((row.get(0)?, row.get(1)?)))
}

#[async_trait]
impl<E: Engine> Telemetry for E {
    fn incarnation(&self) -> u64 {
        Engine::incarnation(self)
    }

    async fn commit(&self, arrivals: Vec<Arrival>) -> anyhow::Result<Vec<Receipt>> {
        let incarnation = Engine::incarnation(self);
        self.write(move |tx| commit::group(tx, incarnation, &arrivals)).await
    }

    async fn hello(&self, device: &DeviceId, hello: &Hello, now: Wall) -> anyhow::Result<HelloReceipt> {
        let (id, hello) = (device.clone(), hello.clone());
        self.write(move |tx| device::hello(tx, &id, &hello, now)).await
    }

    async fn presence(&self, device: &DeviceId, online: bool, now: Wall) -> anyhow::Result<()> {
        let id = device.clone();
        self.write(move |tx| device::presence(tx, &id, online, now)).await
    }

    async fn nobody_is_online(&self) -> anyhow::Result<()> {
        self.write(|tx| tx.execute("UPDATE device SET online = 0", params![]).map(drop)).await
    }

    async fn set_slots(&self, device: &DeviceId, slots: &[SlotStatus], now: Wall) -> anyhow::Result<()> {
        let (id, slots) = (device.clone(), slots.to_vec());
        self.write(move |tx| {
            device::presence(tx, &id, true, now)?;
            device::replace_slots(tx, &id, &slots)
        })
        .await
    }

    async fn set_storage_fault(&self, device: &DeviceId) -> anyhow::Result<()> {
        let id = device.clone();
        self.write(move |tx| tx.execute("UPDATE device SET storage_fault = 1 WHERE id = $1", params![id.as_str()]).map(drop)).await
    }

    async fn keep_thumbnail(&self, device: &DeviceId, thumbnail: &Thumbnail, now: Wall) -> anyhow::Result<PictureReceipt> {
        let (id, thumbnail) = (device.clone(), thumbnail.clone());
        self.write(move |tx| device::keep_thumbnail(tx, &id, &thumbnail, now)).await
    }

    async fn devices(&self) -> anyhow::Result<Vec<Device>> {
        self.read(|tx| device::list(tx, None)).await
    }

    async fn device(&self, device: &DeviceId) -> anyhow::Result<Option<Device>> {
        let id = device.clone();
        self.read(move |tx| Ok(device::list(tx, Some(&id))?.pop())).await
    }

    async fn streams(&self, device: &DeviceId) -> anyhow::Result<Vec<StreamContent>> {
        let id = device.clone();
        self.read(move |tx| content::streams(tx, &id)).await
    }

    async fn gaps(&self, device: &DeviceId) -> anyhow::Result<Vec<GapEntry>> {
        let id = device.clone();
        self.read(move |tx| ledger::list(tx, &id)).await
    }

    async fn frames(&self, device: &DeviceId, after: After) -> anyhow::Result<Page<FrameRow>> {
        let id = device.clone();
        self.read(move |tx| answer::frames(tx, &id, &after)).await
    }

    async fn predictions(&self, device: &DeviceId, after: After) -> anyhow::Result<Page<PredictionRow>> {
        let id = device.clone();
        self.read(move |tx| answer::predictions(tx, &id, &after)).await
    }

    async fn readings(&self, device: &DeviceId, range: Range) -> anyhow::Result<Readings> {
        let id = device.clone();
        self.read(move |tx| reading::range(tx, &id, &range)).await
    }

    async fn series(&self, device: &DeviceId, range: Range) -> anyhow::Result<Series> {
        let id = device.clone();
        self.read(move |tx| series::series(tx, &id, &range)).await
    }

    async fn retire(&self, limits: Retire) -> anyhow::Result<Retired> {
        self.write(move |tx| retention::retire(tx, &limits)).await
    }

    async fn latest(&self, device: &DeviceId) -> anyhow::Result<Latest> {
        let id = device.clone();
        self.read(move |tx| {
            Ok(Latest {
                readings: latest::readings(tx, &id)?,
                frames: answer::latest_frames(tx, &id)?,
                predictions: answer::latest_predictions(tx, &id)?,
                thumbnails: device::thumbnails(tx, &id)?,
            })
        })
        .await
    }

    async fn thumbnail(&self, device: &DeviceId, slot: &SlotName) -> anyhow::Result<Option<Vec<u8>>> {
        let (id, slot) = (device.clone(), slot.clone());
        self.read(move |tx| device::thumbnail(tx, &id, &slot)).await
    }

    async fn sketches(&self, device: &DeviceId, since: Wall) -> anyhow::Result<Vec<SketchSum>> {
        let id = device.clone();
        self.read(move |tx| sketch::sums(tx, &id, since)).await
    }

    async fn reports(&self, device: &DeviceId, limit: u32) -> anyhow::Result<Vec<ReportRow>> {
        let id = device.clone();
        self.read(move |tx| content::reports(tx, &id, limit)).await
    }

    async fn samples(&self, filter: SampleFilter) -> anyhow::Result<Vec<SampleRow>> {
        self.read(move |tx| sample::list(tx, &filter)).await
    }

    async fn sample(&self, id: &str) -> anyhow::Result<Option<SampleRow>> {
        let id = id.to_owned();
        self.read(move |tx| sample::one(tx, &id)).await
    }

    async fn sample_content(&self, id: &str) -> anyhow::Result<Option<SampleContent>> {
        let id = id.to_owned();
        self.read(move |tx| sample::content(tx, &id)).await
    }

    async fn label_sample(&self, id: &str, label: &str, by: &str, now: Wall) -> anyhow::Result<bool> {
        let (id, label, by) = (id.to_owned(), label.to_owned(), by.to_owned());
        self.write(move |tx| sample::label(tx, &id, &label, &by, now)).await
    }
}
