//! A small package that parses, for tests; its network is noise.
//!
//! Invariant: versions differ in one file alone, so that they share chunks. The module exists in tests only.

use std::collections::BTreeMap;

use wayside_models::package::Package;

const MANIFEST: &str = r#"format = 1
name = "vehicles-sim"
version = VERSION
licence = "Apache-2.0"
latency_limit = "500ms"
[input]
kind = "window"
name = "features"
shape = [1, 1]
[input.window]
rows = 2
step = 1
period = "1s"
columns = [{ name = "t", unit = "degC" }]
features = ["mean(t)"]
[[output]]
name = "logits"
role = "logits"
labels = ["car", "truck"]
atol = 0.05
rtol = 0.0
"#;

/// The larger part of a package that versions share.
const NETWORK: usize = 300_000;

pub fn package(version: u32) -> Package {
    let mut state = 1u32;
    let network: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(NETWORK)
    .collect();
    let edges: Vec<f64> = (0..31).map(f64::from).collect();
    let reference = serde_json::json!({ "features": [{ "name": "output.margin", "edges": edges, "counts": vec![1; 32] }], "n": 32 });
    let golden =
        serde_json::json!({ "samples": [{ "input": "golden/a.csv", "roi": null, "label": "car", "outputs": { "logits": [1.0, 0.0] } }] });
    let files: BTreeMap<String, Vec<u8>> = [
        ("manifest.toml", MANIFEST.replace("VERSION", &version.to_string()).into_bytes()),
        ("model.onnx", network),
        ("golden.json", golden.to_string().into_bytes()),
        ("golden/a.csv", b"t\n1\n2\n".to_vec()),
        ("reference.json", reference.to_string().into_bytes()),
        ("card.md", b"# noise\n".to_vec()),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect();
    Package::from_files(files).expect("the fixture parses")
}
