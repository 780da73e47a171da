//! Preprocessing against Pillow: what `data/make_pillow.py` wrote, and what can be counted by hand.

use serde::Deserialize;
use wayside_common::record::Roi;
use wayside_models::{
    manifest::{Color, Filter, ImageInput, Layout, Resize, RoiRule},
    preprocess::image::{ImageError, Rgb, decode, normalise, resize},
    thumbnail,
};

const PATTERN: &[u8] = include_bytes!("data/pattern.jpg");

#[derive(Deserialize)]
struct Case {
    roi: Option<[u32; 4]>,
    width: u32,
    height: u32,
    resize: String,
    filter: String,
    pixels: String,
}

fn input(width: u32, height: u32) -> ImageInput {
    ImageInput {
        roi: RoiRule::Source,
        color: Color::Rgb,
        resize: Resize::Stretch,
        filter: Filter::Bilinear,
        pad: [9, 8, 7],
        layout: Layout::Nchw,
        mean: [0.0; 3],
        std: [1.0; 3],
        width,
        height,
    }
}

/// The picture that `make_pillow.py` draws.
fn frame() -> Rgb {
    let pixel = |x: u32, y: u32| [(x * 7 + y * 13) as u8, (x * x + 3 * y) as u8, (x * y * 5 + 40) as u8];
    Rgb::new(41, 29, (0..29).flat_map(|y| (0..41).flat_map(move |x| pixel(x, y))).collect()).unwrap()
}

fn roi([x, y, width, height]: [u32; 4]) -> Roi {
    Roi { x, y, width, height }
}

fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn crop_and_resize_give_what_pillow_gives() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("data/pillow.json")).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let expected: Vec<u8> =
            (0..case.pixels.len() / 2).map(|i| u8::from_str_radix(&case.pixels[2 * i..2 * i + 2], 16).unwrap()).collect();
        let mut input = input(case.width, case.height);
        input.resize = if case.resize == "stretch" { Resize::Stretch } else { Resize::Letterbox };
        input.filter = if case.filter == "nearest" { Filter::Nearest } else { Filter::Bilinear };
        let got = resize(&input, &frame(), case.roi.map(roi)).unwrap();
        // Nearest is exact; the triangle filter may round one level apart.
        let allowed = u8::from(case.filter == "bilinear");
        let difference = largest_difference(got.pixels(), &expected);
        assert!(difference <= allowed, "{:?} to {} x {}, {} {}: {difference}", case.roi, case.width, case.height, case.resize, case.filter);
    }
}

#[test]
fn decoding_is_within_four_levels_of_pillow() {
    let expected = include_bytes!("data/pattern.rgb");
    let got = decode(PATTERN).unwrap();
    assert_eq!((got.width(), got.height()), (48, 35));
    let difference = largest_difference(got.pixels(), expected);
    // libjpeg-turbo interpolates chroma in one step, our decoder in two that round.
    assert!(difference <= 4, "{difference}");
    let mean = got.pixels().iter().zip(expected).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / expected.len() as f64;
    assert!(mean < 0.3, "{mean}");
    let progressive = decode(include_bytes!("data/progressive.jpg")).unwrap();
    assert_eq!(largest_difference(progressive.pixels(), got.pixels()), 0);
}

#[test]
fn grey_pictures_become_rgb() {
    let grey = decode(include_bytes!("data/grey.jpg")).unwrap();
    assert_eq!((grey.width(), grey.height()), (48, 35));
    assert!(grey.pixels().chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]));
}

#[test]
fn pixels_outside_the_box_have_no_influence() {
    let (inside, mut changed) = (roi([8, 4, 20, 12]), frame().pixels().to_vec());
    for y in 0..29 {
        for x in 0..41 {
            if !((8..28).contains(&x) && (4..16).contains(&y)) {
                changed[(y * 41 + x) * 3..][..3].fill(255);
            }
        }
    }
    let changed = Rgb::new(41, 29, changed).unwrap();
    for filter in [Filter::Bilinear, Filter::Nearest] {
        let input = ImageInput { filter, ..input(16, 16) };
        assert_eq!(resize(&input, &frame(), Some(inside)), resize(&input, &changed, Some(inside)));
    }
}

#[test]
fn a_box_outside_the_frame_is_refused() {
    for outside in [[0, 0, 42, 29], [0, 0, 0, 5], [41, 0, 1, 1], [u32::MAX, 0, 2, 2], [0, 20, 5, 10]] {
        let error = resize(&input(8, 8), &frame(), Some(roi(outside))).unwrap_err();
        assert!(matches!(error, ImageError::Outside { .. }), "{outside:?}");
        let full = ImageInput { roi: RoiRule::Full, ..input(8, 8) };
        assert_eq!(resize(&full, &frame(), Some(roi(outside))), resize(&full, &frame(), None));
    }
}

#[test]
fn colours_means_and_layout_are_applied_in_the_manifests_order() {
    let picture = Rgb::new(2, 1, vec![10, 20, 30, 40, 50, 60]).unwrap();
    let base = ImageInput { mean: [1.0, 2.0, 3.0], std: [1.0, 2.0, 4.0], ..input(2, 1) };
    struct Case(Color, Layout, [usize; 4], [f32; 6]);
    let cases = [
        Case(Color::Rgb, Layout::Nchw, [1, 3, 1, 2], [9.0, 39.0, 9.0, 24.0, 6.75, 14.25]),
        Case(Color::Bgr, Layout::Nchw, [1, 3, 1, 2], [29.0, 59.0, 9.0, 24.0, 1.75, 9.25]),
        Case(Color::Rgb, Layout::Nhwc, [1, 1, 2, 3], [9.0, 9.0, 6.75, 39.0, 24.0, 14.25]),
        Case(Color::Bgr, Layout::Nhwc, [1, 1, 2, 3], [29.0, 9.0, 1.75, 59.0, 24.0, 9.25]),
    ];
    for Case(color, layout, shape, values) in cases {
        let tensor = normalise(&ImageInput { color, layout, ..base.clone() }, &picture);
        assert_eq!(tensor.shape(), shape);
        assert_eq!(tensor.values(), values, "{color:?} {layout:?}");
    }
}

#[test]
fn hostile_pictures_are_errors() {
    for cut in 0..PATTERN.len() {
        assert!(decode(&PATTERN[..cut]).is_err(), "cut at {cut}");
    }
    let mut huge = PATTERN.to_vec();
    let frame_header = huge.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    huge[frame_header + 5..frame_header + 9].fill(0xff);
    assert!(decode(&huge).is_err());
    huge[frame_header + 5..frame_header + 9].copy_from_slice(&[0x1f, 0xff, 0x1f, 0xff]);
    assert_eq!(decode(&huge), Err(ImageError::TooLarge { width: 8191, height: 8191 }));
    for at in 0..PATTERN.len() {
        let mut flipped = PATTERN.to_vec();
        flipped[at] ^= 0x55;
        // Another picture or an error, never a panic.
        drop(decode(&flipped));
        drop(thumbnail::of_jpeg(&flipped, Some(roi([1, 1, 9, 9]))));
    }
    for text in [&b""[..], b"not a picture", &[0xff, 0xd8, 0xff, 0xd9]] {
        assert!(matches!(decode(text), Err(ImageError::Decode(_))));
    }
}
