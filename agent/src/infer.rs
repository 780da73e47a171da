//! `wayside-agent infer`: a model and a picture, a folder or the package's own samples, without server or configuration.
//!
//! Invariant: the label on stdout comes from the same package, preprocessing and engine as on a device at work. The model runs
//! in this process: there is no sensing here to protect from it. Not here: the page (`page`).

mod page;

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, bail};
use wayside_common::{record::Roi, schedule::Position, time::Wall};
use wayside_models::{
    engine::onnx::Onnx,
    golden,
    manifest::InputKind,
    model::{Inference, Model},
    package::Package,
    thumbnail,
};

use self::page::Shown;
use crate::source::{
    Item, Source,
    images::{self, Images},
};

const TOP: usize = 3;
/// No window of readings is larger as CSV.
const MAX_WINDOW: u64 = 4 * 1024 * 1024;

/// `wayside-agent infer`
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Folder of the model's package, as models/zoo/vehicles
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// A picture or CSV window, a folder of them, or `sample:` for the package's golden samples
    #[arg(long, value_name = "FILE|DIR|sample:")]
    pub input: String,
    /// Show the inputs with their labels on a page, one after the other, until interrupted
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:4912")]
    pub serve: Option<SocketAddr>,
}

/// Exit code 1: an input could not be read or judged.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let package = Package::open(&arguments.model).with_context(|| format!("model {}", arguments.model.display()))?;
    let mut model = Model::load(&Onnx, &package)?;
    let inputs = Inputs::open(&arguments.input, &package)?;
    match arguments.serve {
        Some(address) => page::serve(address, model, inputs).map(|()| ExitCode::SUCCESS),
        None => print_all(&mut model, inputs),
    }
}

fn print_all(model: &mut Model, mut inputs: Inputs) -> anyhow::Result<ExitCode> {
    let (mut out, mut code) = (std::io::stdout().lock(), ExitCode::SUCCESS);
    for at in 0..inputs.len() {
        let shown = show(model, &mut inputs, at);
        match &shown.answer {
            Ok(answer) => writeln!(out, "{}  {}  {:.1} ms", shown.name, answer.line(), answer.millis)?,
            Err(reason) => {
                eprintln!("{}: {reason}", shown.name);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// What is judged, in order.
enum Inputs {
    Images { source: Images, count: u64 },
    Files(Vec<PathBuf>),
    Samples(Vec<Sample>),
}

struct Sample {
    name: String,
    roi: Option<Roi>,
    bytes: Vec<u8>,
}

impl Inputs {
    fn open(input: &str, package: &Package) -> anyhow::Result<Self> {
        if input == "sample:" {
            let sample = |sample: &golden::GoldenSample| {
                let bytes = package.file(&sample.input).expect("a package holds the inputs that its golden.json names").to_vec();
                Sample { name: sample.input.clone(), roi: sample.roi(), bytes }
            };
            return Ok(Self::Samples(package.golden().samples.iter().map(sample).collect()));
        }
        let path = PathBuf::from(input);
        if !path.is_dir() {
            return Ok(Self::Files(vec![path]));
        }
        match package.manifest().input.kind {
            InputKind::Image(_) => {
                let config = images::Config { path, period: None, passes: Some(1) };
                let source = Images::open(&config, Wall(0))?;
                Ok(Self::Images { count: source.files(), source })
            }
            InputKind::Window(_) => Ok(Self::Files(csv_files(&path)?)),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Images { count, .. } => *count,
            Self::Files(files) => files.len() as u64,
            Self::Samples(samples) => samples.len() as u64,
        }
    }

    fn read(&mut self, at: u64) -> (String, anyhow::Result<Sample>) {
        match self {
            Self::Images { source, .. } => match source.read(Position(at)) {
                Ok(Item::Frame { jpeg, roi, item }) => (item.clone(), Ok(Sample { name: item, roi, bytes: jpeg })),
                Ok(Item::Reading(_)) => (format!("file {at}"), Err(anyhow::anyhow!("not a picture"))),
                Err(error) => (format!("file {at}"), Err(error.into())),
            },
            Self::Files(files) => {
                let path = &files[at as usize];
                let name = path.display().to_string();
                (name.clone(), read_bounded(path).map(|bytes| Sample { name, roi: None, bytes }))
            }
            Self::Samples(samples) => {
                let Sample { name, roi, bytes } = &samples[at as usize];
                (name.clone(), Ok(Sample { name: name.clone(), roi: *roi, bytes: bytes.clone() }))
            }
        }
    }
}

fn csv_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv")) {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{}: no .csv file in it", folder.display());
    }
    files.sort_unstable();
    Ok(files)
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let limit = images::MAX_FILE.max(MAX_WINDOW);
    if fs::metadata(path)?.len() > limit {
        bail!("larger than {limit} bytes");
    }
    Ok(fs::read(path)?)
}

/// What a model said of one input.
struct Answered {
    /// Best first.
    top: Vec<(String, f32)>,
    millis: f64,
}

impl Answered {
    fn line(&self) -> String {
        let label = self.top.first().map_or("", |(label, _)| label);
        let ranked: Vec<String> = self.top.iter().map(|(label, share)| format!("{label} {:.1} %", 100.0 * share)).collect();
        format!("{label}  ({})", ranked.join(", "))
    }
}

/// Reads and judges one input.
fn show(model: &mut Model, inputs: &mut Inputs, at: u64) -> Shown {
    let (name, sample) = inputs.read(at);
    let sample = match sample {
        Ok(sample) => sample,
        Err(error) => return Shown { name, picture: None, answer: Err(format!("{error:#}")) },
    };
    let started = Instant::now();
    let inference = infer(model, &sample);
    let millis = started.elapsed().as_secs_f64() * 1e3;
    let picture = match model.manifest().input.kind {
        InputKind::Image(_) => thumbnail::of_jpeg(&sample.bytes, sample.roi).ok(),
        InputKind::Window(_) => None,
    };
    let top = |inference: Inference| model.top(&inference, TOP).into_iter().map(|(label, share)| (label.to_owned(), share)).collect();
    let answer = inference.map(|inference| Answered { top: top(inference), millis }).map_err(|error| format!("{error:#}"));
    Shown { name, picture, answer }
}

fn infer(model: &mut Model, sample: &Sample) -> anyhow::Result<Inference> {
    let rows = match &model.manifest().input.kind {
        InputKind::Image(_) => return Ok(model.infer_image(&sample.bytes, sample.roi)?),
        InputKind::Window(window) => golden::parse_window(&sample.bytes, window).map_err(anyhow::Error::msg)?,
    };
    Ok(model.infer_window(&rows)?)
}
