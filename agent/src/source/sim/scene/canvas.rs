//! A picture in memory and the few shapes that scenes are made of, with smooth edges.
//!
//! Invariant: drawing clips at the picture's edge, so any coordinate is allowed. Not here: what is drawn, and its light.

/// Red, green and blue, each 0 to 255 (not clamped until it is written).
pub type Rgb = [f32; 3];

/// A point in pixels, top left first.
pub type Point = (f32, f32);

/// Scan lines per pixel row; across, coverage is exact.
const SUB: usize = 4;

/// How a shape is filled.
#[derive(Clone, Copy)]
pub enum Paint {
    Solid(Rgb),
    /// From the first colour at this height to the second colour at that height.
    Fade(f32, Rgb, f32, Rgb),
}

impl Paint {
    fn at(self, y: f32) -> Rgb {
        match self {
            Self::Solid(rgb) => rgb,
            Self::Fade(top, from, bottom, to) => mix(from, to, ((y - top) / (bottom - top)).clamp(0.0, 1.0)),
        }
    }
}

pub fn mix(from: Rgb, to: Rgb, share: f32) -> Rgb {
    std::array::from_fn(|i| from[i] + (to[i] - from[i]) * share)
}

pub fn scaled(rgb: Rgb, factor: f32) -> Rgb {
    rgb.map(|channel| channel * factor)
}

#[derive(Clone)]
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

impl Canvas {
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![0; width * height * 3] }
    }

    /// Fills a polygon (even-odd) with a share of the paint.
    pub fn polygon(&mut self, points: &[Point], paint: Paint, alpha: f32) {
        let bounds = |of: fn(&Point) -> f32| points.iter().map(of).fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let ((left, right), (top, bottom)) = (bounds(|p| p.0), bounds(|p| p.1));
        let (x0, x1) = (left.floor().max(0.0) as usize, (right.ceil().max(0.0) as usize).min(self.width));
        let (y0, y1) = (top.floor().max(0.0) as usize, (bottom.ceil().max(0.0) as usize).min(self.height));
        if x0 >= x1 || y0 >= y1 {
            return;
        }
        let mut coverage = vec![0.0f32; x1 - x0];
        let mut crossings = Vec::with_capacity(8);
        for y in y0..y1 {
            coverage.fill(0.0);
            for sub in 0..SUB {
                let line = y as f32 + (sub as f32 + 0.5) / SUB as f32;
                crossings_at(points, line, &mut crossings);
                for span in crossings.chunks_exact(2) {
                    cover(&mut coverage, span[0] - x0 as f32, span[1] - x0 as f32);
                }
            }
            let rgb = paint.at(y as f32 + 0.5);
            let row = &mut self.pixels[(y * self.width + x0) * 3..(y * self.width + x1) * 3];
            for (pixel, covered) in row.chunks_exact_mut(3).zip(&coverage) {
                if *covered > 0.0 {
                    blend(pixel, rgb, covered * alpha);
                }
            }
        }
    }

    pub fn rectangle(&mut self, x: f32, y: f32, width: f32, height: f32, paint: Paint, alpha: f32) {
        self.polygon(&[(x, y), (x + width, y), (x + width, y + height), (x, y + height)], paint, alpha);
    }

    pub fn ellipse(&mut self, center: Point, radii: (f32, f32), paint: Paint, alpha: f32) {
        let corners = (radii.0.max(radii.1) as usize).clamp(10, 48);
        let corner = |i: usize| {
            let (sin, cos) = (i as f32 / corners as f32 * std::f32::consts::TAU).sin_cos();
            (center.0 + radii.0 * cos, center.1 + radii.1 * sin)
        };
        self.polygon(&(0..corners).map(corner).collect::<Vec<_>>(), paint, alpha);
    }

    pub fn line(&mut self, from: Point, to: Point, width: f32, paint: Paint, alpha: f32) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let half = width / 2.0 / dx.hypot(dy).max(1e-3);
        let (nx, ny) = (-dy * half, dx * half);
        let corners = [(from.0 + nx, from.1 + ny), (to.0 + nx, to.1 + ny), (to.0 - nx, to.1 - ny), (from.0 - nx, from.1 - ny)];
        self.polygon(&corners, paint, alpha);
    }

    /// Adds light that fades to nothing at the rim.
    pub fn glow(&mut self, center: Point, radii: (f32, f32), light: Rgb) {
        let range = |middle: f32, radius: f32, end: usize| {
            let low = (middle - radius).floor().max(0.0) as usize;
            low.min(end)..((middle + radius).ceil().max(0.0) as usize).min(end)
        };
        for y in range(center.1, radii.1, self.height) {
            for x in range(center.0, radii.0, self.width) {
                let (dx, dy) = ((x as f32 - center.0) / radii.0, (y as f32 - center.1) / radii.1);
                let strength = (1.0 - dx * dx - dy * dy).max(0.0);
                let at = (y * self.width + x) * 3;
                for (channel, light) in self.pixels[at..at + 3].iter_mut().zip(light) {
                    *channel = (f32::from(*channel) + light * strength * strength).min(255.0) as u8;
                }
            }
        }
    }

    /// A box filter, `radius` pixels to each side, over whole rows: how a lens draws what is far away.
    pub fn soften_rows(&mut self, rows: std::ops::Range<usize>, radius: usize) {
        let stride = self.width * 3;
        for y in rows {
            let row = self.pixels[y * stride..(y + 1) * stride].to_vec();
            for x in 0..self.width {
                let near = x.saturating_sub(radius)..(x + radius + 1).min(self.width);
                for channel in 0..3 {
                    let sum: u32 = near.clone().map(|n| u32::from(row[n * 3 + channel])).sum();
                    self.pixels[y * stride + x * 3 + channel] = (sum / near.len() as u32) as u8;
                }
            }
        }
    }
}

/// Where the polygon's edges cross a scan line, ascending.
fn crossings_at(points: &[Point], line: f32, crossings: &mut Vec<f32>) {
    crossings.clear();
    let mut from = points[points.len() - 1];
    for &to in points {
        if (from.1 <= line) != (to.1 <= line) {
            crossings.push(from.0 + (line - from.1) / (to.1 - from.1) * (to.0 - from.0));
        }
        from = to;
    }
    crossings.sort_unstable_by(f32::total_cmp);
}

/// Adds one scan line's span, with the exact share of the pixels at its ends.
fn cover(coverage: &mut [f32], from: f32, to: f32) {
    const WEIGHT: f32 = 1.0 / SUB as f32;
    let (from, to) = (from.max(0.0), to.min(coverage.len() as f32));
    if from >= to {
        return;
    }
    let (first, last) = (from as usize, (to as usize).min(coverage.len() - 1));
    if first == last {
        coverage[first] += (to - from) * WEIGHT;
        return;
    }
    coverage[first] += (first as f32 + 1.0 - from) * WEIGHT;
    for pixel in &mut coverage[first + 1..last] {
        *pixel += WEIGHT;
    }
    coverage[last] += (to - last as f32) * WEIGHT;
}

fn blend(pixel: &mut [u8], rgb: Rgb, alpha: f32) {
    let alpha = alpha.clamp(0.0, 1.0);
    for (channel, paint) in pixel.iter_mut().zip(rgb) {
        let value = f32::from(*channel) * (1.0 - alpha) + paint.clamp(0.0, 255.0) * alpha;
        *channel = (value + 0.5) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_cover_what_they_should_and_clip() {
        let white = Paint::Solid([255.0; 3]);
        let mut canvas = Canvas::new(8, 4);
        canvas.rectangle(1.5, 1.0, 3.0, 2.0, white, 1.0);
        let row: Vec<u8> = canvas.pixels[8 * 3..16 * 3].iter().step_by(3).copied().collect();
        assert_eq!(row, [0, 128, 255, 255, 128, 0, 0, 0]);
        assert!(canvas.pixels[..8 * 3].iter().all(|&v| v == 0));
        canvas.rectangle(-100.0, -100.0, 1_000.0, 1_000.0, white, 1.0);
        assert!(canvas.pixels.iter().all(|&v| v == 255));
        canvas.ellipse((f32::MAX, -1e9), (5.0, 5.0), white, 1.0);
        canvas.glow((-50.0, 2.0), (10.0, 10.0), [9.0; 3]);
    }
}
