//! What manifests are read, and what is said of wrong ones.

use super::*;

const IMAGE: &str = r#"format = 1
name = "vehicles"   # a comment that stays
version = 3
licence = "Apache-2.0"
latency_limit = "500ms"

[input]
kind = "image"
name = "image"
shape = [1, 3, 160, 224]

[input.image]
roi = "source"
color = "rgb"
resize = "stretch"
filter = "bilinear"
pad = [0, 0, 0]
layout = "nchw"
mean = [127.0, 127.0, 127.0]
std = [128.0, 128.0, 128.0]

[[output]]
name = "logits"
role = "logits"
labels = ["bike", "car"]
atol = 0.05
rtol = 0.0

[[output]]
name = "embedding"
role = "embedding"
atol = 0.05
rtol = 0
"#;

const WINDOW: &str = r#"format = 1
name = "motion"
version = 1
licence = "Apache-2.0"
latency_limit = "50ms"
[input]
kind = "window"
name = "features"
shape = [1, 2]
[input.window]
rows = 190
step = 95
period = "10.504ms"
columns = [{ name = "ax", unit = "m/s2" }, { name = "ay", unit = "m/s2" }]
features = ["mean(ax)", "std(norm(ax,ay))"]
[[output]]
name = "logits"
role = "logits"
labels = ["rest", "moving"]
atol = 1e-4
rtol = 0.0
"#;

#[test]
fn an_image_manifest_is_read_as_it_stands() {
    let manifest = Manifest::parse(IMAGE).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.version), ("vehicles", 3));
    assert_eq!(manifest.latency_limit, Duration::from_millis(500));
    let InputKind::Image(image) = &manifest.input.kind else { panic!("not an image") };
    assert_eq!((image.height, image.width), (160, 224));
    assert_eq!(manifest.answer(), (0, ["bike".to_owned(), "car".to_owned()].as_slice()));
    assert_eq!(manifest.embedding(), Some(1));
}

#[test]
fn a_window_manifest_is_read_as_it_stands() {
    let manifest = Manifest::parse(WINDOW).unwrap();
    let InputKind::Window(window) = &manifest.input.kind else { panic!("not a window") };
    assert_eq!((window.rows, window.step, window.period), (190, 95, Duration::from_nanos(10_504_000)));
    assert_eq!(window.features.len(), 2);
    assert_eq!(manifest.embedding(), None);
}

#[test]
fn a_new_version_changes_nothing_else() {
    let changed = with_version(IMAGE, 14).unwrap();
    assert_eq!(changed, IMAGE.replace("version = 3", "version = 14"));
    assert!(with_version(IMAGE, 0).is_err());
}

#[test]
fn a_wrong_manifest_is_refused_with_line_and_column() {
    struct Case {
        text: &'static str,
        old: &'static str,
        new: &'static str,
        at: (usize, usize),
        says: &'static str,
    }
    let cases = [
        Case { text: IMAGE, old: "version = 3", new: "version = 0", at: (3, 11), says: "count from 1" },
        Case { text: IMAGE, old: "format = 1", new: "format = 2", at: (1, 10), says: "format 2" },
        Case { text: IMAGE, old: "licence", new: "license", at: (4, 1), says: "unknown field" },
        Case { text: IMAGE, old: "\"vehicles\"", new: "\"../x\"", at: (2, 8), says: "model name" },
        Case { text: IMAGE, old: "500ms", new: "500", at: (5, 17), says: "not a time" },
        Case { text: IMAGE, old: "500ms", new: "90s", at: (5, 17), says: "not a time" },
        Case { text: IMAGE, old: "kind = \"image\"", new: "kind = \"window\"", at: (8, 8), says: "[input.window]" },
        Case { text: IMAGE, old: "[1, 3, 160, 224]", new: "[1, 160, 224, 3]", at: (10, 9), says: "nchw" },
        Case { text: IMAGE, old: "160, 224", new: "1, 4096", at: (10, 9), says: "at most 2048" },
        Case { text: IMAGE, old: "[1, 3, 160, 224]", new: "[99999999999, 99999999999]", at: (10, 9), says: "elements" },
        Case { text: IMAGE, old: "\"rgb\"", new: "\"hsv\"", at: (14, 9), says: "hsv" },
        Case { text: IMAGE, old: "pad = [0, 0, 0]", new: "pad = [0, 0, 256]", at: (17, 14), says: "256" },
        Case { text: IMAGE, old: "[128.0, ", new: "[0.0, ", at: (20, 7), says: "above zero" },
        Case { text: IMAGE, old: "[127.0, ", new: "[nan, ", at: (19, 8), says: "finite" },
        Case { text: IMAGE, old: "[\"bike\", \"car\"]", new: "[\"car\", \"car\"]", at: (25, 10), says: "the same" },
        Case { text: IMAGE, old: "[\"bike\", \"car\"]", new: "[\"car\"]", at: (25, 10), says: "1 labels" },
        Case { text: IMAGE, old: "atol = 0.05\nrtol = 0.0", new: "atol = inf\nrtol = 0.0", at: (26, 8), says: "finite" },
        Case {
            text: IMAGE,
            old: "\"car\"]",
            new: "\"a label that is a little longer than the server is willing to take it\"]",
            at: (25, 10),
            says: "64 bytes",
        },
        Case { text: IMAGE, old: "labels = [\"bike\", \"car\"]\n", new: "", at: (24, 8), says: "`labels`" },
        Case { text: IMAGE, old: "name = \"embedding\"", new: "name = \"logits\"", at: (22, 1), says: "one name" },
        Case { text: WINDOW, old: "rows = 190", new: "rows = 100001", at: (11, 8), says: "100000" },
        Case { text: WINDOW, old: "step = 95", new: "step = 0", at: (12, 8), says: "not 1" },
        Case { text: WINDOW, old: "10.504ms", new: "0ms", at: (13, 10), says: "above zero" },
        Case { text: WINDOW, old: "std(norm(ax,ay))", new: "std(norm(ax,az))", at: (15, 25), says: "\"az\"" },
        Case { text: WINDOW, old: "[1, 2]", new: "[1, 3]", at: (9, 9), says: "2 values" },
        Case { text: WINDOW, old: "name = \"ay\"", new: "name = \"ax\"", at: (14, 11), says: "one name" },
    ];
    for case in cases {
        assert!(case.text.contains(case.old), "{}", case.old);
        let error = Manifest::parse(&case.text.replacen(case.old, case.new, 1)).expect_err(case.new);
        assert_eq!((error.line, error.column), case.at, "{} gave {error}", case.new);
        assert!(error.reason.contains(case.says), "{} gave {error}", case.new);
    }
}

#[test]
fn durations_have_a_unit() {
    assert_eq!(parse_duration("1m"), Some(Duration::from_secs(60)));
    assert_eq!(parse_duration("1.5us"), Some(Duration::from_nanos(1500)));
    for wrong in ["", "5", "ms", "1 s", "-1s", "1.2.3s", "1e3s", "999999999999h", "1d"] {
        assert_eq!(parse_duration(wrong), None, "{wrong}");
    }
}
