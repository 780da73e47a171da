//! The worker: a process with one model in it. It decodes, prepares, infers, and says what came of it.
//!
//! Invariant: a picture or a network that brings it down brings down nothing else; it ends when its core closes the pipe.
//! stdout belongs to the protocol alone. Not here: when a worker is started and what its death means (`supervisor`).

pub mod protocol;

use std::{io, path::PathBuf, time::Instant};

use anyhow::Context;
use wayside_common::record::Roi;
use wayside_models::{
    engine::onnx::Onnx,
    golden::{self, GoldenFailure},
    model::{InferError, Inference, Model},
    package::Package,
    preprocess::image::{self, ImageError, Rgb},
    thumbnail,
};

use self::protocol::{Bytes, Judged, Passed, Reply, Request};

/// A self test that was only too slow is run again: another process may have had the processor.
const SELF_TESTS: u32 = 3;

/// `wayside-agent worker`
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Folder of the package to load
    #[arg(long, value_name = "DIR")]
    pub package: PathBuf,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut model = match load(arguments) {
        Ok(model) => model,
        Err(error) => {
            protocol::write(&mut output, &Reply::Unloadable(format!("{error:#}"))).context("telling the core")?;
            return Ok(());
        }
    };
    protocol::write(&mut output, &Reply::Ready(model.identity().clone())).context("telling the core")?;
    let mut bytes = Vec::new();
    while protocol::read(&mut input, &mut bytes).context("reading from the core")? {
        let reply = match protocol::parse(&bytes).context("reading from the core")? {
            Request::Frame { jpeg: Bytes(jpeg), roi, thumbnail, details_below } => {
                judge_frame(&mut model, jpeg, roi, thumbnail, details_below)
            }
            Request::Window { rows } => judge_window(&mut model, &rows),
            Request::SelfTest => Reply::SelfTest(self_test(arguments, &mut model)),
        };
        protocol::write(&mut output, &reply).context("answering the core")?;
        if let Reply::Failed(reason) = reply {
            anyhow::bail!("{reason}");
        }
    }
    Ok(())
}

fn load(arguments: &Arguments) -> anyhow::Result<Model> {
    let package = Package::open(&arguments.package)?;
    Ok(Model::load(&Onnx, &package)?)
}

fn judge_frame(model: &mut Model, jpeg: &[u8], roi: Option<Roi>, thumbnail: bool, details_below: f32) -> Reply {
    let started = Instant::now();
    let inference = match model.infer_image(jpeg, roi) {
        Ok(inference) => inference,
        Err(error) => return refusal(&error),
    };
    let mut judged = judged(model, &inference, started);
    // The frame could be decoded, so neither of these fails; if one does, the answer is worth more than the picture.
    if thumbnail {
        judged.thumbnail = framed_thumbnail(jpeg, roi).ok();
    }
    if inference.margin < details_below {
        judged.crop = roi.and_then(|roi| thumbnail::crop_jpeg(jpeg, Some(roi)).ok());
        judged.embedding = model.embedding(&inference).unwrap_or_default().to_vec();
    }
    Reply::Judged(judged)
}

fn judge_window(model: &mut Model, rows: &[Vec<f64>]) -> Reply {
    let started = Instant::now();
    match model.infer_window(rows) {
        Ok(inference) => Reply::Judged(judged(model, &inference, started)),
        Err(error) => refusal(&error),
    }
}

fn judged(model: &Model, inference: &Inference, started: Instant) -> Judged {
    let micros = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
    Judged {
        answer: model.answer(inference, micros),
        drift: inference.drift.iter().map(|drift| drift.value).collect(),
        embedding: Vec::new(),
        thumbnail: None,
        crop: None,
    }
}

fn refusal(error: &InferError) -> Reply {
    match error {
        InferError::BadInput(reason) => Reply::BadInput(reason.clone()),
        InferError::Engine(_) | InferError::NotFinite { .. } => Reply::Failed(error.to_string()),
    }
}

/// A small picture of the whole frame, with a line around what the model looked at.
fn framed_thumbnail(jpeg: &[u8], roi: Option<Roi>) -> Result<Vec<u8>, ImageError> {
    const LINE: [u8; 3] = [255, 214, 10];
    let frame = image::decode(jpeg)?;
    let Some(roi) = roi else { return Ok(thumbnail::of_picture(&frame)) };
    frame.crop(roi)?;
    let (width, height) = (frame.width(), frame.height());
    let thick = (width.max(height) / 200).max(1);
    let mut pixels = frame.pixels().to_vec();
    let mut bar = |x: u32, y: u32, w: u32, h: u32| {
        for y in y..(y + h).min(height) {
            let at = |x: u32| (y * width + x.min(width)) as usize * 3;
            pixels[at(x)..at(x + w)].as_chunks_mut::<3>().0.fill(LINE);
        }
    };
    let (right, foot) = (roi.x + roi.width, roi.y + roi.height);
    bar(roi.x, roi.y, roi.width, thick);
    bar(roi.x, foot.saturating_sub(thick), roi.width, thick);
    bar(roi.x, roi.y, thick, roi.height);
    bar(right.saturating_sub(thick), roi.y, thick, roi.height);
    Ok(thumbnail::of_picture(&Rgb::new(width, height, pixels).expect("as many pixels as the frame")))
}

fn self_test(arguments: &Arguments, model: &mut Model) -> Result<Passed, String> {
    let package = Package::open(&arguments.package).map_err(|error| error.to_string())?;
    if package.digest() != model.identity().digest {
        return Err("the package has changed since it was loaded".into());
    }
    let limit = package.manifest().latency_limit;
    let mut left = SELF_TESTS;
    loop {
        left -= 1;
        let report = golden::run(&package, model).map_err(|failure| failure.to_string())?;
        let passed = Passed { samples: report.samples.len() as u32, p95_micros: report.p95().as_micros() as u64 };
        match report.within(limit) {
            Ok(()) => return Ok(passed),
            Err(GoldenFailure::TooSlow { .. }) if left > 0 => {}
            Err(failure) => return Err(failure.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use wayside_models::thumbnail::encode;

    use super::*;

    #[test]
    fn a_thumbnail_shows_the_box_and_survives_any_box() {
        let grey = encode(&Rgb::new(64, 48, vec![90; 64 * 48 * 3]).unwrap(), 90);
        let small = image::decode(&framed_thumbnail(&grey, Some(Roi { x: 8, y: 8, width: 56, height: 40 })).unwrap()).unwrap();
        let at = |x: usize, y: usize| &small.pixels()[(y * 64 + x) * 3..][..3];
        assert!(at(30, 8)[0] > 180 && at(30, 20)[0] < 130, "{:?} {:?}", at(30, 8), at(30, 20));
        assert!(framed_thumbnail(&grey, Some(Roi { x: 60, y: 0, width: u32::MAX, height: 4 })).is_err());
        assert!(framed_thumbnail(b"no jpeg", None).is_err());
    }
}
