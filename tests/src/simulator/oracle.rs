//! The promises, checked: while a run goes on that nothing leaves a device which is neither committed nor in its ledger, at its end
//! that each position is on the server, or is said to be missing, exactly once.
//!
//! Invariant: it believes what went over the wire and what lies in the stores, and no count of the code under test. Not here: making
//! anything happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tokio::time::Instant;
use wayside_common::{
    gap::{Extent, Gap},
    id::{Epoch, StreamId},
    schedule::Position,
    sync::receiver::Ack,
    wire::{FromDevice, ToDevice},
};
use wayside_sync_server::db::telemetry::{After, GapEntry, Range, Telemetry};

use super::{
    cloud::Cloud,
    device::{Device, Life, position_of},
};

/// Without credit two batches are at least so far apart: half of the uplink's first resend time.
const ALONE: Duration = Duration::from_millis(2_400);

type Name = (usize, Epoch, StreamId);

/// What a device was granted on its present connection, and what it made of it.
#[derive(Clone, Copy, Default)]
struct Granted {
    until: u64,
    sent: u64,
    alone: Option<Instant>,
}

#[derive(Default)]
pub struct Oracle {
    /// What any server has ever said to be committed, `from..to`.
    committed: BTreeMap<Name, Vec<(u64, u64)>>,
    /// What any ledger has ever said to be missing.
    told: BTreeMap<Name, Vec<(u64, u64)>>,
    /// Epochs of a device of which an unknown number is missing, and those before.
    unknown: BTreeMap<usize, u32>,
    granted: BTreeMap<usize, Granted>,
    pub redelivered: u64,
}

impl Oracle {
    pub fn connected(&mut self, device: usize) {
        let sent = self.granted.get(&device).map_or(0, |granted| granted.sent);
        self.granted.insert(device, Granted { sent, ..Granted::default() });
    }

    pub fn started(&mut self, device: usize) {
        self.granted.remove(&device);
    }

    /// A packet leaves a device.
    pub fn said(&mut self, device: usize, packet: &FromDevice) -> anyhow::Result<()> {
        match packet {
            FromDevice::Hello(hello) => hello.ledger.iter().for_each(|gap| self.told(device, gap)),
            FromDevice::Batch { sent, .. } => {
                let granted = self.granted.entry(device).or_default();
                let (before, now) = (granted.sent, Instant::now());
                granted.sent = *sent;
                if before >= granted.until {
                    let early = granted.alone.is_some_and(|last| now < last + ALONE);
                    granted.alone = Some(now);
                    ensure!(!early, "device-{device} was granted {} bytes, had sent {before} and goes on", granted.until);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A packet reaches a device.
    pub fn heard(&mut self, device: usize, packet: &ToDevice) {
        if let ToDevice::Ack { credit, .. } | ToDevice::HelloAck { credit, .. } | ToDevice::Refused { credit, .. } = packet {
            let granted = self.granted.entry(device).or_default();
            granted.until = granted.until.max(credit.until);
        }
    }

    /// A server answers; whether the answer arrives is another matter.
    pub fn answered(&mut self, device: usize, ack: &Ack) {
        let ranges = self.committed.entry((device, ack.epoch, ack.stream.clone())).or_default();
        ranges.push((0, ack.row.watermark));
        ranges.extend(&ack.row.ranges);
        merge(ranges);
    }

    fn told(&mut self, device: usize, gap: &Gap) {
        match gap.extent {
            Extent::Exact { first_seq, last_seq } => {
                let ranges = self.told.entry((device, gap.epoch, gap.stream.clone())).or_default();
                ranges.push((first_seq, last_seq + 1));
                merge(ranges);
            }
            Extent::Unknown { .. } => {
                let counter = self.unknown.entry(device).or_default();
                *counter = gap.epoch.counter.max(*counter);
            }
        }
    }

    /// What has left the stores of a device is committed, or stands in the ledger.
    pub async fn check(&mut self, device: usize, life: &Life) -> anyhow::Result<()> {
        let (ledger, vital) = life.state.with(|state| state.ledger().and_then(|ledger| Ok((ledger.gaps, state.vital_holds()?)))).await?;
        ledger.iter().for_each(|gap| self.told(device, gap));
        let marks = life.spool.with(|spool| spool.marks()).await?;
        let spooled = marks.into_iter().map(|mark| (mark.epoch, mark.stream, mark.lowest_held.unwrap_or(mark.next_seq)));
        let gone = spooled.chain(vital.into_iter().map(|hold| (hold.epoch, hold.stream, hold.lowest_held)));
        for (epoch, stream, end) in gone {
            if self.unknown.get(&device).is_some_and(|counter| epoch.counter <= *counter) {
                continue;
            }
            let name = (device, epoch, stream);
            let mut known: Vec<(u64, u64)> =
                [&self.committed, &self.told].iter().filter_map(|map| map.get(&name)).flatten().copied().collect();
            merge(&mut known);
            let covered = end == 0 || known.first().is_some_and(|(from, to)| *from == 0 && *to >= end);
            ensure!(
                covered,
                "device-{device}: {} of {} lets go of seqs below {end}, and only {known:?} are committed or told",
                name.2,
                name.1
            );
        }
        Ok(())
    }

    /// At the end of a run, when all is drained.
    pub async fn judge(&mut self, device: &Device, cloud: &Cloud) -> anyhow::Result<()> {
        let life = device.life.as_ref().context("it does not run at the end")?;
        self.check(device.index, life).await?;
        let left = life.spool.with(|spool| spool.held()).await?.len() + life.state.with(|state| state.held()).await?.len();
        ensure!(left == 0, "{left} batches are not drained");
        let ledger = life.state.with(|state| state.ledger()).await?;
        ensure!(ledger.gaps.is_empty(), "the ledger is not acked: {ledger:?}");
        self.vital(device, cloud, life).await?;
        self.positions(device, cloud).await
    }

    /// Every vital record of the epochs that the device remembers is stored.
    async fn vital(&self, device: &Device, cloud: &Cloud, life: &Life) -> anyhow::Result<()> {
        let holds = life.state.with(|state| state.vital_holds()).await?;
        let streams = cloud.db.streams(&device.id).await?;
        let gaps = cloud.db.gaps(&device.id).await?;
        for hold in holds {
            let (epoch, stream) = (hold.epoch.to_string(), hold.stream.to_string());
            let stored =
                streams.iter().find(|content| content.epoch == epoch && content.stream == stream).map_or(0, |content| content.records);
            let lost: u64 = gaps.iter().filter(|gap| gap.epoch == epoch && gap.stream == stream).filter_map(|gap| gap.count).sum();
            ensure!(stored + lost >= hold.next, "{stream} of {epoch}: {stored} stored, {lost} named as lost, {} said", hold.next);
        }
        Ok(())
    }

    /// Stored ∪ gaps = produced and missed, disjoint; what is stored is what the source gave.
    async fn positions(&mut self, device: &Device, cloud: &Cloud) -> anyhow::Result<()> {
        let stream = format!("{}.{}", device.source_name(), if device.source.camera { "frames" } else { "readings" });
        let mut stored = stored(device, cloud).await?;
        let streams = cloud.db.streams(&device.id).await?;
        for (from, to) in streams.iter().flat_map(|content| &content.degraded) {
            for position in *from..=*to {
                ensure!(stored.insert(position), "position {position} is stored raw and degraded");
            }
        }
        let mut missing: BTreeMap<u64, GapEntry> = BTreeMap::new();
        let mut excused = None;
        for gap in cloud.db.gaps(&device.id).await?.iter().filter(|gap| gap.stream == stream) {
            match named(device, gap)? {
                Some(positions) => {
                    for position in positions {
                        ensure!(!stored.contains(&position), "position {position} is stored, and stands in the ledger: {gap:?}");
                        let before = missing.insert(position, gap.clone());
                        ensure!(before.is_none(), "position {position} stands in the ledger twice: {before:?} and {gap:?}");
                    }
                }
                None => {
                    let epoch: Epoch = gap.epoch.parse().context("an epoch of the ledger")?;
                    excused = excused.max(Some(epoch.counter));
                }
            }
        }
        let handed = device.handed.lock().expect("no task panics with it").clone();
        let produced: BTreeMap<u64, u32> =
            handed.iter().flat_map(|(epoch, positions)| positions.iter().map(|position| (position.0, epoch.counter))).collect();
        for position in &stored {
            ensure!(produced.contains_key(position), "position {position} is stored and was never sensed");
        }
        let last = produced.keys().last().copied().context("nothing was sensed")?;
        // Positions that follow a jump of the clock over many years are not looked at one by one.
        let looked_at: Vec<u64> = if last < 100_000 { (0..=last).collect() } else { produced.keys().copied().collect() };
        let first_excused = |position: &u64| match (excused, produced.get(position)) {
            (Some(until), Some(counter)) => *counter <= until,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let silent: Vec<u64> = looked_at
            .into_iter()
            .filter(|position| !stored.contains(position) && !missing.contains_key(position) && !first_excused(position))
            .collect();
        ensure!(
            silent.is_empty(),
            "{} positions are neither stored nor missed, the first of them {:?}",
            silent.len(),
            &silent[..silent.len().min(5)]
        );
        for content in &streams {
            ensure!(content.differing == 0, "{} records of {} {} came with two contents", content.differing, content.stream, content.epoch);
            self.redelivered += content.redelivered;
        }
        Ok(())
    }
}

/// The stored positions, read out of the records and compared with the source.
async fn stored(device: &Device, cloud: &Cloud) -> anyhow::Result<BTreeSet<u64>> {
    let mut positions = BTreeSet::new();
    let source = device.source_name();
    if device.source.camera {
        let after = After { source: Some(source), position: None, limit: u32::MAX - 1 };
        for row in cloud.db.frames(&device.id, after).await?.rows {
            ensure!(row.item == device.source.item(Position(row.position)), "position {} is stored as {:?}", row.position, row.item);
            ensure!(positions.insert(row.position), "position {} is stored twice", row.position);
        }
        return Ok(positions);
    }
    let range = Range { source, from: i64::MIN, to: i64::MAX, limit: u32::MAX - 1 };
    for row in cloud.db.readings(&device.id, range).await?.rows {
        let values = device.source.values(Position(row.position));
        ensure!(row.values == values, "position {} is stored as {:?} and was {values:?}", row.position, row.values);
        ensure!(positions.insert(row.position), "position {} is stored twice", row.position);
    }
    Ok(positions)
}

/// The positions that an entry names; `None`: it does not know them.
fn named(device: &Device, gap: &GapEntry) -> anyhow::Result<Option<Vec<u64>>> {
    if let (Some(from), Some(to), true) = (gap.from, gap.to, gap.exact || gap.first_seq.is_none()) {
        // A clock that was ahead by decades makes a gap of millions of positions.
        return Ok(Some((from..=to.min(from + 1_000_000)).collect()));
    }
    let (Some(first), Some(last)) = (gap.first_seq, gap.last_seq) else { return Ok(None) };
    let mut positions = Vec::new();
    for seq in first..=last {
        match position_of(&device.handed, &gap.epoch, seq) {
            Some(position) => positions.push(position.0),
            None => bail!("the ledger names seq {seq} of {}, which nobody gave", gap.epoch),
        }
    }
    Ok(Some(positions))
}

fn merge(ranges: &mut Vec<(u64, u64)>) {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges.drain(..) {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ if from < to => merged.push((from, to)),
            _ => {}
        }
    }
    *ranges = merged;
}
