//! Hostile packages: cut, flipped, wrongly named, too many, lying about their size. Always an error, never a panic or a path.

use std::{collections::BTreeMap, fs, path::PathBuf};

use prost::Message as _;
use serde::Serialize;
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_proto::DataLocation, tensor_shape_proto, type_proto,
};
use wayside_models::{
    engine::{Engine as _, EngineError, onnx::Onnx},
    golden,
    head::retrain::{self, Labelled, Options, RetrainError, Selection, retrain},
    manifest::Manifest,
    model::{InferError, Model},
    package::{self, MODEL, Package, PackageError},
    tensor::Tensor,
};

type Files = BTreeMap<String, Vec<u8>>;

const MANIFEST: &str = r#"format = 1
name = "tiny"
version = 1 # of many
licence = "CC0-1.0"
latency_limit = "5s"
[input]
kind = "window"
name = "x"
shape = [1, 2]
[input.window]
rows = 2
step = 1
period = "1s"
columns = [{ name = "a", unit = "1" }, { name = "b", unit = "1" }]
features = ["last(a)", "last(b)"]
[[output]]
name = "logits"
role = "logits"
labels = ["no", "maybe", "yes"]
atol = 1e-4
rtol = 0.0
[[output]]
name = "embedding"
role = "embedding"
atol = 1e-4
rtol = 0.0
"#;

fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&dim: &i64| tensor_shape_proto::Dimension {
        denotation: String::new(),
        value: Some(tensor_shape_proto::dimension::Value::DimValue(dim)),
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: 1, shape: Some(shape) };
    let r#type = TypeProto { denotation: String::new(), value: Some(type_proto::Value::TensorType(tensor)) };
    ValueInfoProto { name: name.into(), r#type: Some(r#type), doc_string: String::new() }
}

fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: 1, raw_data, ..Default::default() }
}

fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
    let input = input.iter().map(|name| (*name).into()).collect();
    NodeProto { op_type: op.into(), name: output.into(), input, output: vec![output.into()], ..Default::default() }
}

/// embedding = 2 x; logits = embedding · weightᵀ + bias.
fn network() -> ModelProto {
    use tract_onnx::pb::{AttributeProto, attribute_proto::AttributeType};
    let trans_b = AttributeProto { name: "transB".into(), i: 1, r#type: AttributeType::Int as i32, ..Default::default() };
    let mut gemm = node("Gemm", &["embedding", "head.weight", "head.bias"], "logits");
    gemm.attribute.push(trans_b);
    let graph = GraphProto {
        name: "tiny".into(),
        node: vec![node("Add", &["x", "x"], "embedding"), gemm],
        initializer: vec![tensor("head.weight", &[3, 2], &[1.0, 0.0, 0.0, 1.0, -1.0, -1.0]), tensor("head.bias", &[3], &[0.5, 0.0, -0.5])],
        input: vec![value("x", &[1, 2])],
        output: vec![value("logits", &[1, 3]), value("embedding", &[1, 2])],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 13 }];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() }
}

fn files() -> Files {
    let golden = r#"{"samples": [{"input": "golden/w.csv", "roi": null, "label": "maybe",
        "outputs": {"logits": [2.5, 4.0, -6.5], "embedding": [2.0, 4.0]}}]}"#;
    let edges: Vec<f64> = (0..31).map(f64::from).collect();
    let reference = format!(r#"{{"features": [{{"name": "output.class", "edges": {edges:?}, "counts": {:?}}}], "n": 32}}"#, [1; 32]);
    let texts = [("manifest.toml", MANIFEST), ("golden.json", golden), ("golden/w.csv", "b,t,a\n0,9,0\n2,9,1\n"), ("card.md", "# tiny\n")];
    let mut files: Files = texts.into_iter().map(|(name, text)| (name.into(), text.into())).collect();
    files.insert("reference.json".into(), reference.into_bytes());
    files.insert(MODEL.into(), network().encode_to_vec());
    files
}

fn tiny() -> Package {
    Package::from_files(files()).unwrap()
}

/// A packed package with any table, right or wrong.
fn container(entries: &[(&str, u64)], content: &[u8]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Entry<'a> {
        path: &'a str,
        length: u64,
    }
    let table: Vec<Entry> = entries.iter().map(|&(path, length)| Entry { path, length }).collect();
    let table = postcard::to_allocvec(&table).unwrap();
    let mut packed = b"waysidep\x01".to_vec();
    packed.extend((table.len() as u32).to_le_bytes());
    packed.extend(table);
    packed.extend(content);
    packed
}

fn run(network: &ModelProto) -> Result<Vec<Tensor>, EngineError> {
    let manifest = Manifest::parse(MANIFEST).unwrap();
    let mut session = Onnx.load(&network.encode_to_vec(), &manifest)?;
    session.run(&Tensor::new(vec![1, 2], vec![1.0, 2.0]).unwrap())
}

#[test]
fn the_tiny_package_is_good() {
    let package = tiny();
    let mut model = Model::load(&Onnx, &package).unwrap();
    let report = golden::run(&package, &mut model).unwrap();
    report.within(package.manifest().latency_limit).unwrap();
    assert_eq!(Package::from_bytes(&package.pack()).unwrap(), package);
}

#[test]
fn packed_bytes_that_are_cut_or_flipped_are_never_the_package() {
    let package = tiny();
    let packed = package.pack();
    for cut in 0..packed.len() {
        assert!(Package::from_bytes(&packed[..cut]).is_err(), "cut at {cut}");
        assert!(package::boundaries(&packed[..cut]).is_empty(), "cut at {cut}");
    }
    for at in 0..packed.len() {
        let mut flipped = packed.clone();
        flipped[at] ^= 0x41;
        if let Ok(other) = Package::from_bytes(&flipped) {
            assert_ne!(other.digest(), package.digest(), "flipped at {at}");
        }
    }
    let longer = [packed.as_slice(), b"x"].concat();
    assert!(matches!(Package::from_bytes(&longer), Err(PackageError::Container(_))));
}

#[test]
fn a_container_cannot_name_a_path_or_grow_without_bound() {
    let many: Vec<String> = (0..10_000).map(|i| format!("golden/{i:05}.jpg")).collect();
    let bomb: Vec<(&str, u64)> = many.iter().map(|name| (name.as_str(), 0)).collect();
    struct Case<'a>(&'a str, Vec<(&'a str, u64)>);
    let cases = [
        Case("parent", vec![("../evil", 0)]),
        Case("absolute", vec![("/etc/passwd", 0)]),
        Case("inside out", vec![("golden/../../evil", 0)]),
        Case("deeper", vec![("golden/a/b.jpg", 0)]),
        Case("hidden", vec![("golden/.x", 0)]),
        Case("backslash", vec![("golden/..\\x", 0)]),
        Case("nul", vec![("golden/a\0b", 0)]),
        Case("stray", vec![("README.md", 0)]),
        Case("empty", vec![("", 0)]),
        Case("twice", vec![("card.md", 0), ("card.md", 0)]),
        Case("unsorted", vec![("manifest.toml", 0), ("card.md", 0)]),
        Case("longer than allowed", vec![("card.md", u64::MAX)]),
        Case("longer than there is", vec![("card.md", 1000)]),
        Case("count bomb", bomb),
    ];
    for Case(what, entries) in cases {
        assert!(Package::from_bytes(&container(&entries, b"")).is_err(), "{what}");
    }
    // A table that claims four billion entries in a few bytes.
    let mut lying = container(&[], b"");
    lying.truncate(13);
    lying[9..13].copy_from_slice(&5u32.to_le_bytes());
    lying.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(Package::from_bytes(&lying).is_err());
}

#[test]
fn a_package_that_is_not_whole_is_refused() {
    for name in files().keys() {
        let mut files = files();
        files.remove(name);
        assert!(matches!(Package::from_files(files), Err(PackageError::Missing(_))), "{name}");
    }
    let replaced = |name: &str, bytes: &[u8]| {
        let mut files = files();
        files.insert(name.into(), bytes.to_vec());
        Package::from_files(files).map(drop)
    };
    assert!(matches!(replaced("manifest.toml", b"\xff\xfe"), Err(PackageError::NotText(_))));
    assert!(matches!(replaced("card.md", b"\xff"), Err(PackageError::NotText(_))));
    assert!(matches!(replaced("golden/stray.jpg", b""), Err(PackageError::Unexpected(_))));
    assert!(matches!(replaced("card.md", &[b'x'; 2_000_000]), Err(PackageError::TooLarge { .. })));
    let golden = String::from_utf8(files()["golden.json"].clone()).unwrap();
    for (old, new) in [
        ("golden/w.csv", "../w.csv"),
        ("maybe", "perhaps"),
        ("\"embedding\"", "\"feelings\""),
        ("[2.5, 4.0, -6.5]", "[2.5, 4.0]"),
        ("[2.0, 4.0]", "[]"),
        ("[2.0, 4.0]", "[1e999]"),
        ("\"roi\"", "\"box\""),
        ("null", "[-1, 0, 1, 1]"),
    ] {
        let error = replaced("golden.json", golden.replace(old, new).as_bytes()).expect_err(new);
        assert!(matches!(&error, PackageError::Malformed(at) if at.file == "golden.json"), "{new}: {error}");
    }
    let reference = String::from_utf8(files()["reference.json"].clone()).unwrap();
    for (old, new) in
        [("output.class", "image.brightness"), ("output.class", "input.mean(a)"), ("[0.0, 1.0,", "[1.0, 1.0,"), ("[1, 1,", "[1,")]
    {
        let error = replaced("reference.json", reference.replace(old, new).as_bytes()).expect_err(new);
        assert!(matches!(&error, PackageError::Malformed(at) if at.file == "reference.json"), "{new}: {error}");
    }
}

#[test]
fn a_folder_that_is_not_a_package_says_what_is_missing() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("hostile-folder");
    drop(fs::remove_dir_all(&dir));
    assert!(matches!(Package::open(&dir), Err(PackageError::Missing(file)) if file == "manifest.toml"));
    tiny().write(&dir).unwrap();
    fs::write(dir.join("head.toml"), "base = \"../../etc\"").unwrap();
    assert!(matches!(Package::open(&dir), Err(PackageError::TwoNetworks)));
    fs::remove_file(dir.join(MODEL)).unwrap();
    assert!(matches!(Package::open(&dir), Err(PackageError::Head(_))));
    fs::write(dir.join("head.toml"), "base = \"../not-there\"").unwrap();
    assert!(matches!(Package::open(&dir), Err(PackageError::Missing(_))));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_hostile_network_is_an_error() {
    assert!(run(&network()).is_ok());
    let onnx = network().encode_to_vec();
    let manifest = Manifest::parse(MANIFEST).unwrap();
    // Without its last field, the operator set, it is a network still.
    let without_opset = ModelProto { opset_import: Vec::new(), ..network() }.encoded_len();
    for cut in (0..onnx.len()).filter(|cut| *cut != without_opset) {
        assert!(Onnx.load(&onnx[..cut], &manifest).is_err(), "cut at {cut}");
    }
    struct Case(&'static str, fn(&mut GraphProto));
    let cases = [
        Case("an operator that nobody knows", |graph| graph.node[0].op_type = "Format".into()),
        Case("another input", |graph| graph.input[0].name = "y".into()),
        Case("no output of that name", |graph| graph.output[1] = graph.output[0].clone()),
        Case("an output that no node gives", |graph| graph.output[1].name = "nothing".into()),
        Case("an edge from nowhere", |graph| graph.node[0].input[1] = "nothing".into()),
        Case("a loop", |graph| graph.node[0].input[1] = "logits".into()),
        Case("dimensions that overflow", |graph| graph.initializer[0].dims = vec![i64::MAX, 4]),
        Case("negative dimensions", |graph| graph.initializer[0].dims = vec![-3, -2]),
        Case("fewer bytes than the shape says", |graph| graph.initializer[0].raw_data.truncate(8)),
        Case("a type that is none", |graph| graph.initializer[0].data_type = 99),
        Case("shapes that do not fit", |graph| graph.initializer[0] = tensor("head.weight", &[3, 5], &[0.0; 15])),
        Case("a tensor in another file", |graph| {
            let entry = StringStringEntryProto { key: "location".into(), value: "/etc/passwd".into() };
            graph.initializer[1].raw_data.clear();
            graph.initializer[1].external_data.push(entry);
            graph.initializer[1].data_location = Some(DataLocation::External as i32);
        }),
    ];
    for Case(what, change) in cases {
        let mut network = network();
        change(network.graph.as_mut().unwrap());
        assert!(run(&network).is_err(), "{what}");
    }
    assert!(run(&ModelProto { graph: None, ..network() }).is_err());
}

#[test]
fn a_window_with_a_hole_is_the_inputs_fault() {
    let mut model = Model::load(&Onnx, &tiny()).unwrap();
    let inference = model.infer_window(&[vec![0.0, 0.0], vec![1.0, 2.0]]).unwrap();
    assert_eq!((inference.class, model.embedding(&inference)), (1, Some([2.0f32, 4.0].as_slice())));
    for rows in [vec![], vec![vec![0.0, 0.0], vec![f64::NAN, 0.0]], vec![vec![0.0], vec![0.0]]] {
        assert!(matches!(model.infer_window(&rows), Err(InferError::BadInput(_))));
    }
    assert!(matches!(model.infer_image(b"", None), Err(InferError::BadInput(_))));
    // Finite readings whose logits are not.
    assert!(matches!(model.infer_window(&vec![vec![1e300, 0.0]; 2]), Err(InferError::NotFinite { .. })));
}

#[test]
fn a_refitted_head_makes_a_package_that_passes_its_own_golden_check() {
    let base = tiny();
    // The world has turned: what is large in a is now "yes".
    let sample = |a: f32, b: f32, label: &str| Labelled { embedding: vec![a, b], label: label.into() };
    let samples: Vec<Labelled> = (0..60u8)
        .flat_map(|i| {
            let wobble = f32::from(i % 7) / 10.0;
            [sample(4.0 + wobble, wobble, "yes"), sample(wobble, 4.0 - wobble, "maybe"), sample(-4.0 - wobble, -wobble, "no")]
        })
        .collect();
    let options = Options { version: 2, penalty: 0.001, selection: Selection::Random };
    let retrained = retrain(&base, &samples, options).unwrap();
    let (package, report) = (&retrained.package, &retrained.report);
    assert_eq!((report.fitted_on, report.held_out, report.labels["yes"]), (144, 36, 60));
    let accuracy = report.accuracy.unwrap();
    assert!(accuracy.new == 1.0 && accuracy.base < 0.5, "{accuracy:?}");
    assert_eq!(package.manifest().version, 2);
    assert_ne!(package.digest(), base.digest());
    let mut model = Model::load(&Onnx, package).unwrap();
    golden::run(package, &mut model).unwrap();
    assert_eq!(model.infer_window(&[vec![0.0; 2], vec![2.0, 0.0]]).unwrap().class, 2);
    let again = retrain(&base, &samples, options).unwrap().package;
    assert_eq!(again.pack(), package.pack());
    let card = String::from_utf8(package.file(package::CARD).unwrap().to_vec()).unwrap();
    assert!(card.contains("100.0 %") && card.contains("| yes | 60 |"), "{card}");
}

#[test]
fn samples_chosen_by_chance_become_the_reference_of_the_answer() {
    let base = tiny();
    let samples: Vec<Labelled> = (0..400u16)
        .map(|i| Labelled { embedding: vec![f32::from(i % 20) - 10.0, 1.0], label: if i % 20 < 10 { "no" } else { "yes" }.into() })
        .collect();
    let total = |selection| {
        let options = Options { version: 2, penalty: retrain::PENALTY, selection };
        let retrained = retrain(&base, &samples, options).unwrap();
        (retrained.report.held_out as u64, retrained.package.reference().features[0].counts.total())
    };
    let (held_out, counted) = total(Selection::Random);
    assert_eq!((held_out, counted), (80, 80));
    assert_eq!(total(Selection::Unsure).1, 32);
}

#[test]
fn what_cannot_be_retrained_is_refused() {
    let options = Options { version: 2, penalty: 0.1, selection: Selection::Unsure };
    let sample = |label: &str, dimension: usize| vec![Labelled { embedding: vec![0.0; dimension], label: label.into() }];
    assert!(matches!(retrain(&tiny(), &sample("perhaps", 2), options), Err(RetrainError::UnknownLabel { .. })));
    assert!(matches!(retrain(&tiny(), &sample("yes", 3), options), Err(RetrainError::Fit(_))));
    assert!(matches!(retrain(&tiny(), &[], options), Err(RetrainError::Fit(_))));
    let mut files = files();
    let golden = String::from_utf8(files["golden.json"].clone()).unwrap().replace("[2.0, 4.0]", "[2.5, 4.0]");
    files.insert("golden.json".into(), golden.into_bytes());
    let bent = Package::from_files(files).unwrap();
    assert!(matches!(retrain(&bent, &sample("yes", 2), options), Err(RetrainError::NotLinear { .. })));
}
