//! Light and weather: what they make of a colour, and rain.
//!
//! Invariant: every colour of a scene passes through `tint`, except lamps, which shine. Not here: shapes.

use serde::Deserialize;

use super::canvas::{Canvas, Paint, Rgb, mix};
use crate::source::sim::uniform;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Light {
    Day,
    Dusk,
    Night,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weather {
    Clear,
    Rain,
    Fog,
}

impl Light {
    pub const ALL: [Self; 3] = [Self::Day, Self::Dusk, Self::Night];
}

impl Weather {
    pub const ALL: [Self; 3] = [Self::Clear, Self::Rain, Self::Fog];
}

pub struct Atmosphere {
    pub light: Light,
    pub weather: Weather,
}

impl Atmosphere {
    /// A surface as the camera sees it; `depth` is 0 at the camera and 1 at the horizon.
    pub fn tint(&self, surface: Rgb, depth: f32) -> Rgb {
        let ambient = match self.light {
            Light::Day => [1.0, 1.0, 1.0],
            Light::Dusk => [0.74, 0.58, 0.52],
            Light::Night => [0.30, 0.33, 0.43],
        };
        let dimmed = if self.weather == Weather::Rain { 0.8 } else { 1.0 };
        let lit = std::array::from_fn(|i| surface[i] * ambient[i] * dimmed);
        let haze = match self.weather {
            Weather::Clear => 0.12 * depth,
            Weather::Rain => 0.10 + 0.35 * depth,
            Weather::Fog => 0.42 + 0.50 * depth,
        };
        mix(lit, self.air(), haze)
    }

    /// The colour of the far air.
    pub fn air(&self) -> Rgb {
        match (self.light, self.weather) {
            (Light::Day, Weather::Clear) => [196.0, 216.0, 236.0],
            (Light::Day, _) => [186.0, 192.0, 198.0],
            (Light::Dusk, Weather::Clear) => [222.0, 150.0, 116.0],
            (Light::Dusk, _) => [150.0, 132.0, 130.0],
            (Light::Night, _) => [40.0, 46.0, 60.0],
        }
    }

    pub fn zenith(&self) -> Rgb {
        match (self.light, self.weather) {
            (Light::Day, Weather::Clear) => [98.0, 154.0, 216.0],
            (Light::Dusk, Weather::Clear) => [74.0, 78.0, 128.0],
            (Light::Night, Weather::Clear) => [10.0, 14.0, 30.0],
            _ => self.air().map(|channel| channel * 0.85),
        }
    }

    pub fn lamps_are_lit(&self) -> bool {
        self.light != Light::Day || self.weather == Weather::Fog
    }

    /// Streaks over the finished picture; none if it does not rain.
    pub fn rain(&self, canvas: &mut Canvas, rng: &mut fastrand::Rng) {
        if self.weather != Weather::Rain {
            return;
        }
        let paint = Paint::Solid(mix(self.air(), [255.0; 3], 0.35));
        let slant = uniform(rng, -0.25, 0.25) as f32;
        for _ in 0..260 {
            let (x, y) = (rng.f32() * canvas.width as f32, rng.f32() * canvas.height as f32);
            let length = 12.0 + 22.0 * rng.f32();
            canvas.line((x, y), (x + slant * length, y + length), 1.3, paint, 0.28);
        }
    }
}
