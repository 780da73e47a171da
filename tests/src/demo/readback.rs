//! Reads one device back through the server and holds it against the scenario.
//!
//! Invariant: the truth comes from the demo's own side (seed and position, or the pictures that it dealt), joined at the end by
//! position or name. Not here: waiting until everything has arrived (`story`).

use std::collections::BTreeMap;

use anyhow::Context;
use wayside_agent::source::{
    Item, Source,
    sim::{climate::SimClimate, imu::SimImu, scene},
};
use wayside_common::{schedule::Position, time::Wall};

use super::{
    api::{self, Api, Frame, GapEntry},
    identity::{Gap, Observed},
    plan::{Device, Input, Kind},
    ranges::Ranges,
    report,
};

/// The device's main stream as the server has it now.
pub fn observe(api: &Api, device: &Device, anchor: Wall, restarts: Vec<Wall>) -> anyhow::Result<(Observed, Vec<GapEntry>)> {
    let stream = device.stream();
    let mut observed = Observed {
        produced: device.produced().context("a run without end has no sum")?,
        schedule: device.schedule(anchor),
        restarts,
        ..Observed::default()
    };
    for part in api.streams(device.id)?.into_iter().filter(|part| part.stream == stream) {
        if let Some(last) = part.positions.last() {
            observed.last_stored.push((part.epoch.clone(), last));
        }
        observed.stored = observed.stored.union(&part.positions.without(&part.degraded));
        observed.degraded = observed.degraded.union(&part.degraded);
        observed.duplicates += part.duplicate_positions;
    }
    let (main, elsewhere): (Vec<GapEntry>, Vec<GapEntry>) = api.gaps(device.id)?.into_iter().partition(|gap| gap.stream == stream);
    observed.gaps = main
        .into_iter()
        .map(|gap| Gap {
            epoch: gap.epoch,
            positions: gap.from.zip(gap.to),
            span: (Wall(gap.span.0), Wall(gap.span.1)),
            unknown: gap.unknown,
            reason: gap.reason,
        })
        .collect();
    Ok((observed, elsewhere))
}

/// Everything that the report says of one device, and what is wrong with it.
pub fn device(api: &Api, device: &Device, anchor: Wall, restarts: Vec<Wall>) -> anyhow::Result<(report::Device, Vec<String>)> {
    let (observed, elsewhere) = observe(api, device, anchor, restarts)?;
    let mut faults = observed.faults();
    let row = api.devices()?.into_iter().find(|row| row.id == device.id).with_context(|| format!("the server knows no {}", device.id))?;
    let streams: Vec<api::Stream> = api.streams(device.id)?;
    let refused: u64 = streams.iter().map(|s| s.differing).sum();
    let judged = match device.kind {
        Kind::Camera => judge_frames(device, &api.frames(device.id)?),
        Kind::Imu | Kind::Climate => {
            let answered = api.predictions(device.id)?.iter().filter(|p| p.label.is_some()).count() as u64;
            Judged { predictions: answered, ..judge_readings(api, device, anchor, &observed.stored)? }
        }
    };
    faults.extend(judged.faults);
    if refused + judged.differing > 0 {
        faults
            .push(format!("{refused} records were refused for differing content, {} stored ones differ from the source", judged.differing));
    }
    if row.storage_fault {
        faults.push("the device reports a storage fault".into());
    }
    let report = report::Device {
        id: device.id,
        kind: device.kind.as_str(),
        produced: observed.produced,
        stored: observed.stored.count(),
        degraded: observed.degraded.count(),
        gaps: observed.gaps.iter().map(|gap| gap_row(&observed, gap, device)).collect(),
        duplicates: observed.duplicates,
        redelivered: streams.iter().map(|s| s.redelivered).sum(),
        differing: refused + judged.differing,
        compared: judged.compared,
        predictions: judged.predictions,
        accuracy: judged.accuracy.map(|(right, n)| right as f64 / n as f64),
        accuracy_n: judged.accuracy.map(|(_, n)| n),
        model: row.slots.into_iter().find(|slot| slot.slot == device.slot).and_then(|slot| slot.active),
        storage_fault: row.storage_fault,
        positions: report::Positions { stored: observed.stored.clone(), degraded: observed.degraded.clone() },
        gaps_elsewhere: elsewhere.into_iter().map(gap_elsewhere).collect(),
    };
    let faults = faults.into_iter().map(|fault| format!("{}: {fault}", device.id)).collect();
    Ok((report, faults))
}

fn gap_row(observed: &Observed, gap: &Gap, device: &Device) -> report::Gap {
    let positions = observed.positions_of(gap);
    report::Gap {
        epoch: gap.epoch.clone(),
        stream: device.stream(),
        from: positions.iter().next(),
        to: positions.last(),
        span: (gap.span.0.0, gap.span.1.0),
        count: Some(positions.count()),
        unknown: gap.unknown,
        reason: gap.reason.clone(),
    }
}

fn gap_elsewhere(gap: GapEntry) -> report::Gap {
    let GapEntry { epoch, stream, from, to, span, count, unknown, reason } = gap;
    report::Gap { epoch, stream, from, to, span, count, unknown, reason }
}

#[derive(Default)]
struct Judged {
    predictions: u64,
    /// Right, of how many.
    accuracy: Option<(u64, u64)>,
    compared: u64,
    differing: u64,
    faults: Vec<String>,
}

/// The class that a camera was shown, by what the server says of the frame.
pub fn truth(device: &Device, position: u64, item: &str) -> Option<String> {
    match &device.input {
        Input::Sim { seed, .. } => Some(scene::truth(*seed, Position(position)).label.to_owned()),
        Input::Pictures(hand) => hand.truth.get(item).cloned(),
    }
}

fn judge_frames(device: &Device, frames: &[Frame]) -> Judged {
    let mut judged = Judged::default();
    let mut right = 0;
    let mut shown: BTreeMap<&str, u64> = BTreeMap::new();
    for frame in frames {
        judged.compared += 1;
        *shown.entry(&frame.item).or_default() += 1;
        match (truth(device, frame.position, &frame.item), &frame.label) {
            (None, _) => judged.differing += 1,
            (Some(class), Some(label)) => {
                judged.predictions += 1;
                right += u64::from(class == *label);
            }
            (Some(_), None) => {}
        }
    }
    if judged.predictions > 0 {
        judged.accuracy = Some((right, judged.predictions));
    }
    if let Input::Pictures(hand) = &device.input {
        let unseen = hand.truth.keys().filter(|name| !shown.contains_key(name.as_str())).count();
        let again = shown.values().filter(|n| **n > 1).count();
        if unseen + again > 0 {
            judged.faults.push(format!("{unseen} pictures have no frame and {again} have more than one"));
        }
    }
    judged
}

/// Compares every stored reading with the source's, which is a function of seed and position.
fn judge_readings(api: &Api, device: &Device, anchor: Wall, stored: &Ranges) -> anyhow::Result<Judged> {
    let Input::Sim { seed, period, count } = device.input else { return Ok(Judged::default()) };
    let mut source: Box<dyn Source> = match device.kind {
        Kind::Imu => Box::new(SimImu::new(wayside_agent::source::sim::imu::Config { seed, period, count, faults: Vec::new() }, anchor)),
        _ => Box::new(SimClimate::new(wayside_agent::source::sim::climate::Config { seed, period, count, faults: Vec::new() }, anchor)),
    };
    let mut judged = Judged::default();
    let mut seen = Vec::new();
    // The records' wall times come from the device's clock, which is this machine's; the range is wide enough for all of them.
    for row in api.readings(device.id, device.source, anchor.0 - 3_600_000, anchor.0 + 7_200_000)? {
        judged.compared += 1;
        seen.push((row.position, row.position));
        if source.read(Position(row.position)) != Ok(Item::Reading(row.values)) {
            judged.differing += 1;
        }
    }
    let unread = stored.without(&Ranges::from(seen));
    if !unread.is_empty() {
        judged.faults.push(format!("positions {unread} are said to be stored and cannot be read"));
    }
    Ok(judged)
}
