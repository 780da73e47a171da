//! The outlines, front to the right, in metres.
//!
//! Invariant: an outline fills the size that `SIZES` gives its class, because the truth box is made from it. Not here: paint
//! that is chosen, and where the vehicle stands.

use super::{Pen, Point, Rgb, mix, scaled};

/// Length and height of each class, in the order of `LABELS`.
pub const SIZES: [Point; 6] = [(2.1, 1.75), (4.4, 1.46), (15.6, 4.0), (5.7, 2.56), (5.35, 1.84), (7.6, 3.4)];

pub const DRAW: [fn(&mut Pen<'_>); 6] = [bike, car, juggernaut, minibus, pickup, truck];

const RUBBER: Rgb = [30.0, 30.0, 32.0];
const STEEL: Rgb = [120.0, 122.0, 126.0];
const CHASSIS: Rgb = [44.0, 45.0, 48.0];

/// A motorcycle and who rides it.
fn bike(pen: &mut Pen<'_>) {
    const RADIUS: f32 = 0.34;
    let (rear, front) = (0.36, 1.73);
    for x in [rear, front] {
        pen.wheel(x, RADIUS);
    }
    let paint = pen.paint();
    pen.stroke((front, RADIUS), (1.42, 0.98), 0.07, STEEL);
    pen.stroke((rear, RADIUS), (0.95, 0.42), 0.08, STEEL);
    pen.fill(&[(0.72, 0.26), (1.22, 0.26), (1.26, 0.58), (0.78, 0.6)], CHASSIS);
    pen.stroke((0.3, 0.3), (1.0, 0.27), 0.08, STEEL);
    pen.metal(&[(0.86, 0.64), (1.36, 0.6), (1.42, 0.84), (1.2, 0.94), (0.88, 0.82)], paint);
    pen.fill(&[(0.16, 0.8), (0.3, 0.72), (0.9, 0.7), (0.9, 0.82), (0.5, 0.86)], RUBBER);
    if pen.form(3) == 0 {
        pen.metal(&[(1.3, 0.66), (1.66, 0.74), (1.58, 1.06), (1.4, 1.0)], paint);
    }
    pen.head_lamp((1.56, 0.84), (0.1, 0.12));
    pen.tail_lamp((0.1, 0.78), (0.08, 0.07));
    rider(pen);
}

fn rider(pen: &mut Pen<'_>) {
    let (coat, helmet) = (scaled(pen.second_paint(), 0.8), pen.paint());
    let trousers = mix(coat, [36.0, 38.0, 46.0], 0.7);
    let lean = 0.06 * pen.form(4) as f32;
    pen.stroke((0.62, 0.86), (1.06, 0.66), 0.19, trousers);
    pen.stroke((1.06, 0.7), (0.88, 0.28), 0.15, trousers);
    pen.fill(&[(0.44, 0.84), (0.8, 0.82), (1.08 + lean, 1.34), (0.94 + lean, 1.46), (0.7 + lean, 1.4)], coat);
    pen.stroke((0.98 + lean, 1.32), (1.16, 1.06), 0.13, coat);
    pen.stroke((1.16, 1.06), (1.42, 1.02), 0.11, coat);
    let head: Vec<Point> = (0..16)
        .map(|i| (i as f32 / 16.0 * std::f32::consts::TAU).sin_cos())
        .map(|(sin, cos)| (1.0 + lean + 0.16 * cos, 1.58 + 0.17 * sin))
        .collect();
    pen.metal(&head, helmet);
    pen.glass(&[(1.05 + lean, 1.54), (1.16 + lean, 1.54), (1.14 + lean, 1.66), (1.06 + lean, 1.66)]);
}

/// Low, with a bonnet, and a boot or a steep back.
fn car(pen: &mut Pen<'_>) {
    let paint = pen.paint();
    let saloon = pen.form(2) == 0;
    let back: &[Point] = if saloon {
        &[(0.06, 0.36), (0.0, 0.72), (0.1, 0.94), (0.82, 1.0), (1.3, 1.42)]
    } else {
        &[(0.06, 0.36), (0.0, 0.72), (0.06, 0.98), (0.44, 1.38)]
    };
    let front: [Point; 8] = [(1.9, 1.46), (2.5, 1.43), (3.25, 1.0), (4.1, 0.88), (4.36, 0.7), (4.4, 0.46), (4.34, 0.34), (2.0, 0.28)];
    pen.metal(&[back, &front].concat(), paint);
    if saloon {
        pen.glass(&[(0.98, 1.02), (1.36, 1.37), (1.84, 1.39), (1.84, 1.02)]);
    } else {
        pen.glass(&[(0.3, 1.02), (0.56, 1.34), (0.92, 1.37), (0.92, 1.02)]);
        pen.glass(&[(1.0, 1.02), (1.0, 1.38), (1.84, 1.4), (1.84, 1.02)]);
    }
    pen.glass(&[(1.94, 1.02), (1.94, 1.4), (2.46, 1.37), (3.04, 1.02)]);
    for x in [1.89, 2.92] {
        pen.stroke((x, 0.42), (x, 1.0), 0.02, scaled(paint, 0.45));
    }
    pen.stroke((0.05, 0.52), (4.38, 0.5), 0.05, scaled(paint, 0.5));
    for x in [1.62, 2.62] {
        pen.panel(x, 0.84, 0.18, 0.04, scaled(paint, 0.4));
    }
    pen.head_lamp((4.14, 0.68), (0.2, 0.13));
    pen.tail_lamp((0.02, 0.74), (0.14, 0.14));
    for x in [0.84, 3.48] {
        pen.arched_wheel(x, 0.33);
    }
}

/// A high body of one piece, a row of windows, a short nose.
fn minibus(pen: &mut Pen<'_>) {
    let (paint, stripe) = (pen.paint(), pen.second_paint());
    pen.metal(
        &[
            (0.03, 0.38),
            (0.0, 1.2),
            (0.03, 2.42),
            (0.16, 2.54),
            (4.2, 2.56),
            (4.62, 2.44),
            (5.14, 1.44),
            (5.56, 1.22),
            (5.68, 0.96),
            (5.7, 0.4),
        ],
        paint,
    );
    if pen.form(2) == 0 {
        pen.panel(0.02, 0.86, 5.6, 0.2, stripe);
    }
    for pane in 0..4 {
        let x = 0.2 + 0.97 * pane as f32;
        pen.glass(&[(x, 1.4), (x, 2.2), (x + 0.85, 2.2), (x + 0.85, 1.4)]);
    }
    pen.glass(&[(4.1, 1.36), (4.1, 2.2), (4.46, 2.2), (4.92, 1.42)]);
    for x in [2.1, 3.06, 4.03] {
        pen.stroke((x, 0.5), (x, 2.3), 0.025, scaled(paint, 0.45));
    }
    pen.stroke((0.3, 1.22), (3.0, 1.22), 0.03, scaled(paint, 0.5));
    pen.panel(0.02, 0.38, 5.66, 0.12, CHASSIS);
    pen.head_lamp((5.44, 0.84), (0.2, 0.2));
    pen.tail_lamp((0.02, 1.0), (0.1, 0.34));
    for x in [1.15, 4.72] {
        pen.arched_wheel(x, 0.37);
    }
}

/// A bonnet, a cab in the middle, an open bed behind.
fn pickup(pen: &mut Pen<'_>) {
    let paint = pen.paint();
    if pen.form(3) == 0 {
        // A load, lower than the cab, so that the bed stays a bed.
        let load = pen.second_paint();
        pen.panel(0.4, 1.0, 0.7, 0.34, load);
        pen.panel(1.14, 1.0, 0.44, 0.24, scaled(load, 0.7));
    }
    pen.metal(
        &[
            (0.04, 0.5),
            (0.0, 1.12),
            (1.92, 1.12),
            (1.98, 1.72),
            (2.12, 1.84),
            (3.16, 1.82),
            (3.92, 1.2),
            (5.06, 1.1),
            (5.3, 0.94),
            (5.35, 0.52),
        ],
        paint,
    );
    pen.stroke((0.0, 1.1), (1.92, 1.1), 0.07, scaled(paint, 0.4));
    pen.glass(&[(2.1, 1.22), (2.16, 1.72), (2.62, 1.74), (2.62, 1.22)]);
    pen.glass(&[(2.72, 1.22), (2.72, 1.74), (3.12, 1.72), (3.72, 1.22)]);
    for x in [1.94, 2.67, 3.62] {
        pen.stroke((x, 0.56), (x, 1.16), 0.025, scaled(paint, 0.4));
    }
    pen.panel(0.02, 0.48, 5.3, 0.1, CHASSIS);
    pen.head_lamp((5.08, 0.82), (0.22, 0.16));
    pen.tail_lamp((0.01, 0.74), (0.1, 0.26));
    for x in [1.06, 4.34] {
        pen.arched_wheel(x, 0.41);
    }
}

/// A cab over the engine and, on the same frame, a box or a tipper's tub.
fn truck(pen: &mut Pen<'_>) {
    let (paint, load) = (pen.paint(), pen.second_paint());
    pen.panel(0.1, 0.66, 7.2, 0.32, CHASSIS);
    if pen.form(4) == 0 {
        pen.metal(&[(0.0, 1.3), (0.2, 3.0), (5.3, 3.0), (5.5, 3.4), (5.7, 3.4), (5.3, 1.1), (0.3, 1.0)], load);
        for rib in 1..6 {
            pen.stroke((0.9 * rib as f32, 1.1), (0.9 * rib as f32, 2.96), 0.09, scaled(load, 0.55));
        }
    } else {
        pen.metal(&[(0.0, 1.0), (0.0, 3.4), (5.5, 3.4), (5.5, 1.0)], load);
        pen.stroke((0.02, 1.06), (5.48, 1.06), 0.1, scaled(load, 0.5));
        if pen.form(3) == 0 {
            pen.panel(1.2, 2.0, 3.0, 0.55, mix(load, paint, 0.8));
        }
    }
    pen.metal(&[(5.72, 0.62), (5.72, 2.5), (5.9, 2.68), (7.16, 2.66), (7.44, 1.76), (7.58, 1.4), (7.6, 0.62)], paint);
    pen.glass(&[(6.24, 1.66), (6.24, 2.42), (7.02, 2.42), (7.26, 1.66)]);
    pen.stroke((6.16, 0.8), (6.16, 2.5), 0.03, scaled(paint, 0.4));
    pen.panel(7.3, 0.5, 0.3, 0.26, CHASSIS);
    pen.head_lamp((7.42, 0.92), (0.17, 0.2));
    pen.tail_lamp((0.02, 0.74), (0.14, 0.16));
    let axles: &[f32] = if pen.placed.variant & 8 == 0 { &[1.4, 6.56] } else { &[1.0, 2.1, 6.56] };
    for &x in axles {
        pen.arched_wheel(x, 0.5);
    }
}

/// A tractor and its trailer on many axles.
fn juggernaut(pen: &mut Pen<'_>) {
    let (paint, load) = (pen.paint(), pen.second_paint());
    trailer(pen, load);
    pen.panel(10.2, 0.78, 5.2, 0.3, CHASSIS);
    let has_bonnet = pen.form(4) == 0;
    if has_bonnet {
        pen.metal(&[(12.0, 0.7), (12.0, 3.5), (12.3, 3.8), (13.4, 3.2), (13.9, 2.3), (15.2, 2.1), (15.55, 1.8), (15.6, 0.7)], paint);
        pen.glass(&[(12.9, 2.3), (12.9, 3.0), (13.3, 3.0), (13.7, 2.3)]);
    } else {
        pen.metal(&[(12.4, 0.7), (12.4, 3.4), (12.8, 3.9), (13.6, 3.6), (15.1, 3.2), (15.4, 2.2), (15.6, 1.7), (15.6, 0.6)], paint);
        pen.glass(&[(13.9, 2.1), (13.9, 3.0), (14.9, 3.0), (15.2, 2.1)]);
    }
    pen.stroke((13.7, 0.9), (13.7, 2.9), 0.05, scaled(paint, 0.4));
    pen.panel(12.3, 0.66, 1.3, 0.55, STEEL);
    pen.head_lamp((15.3, 0.95), (0.3, 0.3));
    pen.tail_lamp((0.04, 0.95), (0.24, 0.22));
    for x in [1.3, 2.6, 3.9, 10.9, 12.1, 14.6] {
        pen.wheel(x, 0.54);
    }
}

fn trailer(pen: &mut Pen<'_>, load: Rgb) {
    pen.panel(0.2, 0.95, 11.4, 0.3, CHASSIS);
    pen.stroke((8.4, 0.3), (8.4, 1.0), 0.14, CHASSIS);
    match pen.form(5) {
        0 => {
            // A tank: its ends are round.
            let end = |x: f32, side: f32| (0..=8).map(move |i| (x, side, (i as f32 / 8.0 - 0.5) * std::f32::consts::PI));
            let curve = |(x, side, angle): (f32, f32, f32)| (x + side * angle.cos() * 0.9, 2.6 + side * angle.sin() * 1.3);
            let outline: Vec<Point> = end(10.8, 1.0).map(curve).chain(end(0.9, -1.0).map(curve)).collect();
            pen.metal(&outline, load);
            pen.stroke((0.4, 2.6), (11.4, 2.6), 0.1, scaled(load, 0.6));
        }
        1 | 2 => {
            pen.metal(&[(0.0, 1.2), (0.0, 4.0), (11.7, 4.0), (11.7, 1.2)], load);
            for fold in 1..13 {
                pen.stroke((0.9 * fold as f32, 1.3), (0.9 * fold as f32, 3.9), 0.06, scaled(load, 0.7));
            }
        }
        _ => {
            pen.metal(&[(0.0, 1.2), (0.0, 4.0), (11.7, 4.0), (11.7, 1.2)], load);
            pen.panel(2.6, 2.2, 5.6, 0.9, mix(load, [255.0; 3], 0.4));
            pen.stroke((0.0, 1.25), (11.7, 1.25), 0.12, scaled(load, 0.5));
        }
    }
}
