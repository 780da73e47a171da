//! The street that the camera looks at: sky, houses, trees, pavement, road; and what happens to stand there.
//!
//! Invariant: the street depends on the seed and the atmosphere, clutter on the frame, and neither on the vehicle. Not here:
//! the vehicle.

use super::{
    atmosphere::{Atmosphere, Light, Weather},
    canvas::{Canvas, Paint, Rgb, mix, scaled},
};
use crate::source::sim::{draws, uniform};

pub const WIDTH: usize = 1280;
pub const HEIGHT: usize = 720;

const HORIZON: f32 = 330.0;
const PAVEMENT: f32 = 396.0;
/// The road's far edge; wheels stand between it and `ROAD_NEAR`.
pub const ROAD_FAR: f32 = 430.0;
pub const ROAD_NEAR: f32 = 690.0;

/// What does not move.
pub struct Street {
    pub canvas: Canvas,
}

impl Street {
    pub fn draw(seed: u64, atmosphere: &Atmosphere) -> Self {
        let mut rng = draws(seed, "street", 0);
        let mut canvas = Canvas::new(WIDTH, HEIGHT);
        sky(&mut canvas, atmosphere, &mut rng);
        houses(&mut canvas, atmosphere, &mut rng);
        trees(&mut canvas, atmosphere, &mut rng);
        canvas.soften_rows(0..PAVEMENT as usize, 1);
        ground(&mut canvas, atmosphere, &mut rng);
        lanterns(&mut canvas, atmosphere, &mut rng);
        grain(&mut canvas, &mut rng);
        Self { canvas }
    }
}

fn sky(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng) {
    let width = WIDTH as f32;
    canvas.rectangle(0.0, 0.0, width, HORIZON, Paint::Fade(0.0, atmosphere.zenith(), HORIZON, atmosphere.air()), 1.0);
    let (hedge, foot) = (atmosphere.tint([96.0, 112.0, 84.0], 0.8), atmosphere.tint([74.0, 92.0, 62.0], 0.6));
    canvas.rectangle(0.0, HORIZON, width, PAVEMENT - HORIZON, Paint::Fade(HORIZON, hedge, PAVEMENT, foot), 1.0);
    if atmosphere.weather != Weather::Clear {
        return;
    }
    let cloud = mix(atmosphere.air(), [255.0; 3], if atmosphere.light == Light::Night { 0.06 } else { 0.5 });
    for _ in 0..rng.usize(3..8) {
        let (x, y) = (rng.f32() * width, 20.0 + 150.0 * rng.f32());
        for _ in 0..7 {
            let (dx, dy) = (150.0 * (rng.f32() - 0.5), 26.0 * (rng.f32() - 0.5));
            canvas.ellipse((x + dx, y + dy), (40.0 + 60.0 * rng.f32(), 12.0 + 14.0 * rng.f32()), Paint::Solid(cloud), 0.22);
        }
    }
}

fn houses(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng) {
    const WALLS: [Rgb; 6] = [
        [176.0, 150.0, 128.0],
        [150.0, 92.0, 76.0],
        [196.0, 188.0, 172.0],
        [128.0, 132.0, 140.0],
        [206.0, 184.0, 140.0],
        [110.0, 96.0, 92.0],
    ];
    let mut x = -30.0;
    while x < WIDTH as f32 {
        let (width, height) = (90.0 + 150.0 * rng.f32(), 70.0 + 190.0 * rng.f32());
        let wall = atmosphere.tint(WALLS[rng.usize(0..WALLS.len())], 0.55);
        let (top, foot) = (PAVEMENT - height, PAVEMENT);
        canvas.rectangle(x, top, width, height, Paint::Fade(top, scaled(wall, 1.06), foot, scaled(wall, 0.82)), 1.0);
        let roof = Paint::Solid(scaled(wall, 0.6));
        if rng.bool() {
            canvas.polygon(&[(x - 4.0, top), (x + width / 2.0, top - 34.0), (x + width + 4.0, top)], roof, 1.0);
        } else {
            canvas.rectangle(x - 2.0, top - 6.0, width + 4.0, 8.0, roof, 1.0);
        }
        windows(canvas, atmosphere, rng, (x, top, width, height), wall);
        x += width + 26.0 * rng.f32();
    }
}

fn windows(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng, house: (f32, f32, f32, f32), wall: Rgb) {
    let (x, top, width, height) = house;
    let columns = (width / 34.0) as usize;
    let rows = (height / 46.0) as usize;
    let pitch = width / columns.max(1) as f32;
    for row in 0..rows {
        for column in 0..columns {
            let (wx, wy) = (x + pitch * (column as f32 + 0.5) - 8.0, top + 16.0 + 46.0 * row as f32);
            let lit = atmosphere.light != Light::Day && rng.u8(0..3) == 0;
            let pane = if lit { [250.0, 214.0, 140.0] } else { atmosphere.tint([84.0, 104.0, 124.0], 0.5) };
            canvas.rectangle(wx - 1.5, wy - 1.5, 19.0, 27.0, Paint::Solid(scaled(wall, 1.15)), 1.0);
            canvas.rectangle(wx, wy, 16.0, 24.0, Paint::Fade(wy, scaled(pane, 1.1), wy + 24.0, scaled(pane, 0.85)), 1.0);
        }
    }
}

fn trees(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(4..9) {
        let x = rng.f32() * WIDTH as f32;
        let crown = PAVEMENT - 80.0 - 50.0 * rng.f32();
        canvas.rectangle(x - 4.0, crown, 8.0, PAVEMENT - crown, Paint::Solid(atmosphere.tint([92.0, 68.0, 50.0], 0.4)), 1.0);
        let leaf: Rgb = [66.0 + 40.0 * rng.f32(), 104.0 + 40.0 * rng.f32(), 52.0];
        for _ in 0..14 {
            let (dx, dy) = (64.0 * (rng.f32() - 0.5), 60.0 * (rng.f32() - 0.5));
            let shade = scaled(leaf, 0.75 + 0.2 * rng.f32() - dy / 150.0);
            canvas.ellipse(
                (x + dx, crown + dy),
                (14.0 + 14.0 * rng.f32(), 12.0 + 11.0 * rng.f32()),
                Paint::Solid(atmosphere.tint(shade, 0.4)),
                0.9,
            );
        }
    }
}

fn ground(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng) {
    let width = WIDTH as f32;
    let surface = |rgb, depth| atmosphere.tint(rgb, depth);
    canvas.rectangle(0.0, PAVEMENT, width, ROAD_FAR - PAVEMENT, Paint::Solid(surface([164.0, 160.0, 152.0], 0.35)), 1.0);
    let mut x = -20.0 * rng.f32();
    while x < width {
        canvas.line((x, PAVEMENT), (x - 16.0, ROAD_FAR), 1.0, Paint::Solid(surface([126.0, 122.0, 116.0], 0.35)), 0.8);
        x += 42.0;
    }
    canvas.rectangle(0.0, ROAD_FAR - 5.0, width, 7.0, Paint::Solid(surface([196.0, 192.0, 184.0], 0.3)), 1.0);
    let asphalt = 84.0 + 24.0 * rng.f32();
    let (far, near) = (surface([asphalt; 3], 0.32), surface([asphalt - 14.0; 3], 0.05));
    canvas.rectangle(0.0, ROAD_FAR + 2.0, width, ROAD_NEAR - ROAD_FAR, Paint::Fade(ROAD_FAR, far, ROAD_NEAR, near), 1.0);
    for _ in 0..40 {
        let (x, y) = (rng.f32() * width, ROAD_FAR + 14.0 + (ROAD_NEAR - ROAD_FAR - 20.0) * rng.f32());
        let patch = surface(if rng.bool() { [asphalt + 14.0; 3] } else { [asphalt - 24.0; 3] }, 0.15);
        canvas.ellipse((x, y), (30.0 + 120.0 * rng.f32(), 3.0 + 5.0 * rng.f32()), Paint::Solid(patch), 0.25);
    }
    let marking = Paint::Solid(surface([222.0, 220.0, 208.0], 0.15));
    let middle = 545.0 + 20.0 * (rng.f32() - 0.5);
    let mut x = -120.0 * rng.f32();
    while x < width {
        canvas.polygon(&[(x, middle), (x + 92.0, middle), (x + 90.0, middle + 7.0), (x - 4.0, middle + 7.0)], marking, 0.85);
        x += 168.0;
    }
    canvas.rectangle(0.0, ROAD_NEAR - 16.0, width, 5.0, marking, 0.6);
    let grass = surface([96.0, 118.0, 66.0], 0.02);
    canvas.rectangle(
        0.0,
        ROAD_NEAR,
        width,
        HEIGHT as f32 - ROAD_NEAR,
        Paint::Fade(ROAD_NEAR, grass, HEIGHT as f32, scaled(grass, 0.7)),
        1.0,
    );
}

/// Street lamps, and the light they throw when it is dark.
fn lanterns(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng) {
    let mut x = 60.0 + 200.0 * rng.f32();
    while x < WIDTH as f32 {
        let pole = Paint::Solid(atmosphere.tint([70.0, 74.0, 78.0], 0.3));
        canvas.rectangle(x - 2.5, 170.0, 5.0, PAVEMENT + 14.0 - 170.0, pole, 1.0);
        canvas.line((x, 172.0), (x + 46.0, 164.0), 4.0, pole, 1.0);
        canvas.rectangle(x + 34.0, 162.0, 26.0, 7.0, pole, 1.0);
        if atmosphere.light != Light::Day {
            canvas.glow((x + 47.0, 172.0), (64.0, 64.0), [190.0, 160.0, 104.0]);
            canvas.glow((x + 60.0, 540.0), (330.0, 130.0), [46.0, 38.0, 24.0]);
        }
        x += 380.0 + 60.0 * rng.f32();
    }
}

/// A sensor's fixed pattern; without it the flat areas would look like no photograph.
fn grain(canvas: &mut Canvas, rng: &mut fastrand::Rng) {
    for pixel in canvas.pixels.chunks_exact_mut(3) {
        let step = rng.i16(-3..=3);
        for channel in pixel {
            *channel = (i16::from(*channel) + step).clamp(0, 255) as u8;
        }
    }
}

/// Passers-by, signs and bushes on the far pavement.
pub fn behind(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(0..5) {
        let x = rng.f32() * WIDTH as f32;
        let foot = PAVEMENT + 8.0 + 20.0 * rng.f32();
        match rng.u8(0..3) {
            0 => person(canvas, atmosphere, rng, x, foot),
            1 => sign(canvas, atmosphere, rng, x, foot),
            _ => bush(canvas, atmosphere, rng, x, foot),
        }
    }
}

fn person(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng, x: f32, foot: f32) {
    let coat = atmosphere.tint(std::array::from_fn(|_| uniform(rng, 40.0, 200.0) as f32), 0.3);
    let legs = Paint::Solid(atmosphere.tint([48.0, 50.0, 66.0], 0.3));
    let stride = 4.0 + 6.0 * rng.f32();
    canvas.line((x, foot - 34.0), (x - stride, foot), 6.0, legs, 1.0);
    canvas.line((x, foot - 34.0), (x + stride, foot), 6.0, legs, 1.0);
    canvas.polygon(
        &[(x - 9.0, foot - 66.0), (x + 9.0, foot - 66.0), (x + 7.0, foot - 30.0), (x - 7.0, foot - 30.0)],
        Paint::Solid(coat),
        1.0,
    );
    canvas.ellipse((x, foot - 74.0), (6.5, 8.0), Paint::Solid(atmosphere.tint([198.0, 156.0, 128.0], 0.3)), 1.0);
}

fn sign(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng, x: f32, foot: f32) {
    canvas.rectangle(x - 2.0, foot - 96.0, 4.0, 96.0, Paint::Solid(atmosphere.tint([140.0, 144.0, 148.0], 0.3)), 1.0);
    let red = atmosphere.tint([196.0, 46.0, 40.0], 0.25);
    let white = Paint::Solid(atmosphere.tint([236.0, 236.0, 230.0], 0.25));
    if rng.bool() {
        canvas.ellipse((x, foot - 104.0), (17.0, 17.0), Paint::Solid(red), 1.0);
        canvas.ellipse((x, foot - 104.0), (11.0, 11.0), white, 1.0);
    } else {
        canvas.rectangle(x - 19.0, foot - 122.0, 38.0, 26.0, Paint::Solid(atmosphere.tint([38.0, 88.0, 168.0], 0.25)), 1.0);
        canvas.rectangle(x - 12.0, foot - 112.0, 24.0, 5.0, white, 1.0);
    }
}

fn bush(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng, x: f32, foot: f32) {
    for _ in 0..9 {
        let leaf = [60.0 + 30.0 * rng.f32(), 96.0 + 40.0 * rng.f32(), 48.0];
        let (dx, dy) = (44.0 * (rng.f32() - 0.5), 18.0 * rng.f32());
        canvas.ellipse((x + dx, foot - 6.0 - dy), (14.0, 10.0), Paint::Solid(atmosphere.tint(leaf, 0.3)), 0.95);
    }
}

/// Cones and bollards on the near kerb, and tufts of grass.
pub fn in_front(canvas: &mut Canvas, atmosphere: &Atmosphere, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(0..4) {
        let (x, foot) = (rng.f32() * WIDTH as f32, ROAD_NEAR + 6.0 + 20.0 * rng.f32());
        let white = Paint::Solid(atmosphere.tint([232.0, 230.0, 224.0], 0.0));
        if rng.bool() {
            let orange = Paint::Solid(atmosphere.tint([226.0, 96.0, 34.0], 0.0));
            canvas.polygon(&[(x - 3.0, foot - 40.0), (x + 3.0, foot - 40.0), (x + 12.0, foot), (x - 12.0, foot)], orange, 1.0);
            canvas.polygon(&[(x - 6.0, foot - 26.0), (x + 6.0, foot - 26.0), (x + 8.5, foot - 15.0), (x - 8.5, foot - 15.0)], white, 1.0);
        } else {
            canvas.rectangle(x - 4.0, foot - 46.0, 8.0, 46.0, Paint::Solid(atmosphere.tint([62.0, 64.0, 68.0], 0.0)), 1.0);
            canvas.rectangle(x - 4.0, foot - 40.0, 8.0, 7.0, white, 1.0);
        }
    }
}
