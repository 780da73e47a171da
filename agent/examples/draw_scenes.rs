//! Writes scenes of the simulated camera as JPEG files, with their truth in `truth.csv`: what `vehicles-sim` is trained on.
//!
//! Invariant: the same arguments write the same bytes. Not here: how a scene is drawn (`source::sim::scene`).

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use wayside_agent::source::sim::scene::{Light, Scenes, Weather};
use wayside_common::schedule::Position;

/// Draw scenes of the simulated roadside camera.
#[derive(Parser)]
struct Arguments {
    /// Folder to write to; made if it is absent.
    #[arg(long)]
    out: PathBuf,
    /// Of the first street. The scenes of one seed share one street.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many scenes.
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// How many streets, with the seeds `seed`, `seed + 1`, …
    #[arg(long, default_value_t = 1)]
    streets: u64,
    #[arg(long, value_enum, default_value_t = LightArgument::Day)]
    light: LightArgument,
    #[arg(long, value_enum, default_value_t = WeatherArgument::Clear)]
    weather: WeatherArgument,
}

/// `mixed`: each street in turn by day, at dusk, at night.
#[derive(Clone, Copy, ValueEnum)]
enum LightArgument {
    Day,
    Dusk,
    Night,
    Mixed,
}

/// `mixed`: each three streets in turn in clear air, rain, fog.
#[derive(Clone, Copy, ValueEnum)]
enum WeatherArgument {
    Clear,
    Rain,
    Fog,
    Mixed,
}

impl Arguments {
    fn atmosphere(&self, street: u64) -> (Light, Weather) {
        let light = match self.light {
            LightArgument::Day => Light::Day,
            LightArgument::Dusk => Light::Dusk,
            LightArgument::Night => Light::Night,
            LightArgument::Mixed => Light::ALL[(street % 3) as usize],
        };
        let weather = match self.weather {
            WeatherArgument::Clear => Weather::Clear,
            WeatherArgument::Rain => Weather::Rain,
            WeatherArgument::Fog => Weather::Fog,
            WeatherArgument::Mixed => Weather::ALL[(street / 3 % 3) as usize],
        };
        (light, weather)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.streets == 0 {
        bail!("--streets is at least 1");
    }
    fs::create_dir_all(&arguments.out).with_context(|| format!("making {}", arguments.out.display()))?;
    let truth = arguments.out.join("truth.csv");
    let mut truth = BufWriter::new(File::create(&truth).with_context(|| format!("writing {}", truth.display()))?);
    writeln!(truth, "file,label,x,y,w,h")?;
    for street in 0..arguments.streets {
        let (light, weather) = arguments.atmosphere(street);
        let seed = arguments.seed.wrapping_add(street);
        let scenes = Scenes::new(seed, light, weather);
        let per_street = arguments.count / arguments.streets + u64::from(street < arguments.count % arguments.streets);
        for position in 0..per_street {
            let (jpeg, scene) = scenes.frame(Position(position));
            let file = format!("{seed}-{position:05}.jpg");
            fs::write(arguments.out.join(&file), jpeg).with_context(|| format!("writing {file}"))?;
            let roi = scene.roi;
            writeln!(truth, "{file},{},{},{},{},{}", scene.label, roi.x, roi.y, roi.width, roi.height)?;
        }
    }
    truth.flush().context("writing truth.csv")
}
