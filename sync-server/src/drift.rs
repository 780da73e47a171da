//! Drift: counts from devices against the reference in their model's package.
//!
//! Invariant: a feature is compared only with the reference of the very model that counted it. Not here: alarms, site references.

pub mod judge;

use std::collections::HashMap;

use async_trait::async_trait;
use serde::Serialize;
use wayside_common::{
    fleet::SlotStatus,
    id::{Digest, SlotName},
    sketch::histogram::{Counts, ReferenceFeature},
};

use crate::db::telemetry::SketchSum;
use judge::{ChiSquareRow, Comparison, EffectRow, Verdict};

/// Where the reference of a package is found.
#[async_trait]
pub trait References: Send + Sync {
    /// `None`: the package is not known here, or has no reference.
    async fn reference(&self, model: Digest) -> anyhow::Result<Option<Vec<ReferenceFeature>>>;
}

/// The verdict on one feature of one slot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub slot: SlotName,
    pub model: Digest,
    pub feature: String,
    pub n_reference: u64,
    pub n_current: u64,
    pub windows: u64,
    pub first_ms: i64,
    pub last_ms: i64,
    pub chi_square: Option<ChiSquareRow>,
    pub effect: Option<EffectRow>,
    pub verdict: Verdict,
}

/// Judges what the active models have counted; the features of one slot are judged together.
pub async fn findings(slots: &[SlotStatus], sums: Vec<SketchSum>, references: &dyn References) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for status in slots {
        let Some(active) = &status.active else { continue };
        let reference = references.reference(active.digest).await?.unwrap_or_default();
        let by_name: HashMap<&str, Counts> =
            reference.iter().filter_map(|feature| Some((feature.name.as_str(), Counts::from_slice(&feature.counts)?))).collect();
        let own: Vec<&SketchSum> = sums.iter().filter(|sum| sum.slot == status.slot && sum.model == active.digest).collect();
        let pairs: Vec<(Counts, Counts)> =
            own.iter().map(|sum| (by_name.get(sum.feature.as_str()).cloned().unwrap_or_default(), Counts(sum.counts))).collect();
        found.extend(own.into_iter().zip(judge::judge(&pairs)).map(|(sum, comparison)| finding(sum, comparison)));
    }
    Ok(found)
}

fn finding(sum: &SketchSum, comparison: Comparison) -> Finding {
    Finding {
        slot: sum.slot.clone(),
        model: sum.model,
        feature: sum.feature.clone(),
        n_reference: comparison.n_reference,
        n_current: comparison.n_current,
        windows: sum.windows,
        first_ms: sum.first_ms,
        last_ms: sum.last_ms,
        chi_square: comparison.chi_square,
        effect: comparison.effect,
        verdict: comparison.verdict,
    }
}
