//! Planted golden faults: right expectations, wrong manifest or weights. Each must be refused, and the unchanged package accepted.

use std::{collections::BTreeMap, path::PathBuf};

use prost::Message as _;
use tract_onnx::pb::ModelProto;
use wayside_models::{
    engine::onnx::Onnx,
    golden::{self, GoldenFailure, GoldenSet},
    head::LinearHead,
    manifest::{self, Manifest},
    model::{InferError, Model},
    package::{MODEL, Package},
};

type Files = BTreeMap<String, Vec<u8>>;

fn vehicles() -> Package {
    Package::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("zoo/vehicles")).unwrap()
}

/// What the self test says of the package with `plant` done to its files.
fn check(plant: impl FnOnce(&mut Files)) -> Result<(), String> {
    let mut files = vehicles().files().clone();
    plant(&mut files);
    let package = Package::from_files(files).expect("a planted fault leaves the package readable");
    let mut model = Model::load(&Onnx, &package).map_err(|error| error.to_string())?;
    golden::run(&package, &mut model).map(drop).map_err(|failure| failure.to_string())
}

fn edit(files: &mut Files, file: &str, old: &str, new: &str) {
    let text = String::from_utf8(files[file].clone()).unwrap();
    assert!(text.contains(old), "{file} has no {old}");
    files.insert(file.into(), text.replace(old, new).into_bytes());
}

fn edit_network(files: &mut Files, change: impl FnOnce(&mut ModelProto)) {
    let mut network = ModelProto::decode(files[MODEL].as_slice()).unwrap();
    change(&mut network);
    files.insert(MODEL.into(), network.encode_to_vec());
}

/// Moves every box by these parts of its size, inside the frame that it is in.
fn move_boxes(files: &mut Files, right: f64, down: f64) {
    let manifest = Manifest::parse(std::str::from_utf8(&files[manifest::FILE]).unwrap()).unwrap();
    let mut golden = GoldenSet::parse(std::str::from_utf8(&files[golden::FILE]).unwrap(), &manifest).unwrap();
    let mut moved = 0;
    for sample in &mut golden.samples {
        let frame = wayside_models::preprocess::image::decode(&files[&sample.input]).unwrap();
        if let Some([x, y, width, height]) = sample.roi {
            let shift = |start: u32, length: u32, part: f64, side: u32| {
                let start = (f64::from(start) + part * f64::from(length)).round().max(0.0);
                (start as u32).min(side - length)
            };
            sample.roi = Some([shift(x, width, right, frame.width()), shift(y, height, down, frame.height()), width, height]);
            moved += 1;
        }
    }
    assert!(moved >= 2, "at least two golden samples have a box");
    files.insert(golden::FILE.into(), golden.to_json().into_bytes());
}

#[test]
fn the_unchanged_package_is_accepted() {
    check(|_| {}).unwrap();
    // The editors themselves plant nothing.
    check(|files| edit_network(files, |_| {})).unwrap();
    check(|files| move_boxes(files, 0.0, 0.0)).unwrap();
}

#[test]
fn a_wrong_manifest_is_refused() {
    let cases = [
        ("color = \"rgb\"", "color = \"bgr\""),
        ("resize = \"stretch\"", "resize = \"letterbox\""),
        ("filter = \"bilinear\"", "filter = \"nearest\""),
        ("roi = \"source\"", "roi = \"full\""),
        ("mean = [127.0, 127.0, 127.0]", "mean = [0.0, 0.0, 0.0]"),
    ];
    for (old, new) in cases {
        let refused = check(|files| edit(files, manifest::FILE, old, new)).expect_err(new);
        println!("{new}: {refused}");
    }
}

#[test]
fn a_box_moved_by_a_tenth_is_refused() {
    for (right, down) in [(0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1)] {
        let refused = check(|files| move_boxes(files, right, down)).expect_err("a box in the wrong place");
        println!("{right} {down}: {refused}");
    }
}

#[test]
fn permuted_labels_are_refused() {
    let labels = "[\"bike\", \"car\", \"juggernaut\", \"minibus\", \"pickup\", \"truck\"]";
    for permuted in [
        "[\"car\", \"bike\", \"juggernaut\", \"minibus\", \"pickup\", \"truck\"]",
        "[\"truck\", \"bike\", \"car\", \"juggernaut\", \"minibus\", \"pickup\"]",
        "[\"bike\", \"car\", \"juggernaut\", \"minibus\", \"truck\", \"pickup\"]",
    ] {
        let refused = check(|files| edit(files, manifest::FILE, labels, permuted)).expect_err(permuted);
        println!("{refused}");
    }
}

#[test]
fn swapped_outputs_are_refused() {
    let refused = check(|files| {
        edit_network(files, |network| {
            let graph = network.graph.as_mut().unwrap();
            let names = graph.output.iter_mut().map(|output| &mut output.name);
            let nodes = graph.node.iter_mut().flat_map(|node| node.output.iter_mut().chain(&mut node.input));
            for name in names.chain(nodes) {
                match name.as_str() {
                    "logits" => *name = "embedding".into(),
                    "embedding" => *name = "logits".into(),
                    _ => {}
                }
            }
        });
    });
    println!("{}", refused.expect_err("outputs swapped"));
}

#[test]
fn a_head_five_per_cent_too_large_is_refused() {
    let refused = check(|files| {
        let head = LinearHead::of(&files[MODEL]).unwrap();
        let larger = |values: &[f32]| values.iter().map(|v| v * 1.05).collect();
        let head = LinearHead::new(head.dimension(), larger(head.weight()), larger(head.bias())).unwrap();
        files.insert(MODEL.into(), head.put_into(&files[MODEL]).unwrap());
    });
    println!("{}", refused.expect_err("head × 1.05"));
}

#[test]
fn nan_in_any_weights_is_refused() {
    for wanted in ["head.weight", "head.bias", "the first of the backbone"] {
        let refused = check(|files| {
            edit_network(files, |network| {
                let tensors = &mut network.graph.as_mut().unwrap().initializer;
                let tensor = match tensors.iter().position(|tensor| tensor.name == wanted) {
                    Some(at) => &mut tensors[at],
                    None => tensors.iter_mut().find(|tensor| tensor.dims.len() == 4).unwrap(),
                };
                tensor.raw_data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            });
        });
        println!("{wanted}: {}", refused.expect_err("NaN"));
    }
}

#[test]
fn a_refusal_names_sample_output_and_value() {
    let mut files = vehicles().files().clone();
    edit(&mut files, manifest::FILE, "color = \"rgb\"", "color = \"bgr\"");
    let package = Package::from_files(files).unwrap();
    let mut model = Model::load(&Onnx, &package).unwrap();
    match golden::run(&package, &mut model).unwrap_err() {
        GoldenFailure::Differs { sample, output, got, expected, allowed, .. } => {
            assert!(sample.starts_with("golden/"));
            assert!(["logits", "embedding"].contains(&output.as_str()));
            assert!((f64::from(got) - expected).abs() > allowed);
        }
        other => panic!("{other}"),
    }
    let wrong_kind = model.infer_window(&[]).unwrap_err();
    assert!(matches!(wrong_kind, InferError::BadInput(_)));
}
