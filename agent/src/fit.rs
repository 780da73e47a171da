//! Whether a package could run on a source: frames for a camera, the right columns for a sensor.
//!
//! Invariant: what fits here can be cut into windows by `pipeline`. Not here: whether it answers rightly (its golden samples).

use wayside_models::{manifest::InputKind, package::Package};

use crate::source::Shape;

pub fn check(shape: &Shape, package: &Package) -> Result<(), String> {
    match (shape, &package.manifest().input.kind) {
        (Shape::Camera, InputKind::Image(_)) => Ok(()),
        (Shape::Camera, InputKind::Window(_)) => Err("the model takes windows of readings, and the slot's source is a camera".into()),
        (Shape::Columns(_), InputKind::Image(_)) => Err("the model takes pictures, and the slot's source is a sensor".into()),
        (Shape::Columns(columns), InputKind::Window(window)) => {
            for wanted in &window.columns {
                match columns.iter().find(|column| column.name == wanted.name) {
                    None => return Err(format!("the source has no column {:?}, which the model takes", wanted.name)),
                    Some(column) if column.unit != wanted.unit => {
                        return Err(format!("column {:?} is in {:?}, and the model takes {:?}", wanted.name, column.unit, wanted.unit));
                    }
                    Some(_) => {}
                }
            }
            Ok(())
        }
    }
}
