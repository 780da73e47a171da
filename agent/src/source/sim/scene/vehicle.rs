//! Vehicles from the side, each class by its outline: wheels, cab, box, bed, windows.
//!
//! Invariant: paint, size, place, direction and proportion are drawn before the class is looked at, from the same
//! distributions for all classes. Coordinates of an outline are metres from the rear wheel's side, up from the road. Not here:
//! anything that moves.

mod outline;

use super::{
    atmosphere::{Atmosphere, Light},
    background::{ROAD_FAR, ROAD_NEAR, WIDTH},
    canvas::{Canvas, Paint, Point, Rgb, mix, scaled},
};

pub const LABELS: [&str; 6] = ["bike", "car", "juggernaut", "minibus", "pickup", "truck"];

const PAINTS: [Rgb; 11] = [
    [226.0, 228.0, 230.0],
    [168.0, 172.0, 178.0],
    [92.0, 96.0, 102.0],
    [42.0, 44.0, 50.0],
    [168.0, 34.0, 36.0],
    [38.0, 72.0, 140.0],
    [32.0, 104.0, 78.0],
    [214.0, 170.0, 46.0],
    [206.0, 108.0, 40.0],
    [120.0, 74.0, 52.0],
    [96.0, 148.0, 190.0],
];

/// A vehicle on the road: what it is, and where.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    class: usize,
    /// Chooses among the forms of a class (tanker or box, estate or saloon).
    variant: u64,
    paint: Rgb,
    second_paint: Rgb,
    to_the_left: bool,
    /// Pixels per metre across and up.
    scale: (f32, f32),
    /// The rear end's (or, driving left, the front end's) x, and the y of the road under the wheels.
    left: f32,
    road: f32,
}

impl Placed {
    pub fn draw(class: usize, rng: &mut fastrand::Rng) -> Self {
        let extent = 130.0 + 130.0 * rng.f32();
        let stretch = 0.93 + 0.14 * rng.f32();
        let where_across = rng.f32();
        // Near the camera or further away, without regard to the size: the lens is not part of the truth.
        let road = ROAD_FAR + 60.0 + (ROAD_NEAR - ROAD_FAR - 72.0) * rng.f32();
        let (paint, second_paint) = (PAINTS[rng.usize(0..PAINTS.len())], PAINTS[rng.usize(0..PAINTS.len())]);
        let to_the_left = rng.bool();
        let variant = rng.u64(..);
        let (length, height) = outline::SIZES[class];
        // The same area for every class: a bus is not larger than a bike here, only longer.
        let scale = extent / (length * height).sqrt();
        let scale = (scale * stretch, scale / stretch);
        let left = (WIDTH as f32 - length * scale.0 - 40.0) * where_across + 20.0;
        Self { class, variant, paint, second_paint, to_the_left, scale, left, road }
    }

    /// x, y, width, height of the outline in pixels.
    pub fn bounds(&self) -> (f64, f64, f64, f64) {
        let (length, height) = outline::SIZES[self.class];
        let (width, height) = (length * self.scale.0, height * self.scale.1);
        (f64::from(self.left), f64::from(self.road - height), f64::from(width), f64::from(height))
    }
}

pub fn draw(canvas: &mut Canvas, atmosphere: &Atmosphere, placed: &Placed) {
    let depth = 0.25 * (ROAD_NEAR - placed.road) / (ROAD_NEAR - ROAD_FAR);
    let mut pen = Pen { canvas, atmosphere, placed, depth };
    pen.shadow();
    outline::DRAW[placed.class](&mut pen);
}

/// Draws in metres, in the vehicle's paint and the scene's light.
struct Pen<'a> {
    canvas: &'a mut Canvas,
    atmosphere: &'a Atmosphere,
    placed: &'a Placed,
    depth: f32,
}

impl Pen<'_> {
    fn length(&self) -> f32 {
        outline::SIZES[self.placed.class].0
    }

    fn at(&self, (x, y): Point) -> Point {
        let x = if self.placed.to_the_left { self.length() - x } else { x };
        (self.placed.left + x * self.placed.scale.0, self.placed.road - y * self.placed.scale.1)
    }

    fn tint(&self, rgb: Rgb) -> Rgb {
        self.atmosphere.tint(rgb, self.depth)
    }

    /// Which form of its class this one has: 0 .. `of`.
    fn form(&self, of: u64) -> u64 {
        self.placed.variant % of
    }

    fn paint(&self) -> Rgb {
        self.placed.paint
    }

    fn second_paint(&self) -> Rgb {
        self.placed.second_paint
    }

    fn fill(&mut self, outline: &[Point], rgb: Rgb) {
        let points: Vec<Point> = outline.iter().map(|&p| self.at(p)).collect();
        self.canvas.polygon(&points, Paint::Solid(self.tint(rgb)), 1.0);
    }

    /// Painted metal: lighter where it faces the sky, darker towards the road, with a dark edge.
    fn metal(&mut self, outline: &[Point], rgb: Rgb) {
        let points: Vec<Point> = outline.iter().map(|&p| self.at(p)).collect();
        let heights = points.iter().map(|p| p.1);
        let (top, foot) = (heights.clone().fold(f32::MAX, f32::min), heights.fold(f32::MIN, f32::max));
        let (sky, shade) = (self.tint(mix(rgb, [255.0; 3], 0.28)), self.tint(scaled(rgb, 0.62)));
        self.canvas.polygon(&points, Paint::Fade(top, sky, foot, shade), 1.0);
        let edge = Paint::Solid(self.tint(scaled(rgb, 0.4)));
        let mut from = points[points.len() - 1];
        for to in points {
            self.canvas.line(from, to, 1.4, edge, 0.55);
            from = to;
        }
    }

    fn panel(&mut self, x: f32, y: f32, width: f32, height: f32, rgb: Rgb) {
        self.fill(&[(x, y), (x + width, y), (x + width, y + height), (x, y + height)], rgb);
    }

    fn stroke(&mut self, from: Point, to: Point, metres: f32, rgb: Rgb) {
        let (from, to) = (self.at(from), self.at(to));
        let width = (metres * self.placed.scale.1).max(1.0);
        self.canvas.line(from, to, width, Paint::Solid(self.tint(rgb)), 1.0);
    }

    /// A pane with the sky in it; at night somebody has the light on now and then.
    fn glass(&mut self, outline: &[Point]) {
        let points: Vec<Point> = outline.iter().map(|&p| self.at(p)).collect();
        let heights = points.iter().map(|p| p.1);
        let (top, foot) = (heights.clone().fold(f32::MAX, f32::min), heights.fold(f32::MIN, f32::max));
        let (sky, inside) = (mix([46.0, 58.0, 70.0], self.atmosphere.air(), 0.5), [34.0, 40.0, 48.0]);
        self.canvas.polygon(&points, Paint::Fade(top, self.tint(sky), foot, self.tint(inside)), 1.0);
    }

    fn wheel(&mut self, x: f32, radius: f32) {
        let (center, (sx, sy)) = (self.at((x, radius)), self.placed.scale);
        let mut disc = |share: f32, rgb: Rgb| {
            let rgb = self.atmosphere.tint(rgb, self.depth);
            self.canvas.ellipse(center, (radius * share * sx, radius * share * sy), Paint::Solid(rgb), 1.0);
        };
        disc(1.0, [26.0, 26.0, 28.0]);
        disc(0.62, [150.0, 152.0, 156.0]);
        disc(0.5, [96.0, 98.0, 102.0]);
        disc(0.16, [190.0, 192.0, 194.0]);
    }

    /// The arch is dark, so that the wheel stands out of paint of any colour.
    fn arched_wheel(&mut self, x: f32, radius: f32) {
        let (center, (sx, sy)) = (self.at((x, radius)), self.placed.scale);
        let arch = Paint::Solid(self.tint([22.0, 22.0, 24.0]));
        self.canvas.ellipse(center, (radius * 1.18 * sx, radius * 1.18 * sy), arch, 1.0);
        self.wheel(x, radius);
    }

    fn tail_lamp(&mut self, at: Point, size: Point) {
        self.lamp(at, size, [178.0, 26.0, 22.0], [150.0, 14.0, 8.0], 0.9);
    }

    fn head_lamp(&mut self, at: Point, size: Point) {
        self.lamp(at, size, [236.0, 234.0, 216.0], [215.0, 200.0, 150.0], 1.6);
    }

    fn lamp(&mut self, (x, y): Point, (width, height): Point, glass: Rgb, light: Rgb, reach: f32) {
        let corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)].map(|p| self.at(p));
        let lit = self.atmosphere.lamps_are_lit();
        let rgb = if lit { mix(glass, [255.0; 3], 0.35) } else { self.tint(glass) };
        self.canvas.polygon(&corners, Paint::Solid(rgb), 1.0);
        if lit {
            let center = self.at((x + width / 2.0, y + height / 2.0));
            // A lamp shines as far in every class: its reach is of pixels, not of metres.
            let radius = 26.0 * reach;
            let strength = if self.atmosphere.light == Light::Night { 1.0 } else { 0.5 };
            self.canvas.glow(center, (radius, radius), scaled(light, strength));
        }
    }

    fn shadow(&mut self) {
        let (left, _, width, _) = self.placed.bounds();
        let center = (left as f32 + width as f32 / 2.0, self.placed.road + 1.0);
        let strength = if self.atmosphere.light == Light::Day { 0.5 } else { 0.3 };
        let dark = Paint::Solid([16.0, 17.0, 20.0]);
        self.canvas.ellipse(center, (width as f32 * 0.52, 8.0), dark, strength * 0.6);
        self.canvas.ellipse(center, (width as f32 * 0.48, 5.0), dark, strength);
    }
}
