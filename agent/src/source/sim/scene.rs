//! A simulated camera beside a road: one vehicle a frame, drawn from its outline, in the light and weather that are asked for.
//!
//! Invariant: frame and truth are functions of (seed, position); colour, size, place and clutter are drawn without regard to
//! the class, so that shape alone tells it. Not here: quality of a model, which only photographs can show.

mod atmosphere;
mod background;
mod canvas;
mod vehicle;

use std::time::Duration;

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use wayside_common::{
    record::Roi,
    schedule::{Position, Schedule},
    time::Wall,
};

pub use self::atmosphere::{Light, Weather};
use self::{
    atmosphere::Atmosphere,
    background::{Street, WIDTH},
    canvas::Canvas,
    vehicle::{LABELS, Placed},
};
use crate::source::{
    Item, Pace, Shape, Source, SourceError,
    sim::{draws, uniform},
};

pub const PERIOD: Duration = Duration::from_millis(500);

const QUALITY: u8 = 82;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub seed: u64,
    pub period: Duration,
    /// Absent: for ever.
    pub count: Option<u64>,
    pub light: Light,
    pub weather: Weather,
}

/// What stands in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    pub label: &'static str,
    pub roi: Roi,
}

/// Needs no drawing.
pub fn truth(seed: u64, position: Position) -> Truth {
    place(seed, position).1
}

fn place(seed: u64, position: Position) -> (Placed, Truth) {
    let mut rng = draws(seed, "scene", position.0);
    let class = rng.usize(0..LABELS.len());
    let placed = Placed::draw(class, &mut rng);
    let (left, top, width, height) = placed.bounds();
    // A source's box is never exact: a little room on each side, another on each frame.
    let mut room = |extent: f64| extent * uniform(&mut rng, 0.01, 0.07);
    let (x0, y0) = ((left - room(width)).max(0.0), (top - room(height)).max(0.0));
    let (x1, y1) = ((left + width + room(width)).min(WIDTH as f64), top + height + room(height));
    let roi = Roi { x: x0 as u32, y: y0 as u32, width: (x1 - x0) as u32, height: (y1 - y0) as u32 };
    (placed, Truth { label: LABELS[class], roi })
}

/// Draws scenes; it keeps the street, which stands still.
pub struct Scenes {
    seed: u64,
    atmosphere: Atmosphere,
    street: Street,
}

impl Scenes {
    pub fn new(seed: u64, light: Light, weather: Weather) -> Self {
        let atmosphere = Atmosphere { light, weather };
        Self { seed, street: Street::draw(seed, &atmosphere), atmosphere }
    }

    /// A JPEG of 1280×720 and what is on it.
    pub fn frame(&self, position: Position) -> (Vec<u8>, Truth) {
        let (placed, truth) = place(self.seed, position);
        let mut rng = draws(self.seed, "clutter", position.0);
        let mut canvas: Canvas = self.street.canvas.clone();
        background::behind(&mut canvas, &self.atmosphere, &mut rng);
        vehicle::draw(&mut canvas, &self.atmosphere, &placed);
        background::in_front(&mut canvas, &self.atmosphere, &mut rng);
        self.atmosphere.rain(&mut canvas, &mut rng);
        (encode(&canvas), truth)
    }
}

fn encode(canvas: &Canvas) -> Vec<u8> {
    let mut jpeg = Vec::with_capacity(160 * 1024);
    let mut encoder = Encoder::new(&mut jpeg, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    let (width, height) = (canvas.width as u16, canvas.height as u16);
    encoder.encode(&canvas.pixels, width, height, ColorType::Rgb).expect("the canvas has the size it says, and a Vec takes all");
    jpeg
}

pub struct SimCamera {
    config: Config,
    anchor: Wall,
    scenes: Scenes,
}

impl SimCamera {
    pub fn new(config: Config, anchor: Wall) -> Self {
        let scenes = Scenes::new(config.seed, config.light, config.weather);
        Self { config, anchor, scenes }
    }
}

impl Source for SimCamera {
    fn shape(&self) -> Shape {
        Shape::Camera
    }

    fn pace(&self) -> Pace {
        Pace::Timed(Schedule { anchor: self.anchor, period: self.config.period, count: self.config.count })
    }

    fn read(&mut self, position: Position) -> Result<Item, SourceError> {
        if self.config.count.is_some_and(|count| position.0 >= count) {
            return Err(SourceError::Ended);
        }
        let (jpeg, truth) = self.scenes.frame(position);
        // The name says nothing of the class; the truth stays with whoever knows the seed.
        Ok(Item::Frame { jpeg, roi: Some(truth.roi), item: String::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::{background::HEIGHT, *};

    #[test]
    fn a_frame_depends_on_seed_and_position_alone() {
        let scenes = || Scenes::new(5, Light::Dusk, Weather::Rain);
        let first: Vec<_> = (0..3).map(|p| scenes().frame(Position(p))).collect();
        let one = scenes();
        for p in (0..3).rev() {
            assert_eq!(one.frame(Position(p)), first[p as usize]);
        }
        assert_ne!(first[0].0, first[1].0);
        assert_eq!(first[2].1, truth(5, Position(2)));
        let _ = truth(u64::MAX, Position(u64::MAX));
    }

    #[test]
    fn boxes_lie_in_the_frame_and_are_hardly_ever_square() {
        let (mut seen, mut square) = ([0; 6], 0);
        for p in 0..3_000 {
            let Truth { label, roi } = truth(9, Position(p));
            assert!(roi.x + roi.width <= WIDTH as u32 && roi.y + roi.height <= HEIGHT as u32, "{roi:?}");
            assert!(roi.width >= 60 && roi.height >= 40, "{label} {roi:?}");
            square += u32::from(roi.width == roi.height);
            seen[LABELS.iter().position(|l| *l == label).unwrap()] += 1;
        }
        assert!(seen.iter().all(|n| (400..600).contains(n)) && square < 30, "{seen:?}, {square}");
    }

    /// If a class were larger or further right, a model could tell it without looking at its shape.
    #[test]
    fn size_and_place_say_nothing_of_the_class() {
        let mut area = [0.0; 6];
        let mut middle = [0.0; 6];
        let mut n = [0.0; 6];
        for p in 0..6_000 {
            let Truth { label, roi } = truth(2, Position(p));
            let class = LABELS.iter().position(|l| *l == label).unwrap();
            area[class] += f64::from(roi.width * roi.height).sqrt();
            middle[class] += f64::from(roi.x + roi.width / 2);
            n[class] += 1.0;
        }
        for class in 0..6 {
            assert!((area[class] / n[class] / (area[0] / n[0]) - 1.0).abs() < 0.05, "{area:?}");
            assert!((middle[class] / n[class] - WIDTH as f64 / 2.0).abs() < 30.0, "{middle:?}");
        }
    }
}
