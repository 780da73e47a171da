//! Every package of the zoo answers its golden samples in the real engine, and survives packing.

use std::{fs, path::PathBuf};

use wayside_common::{blob::ChunkIndex, id::Digest};
use wayside_models::{
    engine::onnx::Onnx,
    golden,
    head::retrain::{Labelled, Options, Selection, retrain},
    manifest::InputKind,
    model::Model,
    package::{self, Package},
};

fn zoo() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("zoo");
    let mut packages: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    packages.sort();
    assert!(!packages.is_empty());
    packages
}

#[test]
fn every_golden_sample_of_the_zoo_is_answered_rightly() {
    for path in zoo() {
        let package = Package::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut model = Model::load(&Onnx, &package).unwrap();
        let report = golden::run(&package, &mut model).unwrap_or_else(|failure| panic!("{}: {failure}", path.display()));
        let outputs: Vec<&str> = package.manifest().outputs.iter().map(|output| output.name.as_str()).collect();
        println!("{package:?} p95 {:?}", report.p95());
        for sample in &report.samples {
            println!("  {} {outputs:?} differ by at most {:.4?} in {:?}", sample.input, sample.differences, sample.took);
        }
    }
}

#[test]
fn every_package_of_the_zoo_survives_packing() {
    for path in zoo() {
        let package = Package::open(&path).unwrap();
        let packed = package.pack();
        assert_eq!(Digest::of(&packed), package.digest());
        assert_eq!(Package::from_bytes(&packed).unwrap(), package);
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("zoo-{}", package.manifest().name));
        drop(fs::remove_dir_all(&dir));
        let unpacked = package::unpack(&packed, &dir).unwrap();
        assert_eq!(Package::open(&dir).unwrap().pack(), packed);
        assert_eq!(unpacked.model_ref(), package.model_ref());
        assert!(package::unpack(&packed, &dir).is_err(), "a folder that holds something is not written into");
        fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn inference_fills_every_drift_feature() {
    for path in zoo() {
        let package = Package::open(&path).unwrap();
        let mut model = Model::load(&Onnx, &package).unwrap();
        let sample = &package.golden().samples[0];
        let bytes = package.file(&sample.input).unwrap();
        let inference = match &package.manifest().input.kind {
            InputKind::Image(_) => model.infer_image(bytes, sample.roi()).unwrap(),
            InputKind::Window(window) => model.infer_window(&golden::parse_window(bytes, window).unwrap()).unwrap(),
        };
        assert!(!inference.drift.is_empty());
        assert_eq!(inference.drift.len(), package.reference().features.len());
        assert!(inference.drift.iter().all(|drift| drift.bin.is_some() && drift.value.is_finite()), "{:?}", inference.drift);
        let answer = model.answer(&inference, 7);
        assert_eq!((answer.label.as_str(), answer.model), (sample.label.as_str(), package.digest()));
        let top = model.top(&inference, 3);
        assert_eq!((top[0].0, top[0].1), (answer.label.as_str(), answer.confidence));
        assert!(top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
    }
}

#[test]
fn the_next_version_of_a_head_costs_few_chunks() {
    let packages: Vec<Package> = zoo().iter().map(|path| Package::open(path).unwrap()).collect();
    let index = |packed: &[u8]| ChunkIndex::cut(packed, &package::boundaries(packed));
    let mut pairs = 0;
    for next in &packages {
        let (name, version) = (&next.manifest().name, next.manifest().version);
        let before = packages.iter().find(|p| p.manifest().name == *name && p.manifest().version + 1 == version);
        let Some(before) = before else { continue };
        let (known, packed) = (index(&before.pack()), next.pack());
        let new: usize =
            index(&packed).chunks.iter().filter(|chunk| !known.chunks.contains(chunk)).map(|chunk| chunk.length as usize).sum();
        println!("{name} v{version}: {new} new bytes of {}", packed.len());
        assert!(new <= 150_000, "{name} v{version}: {new}");
        pairs += 1;
    }
    assert!(pairs > 0);
}

#[test]
fn a_retrained_head_of_the_zoo_passes_its_golden_check_and_costs_few_chunks() {
    let base = Package::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("zoo/vehicles")).unwrap();
    let (logits, labels) = base.manifest().answer();
    let embedding = &base.manifest().outputs[base.manifest().embedding().unwrap()].name;
    // Golden embeddings with a label that the head must learn: the class after the one it says now.
    let samples: Vec<Labelled> = (base.golden().samples.iter())
        .map(|sample| {
            let class = labels.iter().position(|label| *label == sample.label).unwrap();
            let embedding = sample.outputs[embedding].iter().map(|&v| v as f32).collect();
            Labelled { embedding, label: labels[(class + 1) % labels.len()].clone() }
        })
        .collect();
    let options = Options { version: base.manifest().version + 1, penalty: 0.001, selection: Selection::Unsure };
    let new = retrain(&base, &samples, options).unwrap().package;
    let mut model = Model::load(&Onnx, &new).unwrap();
    let report = golden::run(&new, &mut model).unwrap();
    assert!(report.samples.iter().all(|sample| sample.differences[logits].is_finite()));
    let moved = new.golden().samples.iter().zip(&samples).filter(|(golden, sample)| golden.label == sample.label).count();
    assert_eq!(moved, samples.len());
    let index = |package: &Package| {
        let packed = package.pack();
        ChunkIndex::cut(&packed, &package::boundaries(&packed))
    };
    let known = index(&base).chunks;
    let bytes: usize = index(&new).chunks.iter().filter(|chunk| !known.contains(chunk)).map(|chunk| chunk.length as usize).sum();
    println!("{bytes} new bytes");
    assert!(bytes <= 150_000, "{bytes}");
}
