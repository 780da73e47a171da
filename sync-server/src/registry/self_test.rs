//! Runs a package's golden samples in the engine that devices use.
//!
//! Invariant: what passes here gave every expected output within the manifest's tolerances on this machine. Not here: the latency limit, which is
//! about the device.

use wayside_models::{engine::onnx::Onnx, golden, model::Model, package::Package};

/// One sentence about how it went; an error says which sample differs.
pub fn run(package: &Package) -> anyhow::Result<String> {
    let mut model = Model::load(&Onnx, package)?;
    let report = golden::run(package, &mut model)?;
    let largest = report.samples.iter().flat_map(|sample| &sample.differences).copied().fold(0.0, f64::max);
    Ok(format!("{} golden samples passed, largest difference {largest:.1e}", report.samples.len()))
}
