//! Drift counts, added up per slot, model and feature.
//!
//! Invariant: adding is exact; counts of different models are never mixed. Not here: references and verdicts (`drift`).

use std::{collections::BTreeMap, ops::ControlFlow};

use wayside_common::{id::DeviceId, sketch::histogram::BINS, time::Wall};

use super::{digest, name, sources};
use crate::db::{
    sql::{Tx, params},
    telemetry::SketchSum,
};

pub fn sums(tx: &Tx, device: &DeviceId, since: Wall) -> anyhow::Result<Vec<SketchSum>> {
    let mut sums: BTreeMap<(String, Vec<u8>, String), SketchSum> = BTreeMap::new();
    let sql = "SELECT slot, model, feature, counts, wall FROM sketch WHERE source = $1 AND wall >= $2";
    for (source, _) in sources(tx, device, "sketches", None)? {
        tx.each(sql, params![source, since.0], |row| {
            let key: (String, Vec<u8>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (counts, wall): (Vec<u8>, i64) = (row.get(3)?, row.get(4)?);
            let (slot, model, feature) = key.clone();
            let fresh = SketchSum {
                slot: name(slot)?,
                model: digest(model)?,
                feature,
                counts: [0; BINS],
                windows: 0,
                first_ms: wall,
                last_ms: wall,
            };
            let sum = sums.entry(key).or_insert(fresh);
            for (total, count) in sum.counts.iter_mut().zip(counts.chunks_exact(4)) {
                let count = u32::from_le_bytes(count.try_into().expect("chunks of four bytes"));
                *total = total.saturating_add(count);
            }
            sum.windows += 1;
            sum.first_ms = sum.first_ms.min(wall);
            sum.last_ms = sum.last_ms.max(wall);
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(sums.into_values().collect())
}
